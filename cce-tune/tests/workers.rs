//! Workers that hang, crash, exit, write garbage and compute nonsense: each costs its candidate only.
//!
//! This program is the tests, and, run with the argument `worker`, the worker: plans on the CPU device, of
//! which some misbehave by their token block. Hence no test harness, which would write to the pipe.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

#[cfg(unix)]
mod misbehaving;

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    misbehaving::main()
}

#[cfg(not(unix))]
fn main() {}
