//! `at` without its target.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    lse(x) - at(x)
}

fn main() {
    wrong::program();
}
