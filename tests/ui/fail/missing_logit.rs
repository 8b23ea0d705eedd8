//! A loss without a Logit.

use cce::{Col, Loss, Row, Target};

#[cce::loss]
fn wrong(y: Target, bias: Col, weight: Row) -> Loss {
    weight * at(bias, y)
}

fn main() {
    wrong::program();
}
