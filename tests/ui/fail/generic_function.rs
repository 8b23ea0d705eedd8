//! A loss is not generic, async or unsafe.

use cce::{Logit, Loss, Target};

#[cce::loss]
async unsafe fn wrong<T>(x: Logit, y: Target) -> Loss {
    lse(x) - at(x, y)
}

fn main() {
    wrong::program();
}
