//! Cross entropy in which tokens weigh differently.

use crate::{Col, Logit, Loss, Row, Scalar, Target, loss};

/// Cross entropy with a weight a class: that of the token's target.
///
/// `loss = weight[y] * (lse(x) - x[y])`
///
/// PyTorch: `cross_entropy(..., weight=weight)`. Its mean divides by the sum of the targets'
/// weights; ask for it in the call with the reduction `MeanByTarget("weight")`.
#[loss]
pub fn class_weights(x: Logit, y: Target, weight: Col) -> Loss {
    at(weight, y) * (lse(x) - at(x, y))
}

/// Cross entropy with a weight a token: a mask with values between 0 and 1, a sample's importance,
/// an advantage.
///
/// `loss = weight * (lse(x) - x[y])`
#[loss]
pub fn token_weights(x: Logit, y: Target, weight: Row) -> Loss {
    weight * (lse(x) - at(x, y))
}

/// The focal loss: tokens that are predicted well weigh less.
///
/// `loss = (1 - p[y])^gamma * (lse(x) - x[y])`
///
/// Lin et al., *Focal Loss for Dense Object Detection*,
/// [arXiv:1708.02002](https://arxiv.org/abs/1708.02002), equation 4, with `gamma = 2`. `gamma` is
/// any real number that is not negative; `1 - p[y]` is exact where `p[y]` is close to 1.
#[loss]
pub fn focal(x: Logit, y: Target, gamma: Scalar) -> Loss {
    let nll = lse(x) - at(x, y);
    pow(1.0 - exp(-nll), gamma) * nll
}
