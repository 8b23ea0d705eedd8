//! A Col where a Row is needed.

use cce::{Col, Logit, Row, Target};

#[derive(cce::Outputs)]
struct Two {
    loss: Row,
    lse: Row,
}

#[cce::loss]
fn wrong(x: Logit, y: Target, bias: Col) -> Two {
    Two { loss: lse(x + bias) - at(x, y), lse: bias }
}

fn main() {
    wrong::program();
}
