//! A comparison is not a value.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    (at(x, y) > 0.0) * lse(x)
}

fn main() {
    wrong::program();
}
