// Writing gradients: two neighbouring columns of a row of HIDDEN elements, each rounded once.

#ifdef OUT_F32
typedef float Out;
DEVICE float widen_out(float x) { return x; }
DEVICE void narrow_out(float& to, float x) { to = x; }
#else
typedef Elem Out;
DEVICE float widen_out(Elem x) { return widen(x); }
DEVICE void narrow_out(Elem& to, float x) { narrow(to, x); }
#endif

DEVICE void store2(Out* row, int col, float a, float b, bool add) {
    if (col >= HIDDEN) return;
    bool both = col + 1 < HIDDEN;
    if (add) { a += widen_out(row[col]); if (both) b += widen_out(row[col + 1]); }
#if !defined(OUT_F32) && !defined(DTYPE_F32)
    if (HIDDEN % 2 == 0 && OUT_ALIGN >= 4) { *(u32*)(row + col) = narrow2(a, b); return; }
#endif
    narrow_out(row[col], a);
    if (both) narrow_out(row[col + 1], b);
}
