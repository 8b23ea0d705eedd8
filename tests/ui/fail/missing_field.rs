//! A field of the outputs is left out: rustc says so.

use cce::{Logit, Row, Target};

#[derive(cce::Outputs)]
struct Two {
    loss: Row,
    lse: Row,
}

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Two {
    Two { loss: lse(x) - at(x, y) }
}

fn main() {
    wrong::program();
}
