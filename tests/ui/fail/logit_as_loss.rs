//! A Logit where a Row is needed: the reductions are listed.

use cce::{Logit, Loss, Scalar};

#[cce::loss]
fn wrong(x: Logit, temperature: Scalar) -> Loss {
    let z = x / temperature;
    z * z
}

fn main() {
    wrong::program();
}
