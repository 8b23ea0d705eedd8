//! Devices, compilation at run time and launches: what runs a loss on CUDA or on the CPU.
//!
//! All `unsafe` of the project lives in this crate.

pub mod cubin_cache;
pub mod driver;
pub mod error;
pub mod nvrtc;

#[cfg(test)]
mod nvrtc_for_tests;
