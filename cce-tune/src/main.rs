//! The tuner's command line. Everything is in the library, so that a user's own losses can have the same: see
//! [`cce_tune::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    cce_tune::run([])
}
