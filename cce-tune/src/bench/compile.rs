//! A GPU's kernels, compiled and judged before anything is loaded on the device.

use super::failure;
use crate::Error;
use crate::search::{Compile, Failure};
use cce_codegen::ir::Program;
use cce_codegen::plan::GpuPlan;
use cce_codegen::problem::Problem;
use cce_codegen::schedule::{Gpu, GpuSchedule, Schedule};
use cce_runtime::cubin_cache::CubinCache;
use cce_runtime::cuda::jit;
use cce_runtime::driver::DeviceInfo;
use cce_runtime::nvrtc::Nvrtc;
use cce_tuning_db::{Resources, Status};

/// Compiles candidates of one problem for one GPU into the cache, without a context on the device.
#[derive(Debug)]
pub struct DeviceCompiler {
    info: DeviceInfo,
    program: Program,
    problem: Problem,
}

impl DeviceCompiler {
    /// For this GPU.
    pub fn new(info: DeviceInfo, program: Program, problem: Problem) -> DeviceCompiler {
        DeviceCompiler { info, program, problem }
    }
}

impl Compile for DeviceCompiler {
    fn compile(&self, schedule: &Schedule) -> Result<Option<Resources>, Failure> {
        match schedule {
            Schedule::Gpu(gpu) => compiled(&self.info, &self.program, &self.problem, gpu).map(Some),
            // It is the plan that says what is wrong with it.
            Schedule::Cpu(_) => Ok(None),
        }
    }

    fn threads(&self) -> usize {
        // The modules of a plan compile in parallel already.
        rayon::current_num_threads().div_ceil(4)
    }
}

/// Compiles a candidate's kernels (into the cache, from which its plan takes them) and returns what they use.
pub(super) fn compiled(
    info: &DeviceInfo,
    program: &Program,
    problem: &Problem,
    schedule: &GpuSchedule,
) -> Result<Resources, Failure> {
    let of = |error: Error| failure(&error);
    let plan = GpuPlan::build(program, problem, schedule, &Gpu::from(info))
        .map_err(|error| Failure::new(Status::Constraint(error.to_string())))?;
    let nvrtc = Nvrtc::find(Some(info.driver), Some(info.arch())).map_err(|error| of(error.into()))?;
    let modules = jit::compile(&plan, &nvrtc, info.arch(), &CubinCache::from_env())
        .map_err(|error| of(error.into()))?;
    let kernels = || modules.iter().flat_map(|module| module.resources());
    let spilled = |k: &&cce_runtime::nvrtc::Resources| k.spill_store_bytes + k.spill_load_bytes;
    let worst = kernels().filter(|kernel| kernel.spills()).max_by_key(spilled);
    let shared = plan.forward.iter().chain(&plan.backward).map(|launch| u64::from(launch.shared_bytes)).max();
    let resources = Resources::new(
        kernels().map(|kernel| kernel.registers).max().unwrap_or(0),
        worst.as_ref().map_or(0, spilled),
        shared.unwrap_or(0),
    );
    match worst {
        None => Ok(resources),
        Some(worst) => {
            let reason = format!("kernel {} spilled {} bytes", worst.kernel, spilled(&worst));
            Err(Failure { resources: Some(resources), ..Failure::new(Status::Resources(reason)) })
        }
    }
}
