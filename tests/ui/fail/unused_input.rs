//! An input that no output depends on.

use cce::{Logit, Loss, Scalar, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target, temperature: Scalar) -> Loss {
    let scaled = x / temperature;
    lse(x) - at(x, y)
}

fn main() {
    wrong::program();
}
