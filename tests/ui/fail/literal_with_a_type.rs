//! Literals have no type.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    1f32 * (lse(x) - at(x, y))
}

fn main() {
    wrong::program();
}
