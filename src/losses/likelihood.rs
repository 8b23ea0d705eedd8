//! Negative log-likelihoods, over logits transformed in one way or another.

use crate::{Col, Logit, Loss, Scalar, Target, loss};

/// Cross entropy: the negative log-likelihood of the target.
///
/// `loss = lse(x) - x[y]`
///
/// PyTorch: [`cross_entropy(E @ C.T,
/// y)`](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html).
#[loss]
pub fn cross_entropy(x: Logit, y: Target) -> Loss {
    lse(x) - at(x, y)
}

/// Cross entropy of a head with a bias, one value a vocabulary entry.
///
/// `z = x + bias; loss = lse(z) - z[y]`
///
/// PyTorch: `cross_entropy(linear(E, C, bias), y)`.
#[loss]
pub fn cross_entropy_with_bias(x: Logit, y: Target, bias: Col) -> Loss {
    let z = x + bias;
    lse(z) - at(z, y)
}

/// Cross entropy of scaled logits.
///
/// `z = scale * x; loss = lse(z) - z[y]`
///
/// `scale` is a model's `logit_scale` (Cohere's Command R, for one), or one over a temperature. It
/// may be learned: ask the plan for its gradient.
#[loss]
pub fn scaled(x: Logit, y: Target, scale: Scalar) -> Loss {
    let z = scale * x;
    lse(z) - at(z, y)
}

/// Cross entropy of softcapped logits.
///
/// `z = cap * tanh(x / cap); loss = lse(z) - z[y]`
///
/// Gemma 2 has `cap = 30`: *Gemma 2: Improving Open Language Models at a Practical Size*,
/// [arXiv:2408.00118](https://arxiv.org/abs/2408.00118), section 2, "Logit soft-capping".
#[loss]
pub fn softcapped(x: Logit, y: Target, cap: Scalar) -> Loss {
    let z = cap * tanh(x / cap);
    lse(z) - at(z, y)
}
