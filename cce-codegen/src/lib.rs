//! The language of losses, its gradients, and the CUDA that computes them.
//!
//! ```text
//! ProgramBuilder ──▶ Program ──▶ Lowered ──▶ Plan ──▶ CUDA source
//!    (ir, valid)       (ir)       (diff)     (plan,     (cuda, kernels/)
//!                                            schedule)
//! ```
//!
//! Everything here is pure: no I/O, no GPU, no unsafe code. A [`ir::Program`] that exists is valid; every
//! later stage relies on it and cannot fail on the program itself, only on a problem or a schedule that does
//! not fit it.

mod cuda;
pub mod diff;
pub mod generation;
pub mod interp;
pub mod ir;
pub mod plan;
pub mod problem;
pub mod schedule;
pub mod valid;
