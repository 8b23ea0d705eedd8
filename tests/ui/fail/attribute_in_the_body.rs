//! Attributes inside of the function would go unheard.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    #[cfg(test)]
    let unused = 1.0;
    lse(x) - at(x, y)
}

fn main() {
    wrong::program();
}
