//! A name that other libraries use is translated.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let p = softmax(x);
    lse(x) - at(p, y)
}

fn main() {
    wrong::program();
}
