//! The last value is lost.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    lse(x) - at(x, y);
}

fn main() {
    wrong::program();
}
