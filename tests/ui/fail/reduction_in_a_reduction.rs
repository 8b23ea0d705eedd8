//! The expanded form is the hint.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let l = lse(x);
    let smooth = mean(x - l);
    l - at(x, y) - 0.1 * smooth
}

fn main() {
    wrong::program();
}
