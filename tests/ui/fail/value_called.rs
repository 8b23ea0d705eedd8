//! A value is called like a function.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let l = lse(x);
    l(1.0 - at(x, y))
}

fn main() {
    wrong::program();
}
