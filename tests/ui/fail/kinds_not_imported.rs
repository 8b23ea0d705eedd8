//! The kinds are not in scope: rustc says so, and offers the import.

#[cce::loss]
fn wrong(x: Logit, y: Target) -> Loss {
    lse(x) - at(x, y)
}

fn main() {
    wrong::program();
}
