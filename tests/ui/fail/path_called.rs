//! Functions are called by their names alone.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    f64::ln(2.0) * lse(x) - at(x, y)
}

fn main() {
    wrong::program();
}
