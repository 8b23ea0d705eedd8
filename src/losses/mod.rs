//! The losses that ship.

use crate::{Logit, Loss, Target, loss};

/// Cross entropy.
#[loss]
pub fn cross_entropy(x: Logit, y: Target) -> Loss {
    lse(x) - at(x, y)
}
