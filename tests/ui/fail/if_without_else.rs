//! An `if` is a value.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let l = lse(x);
    let a = if l > 0.0 { at(x, y) };
    l - a
}

fn main() {
    wrong::program();
}
