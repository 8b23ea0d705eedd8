//! What a head costs on a GPU: `head` (loss and gradients beside cuBLASLt's product) and `start` (the time to
//! the first result).
//!
//! ```text
//! cargo bench --bench gpu -- head --help
//! cargo bench --bench gpu -- start --help
//! ```

#![expect(unsafe_code, reason = "hands raw device pointers to plans")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first error")]

mod cublaslt;
mod head;
mod start;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Benchmarks of a language model's head on a GPU")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Given by cargo.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum What {
    /// Loss and gradients beside cuBLASLt's product of the same shape.
    Head(head::Arguments),
    /// Cold and warm start of a plan.
    Start(start::Arguments),
}

fn main() {
    match Arguments::parse().what {
        What::Head(arguments) => head::run(&arguments),
        What::Start(arguments) => start::run(&arguments),
    }
}
