//! The extension module `cce_torch._native`: programs, plans and calls for the Python package.
//!
//! It knows nothing of PyTorch. Tensors arrive as addresses with their numbers of elements, streams as the
//! driver's handles; the Python side owns all memory, and keeps it alive during a call. Work is done without
//! the interpreter's lock.
//!
//! ```text
//! program   built operation by operation, or read; as text, which is its identity on the Python side
//! plans     made for a program, shape, types, filter, wanted gradients and device, and made again as they were
//! known     what is known of plans, within bounds
//! calls     a plan's forward and backward on raw memory: all `unsafe` of this crate
//! tune      the tuner, its workers and its diagnosis
//! errors    this project's errors as Python exceptions with the same text
//! ```

mod calls;
mod errors;
mod known;
mod plans;
mod program;
mod tune;

use pyo3::prelude::*;

/// The native half of `cce_torch`. Private: use the package.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::calls::{backward, forward};
    #[pymodule_export]
    use super::plans::{Plan, plan, plans_alive, plans_known};
    #[pymodule_export]
    use super::program::{Builder, Description, describe, dump, functions};
    #[pymodule_export]
    use super::tune::{Tuned, doctor, tune, tuning_state, work};

    #[pymodule_export]
    const __VERSION__: &str = env!("CARGO_PKG_VERSION");
}
