//! A loss has no loops.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let mut s = 0.0;
    for j in 0..10 {
        s += exp(x[j]);
    }
    ln(s) - at(x, y)
}

fn main() {
    wrong::program();
}
