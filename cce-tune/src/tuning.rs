//! Tuning one task on one device, from the database to the ranking.

use crate::Error;
use crate::arguments::Arguments;
use crate::bench::{CudaMemory, HostMemory, Memory, PlanBench, check_against_f64};
use crate::data::Head;
use crate::progress::{Progress, Whole};
use crate::recording::Recording;
use crate::search::{Effort, Ended, Ranking, Store, search};
use crate::space::{SEARCHED, Space};
use crate::stop::Stop;
use crate::strategy::{Experience, Kind, Outcome, Pool};
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
    /// Which schedules are tried.
    pub scope: Scope,
    /// Whether candidates that have a trial are measured again.
    pub again: bool,
    /// Values for the loss's scalars; the others are usual ones.
    pub scalars: Vec<(String, f32)>,
    /// Where to say how far it is.
    pub progress: &'a dyn Progress,
    /// Who may ask it to stop.
    pub stop: &'a Stop,
}

/// Which schedules of a space are tried, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Who chooses.
    pub strategy: Kind,
    /// The seed of what the strategy leaves to chance.
    pub seed: u64,
    /// Schedules to choose from, at most.
    pub searched: u64,
    /// Schedules that are tried, at most; `None`: as many as the strategy thinks worth it.
    pub budget: Option<usize>,
}

impl Default for Scope {
    fn default() -> Scope {
        Scope { strategy: Kind::default(), seed: 0, searched: SEARCHED, budget: None }
    }
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
    /// Schedules that there were to choose from.
    pub searched: usize,
    /// The trials of these, in the order of the space; `None` if there are none.
    pub recording: Option<Recording>,
    /// Whether it was complete.
    pub ended: Ended,
    /// Every candidate that was tried, or breaks a constraint.
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
        let space = match device.kind() {
            DeviceKind::Cpu => Space::cpu(&problem)?,
            DeviceKind::Cuda => Space::gpu(&task.program, &problem, &gpu_of(device)?, self.scope.searched)?,
        };
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
        (problem, space): (Problem, Space),
        reference: Option<Schedule>,
        head: impl FnOnce() -> Result<Head, Error>,
    ) -> Result<Report, Error> {
        let arguments = Arguments::new(&task.program, task.tokens, task.vocab, &self.scalars)?;
        let keyed = tuning_device(device)?;
        let key = selection::key(&task.program, &problem, keyed.clone())?;
        let mut database = Database::open(self.folder)?;
        let (shape, generation) = (selection::shape(&problem), selection::generation(&keyed));
        let mut others = Recording::of_records("the database", database.records()?)?;
        others.retain(|other| (&other.key, other.shape, &other.generation) != (&key, shape, &generation));
        let experience = Experience::of(&key, &others);
        let mut store = Store::open(database, key.clone(), shape, generation, provenance(device))?;
        if self.again {
            store.measure_again();
        }
        // Candidates run under the filter that the plan decided on, whatever the schedule.
        let task = Task { filter: Some(problem.filter), ..task.clone() };
        let pool = Pool::new(space.candidates.iter().map(|candidate| candidate.schedule));
        let strategy = self.scope.strategy.with(self.scope.seed, experience);
        let budget = self.scope.budget.unwrap_or(usize::MAX).min(strategy.budget(&pool));
        let outcomes = |store: &Store| -> Vec<Option<Outcome>> {
            let outcome = |trial: &cce_tuning_db::Trial| trial.time().map_or(Outcome::Failed, Outcome::Time);
            space.candidates.iter().map(|candidate| store.known(&candidate.config).map(outcome)).collect()
        };
        let mut tried = space.broken.clone();
        let known = space.candidates.iter().filter(|candidate| store.known(&candidate.config).is_some());
        tried.extend(known.cloned());
        let (mut bench, mut head) = (None, Some(head));
        let choose = |store: &Store| {
            let outcomes = outcomes(store);
            let left = budget.saturating_sub(outcomes.iter().flatten().count());
            match left.min(self.effort.batch) {
                0 => Vec::new(),
                most => strategy.next(&pool, &outcomes, most),
            }
        };
        // One count of steps over all batches; a strategy may end sooner.
        let ahead = budget.saturating_sub(outcomes(&store).iter().flatten().count());
        let progress = Whole::begin(self.progress, ahead * (2 + self.effort.screening));
        let ended = loop {
            let next = choose(&store);
            tried.extend(next.iter().map(|&at| space.candidates[at].clone()));
            // Finals are for the best of all: once nothing is left to try.
            let effort = match next.is_empty() {
                true => self.effort,
                false => Effort { finalists: 0, ..self.effort },
            };
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
            let ended = search(&tried, &mut store, &effort, &progress, self.stop, ready)?;
            // The finals' times may show the strategy something that is worth a trial after all.
            if ended == Ended::Stopped || (next.is_empty() && choose(&store).is_empty()) {
                break ended;
            }
        };
        drop(progress);
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
            searched: space.candidates.len(),
            recording: recording(&task, &store, &space),
            ended,
            ranking: Ranking::new(&tried, &store),
            grade,
            notes,
        })
    }
}

/// What the store knows of a space's candidates.
fn recording(task: &Task, store: &Store, space: &Space) -> Option<Recording> {
    let trials: Vec<&cce_tuning_db::Trial> =
        space.candidates.iter().filter_map(|candidate| store.known(&candidate.config)).collect();
    let first = trials.first()?;
    Recording::of(task.program.name(), store.key(), first.shape, &first.generation.clone(), trials)
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
    bench.set_reference(results)?;
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
