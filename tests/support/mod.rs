//! What the tests of whole computations share: a [`Case`] is a program with a shape and options; fresh random
//! data is made for it, it is run on a device through the public interface, and what comes out is compared
//! with the f64 reference.
//!
//! Invariants of every run:
//! - outputs, gradients and workspace are full of NaN before a call, and so is the padding between the rows
//!   of strided inputs;
//! - every buffer lies between two guard zones, which are looked at afterwards, and inputs are compared with
//!   what was put there;
//! - the data come from a seed that is printed with every failure. `CCE_TEST_SEED` repeats a run.

pub mod bins;
pub mod case;
pub mod compare;
pub mod data;
pub mod device;
pub mod expected;
pub mod gpu;
pub mod head;
pub mod numbers;
pub mod programs;
pub mod room;
pub mod run;
pub mod scenarios;
pub mod seeds;
pub mod skipped;

pub use case::{Budget, Case, Reduction, Upstreams};
pub use compare::{Report, check};
pub use data::Data;
pub use device::{Bench, Choice, Gpu};
pub use run::Mode;
