//! Plans on a GPU: sources become kernels ([`jit`]), calls become arguments (`args`) and launches
//! (`executor`).

mod args;
mod executor;
pub mod jit;

pub(crate) use executor::{CudaExecutor, gpu_of};
