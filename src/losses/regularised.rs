//! Cross entropy with a term that keeps the distribution, or its normaliser, in bounds.

use crate::{Col, Logit, Loss, Outputs, Row, Scalar, Target, loss};

/// Cross entropy with label smoothing: the target distribution is mixed with the uniform one.
///
/// `loss = (1 - smoothing) * (lse(x) - x[y]) + smoothing * (lse(x) - mean(x))`
///
/// Szegedy et al., *Rethinking the Inception Architecture for Computer Vision*,
/// [arXiv:1512.00567](https://arxiv.org/abs/1512.00567), section 7. PyTorch: `cross_entropy(...,
/// label_smoothing=smoothing)`.
#[loss]
pub fn label_smoothing(x: Logit, y: Target, smoothing: Scalar) -> Loss {
    let l = lse(x);
    (1.0 - smoothing) * (l - at(x, y)) + smoothing * (l - mean(x))
}

/// Cross entropy with a z-loss, which draws the logarithm of the normaliser to zero.
///
/// `loss = lse(x) - x[y] + weight * lse(x)^2`
///
/// Chowdhery et al., *PaLM: Scaling Language Modeling with Pathways*,
/// [arXiv:2204.02311](https://arxiv.org/abs/2204.02311), section 5, with `weight = 1e-4`.
#[loss]
pub fn z_loss(x: Logit, y: Target, weight: Scalar) -> Loss {
    let l = lse(x);
    l - at(x, y) + weight * l * l
}

/// What [`gemma2`] gives for each token.
#[derive(Outputs, Clone, Copy, Debug)]
pub struct Gemma2 {
    /// The weighted loss, z-loss included.
    pub loss: Row,
    /// The logarithm of the normaliser.
    pub lse: Row,
    /// The entropy of the distribution, in nats.
    pub entropy: Row,
}

/// A loss with everything: softcapped logits with a bias, a z-loss, a weight a token; beside it the
/// normaliser and the entropy, through both of which gradients can flow.
///
/// `z = cap * tanh((x + bias) / cap); l = lse(z)`\
/// `loss = weight * (l - z[y] + zw * l^2); lse = l; entropy = l - sum_j p_j z_j`
///
/// The cap is Gemma 2's, see [`softcapped`](crate::losses::softcapped); the z-loss PaLM's, see
/// [`z_loss`].
#[loss]
pub fn gemma2(x: Logit, y: Target, bias: Col, weight: Row, cap: Scalar, zw: Scalar) -> Gemma2 {
    let z = cap * tanh((x + bias) / cap);
    let l = lse(z);
    Gemma2 { loss: weight * (l - at(z, y) + zw * l * l), lse: l, entropy: l - expect(z, z) }
}
