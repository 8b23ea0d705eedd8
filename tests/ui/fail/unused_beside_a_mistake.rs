//! Inputs that a mistake may stand for are not called unused, nor is a misspelt Logit called missing.

use cce::{Logit, Loss, Row, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target, weight: Row) -> Loss {
    weigth * nll(x)
}

#[cce::loss]
fn no_logit(x: Logits, y: Target) -> Loss {
    lse(x) - at(x, y)
}

fn main() {
    wrong::program();
    no_logit::program();
}
