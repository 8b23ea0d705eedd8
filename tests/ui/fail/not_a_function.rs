//! The attribute stands on a struct.

#[cce::loss]
struct Wrong {
    loss: cce::Row,
}

fn main() {}
