//! `at` in a loss without a target.

use cce::{Logit, Loss};

#[cce::loss]
fn wrong(x: Logit) -> Loss {
    lse(x) - at(x, y)
}

fn main() {
    wrong::program();
}
