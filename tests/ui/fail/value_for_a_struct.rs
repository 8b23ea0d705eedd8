//! One value where the signature says a struct.

use cce::{Logit, Row, Target};

#[derive(cce::Outputs)]
struct Two {
    loss: Row,
    lse: Row,
}

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Two {
    lse(x) - at(x, y)
}

fn main() {
    wrong::program();
}
