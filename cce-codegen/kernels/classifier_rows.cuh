// What memory holds of two elements of dC that a product adds to: columns col, col + 1 of the chunk's row `local`, of `width` rows from `first` of out
// [VOCAB, HIDDEN].
template <bool WIDE = false> DEVICE float2 held_classifier(const Out* out, int first, int width, int local, int col) {
    return ACCUMULATE && local < width ? load2<WIDE>(out + (u64)(first + local) * HIDDEN, col) : make_float2(0.0f, 0.0f);
}

template <bool WIDE = false> DEVICE void put_classifier(Out* out, int first, int width, int local, int col, float x, float y, float2 held, float factor) {
    if (local < width) store2<WIDE>(out + (u64)(first + local) * HIDDEN, col, x * factor + held.x, y * factor + held.y);
}
