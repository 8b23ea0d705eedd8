//! A loss without a body.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {

}

fn main() {
    wrong::program();
}
