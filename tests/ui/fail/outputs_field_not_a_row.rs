//! A field of the outputs that is no Row.

#[derive(cce::Outputs)]
struct Wrong {
    loss: f32,
}

fn main() {}
