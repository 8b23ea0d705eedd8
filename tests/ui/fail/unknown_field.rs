//! A field that the outputs lack: rustc says so.

use cce::{Logit, Row, Target};

#[derive(cce::Outputs)]
struct Two {
    loss: Row,
    lse: Row,
}

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Two {
    let l = lse(x);
    Two { loss: l - at(x, y), lse: l, entropy: l - expect(x, x) }
}

fn main() {
    wrong::program();
}
