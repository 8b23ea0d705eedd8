//! `lse` of what does not depend on the logit.

use cce::{Col, Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target, bias: Col) -> Loss {
    lse(bias) - at(x, y)
}

fn main() {
    wrong::program();
}
