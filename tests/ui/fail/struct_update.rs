//! Outputs taken from elsewhere.

use cce::{Logit, Row, Target};

#[derive(cce::Outputs)]
struct Two {
    loss: Row,
    lse: Row,
}

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Two {
    Two { loss: lse(x) - at(x, y), ..other }
}

fn main() {
    wrong::program();
}
