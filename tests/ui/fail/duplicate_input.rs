//! Two inputs of one name.

use cce::{Col, Logit, Loss, Row, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target, w: Row, w: Col) -> Loss {
    w * (lse(x) - at(x, y))
}

fn main() {
    wrong::program();
}
