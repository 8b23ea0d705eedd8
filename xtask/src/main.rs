//! The project's own tasks: `cargo xtask test` and `cargo xtask gpu-bundle`.
//!
//! Invariants: a task is one command that works on a fresh checkout; what it fetches is pinned by checksum
//! and kept under `target/`; a task that could not do all of its work fails and says why.

mod bundle;
mod cargo;
mod error;
mod python;
mod run_script;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::Parser;

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Run everything that needs no GPU: fetch NVRTC, check the format, lint, run all tests and the doc
    /// tests, and those of the PyTorch package.
    Test(test::Options),
    /// Build the GPU tests, the benchmarks and cce-tune into .bundle/, a folder that runs without Rust.
    GpuBundle,
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Test(options) => test::run(&options),
        Task::GpuBundle => bundle::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
