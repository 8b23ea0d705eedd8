//! A loss with a second Logit.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, teacher: Logit, y: Target) -> Loss {
    lse(x) - at(teacher, y)
}

fn main() {
    wrong::program();
}
