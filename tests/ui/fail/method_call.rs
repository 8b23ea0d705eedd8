//! Functions are called, not methods.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    lse(x) - at(x, y).exp()
}

fn main() {
    wrong::program();
}
