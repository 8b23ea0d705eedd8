//! A literal that no f64 holds.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    1e999 * (lse(x) - at(x, y))
}

fn main() {
    wrong::program();
}
