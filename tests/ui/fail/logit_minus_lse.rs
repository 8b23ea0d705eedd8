//! The target forgotten: the hint reads the logits there.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    lse(x) - x + 0.0 * at(x, y)
}

fn main() {
    wrong::program();
}
