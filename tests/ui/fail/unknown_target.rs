//! `at` reads at a name that is not there, and the loss has a Target: that is what is meant.

use cce::{Logit, Loss, Scalar, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target, scale: Scalar) -> Loss {
    let z = scale * x;
    lse(z) - at(z, q)
}

fn main() {
    wrong::program();
}
