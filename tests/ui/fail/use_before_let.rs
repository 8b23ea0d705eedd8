//! Values are known from their `let` on, and to the end of their block.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let l = { let inner = lse(x); inner };
    let a = inner - later;
    let later = at(x, y);
    l + a + later
}

fn main() {
    wrong::program();
}
