// How the clusters of a persistent kernel divide row_blocks x tiles among themselves: plain arithmetic, so that it follows a number of rows that only
// the device knows. Row blocks form groups of about equal size that are done one after the other: the rows of a group stay in L2 while its clusters
// walk the vocabulary. Within a group, `walkers` sets of clusters, one cluster a row block, walk a part of the vocabulary each, side by side, so that a
// set reads each tile from memory once. Clusters that are left over share the last tiles of all rows of the group.

struct Segment { int row_block, first, last, part; bool last_part; };

// Where piece `at` begins, of `n` things cut into pieces of about equal size: the first ones are one larger.
DEVICE int begin_of_piece(int n, int pieces, int at) { return n / pieces * at + min(at, n % pieces); }
DEVICE int piece_of(int n, int pieces, int thing) {
    int each = n / pieces, larger = n % pieces, cut = larger * (each + 1);
    return thing < cut ? thing / (each + 1) : larger + (thing - cut) / each;
}

struct Walk {
    int row_blocks, tiles, clusters, groups;

    DEVICE Walk(int rows, int block, int most_of_a_group, int tile_count, int cluster_count) {
        row_blocks = ceil_div(rows, block); tiles = tile_count; clusters = cluster_count;
        groups = ceil_div(row_blocks, most_of_a_group);
    }
    DEVICE int begin_of(int group) const { return begin_of_piece(row_blocks, groups, group); }
    // Tiles that the walkers of a group of `size` row blocks take; the rest is left over.
    DEVICE int walked(int size) const { return ceil_div(tiles * (clusters / size * size), clusters); }
    // Parts that every row block of a group of this size has.
    DEVICE int parts(int size) const { return clusters / size + (walked(size) < tiles ? 2 : 0); }
    DEVICE int most_parts() const { return max(parts(row_blocks / groups), parts(ceil_div(row_blocks, groups))); }
    DEVICE int parts_of(int row_block) const { int group = piece_of(row_blocks, groups, row_block); return parts(begin_of(group + 1) - begin_of(group)); }
};

// A cluster's segments, one after the other.
struct Segments {
    const Walk& walk;
    int cluster, group = 0, done = 0;

    DEVICE bool next(Segment& s) {
        for (; group < walk.groups; group++, done = 0) {
            int begin = walk.begin_of(group), size = walk.begin_of(group + 1) - begin;
            int walkers = walk.clusters / size, walked = walk.walked(size), walker = cluster / size;
            if (walker < walkers) {
                if (done) continue;
                done = 1;
                s = Segment{begin + cluster % size, begin_of_piece(walked, walkers, walker), begin_of_piece(walked, walkers, walker + 1), walker, false};
                return true;
            }
            // Left over: the tails of all rows in one line, cut into pieces, each at least one tail long: a tail lies in one or two of them.
            int tail = walk.tiles - walked, spare = walk.clusters - walkers * size, place = cluster - walkers * size;
            int from = begin_of_piece(size * tail, spare, place) + done, to = begin_of_piece(size * tail, spare, place + 1);
            if (from >= to) continue;
            int row = from / tail, first = from % tail, last = min(tail, first + to - from);
            done += last - first;
            s = Segment{begin + row, walked + first, walked + last, walkers + (first > 0), first == 0 && last == tail};
            return true;
        }
        return false;
    }
};
