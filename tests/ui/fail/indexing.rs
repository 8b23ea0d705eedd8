//! Values are not indexed.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    lse(x) - x[y]
}

fn main() {
    wrong::program();
}
