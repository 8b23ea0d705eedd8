//! A loss that returns a number's type.

use cce::{Logit, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> f32 {
    lse(x) - at(x, y)
}

fn main() {
    wrong::program();
}
