// How thread blocks divide row_blocks x tiles: the tiles of every row block are cut into as many parts, one for a thread block.
struct Walk {
    int row_blocks, tiles, cut;

    DEVICE Walk(int rows, int block, int, int tile_count, int parts) { row_blocks = ceil_div(rows, block); tiles = tile_count; cut = parts; }
    DEVICE int begin_of(int part) const { return (int)((i64)tiles * part / cut); }
    DEVICE int most_parts() const { return cut; }
    DEVICE int parts_of(int) const { return cut; }
};
