// The weights that are sampled: exp(z - reference), of the softmax's logits z.

#define ALL 0xffffffffu

DEVICE float log2_approx(float x) { float y; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEVICE float reciprocal(float x) { float y; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }

// A column's weight.
DEVICE float weight_of(float z, float reference) { return exp2_approx(fmaf(z, LOG2E, -reference)); }

// The logit of column col, in a row whose target is y, and -inf of the target and behind the vocabulary: raw logits have been masked already, others are
// masked after the transform, in tiles that are RARE.
template <bool RARE> DEVICE float masked_logit(float x, int col, int y, const RowIn& row, const Values& values, const Uniform& uniform) {
#if MASK_LOGITS
    return x;
#else
    float z = logit_of(x, row, col_in(values, min(col, VOCAB - 1)), uniform);
    return !RARE || (col < VOCAB && col != y) ? z : NEG_INF;
#endif
}

// How many thresholds a sum has passed, of those at `next` and every step behind it.
DEVICE float thresholds(float next, float sum, float per_step) { return floorf((sum - next) * per_step) + 1.0f; }
// The first one beyond it. Beyond even where a step is less than the sum's last bit.
DEVICE float following(float next, float sum, float step, float per_step) {
    return fmaxf(fmaf(step, thresholds(next, sum, per_step), next), sum * 1.0000002f);
}
