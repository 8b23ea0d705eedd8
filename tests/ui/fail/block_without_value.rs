//! Blocks end with a value.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let l = { let a = lse(x); };
    l - at(x, y)
}

fn main() {
    wrong::program();
}
