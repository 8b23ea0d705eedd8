//! A Target is not a number.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    lse(x) - at(x, y) + 0.0 * y
}

fn main() {
    wrong::program();
}
