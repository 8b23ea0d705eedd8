//! A Row has no vocabulary.

use cce::{Logit, Loss, Row, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target, weight: Row) -> Loss {
    mean(weight) * (lse(x) - at(x, y))
}

fn main() {
    wrong::program();
}
