//! Tuning one task on one device, from the database to the ranking.

use crate::Error;
use crate::arguments::Arguments;
use crate::bench::{CudaMemory, HostMemory, Memory, PlanBench, check_against_f64};
use crate::data::Head;
use crate::progress::Progress;
use crate::search::{Effort, Ended, Ranking, Store, search};
use crate::space::Space;
use crate::stop::Stop;
use crate::task::Task;
use cce_codegen::problem::Problem;
use cce_codegen::schedule::{Gpu, GpuSchedule, Schedule};
use cce_runtime::selection;
use cce_runtime::{Device, DeviceKind};
use cce_tuning_db::{Database, Grade, Key, Provenance};
use std::path::Path;

/// How to tune.
pub struct Tuner<'a> {
    /// The folder of the database.
    pub folder: &'a Path,
    /// How much is measured.
    pub effort: Effort,
    /// Only the first candidates are tried, at most so many; `None`: all.
    pub candidates: Option<usize>,
    /// Whether candidates that have a trial are measured again.
    pub again: bool,
    /// Values for the loss's scalars; the others are usual ones.
    pub scalars: Vec<(String, f32)>,
    /// Where to say how far it is.
    pub progress: &'a dyn Progress,
    /// Who may ask it to stop.
    pub stop: &'a Stop,
}

/// What tuning a task came to.
#[derive(Debug)]
pub struct Report {
    /// The device.
    pub device: cce_tuning_db::Device,
    /// The problem, its filter decided.
    pub problem: Problem,
    /// What the trials are stored under.
    pub key: Key,
    /// Trials that were there before.
    pub reused: usize,
    /// Whether it was complete.
    pub ended: Ended,
    /// Every candidate.
    pub ranking: Ranking,
    /// How a plan for this task, without a schedule of its own, now comes by its schedule.
    pub grade: Grade,
    /// What is worth knowing besides.
    pub notes: Vec<String>,
}

impl Tuner<'_> {
    /// What is searched for a task, without running anything, and the problem as a plan understands it.
    ///
    /// # Errors
    /// When the task is not possible on the device.
    pub fn space(&self, task: &Task, device: &Device) -> Result<(Problem, Space), Error> {
        let plan = task.builder().build(device)?;
        let problem = plan.problem().clone();
        let mut space = match device.kind() {
            DeviceKind::Cpu => Space::cpu(&problem)?,
            DeviceKind::Cuda => Space::gpu(&task.program, &problem, &gpu_of(device)?)?,
        };
        if let Some(most) = self.candidates {
            space.limit(most);
        }
        Ok((problem, space))
    }

    /// Tunes a task. `head` is asked for the inputs, in the task's shape and type, only if something has to
    /// be run.
    ///
    /// # Errors
    /// When the task is not possible, the reference is wrong or not finite, the database cannot be used, or the device
    /// fails for good.
    pub fn tune(
        &self,
        task: &Task,
        device: &Device,
        head: impl FnOnce() -> Result<Head, Error>,
    ) -> Result<Report, Error> {
        let (problem, space) = self.space(task, device)?;
        match device.kind() {
            DeviceKind::Cpu => {
                let reference = space.candidates.first().map(|first| first.schedule);
                self.tune_in(HostMemory, device, task, (problem, space), reference, head)
            }
            DeviceKind::Cuda => {
                let simt = Schedule::Gpu(GpuSchedule::simt(&task.program, &problem, &gpu_of(device)?));
                let memory = CudaMemory::new(device)?;
                self.tune_in(memory, device, task, (problem, space), Some(simt), head)
            }
        }
    }

    fn tune_in<M: Memory + Clone>(
        &self,
        memory: M,
        device: &Device,
        task: &Task,
        (problem, mut space): (Problem, Space),
        reference: Option<Schedule>,
        head: impl FnOnce() -> Result<Head, Error>,
    ) -> Result<Report, Error> {
        let arguments = Arguments::new(&task.program, task.tokens, task.vocab, &self.scalars)?;
        let keyed = tuning_device(device)?;
        let key = selection::key(&task.program, &problem, keyed.clone())?;
        let database = Database::open(self.folder)?;
        let mut store = Store::open(
            database,
            key.clone(),
            selection::shape(&problem),
            selection::generation(&keyed),
            provenance(device),
        )?;
        if self.again {
            store.measure_again();
        }
        // Candidates run under the filter that the plan decided on, whatever the schedule.
        let task = Task { filter: Some(problem.filter), ..task.clone() };
        let (mut bench, mut head) = (None, Some(head));
        let ended = loop {
            let (slot, head) = (&mut bench, &mut head);
            let (memory, task, arguments, problem) = (&memory, &task, &arguments, &problem);
            let ready = move || {
                let (slot, head) = (slot, head);
                if let (None, Some(head), Some(reference)) = (&slot, head.take(), reference) {
                    let head = head()?;
                    self.progress.note("computing the reference");
                    *slot =
                        Some(prepare(memory.clone(), device, task, &head, arguments, problem, reference)?);
                }
                slot.as_mut().ok_or(Error::NoCandidate)
            };
            let ended = search(&space.candidates, &mut store, &self.effort, self.progress, self.stop, ready)?;
            if ended == Ended::Stopped || !space.grow(&store)? {
                break ended;
            }
        };
        let mut notes = store.publish()?;
        let grade = if selection::folder().as_deref() == Some(self.folder) {
            let plan = task.builder().build(device)?;
            notes.extend(plan.notes().iter().cloned());
            plan.grade().clone()
        } else {
            // Plans of this process look in another folder; what they would find in this one.
            let winners = selection::open(Some(self.folder), &selection::profiles());
            let chosen = selection::choose_from(&winners, &task.program, &problem, keyed.clone(), Ok);
            notes.extend(chosen.notes);
            chosen.grade
        };
        Ok(Report {
            device: keyed,
            problem,
            key,
            reused: store.reused(),
            ended,
            ranking: Ranking::new(&space.candidates, &store),
            grade,
            notes,
        })
    }
}

/// Inputs on the device, and the reference, checked.
pub(crate) fn prepare<M: Memory + Clone>(
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
    let results = bench.run(&plan)?;
    results.check_finite(&task.program, arguments)?;
    bench.set_reference(results);
    Ok(bench)
}

/// The device as the database knows it.
///
/// # Errors
/// What the driver reports.
pub fn tuning_device(device: &Device) -> Result<cce_tuning_db::Device, Error> {
    Ok(match device.kind() {
        DeviceKind::Cpu => selection::cpu(),
        DeviceKind::Cuda => selection::gpu(&info_of(device)?),
    })
}

/// Who measures here, with what.
fn provenance(device: &Device) -> Provenance {
    let mut provenance = Provenance::new(host_name(), 0);
    if let Ok(info) = info_of(device) {
        provenance = provenance.with_driver(info.driver.to_string());
        if let Ok(nvrtc) = cce_runtime::nvrtc::Nvrtc::find(Some(info.driver), Some(info.arch())) {
            provenance = provenance.with_nvrtc(nvrtc.version().to_string());
        }
    }
    provenance
}

/// The machine's name, as the system states it.
pub fn host_name() -> String {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    read("/proc/sys/kernel/hostname")
        .or_else(|| read("/etc/hostname"))
        .or_else(|| std::env::var("HOSTNAME").ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn info_of(device: &Device) -> Result<cce_runtime::driver::DeviceInfo, Error> {
    device.properties().cuda.ok_or(Error::NoCandidate)
}

/// The device as schedules know it.
///
/// # Errors
/// For the CPU device.
pub fn gpu_of(device: &Device) -> Result<Gpu, Error> {
    Ok(Gpu::from(&info_of(device)?))
}
