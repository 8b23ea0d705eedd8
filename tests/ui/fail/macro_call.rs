//! A loss calls no macros.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    lse(x) - at(x, y) + dbg!(1.0)
}

fn main() {
    wrong::program();
}
