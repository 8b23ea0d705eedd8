//! Tuning one task on one device, from the database to the ranking.

use crate::Error;
use crate::arguments::Arguments;
use crate::bench::DeviceBench;
use crate::data::{Head, HeadSource};
use crate::floor::{Floor, Peak, Work};
use crate::losses;
use crate::phases::{Phase, Stopwatch};
use crate::progress::{Progress, Whole};
use crate::recording::Recording;
use crate::room;
use crate::search::{
    Bench, Candidate, Effort, Ended, Ranked, Ranking, Store, run_off_time, search_on, undecided,
};
use crate::space::{SEARCHED, Space};
use crate::stop::Stop;
use crate::stored;
use crate::strategy::{Experience, Kind, Outcome, Pool};
use crate::task::Task;
use crate::worker::{Job, RemoteBench, WorkerCommand};
use cce_codegen::problem::Problem;
use cce_codegen::schedule::{Gpu, Schedule};
use cce_runtime::selection;
use cce_runtime::{Device, DeviceKind};
use cce_tuning_db::{self as db, Database, Grade, Key, Provenance, Request};
use std::path::Path;
use std::time::{Duration, Instant};

/// How to tune.
pub struct Tuner<'a> {
    /// The folder of the database.
    pub folder: &'a Path,
    /// How much is measured.
    pub effort: Effort,
    /// How long it may take; `None`: until every candidate has been tried.
    pub budget: Option<Duration>,
    /// Which schedules are tried.
    pub scope: Scope,
    /// Only one share of the candidates is tried, the first number's of the second number of shares, counted from 0;
    /// `None`: all. See [`Space::share`].
    pub share: Option<(usize, usize)>,
    /// Whether trials of other hosts count as this one's: in the database of a fleet that shares the work.
    pub all_hosts: bool,
    /// Whether candidates that have a trial are measured again.
    pub again: bool,
    /// What the device can do at most; `None`: what is known of it.
    pub peak: Option<Peak>,
    /// Values for the loss's scalars; the others are usual ones.
    pub scalars: Vec<(String, f32)>,
    /// Where to say how far it is.
    pub progress: &'a dyn Progress,
    /// Who may ask it to stop.
    pub stop: &'a Stop,
}

/// Stored schedules that are tried before a strategy is asked, at most.
const SUGGESTED: usize = 3;
/// What is said while there is nothing to time yet.
const PREPARES: &str = "computing the reference";

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
    pub candidates: Option<usize>,
}

impl Default for Scope {
    fn default() -> Scope {
        Scope { strategy: Kind::default(), seed: 0, searched: SEARCHED, candidates: None }
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
    /// Candidates near the best that the run-off, cut short by the time, did not compare, or not often enough.
    pub undecided: usize,
    /// How long a whole run-off takes, by the best.
    pub run_off: Duration,
    /// Every candidate that was tried, or breaks a constraint.
    pub ranking: Ranking,
    /// What plans take of this key instead of the winner: of a measurement before this one, which has no whole run-off, or
    /// of a shape beside this one's.
    pub in_use: Option<db::Winner>,
    /// What no schedule can be faster than, where the device's peak is known.
    pub floor: Option<Floor>,
    /// How a plan for this task, without a schedule of its own, now comes by its schedule.
    pub grade: Grade,
    /// Where the time went, in the order of what was done.
    pub phases: Vec<Phase>,
    /// Where the time of the first bench's preparation went, beside what its worker's parent did.
    pub preparation: Vec<Phase>,
    /// What is worth knowing besides.
    pub notes: Vec<String>,
}

impl Report {
    /// How many candidates were tried: those that break a constraint are none.
    pub fn tried(&self) -> usize {
        let is_broken = |entry: &&Ranked| matches!(entry.trial.status, db::Status::Constraint(_));
        self.ranking.entries.len() - self.ranking.entries.iter().filter(is_broken).count()
    }

    /// What plans take instead of the winner, and why, in words.
    pub fn in_use_text(&self) -> Option<String> {
        let other = self.in_use.as_ref()?;
        let why = match other.shape.tokens as usize == self.problem.tokens {
            true => "which won the last whole run-off".to_owned(),
            false => format!("which was measured with {} tokens", other.shape.tokens),
        };
        Some(format!("{}, {why} ({:.3} ms)", stored::schedule_text(&other.config), other.median))
    }

    /// How many times slower the device was in the winner's last runs than when the search began.
    pub fn drift(&self) -> Option<f64> {
        let trial = &self.ranking.winner()?.trial;
        Some(trial.time()? / trial.deciding_time()?)
    }
}

impl<'a> Tuner<'a> {
    /// With the usual effort, no budget, and every candidate.
    pub fn new(folder: &'a Path, progress: &'a dyn Progress, stop: &'a Stop) -> Tuner<'a> {
        Tuner {
            folder,
            effort: Effort::default(),
            budget: None,
            scope: Scope::default(),
            share: None,
            all_hosts: false,
            again: false,
            peak: None,
            scalars: Vec::new(),
            progress,
            stop,
        }
    }

    /// What is searched for a task, without running anything, and the problem as a plan understands it.
    ///
    /// # Errors
    /// When the task is not possible on the device.
    pub fn space(&self, task: &Task, device: &Device) -> Result<(Problem, Space), Error> {
        let (problem, mut space) = self.own_space(task, device)?;
        let key = selection::key(&task.program, &problem, tuning_device(device)?)?;
        self.suggest(task, device, (&problem, &key), &mut space)?;
        Ok((problem, space))
    }

    /// The space that follows from the problem.
    fn own_space(&self, task: &Task, device: &Device) -> Result<(Problem, Space), Error> {
        let plan = task.builder().build(device)?;
        let problem = plan.problem().clone();
        let mut space = match device.kind() {
            DeviceKind::Cpu => Space::cpu(&problem)?,
            DeviceKind::Cuda => Space::gpu(&task.program, &problem, &gpu_of(device)?, self.scope.searched)?,
        };
        if let Some((index, of)) = self.share {
            space.share(index, of);
        }
        Ok((problem, space))
    }

    /// Puts in front what plans would take for this problem as it is, best first: what was stored for it elsewhere, for
    /// near shapes, and for other devices, in the database and in profiles; those that fit. A shard keeps to its share.
    /// Returns which of these could not be read, in words.
    fn suggest(
        &self,
        task: &Task,
        device: &Device,
        (problem, key): (&Problem, &Key),
        space: &mut Space,
    ) -> Result<Vec<String>, Error> {
        if self.share.is_some() {
            return Ok(Vec::new());
        }
        let generation = selection::generation(&key.device);
        let request = Request::new(key.clone(), generation.clone());
        let selected = selection::open(Some(self.folder), &selection::profiles()).select(&request);
        let fits = fits(task, device, problem)?;
        // What this search, or one that it goes on with, stored itself would make it choose otherwise than in one go.
        let own = |candidate: &db::Candidate| {
            candidate.source == db::Source::Database
                && candidate.key == *key
                && candidate.winner.generation == generation
        };
        let mut suggested: Vec<Schedule> = Vec::new();
        for candidate in selected.candidates.iter().filter(|candidate| !own(candidate)) {
            let schedule = selection::schedule(&candidate.winner.config).ok().filter(&fits);
            suggested.extend(schedule.filter(|schedule| !suggested.contains(schedule)));
            if suggested.len() >= SUGGESTED {
                break;
            }
        }
        space.suggest(suggested)?;
        let unread =
            selected.warnings.iter().filter(|warning| matches!(warning, db::Warning::Unreadable { .. }));
        Ok(unread.map(ToString::to_string).collect())
    }

    /// Tunes a task in this process: a candidate that crashes ends it. `head` is asked for the inputs, in the
    /// task's shape and type, only if something has to be run; `counted` of its tokens are not ignored, which the floor
    /// counts.
    ///
    /// # Errors
    /// When the task is not possible, the reference is wrong or not finite, the database cannot be used, or the device
    /// fails for good.
    pub fn tune(
        &self,
        task: &Task,
        device: &Device,
        (head, counted): (impl FnOnce() -> Result<Head, Error>, usize),
    ) -> Result<Report, Error> {
        let arguments = Arguments::new(&task.program, task.tokens, task.vocab, &self.scalars)?;
        self.tune_on(task, (device, 1), counted, |task, problem| {
            room::check(task, device.kind())?;
            self.prepares();
            Ok(vec![DeviceBench::prepare(device, task, head, &arguments, problem)?])
        })
    }

    /// Tunes a task in worker processes, one a device: what a candidate breaks is its worker's. The devices
    /// are of one kind, and share the candidates. `counted` of the tokens are not ignored.
    ///
    /// # Errors
    /// As [`Tuner::tune`]; [`Error::Worker`] when there can be no worker, [`Error::Inputs`] when that is for the task
    /// or its inputs.
    pub fn tune_in_workers(
        &self,
        task: &Task,
        devices: &[Device],
        (source, counted): (&HeadSource, usize),
        worker: &WorkerCommand,
    ) -> Result<Report, Error> {
        // Wrong scalars are this caller's mistake, not the worker's.
        Arguments::new(&task.program, task.tokens, task.vocab, &self.scalars)?;
        let first = devices.first().ok_or(Error::NoCandidate)?;
        let mut refusals = Vec::new();
        let tuned = self.tune_on(task, (first, devices.len()), counted, |task, problem| {
            room::check(task, first.kind())?;
            self.prepares();
            let job = Job::new(task, &self.scalars, source.clone());
            let start = |device: &Device| {
                RemoteBench::start(worker.clone(), job.on(device, problem)).stopped_by(self.stop.clone())
            };
            let benches: Vec<RemoteBench> = devices.iter().map(start).collect();
            refusals.extend(benches.iter().map(RemoteBench::refusal));
            Ok(benches)
        });
        tuned.map_err(|error| refusals.iter().fold(error, |error, refusal| refusal.instead_of(error)))
    }

    /// Says why nothing is timed yet.
    fn prepares(&self) {
        self.progress.note(PREPARES);
        self.progress.say(PREPARES);
    }

    fn tune_on<B: Bench + Send>(
        &self,
        task: &Task,
        (device, devices): (&Device, usize),
        counted: usize,
        benches: impl FnOnce(&Task, &Problem) -> Result<Vec<B>, Error>,
    ) -> Result<Report, Error> {
        let effort = self.effort.within(self.budget);
        self.progress.until(self.budget.and_then(|budget| Instant::now().checked_add(budget)));
        let mut watch = Stopwatch::start();
        let (problem, mut space) = self.own_space(task, device)?;
        watch.lap("the space, and kernels of the default");
        let keyed = tuning_device(device)?;
        let key = selection::key(&task.program, &problem, keyed.clone())?;
        let open = if self.all_hosts { Store::open_of_all_hosts } else { Store::open };
        let mut unread = self.suggest(task, device, (&problem, &key), &mut space)?;
        let mut database = Database::open(self.folder)?;
        losses::remember(self.folder, &task.program)?;
        let (shape, generation) = (selection::shape(&problem), selection::generation(&keyed));
        let mut others = Recording::of_records("the database", database.records()?)?;
        others.retain(|other| (&other.key, other.shape, &other.generation) != (&key, shape, &generation));
        let experience = Experience::of(&key, &others);
        let mut store = open(database, key.clone(), shape, generation, provenance(device))?;
        if self.again {
            store.measure_again();
        }
        // What was suggested to an earlier search, and stored, may be what plans take.
        let stored = store.timed().filter_map(|config| selection::schedule(config).ok());
        space.extend(stored.filter(fits(task, device, &problem)?).collect())?;
        let known = || Peak::of(&device.properties().cuda?, problem.dtype);
        let floor = self.peak.or_else(known).map(|peak| Work::of(&problem, counted).floor(peak));
        let effort = Effort { floor_ms: floor.map(|floor| floor.ms), ..effort };
        // Candidates run under the filter that the plan decided on, whatever the schedule.
        let decided = Task { filter: Some(problem.filter), ..task.clone() };
        let pool = Pool::new(space.candidates.iter().map(|candidate| candidate.schedule));
        let strategy = self.scope.strategy.with(self.scope.seed, experience);
        let most = self.scope.candidates.unwrap_or(usize::MAX).min(strategy.most_trials(&pool));
        let outcomes = |store: &Store| -> Vec<Option<Outcome>> {
            let outcome =
                |trial: &cce_tuning_db::Trial| trial.deciding_time().map_or(Outcome::Failed, Outcome::Time);
            space.candidates.iter().map(|candidate| store.known(&candidate.config).map(outcome)).collect()
        };
        let mut tried = space.broken.clone();
        let known = space.candidates.iter().filter(|candidate| store.known(&candidate.config).is_some());
        tried.extend(known.cloned());
        watch.lap("the database");
        // So many batches at a time that one compiles while another is measured, on every device.
        let at_once = effort.batch * (devices + 1);
        let (mut made, mut benches): (Vec<B>, _) = (Vec::new(), Some(benches));
        let (mut screened, mut has_screened) = (Ended::Complete, false);
        let choose = |store: &Store| {
            let outcomes = outcomes(store);
            let left = most.saturating_sub(outcomes.iter().flatten().count());
            let first = (0..space.first.min(outcomes.len())).filter(|&at| outcomes[at].is_none()).take(left);
            match (left.min(at_once), first.collect::<Vec<usize>>()) {
                (0, _) => Vec::new(),
                (batch, first) if first.is_empty() => strategy.next(&pool, &outcomes, batch),
                (_, first) => first,
            }
        };
        // One count of steps over all batches; a strategy may end sooner.
        let ahead = most.saturating_sub(outcomes(&store).iter().flatten().count());
        let progress = Whole::begin(self.progress, ahead * (2 + effort.screening));
        let ended = loop {
            let next = if screened == Ended::Complete { choose(&store) } else { Vec::new() };
            watch.lap("choice of candidates");
            tried.extend(next.iter().map(|&at| space.candidates[at].clone()));
            // The run-off is for the best of all: once nothing is left to try.
            has_screened |= !next.is_empty();
            let effort = match next.is_empty() {
                // A search that has nothing else to do settles it, however long that takes.
                true if !has_screened => Effort { grace: None, ..effort },
                true => effort,
                false => Effort { finalists: 0, ..effort },
            };
            // What the time, or the floor, left untried stays so.
            let leaves_some = screened != Ended::Complete;
            let has_trial = |candidate: &Candidate| store.known(&candidate.config).is_some();
            let listed: Vec<Candidate> =
                tried.iter().filter(|candidate| !leaves_some || has_trial(candidate)).cloned().collect();
            let (made, benches) = (&mut made, &mut benches);
            let (decided, problem) = (&decided, &problem);
            let ready = move || {
                let (made, benches) = (made, benches);
                if let Some(benches) = benches.take() {
                    *made = benches(decided, problem)?;
                }
                Ok(made.iter_mut().collect())
            };
            let ended = search_on(&listed, &mut store, &effort, &progress, self.stop, ready)?;
            watch.lap(if next.is_empty() { "run-off" } else { "preparation and screening" });
            match (ended, next.is_empty()) {
                (Ended::Stopped, _) | (Ended::Spent, true) => break ended,
                (_, true) if screened != Ended::Complete => break screened,
                // The run-off's times may show the strategy something that is worth a trial after all.
                (Ended::Complete, true) if !choose(&store).is_empty() => {}
                (_, true) => break ended,
                (_, false) => screened = ended,
            }
        };
        drop(progress);
        let preparation = made.first().map(Bench::phases).unwrap_or_default();
        // A worker takes its time to end.
        drop(made);
        watch.lap("end of the workers");
        let mut notes = store.publish()?;
        let ranking = Ranking::new(&tried, &store);
        let in_use = store.in_use()?.filter(|in_use| {
            let is_other = |winner: &Ranked| winner.trial.config != in_use.config;
            ranking.winner().is_none_or(is_other)
        });
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
        unread.retain(|warning| !notes.contains(warning));
        notes.extend(unread);
        watch.lap("what a plan finds now");
        Ok(Report {
            device: keyed,
            problem,
            key,
            reused: store.reused(),
            searched: space.candidates.len(),
            recording: recording(task, &store, &space),
            ended,
            undecided: undecided(&tried, &store, &effort),
            run_off: run_off_time(&tried, &store, &effort),
            ranking,
            in_use,
            floor,
            grade,
            phases: watch.phases(),
            preparation,
            notes,
        })
    }
}

/// Whether a schedule can be that of a plan for the task.
fn fits<'a>(
    task: &'a Task,
    device: &Device,
    problem: &'a Problem,
) -> Result<impl Fn(&Schedule) -> bool + use<'a>, Error> {
    let gpu = match device.kind() {
        DeviceKind::Cpu => None,
        DeviceKind::Cuda => Some(gpu_of(device)?),
    };
    Ok(move |schedule: &Schedule| stored::fits(task, problem, *schedule, gpu.as_ref()).is_ok())
}

/// What the store knows of a space's candidates.
fn recording(task: &Task, store: &Store, space: &Space) -> Option<Recording> {
    let trials: Vec<&cce_tuning_db::Trial> =
        space.candidates.iter().filter_map(|candidate| store.known(&candidate.config)).collect();
    let first = trials.first()?;
    Recording::of(task.program.name(), store.key(), first.shape, &first.generation.clone(), trials)
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
