//! A misspelt function is guessed at.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    lse(x) - att(x, y)
}

fn main() {
    wrong::program();
}
