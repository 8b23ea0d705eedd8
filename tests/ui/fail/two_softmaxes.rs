//! A loss has one softmax; the other place is named.

use cce::{Logit, Loss, Scalar, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target, t: Scalar) -> Loss {
    let student = lse(x / t);
    let plain = lse(x);
    student + plain - at(x, y)
}

fn main() {
    wrong::program();
}
