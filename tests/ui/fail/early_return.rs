//! A loss does not return early.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    return lse(x) - at(x, y);
}

fn main() {
    wrong::program();
}
