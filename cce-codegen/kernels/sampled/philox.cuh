// Philox4x32-10 (J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a draw depends on what it is for and on nothing before it.

// The seed of a call: read from device memory where a pointer is given, so that every replay of a graph may draw anew.
struct SeedArg { const u64* pointer; u64 value; };
DEVICE u64 seed_of(const SeedArg& s) { return s.pointer ? *s.pointer : s.value; }

struct Words { u32 of[4]; };
DEVICE Words philox(u64 key, u32 c0, u32 c1) {
    u32 low = (u32)key, high = (u32)(key >> 32), c2 = 0, c3 = 0;
    #pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 a_high = __umulhi(c0, 0xd2511f53u), a_low = c0 * 0xd2511f53u, b_high = __umulhi(c2, 0xcd9e8d57u), b_low = c2 * 0xcd9e8d57u;
        c0 = b_high ^ c1 ^ low; c1 = b_low; c2 = a_high ^ c3 ^ high; c3 = a_low;
        low += 0x9e3779b9u; high += 0xbb67ae85u;
    }
    return Words{{c0, c1, c2, c3}};
}
// A number in (0, 1).
DEVICE float uniform_number(u32 word) { return ((float)(word >> 9) + 0.5f) * (1.0f / 8388608.0f); }
