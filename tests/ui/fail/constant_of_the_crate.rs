//! The macro does not see constants.

use cce::{Logit, Loss, Target};

const EPS: f64 = 0.1;

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    EPS * (lse(x) - at(x, y)) + std::f64::consts::PI
}

fn main() {
    wrong::program();
}
