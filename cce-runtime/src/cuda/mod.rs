//! Plans on a GPU: sources become kernels ([`jit`]) that plans share (`kernels`), calls become arguments (`args`) and
//! launches (`executor`), those that repeat become graphs (`replay`).

mod args;
mod executor;
mod filter;
pub mod jit;
mod kernels;
mod replay;

pub(crate) use executor::CudaExecutor;
pub(crate) use filter::{Asked, decide_filter};
pub use kernels::Kernels;
