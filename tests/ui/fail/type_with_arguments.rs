//! An input and a value of types with arguments: they are printed as one writes them.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target, weight: Vec<f32>) -> Loss {
    let l: std::sync::Arc<f32> = lse(x);
    weight * (l - at(x, y))
}

fn main() {
    wrong::program();
}
