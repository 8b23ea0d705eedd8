//! A misspelt name is guessed at.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let logits = x * 2.0;
    lse(logits) - at(logit, y)
}

fn main() {
    wrong::program();
}
