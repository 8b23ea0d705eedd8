//! The bench of whatever device there is, ready to measure.

use super::{Built, CudaMemory, HostMemory, Memory, PlanBench, check_against_f64};
use crate::Error;
use crate::arguments::Arguments;
use crate::data::Head;
use crate::search::{Bench, Compile, Failure};
use crate::task::Task;
use cce_codegen::problem::Problem;
use cce_codegen::schedule::{Gpu, GpuSchedule, Schedule};
use cce_runtime::{Device, DeviceKind, selection};
use cce_tuning_db::{Clocks, Resources};
use std::sync::Arc;

/// Plans on the CPU device or on a GPU.
#[non_exhaustive]
pub enum DeviceBench {
    /// In the host's memory.
    Cpu(Box<PlanBench<HostMemory>>),
    /// In a GPU's.
    Cuda(Box<PlanBench<CudaMemory>>),
}

impl DeviceBench {
    /// Inputs on the device, and the reference, checked: on a GPU by family `simt`, on the CPU device by the
    /// default schedule.
    ///
    /// # Errors
    /// When there is no room, the reference is wrong or not finite; what the device reports.
    pub fn prepare(
        device: &Device,
        task: &Task,
        head: &Head,
        arguments: &Arguments,
        problem: &Problem,
    ) -> Result<DeviceBench, Error> {
        Ok(match device.kind() {
            DeviceKind::Cpu => {
                let first = selection::cpu_space(problem).first().copied().ok_or(Error::NoCandidate)?;
                let reference = Schedule::Cpu(first);
                let bench = prepared(HostMemory, device, task, head, arguments, problem, reference)?;
                DeviceBench::Cpu(Box::new(bench))
            }
            DeviceKind::Cuda => {
                let info = device.properties().cuda.ok_or(Error::NoCandidate)?;
                let simt = GpuSchedule::simt(&task.program, problem, &Gpu::from(&info));
                let (memory, reference) = (CudaMemory::new(device)?, Schedule::Gpu(simt));
                let bench = prepared(memory, device, task, head, arguments, problem, reference)?;
                DeviceBench::Cuda(Box::new(bench))
            }
        })
    }

    /// As [`DeviceBench::prepare`], on a generated head; `first` is a schedule that can run the task. With the problem
    /// as the device's plans have it.
    ///
    /// # Errors
    /// As there; and what of the scalars the loss does not have.
    pub fn generated(
        device: &Device,
        task: &Task,
        first: Schedule,
        seed: u64,
        scalars: &[(String, f32)],
    ) -> Result<(DeviceBench, Problem), Error> {
        let head = Head::generated(task.tokens, task.width, task.vocab, seed, task.dtype);
        let arguments = Arguments::new(&task.program, task.tokens, task.vocab, scalars)?;
        let problem = task.plan(device, first)?.problem().clone();
        let bench = DeviceBench::prepare(device, task, &head, &arguments, &problem)?;
        Ok((bench, problem))
    }
}

fn prepared<M: Memory + Clone>(
    memory: M,
    device: &Device,
    task: &Task,
    head: &Head,
    arguments: &Arguments,
    problem: &Problem,
    reference: Schedule,
) -> Result<PlanBench<M>, Error> {
    check_against_f64(memory.clone(), device, task, head, arguments, reference)?;
    let mut bench = PlanBench::new(memory, device.clone(), task.clone(), head, arguments, Some(problem))?;
    let plan = task.exact().plan(device, reference)?;
    bench.make_reference(&plan, arguments)?;
    Ok(bench)
}

impl Bench for DeviceBench {
    type Built = Built;

    fn build(&self, schedule: &Schedule) -> Result<Built, Failure> {
        match self {
            DeviceBench::Cpu(bench) => bench.build(schedule),
            DeviceBench::Cuda(bench) => bench.build(schedule),
        }
    }

    fn resources(&self, built: &Built) -> Option<Resources> {
        match self {
            DeviceBench::Cpu(bench) => bench.resources(built),
            DeviceBench::Cuda(bench) => bench.resources(built),
        }
    }

    fn check(&mut self, built: &mut Built) -> Result<f64, Failure> {
        match self {
            DeviceBench::Cpu(bench) => bench.check(built),
            DeviceBench::Cuda(bench) => bench.check(built),
        }
    }

    fn time(&mut self, built: &mut Built, round: usize) -> Result<f64, Failure> {
        match self {
            DeviceBench::Cpu(bench) => bench.time(built, round),
            DeviceBench::Cuda(bench) => bench.time(built, round),
        }
    }

    fn clocks(&self) -> Option<Clocks> {
        match self {
            DeviceBench::Cpu(bench) => bench.clocks(),
            DeviceBench::Cuda(bench) => bench.clocks(),
        }
    }

    fn compiler(&self) -> Option<Arc<dyn Compile>> {
        match self {
            DeviceBench::Cpu(bench) => bench.compiler(),
            DeviceBench::Cuda(bench) => bench.compiler(),
        }
    }
}
