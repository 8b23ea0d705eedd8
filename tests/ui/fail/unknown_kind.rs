//! An input of a type that is no kind.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target, weight: f32) -> Loss {
    weight * (lse(x) - at(x, y))
}

fn main() {
    wrong::program();
}
