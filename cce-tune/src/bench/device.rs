//! The bench of whatever device there is, ready to measure.

use super::reference::Part;
use super::{Built, CudaMemory, HostMemory, Memory, PlanBench};
use crate::Error;
use crate::arguments::Arguments;
use crate::data::Head;
use crate::phases::{Phase, Stopwatch};
use crate::search::{Bench, Compile, Failure};
use crate::task::Task;
use cce_codegen::ir::Program;
use cce_codegen::plan::GpuPlan;
use cce_codegen::problem::{Filter, Problem};
use cce_codegen::schedule::{Family, Gpu, GpuSchedule, Schedule};
use cce_runtime::{Device, DeviceKind, Plan, selection};
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
    /// Inputs on the device, and the reference, checked. `head` is asked for the inputs while the reference's kernels
    /// are compiled. The reference is that of the CPU device's default schedule; on a GPU of family `simt`, true fp32
    /// products, or, where candidates are of family `wgmma` and sampled, whose noise is larger than the rounding of
    /// 16-bit products, of family `mma`, which takes a tenth of the time.
    ///
    /// # Errors
    /// When there is no room, the reference is wrong or not finite; what the device or `head` reports.
    pub fn prepare(
        device: &Device,
        task: &Task,
        head: impl FnOnce() -> Result<Head, Error>,
        arguments: &Arguments,
        problem: &Problem,
    ) -> Result<DeviceBench, Error> {
        let what = Prepared { device, task, arguments, problem };
        Ok(match device.kind() {
            DeviceKind::Cpu => {
                let first = selection::cpu_space(problem).first().copied().ok_or(Error::NoCandidate)?;
                DeviceBench::Cpu(Box::new(what.on(|| Ok(HostMemory), head, Schedule::Cpu(first))?))
            }
            DeviceKind::Cuda => {
                let info = device.properties().cuda.ok_or(Error::NoCandidate)?;
                let reference = reference_schedule(&task.program, problem, &Gpu::from(&info));
                let memory = || CudaMemory::new(device);
                DeviceBench::Cuda(Box::new(what.on(memory, head, Schedule::Gpu(reference))?))
            }
        })
    }
}

/// The schedule of a GPU's reference.
fn reference_schedule(program: &Program, problem: &Problem, gpu: &Gpu) -> GpuSchedule {
    let is_of_wgmma = GpuSchedule::default_for(program, problem, gpu).family == Family::Wgmma;
    let exact = Problem { filter: Filter::Exact, workspace_limit: None, ..problem.clone() };
    let mma = GpuSchedule::of_family(Family::Mma, program, &exact, gpu);
    let is_sampled = matches!(problem.filter, Filter::Sampled { .. });
    match is_of_wgmma && is_sampled && GpuPlan::build(program, &exact, &mma, gpu).is_ok() {
        true => mma,
        false => GpuSchedule::simt(program, problem, gpu),
    }
}

/// What a bench is prepared for.
struct Prepared<'a> {
    device: &'a Device,
    task: &'a Task,
    arguments: &'a Arguments,
    problem: &'a Problem,
}

impl Prepared<'_> {
    /// What can be done at the same time is: kernels compile while the inputs are made, and cores compute in f64 while
    /// the device computes the reference.
    fn on<M: Memory + Clone>(
        &self,
        memory: impl FnOnce() -> Result<M, Error>,
        head: impl FnOnce() -> Result<Head, Error>,
        reference: Schedule,
    ) -> Result<PlanBench<M>, Error> {
        let Prepared { device, task, arguments, problem } = self;
        let mut watch = Stopwatch::start();
        std::thread::scope(|scope| {
            let plans = scope.spawn(move || -> Result<(Plan, Plan), Error> {
                let whole = task.exact().plan(device, reference)?;
                Ok((whole, Part::task(task).plan(device, reference)?))
            });
            let head = head()?;
            watch.lap("inputs");
            let (plan, of_part) = joined(plans)?;
            watch.lap("kernels of the reference, beyond the inputs' time");
            let part = &Part::new(task, &head, arguments);
            let memory = memory()?;
            std::thread::scope(|scope| {
                let expected = scope.spawn(|| part.expected());
                let results = part.results(memory.clone(), device, &of_part)?;
                watch.lap("reference of a part");
                let (device, task) = ((*device).clone(), (*task).clone());
                let mut bench = PlanBench::new(memory, device, task, &head, arguments, Some(problem))?;
                watch.lap("inputs to the device");
                bench.make_reference(&plan, arguments)?;
                watch.lap("reference");
                part.compare(&results, &joined(expected)?)?;
                watch.lap("f64 check, beyond the reference's time");
                Ok(bench.with_phases(watch.phases()))
            })
        })
    }
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
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

    fn phases(&self) -> Vec<Phase> {
        match self {
            DeviceBench::Cpu(bench) => bench.phases(),
            DeviceBench::Cuda(bench) => bench.phases(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::problem::DType;

    #[test]
    fn the_reference_of_sampled_wgmma_candidates_is_of_another_family_and_every_other_is_true_fp32() {
        let program = cce::losses::named("cross_entropy").unwrap();
        let problem = Problem { filter: Filter::SAMPLED, ..Problem::new(8192, 2304, 256_000, DType::Bf16) };
        let family = |problem: &Problem, gpu: &Gpu| reference_schedule(&program, problem, gpu).family;
        assert_eq!(family(&problem, &Gpu::h100()), Family::Mma);
        let exact = Problem { filter: Filter::Exact, ..problem.clone() };
        assert_eq!(family(&exact, &Gpu::h100()), Family::Simt);
        assert_eq!(family(&problem, &Gpu::of_capability(8, 0)), Family::Simt);
        let single = Problem { filter: Filter::SAMPLED, ..Problem::new(8192, 2304, 256_000, DType::F32) };
        assert_eq!(family(&single, &Gpu::h100()), Family::Simt);
    }
}
