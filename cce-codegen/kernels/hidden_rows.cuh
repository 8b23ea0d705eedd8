// What two sums of a chunk's G C become: columns col, col + 1 of one row of dE. Sums between chunks are fp32 (`sums` [tokens that count, HIDDEN], still
// scaled, or the output itself where that is fp32); the last chunk rounds once into out [tokens, HIDDEN].
DEVICE void put_hidden(Out* out, float* sums, const int* order, int row, int col, float x, float y, float factor, bool is_first, bool is_last) {
    float* sum = sums + (u64)row * HIDDEN;
    if (!OUT_IS_SUM && !is_first) add2(sum, col, x, y);
    if (!OUT_IS_SUM && !is_last) { store2(sum, col, x, y); return; }
    Out* to = out + (u64)(PACKED ? order[row] : row) * HIDDEN;
    x *= factor; y *= factor;
    // What the output holds joins: that of earlier chunks where it is the sum, that of the caller where it is accumulated into.
    if (ACCUMULATE || (OUT_IS_SUM && !is_first)) add2(to, col, x, y);
    store2(to, col, x, y);
}
