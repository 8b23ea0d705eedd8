//! The attribute takes no arguments.

use cce::{Logit, Loss, Target};

#[cce::loss(reduction = "mean")]
fn wrong(x: Logit, y: Target) -> Loss {
    lse(x) - at(x, y)
}

fn main() {
    wrong::program();
}
