//! The condition of an `if` is a comparison.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let a = at(x, y);
    if a { lse(x) } else { a }
}

fn main() {
    wrong::program();
}
