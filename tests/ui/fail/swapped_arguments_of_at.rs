//! `at` with the target first.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    lse(x) - at(y, x)
}

fn main() {
    wrong::program();
}
