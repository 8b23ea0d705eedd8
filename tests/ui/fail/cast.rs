//! All values are real numbers.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let a = at(x, y) as f32;
    lse(x) - a
}

fn main() {
    wrong::program();
}
