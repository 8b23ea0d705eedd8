//! Plans on a GPU: sources become kernels ([`jit`]), calls become arguments (`args`) and launches
//! (`executor`).

mod args;
mod executor;
mod filter;
pub mod jit;

pub(crate) use executor::CudaExecutor;
pub(crate) use filter::{Asked, decide_filter};
