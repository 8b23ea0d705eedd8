//! The tuner and its diagnosis, from Python.
//!
//! The search runs on a thread of its own; the thread that called waits without the interpreter's lock, and looks at
//! signals and reports progress in between. Candidates run in workers, which are this interpreter anew: a process with a
//! GPU's context must not be forked, and torch is not needed there. Invariant: whatever ends the search, what it measured before is stored, and the next state
//! of the database has another name, so that plans are chosen anew.

use crate::errors::{exception, tuning_exception, unexpected};
use crate::plans::{device, dtype, filter};
use crate::program;
use cce::{Device, Gradients};
use cce_runtime::selection;
use cce_tune::Diagnosis;
use cce_tune::arguments::Arguments;
use cce_tune::data::HeadSource;
use cce_tune::progress::{Console, Progress};
use cce_tune::search::{Ended, Ranked};
use cce_tune::stop::Stop;
use cce_tune::task::Task;
use cce_tune::tuning::{Report, Scope, Tuner};
use cce_tune::worker::{Plans, WorkerCommand, own_streams, serve};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks at signals and progress.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the caller is left without a word, whether or not there is news.
const SILENCE: Duration = Duration::from_secs(1);

/// What a search came to.
#[pyclass(frozen, get_all, module = "cce_torch._native")]
pub(crate) struct Tuned {
    /// The device's name.
    device: String,
    /// The filter that the problem's plans have.
    filter: String,
    /// The database's folder.
    folder: String,
    /// Whether nothing is left that is worth a trial; otherwise it was stopped.
    complete: bool,
    /// Trials that were stored before.
    reused: usize,
    /// How many candidates there were to choose from.
    searched: usize,
    /// What plans take instead of the winner, and why.
    in_use: Option<String>,
    /// How well the schedule fits that a plan for this problem now finds.
    grade: String,
    /// What is worth knowing besides.
    notes: Vec<String>,
    /// The values that the loss's Scalar inputs had.
    scalars: Vec<(String, f32)>,
    /// How many candidates near the best the time left uncompared.
    undecided: usize,
    /// Best first.
    candidates: Vec<Candidate>,
}

/// The arguments of `cce_torch.Candidate`, which says what they are: in Python a dict.
#[derive(Clone, IntoPyObject)]
struct Candidate {
    schedule: String,
    is_default: bool,
    status: &'static str,
    ms: Option<f64>,
    spread_ms: Option<f64>,
    gradient_error: Option<f64>,
    runs: usize,
    reason: String,
}

impl Candidate {
    fn new(entry: &Ranked) -> Self {
        let trial = &entry.trial;
        Self {
            schedule: entry.description.clone(),
            is_default: entry.is_default,
            status: trial.status.name(),
            ms: entry.ms,
            spread_ms: entry.spread_ms,
            gradient_error: trial.gradient_error.filter(|error| error.is_finite()),
            runs: trial.samples.len(),
            reason: entry.reason.clone(),
        }
    }
}

/// Where the thread that calls reads how far the search is.
#[derive(Clone, Default)]
struct Watched(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    done: u64,
    total: u64,
    texts: Vec<String>,
    changed: bool,
}

impl Watched {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        state.changed = true;
    }

    /// Steps done, steps in all, new lines; `None` if nothing changed and `anyway` is false.
    fn news(&self, anyway: bool) -> Option<(u64, u64, Vec<String>)> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing has begun where there are no steps.
        let is_told = std::mem::take(&mut state.changed) || anyway && state.total > 0;
        is_told.then(|| (state.done, state.total, std::mem::take(&mut state.texts)))
    }
}

impl Progress for Watched {
    fn begin(&self, steps: u64) {
        self.change(|state| (state.done, state.total) = (0, steps));
    }

    fn more(&self, steps: u64) {
        self.change(|state| state.total += steps);
    }

    fn step(&self, steps: u64) {
        self.change(|state| state.done += steps);
    }

    fn say(&self, _: &str) {}

    fn note(&self, line: &str) {
        self.change(|state| state.texts.push(line.to_owned()));
    }

    fn end(&self) {}
}

/// Everything that a search needs, on its own thread.
struct Search {
    folder: PathBuf,
    device: Device,
    task: Task,
    scalars: Vec<(String, f32)>,
    candidates: Option<usize>,
    budget: Option<Duration>,
    again: bool,
    source: HeadSource,
    worker: WorkerCommand,
    stop: Stop,
}

impl Search {
    fn run(&self, progress: &dyn Progress) -> Result<Tuned, cce_tune::Error> {
        let tuner = Tuner {
            scope: Scope { candidates: self.candidates, ..Scope::default() },
            budget: self.budget,
            again: self.again,
            scalars: self.scalars.clone(),
            ..Tuner::new(&self.folder, progress, &self.stop)
        };
        let (task, devices) = (&self.task, std::slice::from_ref(&self.device));
        let report = tuner.tune_in_workers(task, devices, (&self.source, task.tokens), &self.worker)?;
        let scalars = Arguments::new(&task.program, 0, 0, &self.scalars)?.scalars;
        Ok(self.tuned(&report, scalars))
    }

    fn tuned(&self, report: &Report, scalars: Vec<(String, f32)>) -> Tuned {
        Tuned {
            device: report.device.name().to_owned(),
            filter: report.problem.filter.to_string(),
            folder: self.folder.display().to_string(),
            complete: matches!(report.ended, Ended::Complete | Ended::AtFloor),
            reused: report.reused,
            searched: report.searched,
            in_use: report.in_use_text(),
            grade: report.grade.to_string(),
            notes: report.notes.clone(),
            scalars,
            undecided: report.undecided,
            candidates: report.ranking.entries.iter().map(Candidate::new).collect(),
        }
    }
}

/// Measures the schedules of a problem, on generated inputs, in processes that `worker` starts, a program and its arguments, and stores what it
/// measured. `progress` is called with steps done, steps in all, and lines that are new;
/// `None`: the terminal's bar; `silent`: neither.
///
/// Ctrl-C, or an exception of `progress`, ends it after the run at hand, and is raised then; a second Ctrl-C leaves at once.
#[pyfunction]
#[pyo3(signature = (program, shape, dtype_name, ignored, filter_text, gradients, input_gradients, device_ordinal,
                    scalars, candidates, budget, again, untrained, progress, silent, worker))]
#[expect(clippy::too_many_arguments, reason = "the parts of a problem, from Python")]
pub(crate) fn tune(
    py: Python<'_>,
    program: &str,
    shape: (usize, usize, usize),
    dtype_name: &str,
    ignored: bool,
    filter_text: Option<&str>,
    gradients: (bool, bool),
    input_gradients: Vec<String>,
    device_ordinal: Option<usize>,
    scalars: Vec<(String, f32)>,
    candidates: Option<usize>,
    budget: Option<f64>,
    again: bool,
    untrained: bool,
    progress: Option<Py<PyAny>>,
    silent: bool,
    worker: (PathBuf, Vec<OsString>),
) -> PyResult<Tuned> {
    let folder = selection::folder().ok_or_else(|| {
        unexpected(
            "the folder of the tuning database",
            "one that CCE_TUNING_DIR names, or a home",
            "`none`, or neither CCE_TUNING_DIR nor XDG_DATA_HOME nor HOME set",
        )
    })?;
    let task = Task {
        filter: filter_text.map(filter).transpose()?,
        gradients: Gradients { hidden: gradients.0, classifier: gradients.1 },
        input_gradients,
        ignored,
        ..Task::new(program::load(program)?, shape.0, shape.1, shape.2, dtype(dtype_name)?)
    };
    let device = device(device_ordinal).map_err(|error| exception(&error))?;
    let stop = Stop::new();
    let source = match untrained {
        true => HeadSource::Untrained { seed: 0 },
        false => HeadSource::Generated { seed: 0 },
    };
    let worker = WorkerCommand::new(worker.0, worker.1);
    // Longer than there is time: as good as none.
    let budget = budget.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let search = Search {
        folder,
        device,
        task,
        scalars,
        candidates,
        budget,
        again,
        source,
        worker,
        stop: stop.clone(),
    };
    let watched = Watched::default();
    let shows = progress.is_none() && !silent;
    let (sender, receiver) = channel();
    let for_search = watched.clone();
    std::thread::Builder::new()
        .name("cce-tune".to_owned())
        .spawn(move || {
            let done = match shows {
                true => search.run(&Console::new()),
                false => search.run(&for_search),
            };
            // Nobody listens any more after a second Ctrl-C.
            _ = sender.send(done);
        })
        .map_err(|error| PyRuntimeError::new_err(format!("cannot start a thread to tune on: {error}")))?;
    // Waiting without the interpreter's lock borrows it from any thread.
    let receiver = Mutex::new(receiver);
    let mut ends: Option<PyErr> = None;
    let mut told = Instant::now();
    let done = loop {
        let received =
            py.detach(|| receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(PAUSE));
        let looked =
            py.check_signals().and_then(|()| match (&progress, watched.news(told.elapsed() >= SILENCE)) {
                (Some(callback), Some(news)) if ends.is_none() => {
                    told = Instant::now();
                    callback.call1(py, news).map(drop)
                }
                _ => Ok(()),
            });
        if let Err(error) = looked {
            if stop.request() {
                return Err(error);
            }
            ends = Some(error);
        }
        match received {
            Ok(done) => break done,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("the tuner ended without a result: please report this"));
            }
        }
    };
    match ends {
        Some(error) => Err(error),
        None => done.map_err(|error| tuning_exception(&error)),
    }
}

/// Serves a tuner on standard input and output, in a process of its own, until its standard input ends: that ends the process.
#[pyfunction]
pub(crate) fn work(py: Python<'_>) -> PyResult<()> {
    let (requests, replies) = own_streams()?;
    py.detach(|| serve(&Plans, requests, replies)).map_err(|error| tuning_exception(&error))
}

/// A name for what plans choose their schedules from: the winners of the tuning database and the profiles. Another whenever they
/// have changed, in whichever process.
#[pyfunction]
pub(crate) fn tuning_state() -> String {
    let Some(folder) = selection::folder() else { return "none".to_owned() };
    let mut hasher = blake3::Hasher::new();
    for path in std::iter::once(folder.join("winners.snap")).chain(selection::profiles()) {
        // What cannot be read holds no winners.
        let content = std::fs::read(&path).unwrap_or_default();
        hasher.update(&(content.len() as u64).to_le_bytes()).update(&content);
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// One thing that was looked at: what, whether it is there, what was found, what to do.
type Finding = (String, bool, String, String);

/// What driver, NVRTC, GPUs, folders and database are like, with further findings of the caller's: as text for people, and as JSON.
#[pyfunction]
pub(crate) fn doctor(py: Python<'_>, further: Vec<Finding>) -> PyResult<(String, String)> {
    let mut diagnosis = py.detach(Diagnosis::now);
    for (what, works, found, advice) in further {
        diagnosis.add(&what, works, &found, &advice);
    }
    let value = diagnosis.value().map_err(|error| tuning_exception(&error))?;
    Ok((diagnosis.text(), value.to_string()))
}
