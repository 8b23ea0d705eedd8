//! A loss that returns nothing.

use cce::{Logit, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) {
    lse(x) - at(x, y)
}

fn main() {
    wrong::program();
}
