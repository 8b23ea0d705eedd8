//! `^` is no power.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    (lse(x) - at(x, y)) ^ 2
}

fn main() {
    wrong::program();
}
