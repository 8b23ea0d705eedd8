//! Comparisons are not combined.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let a = at(x, y);
    if a > 0.0 && a < 1.0 {
        lse(x)
    } else {
        a
    }
}

fn main() {
    wrong::program();
}
