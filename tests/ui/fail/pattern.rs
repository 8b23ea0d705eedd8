//! A loss has no patterns; uses of the names are not reported too.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let (l, a) = (lse(x), at(x, y));
    l - a
}

fn main() {
    wrong::program();
}
