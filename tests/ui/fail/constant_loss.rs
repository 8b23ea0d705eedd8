//! A loss that is a constant.

use cce::{Logit, Loss};

#[cce::loss]
fn wrong(x: Logit) -> Loss {
    1.0
}

fn main() {
    wrong::program();
}
