//! A field given twice.

use cce::{Logit, Row, Target};

#[derive(cce::Outputs)]
struct Two {
    loss: Row,
    lse: Row,
}

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Two {
    let l = lse(x);
    Two { loss: l - at(x, y), lse: l, loss: l }
}

fn main() {
    wrong::program();
}
