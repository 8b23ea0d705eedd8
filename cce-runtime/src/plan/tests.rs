//! Whole calls on the CPU device against the f64 reference, and every error of a call.

mod errors;
mod exact;
mod parts;
mod programs;
mod sampled;
