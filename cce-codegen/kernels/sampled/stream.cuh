// Where the walk over the cold columns leaves what it keeps. The 16 rows of a warp share a stream, of which every segment of the walk has a fixed part:
// room for the most that its tiles can emit, so that timing changes nothing and nothing is dropped.
//
// The bound: a segment of T tiles admits demand M <= QUOTA * T + FLOOR * T (see `sample`). A lane's distance to its next threshold, counted in steps, is
// in [0, 1] before and after; a group of 8 columns of weight a = d steps that passes k thresholds emits at most min(k, 8), so that over a lane the
// distances telescope, but for groups with d > 8, each of which spoils at most 1 and has demand 8. So entries <= 9/8 M + lanes (64), and two against
// rounding of the sums. TILE_ENTRIES is 9/8 (QUOTA + FLOOR), rounded up, or all that a tile has.

// The raw logit of an entry, where the gradient depends on it.
#if KEEPS_LOGITS
struct KeptLogit { float x; DEVICE explicit KeptLogit(float of) : x(of) {} DEVICE float logit() const { return x; } };
#else
struct KeptLogit { DEVICE explicit KeptLogit(float) {} DEVICE float logit() const { return 0.0f; } };
#endif

// An entry: row and column, log2 of the weight exp(z) (absolute: no rescaling touches it).
struct Entry : KeptLogit {
    u32 key; float weight;
    DEVICE Entry(u32 of_key, float of_weight, float x) : KeptLogit(x), key(of_key), weight(of_weight) {}
};
DEVICE u32 entry_key(int row, int column) { return (u32)row << 28 | (u32)column; }
DEVICE int entry_row(u32 key) { return key >> 28; }
DEVICE int entry_column(u32 key) { return key & 0x0fffffff; }

// A segment's part of a stream: the first tile that it has room for, and how many entries it has.
struct Part { int first; u32 count; };

// What thinning keeps of an entry: its row is known from where it stands.
struct Kept : KeptLogit {
    int column; float probability;
    DEVICE Kept(int of_column, float of_probability, float x) : KeptLogit(x), column(of_column), probability(of_probability) {}
};

// Entries of one stream: all cold tiles (of SAMPLED_N columns), in as many parts as a walk may have.
DEVICE u64 stream_entries(int parts) { return (u64)TILE_ENTRIES * (COLD_TILES * BANDS) + (u64)SEGMENT_ENTRIES * parts; }
// Where a segment's part begins; `first` counts cold tiles.
DEVICE u64 segment_begin(int first, int part) { return (u64)TILE_ENTRIES * first + (u64)SEGMENT_ENTRIES * part; }
