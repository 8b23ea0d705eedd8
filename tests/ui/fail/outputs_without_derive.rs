//! A struct without `#[derive(cce::Outputs)]`.

use cce::{Logit, Row, Target};

struct Two {
    loss: Row,
    lse: Row,
}

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Two {
    Two { loss: lse(x) - at(x, y), lse: lse(x) }
}

fn main() {
    wrong::program();
}
