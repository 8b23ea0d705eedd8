//! A loss has no closures.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let square = |a| a * a;
    square(lse(x) - at(x, y))
}

fn main() {
    wrong::program();
}
