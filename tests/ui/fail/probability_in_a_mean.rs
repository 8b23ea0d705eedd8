//! A softmax written out is an expectation.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let l = lse(x);
    let entropy = mean(exp(x - l) * x);
    l - at(x, y) - 0.1 * entropy
}

fn main() {
    wrong::program();
}
