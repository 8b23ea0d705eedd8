// What two sums of a chunk's dC become: columns col, col + 1 of the chunk's row `local`, of `width` rows from `first` of out [VOCAB, HIDDEN].
DEVICE void put_classifier(Out* out, int first, int width, int local, int col, float x, float y, float factor) {
    if (local >= width) return;
    Out* to = out + (u64)(first + local) * HIDDEN;
    x *= factor; y *= factor;
    if (ACCUMULATE) add2(to, col, x, y);
    store2(to, col, x, y);
}
