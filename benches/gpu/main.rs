//! What a head costs on a GPU: `head` (loss and gradients beside cuBLASLt's product), `start` (the time to the first
//! result) and `host` (the host's time of a call).
//!
//! ```text
//! cargo bench --bench gpu -- head --help
//! cargo bench --bench gpu -- start --help
//! cargo bench --bench gpu -- host --help
//! ```

#![expect(unsafe_code, reason = "hands raw device pointers to plans")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at the first error")]

mod cublaslt;
mod head;
mod host;
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
    /// The host's time of a call.
    Host(host::Arguments),
}

fn main() {
    match Arguments::parse().what {
        What::Head(arguments) => head::run(&arguments),
        What::Start(arguments) => start::run(&arguments),
        What::Host(arguments) => host::run(&arguments),
    }
}
