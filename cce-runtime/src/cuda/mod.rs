//! Plans on a GPU: sources become kernels ([`jit`]) that plans share (`kernels`), calls become arguments (`args`) and
//! launches (`executor`).

mod args;
mod executor;
mod filter;
pub mod jit;
mod kernels;

pub(crate) use executor::CudaExecutor;
pub(crate) use filter::{Asked, decide_filter};
pub use kernels::Kernels;
