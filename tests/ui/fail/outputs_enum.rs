//! Outputs are a struct.

#[derive(cce::Outputs)]
enum Wrong {
    Loss,
}

fn main() {}
