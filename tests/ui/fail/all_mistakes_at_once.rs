//! Several mistakes, each at its place, none a consequence of another.

use cce::{Logit, Loss, Target};

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    let z = x * 2.0;
    let l = logsumexp(z);
    let smooth = mean(z - lse(z));
    let target = scale * y;
    let loss = l + smooth + target;
    if z > 0.0 { z } else { loss }
}

fn main() {
    wrong::program();
}
