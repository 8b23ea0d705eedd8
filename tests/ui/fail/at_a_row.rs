//! `at` reads at a Target only.

use cce::{Logit, Loss, Row, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target, index: Row) -> Loss {
    lse(x) - at(x, index) + at(x, y)
}

fn main() {
    wrong::program();
}
