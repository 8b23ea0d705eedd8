//! A kind in a `let` is checked; what follows from it is not reported too.

use cce::{Logit, Loss, Row, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let z: Row = x * 2.0;
    lse(x) - at(x, y) + z
}

fn main() {
    wrong::program();
}
