// The gradient of the loss with respect to one logit.

#define COL_PARTS (COL_GRADIENTS > 0 ? COL_GRADIENTS : 1)

// x: the raw logit of column col, in a row whose target is y; parts: what it adds to the gradients of Col inputs.
DEVICE float gradient_at(float x, int col, int y, const Coefs& row, const Values& values, const Uniform& uniform, float (&parts)[COL_PARTS]) {
    ColIn column = col_in(values, col);
    float p = probability(x, row, column, uniform);
#if COL_GRADIENTS > 0
    col_gradients(parts, x, p, col == y, row, column, uniform);
#endif
    return logit_gradient(x, p, col == y, row, column, uniform);
}

// Two neighbouring ones, in the type of the next products' operands.
#ifdef DTYPE_F32
DEVICE void stage2(float* to, float a, float b) { *(float2*)to = make_float2(a, b); }
#else
DEVICE void stage2(u16* to, float a, float b) { *(u32*)to = narrow2(a, b); }
#endif
