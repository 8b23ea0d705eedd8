//! Devices, compilation at run time and launches: what runs a loss on CUDA or on the CPU.
//!
//! All `unsafe` of the project lives in this crate.

mod call;
mod cpu;
pub mod cubin_cache;
pub mod cuda;
mod device;
pub mod driver;
pub mod error;
mod executor;
mod inputs;
pub mod nvml;
pub mod nvrtc;
mod outputs;
mod plan;
pub mod selection;
mod views;
mod workspace;

pub use call::{Arg, Call, ScalarArg, SeedArg, TokenReduction};
pub use cuda::Kernels;
pub use device::{Device, DeviceKind, DeviceProperties};
pub use error::{Error, Result};
pub use inputs::Inputs;
pub use outputs::{GradientViews, Gradients, Outputs, Upstream};
pub use plan::{Plan, PlanBuilder, RunResult};
pub use views::{Element, HostElement, Place, View, ViewMut};
pub use workspace::{HOST_PART_ALIGN, Saved, WORKSPACE_ALIGN, Workspace, WorkspaceSize};

#[cfg(test)]
mod nvrtc_for_tests;
