// Where the walk over the cold columns leaves what it keeps. The 16 rows of a warp share a stream, of which every segment of the walk has a fixed part:
// room for the most that its tiles can emit, so that timing changes nothing and nothing is dropped.
//
// The bound: a segment of T tiles admits demand M <= QUOTA * T + FLOOR * T (see `sample`). A lane's distance to its next threshold, counted in steps, is
// in [0, 1] before and after; a group of 8 columns of weight a = d steps that passes k thresholds emits at most min(k, 8), so that over a lane the
// distances telescope, but for groups with d > 8, each of which spoils at most 1 and has demand 8. So entries <= 9/8 M + lanes (64), and one against
// rounding. TILE_ENTRIES is 9/8 (QUOTA + FLOOR), rounded up, or all that a tile has.

// An entry: row and column, log2 of the weight exp(z) (absolute: no rescaling touches it), and the raw logit where the gradient depends on it.
#if KEEPS_LOGITS
struct Entry { u32 key; float weight, x; };
DEVICE Entry entry_of(u32 key, float weight, float x) { return Entry{key, weight, x}; }
DEVICE float logit_kept(const Entry& entry) { return entry.x; }
#else
struct Entry { u32 key; float weight; };
DEVICE Entry entry_of(u32 key, float weight, float) { return Entry{key, weight}; }
DEVICE float logit_kept(const Entry&) { return 0.0f; }
#endif
DEVICE u32 entry_key(int row, int column) { return (u32)row << 28 | (u32)column; }
DEVICE int entry_row(u32 key) { return key >> 28; }
DEVICE int entry_column(u32 key) { return key & 0x0fffffff; }

// A segment's part of a stream: its first cold tile, and how many entries it has.
struct Part { int first; u32 count; };

// What thinning keeps of an entry: its row is known from where it stands.
#if KEEPS_LOGITS
struct Kept { int column; float probability, x; };
DEVICE Kept kept_of(int column, float probability, float x) { return Kept{column, probability, x}; }
DEVICE float logit_kept(const Kept& kept) { return kept.x; }
#else
struct Kept { int column; float probability; };
DEVICE Kept kept_of(int column, float probability, float) { return Kept{column, probability}; }
DEVICE float logit_kept(const Kept&) { return 0.0f; }
#endif

// Entries of one stream: all cold tiles, in as many parts as a walk may have.
DEVICE u64 stream_entries(int parts) { return (u64)TILE_ENTRIES * COLD_TILES + (u64)SEGMENT_ENTRIES * parts; }
// Where a segment's part begins; `first` counts cold tiles.
DEVICE u64 segment_begin(int first, int part) { return (u64)TILE_ENTRIES * first + (u64)SEGMENT_ENTRIES * part; }
