//! The search: which candidates are tried, checked, timed, stored, and which one wins.
//!
//! It knows nothing of devices: a [`Bench`] builds, checks and times one schedule, a [`Store`] keeps trials.
//! What it does:
//! 1. Trials stored before, by the same code generator for the same key, are not repeated.
//! 2. *Screening*, a batch at a time: while one batch is measured the next ones compile ([`Compile`]). Build
//!    the batch in parallel, check every survivor's results, then time all of them in interleaved rounds
//!    beside the best so far. Whoever cannot win any more is left out of further rounds. Store the batch.
//!    Several benches of one kind share the candidates.
//! 3. *Run-off*: all that came near the best and the default, interleaved, with more rounds, until it is clear
//!    whether another is faster than the default, and who ties with the fastest; of those the simplest wins. Stored
//!    as corrections of their screening.
//!
//! Invariants: what has been stored stays true when the search is stopped or killed at any point, and a later
//! search goes on from there; a candidate whose results are wrong is never timed and never wins; every
//! candidate ends with a status, and those that are not best with a reason; the time budget may leave
//! candidates untried, and a run-off that would end long after it undone; one that the time cuts short is stored as such, and
//! gone on with.

#[cfg(test)]
mod again_tests;
mod ahead;
mod effort;
#[cfg(test)]
mod noise_tests;
mod ranking;
mod rounds;
mod run_off;
mod screening;
mod simplicity;
mod statistics;
mod store;
#[cfg(test)]
mod tests;
mod ties;

pub use ahead::Compile;
pub use effort::Effort;
pub use ranking::{Ranked, Ranking};
pub use run_off::{run_off_time, undecided};
pub use simplicity::simplicity;
pub(crate) use statistics::middle;
pub use store::Store;

use crate::Error;
use crate::phases::Phase;
use crate::progress::Progress;
use crate::stop::Stop;
use ahead::Ahead;
use cce_codegen::schedule::Schedule;
use cce_tuning_db::{Clocks, Config, Resources, Settled, Status, Trial};
use rounds::Entrant;
use screening::Shared;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What can build, check and time a schedule.
pub trait Bench: Sync {
    /// A schedule that is ready to run.
    type Built: Send;

    /// Compiles and allocates. Called from several threads at once.
    ///
    /// # Errors
    /// Why the schedule cannot be used here.
    fn build(&self, schedule: &Schedule) -> Result<Self::Built, Failure>;

    /// What its kernels use, where that is known.
    fn resources(&self, built: &Self::Built) -> Option<Resources>;

    /// Runs it once on outputs filled with NaN and compares everything with the reference. Returns the worst
    /// relative error, ||difference|| / ||reference||.
    ///
    /// # Errors
    /// [`Status::Wrong`] when it is too large; whatever else keeps the schedule from running.
    fn check(&mut self, built: &mut Self::Built) -> Result<f64, Failure>;

    /// Runs it once on the inputs of this round and returns the time in ms.
    ///
    /// # Errors
    /// What kept it from running.
    fn time(&mut self, built: &mut Self::Built, round: usize) -> Result<f64, Failure>;

    /// The device's clocks at this moment, where they are known.
    fn clocks(&self) -> Option<Clocks>;

    /// How long a timed run may take from now on. A bench that can end a run that hangs does so then, and
    /// fails with [`Status::Timeout`].
    fn limit(&mut self, _limit: Duration) {}

    /// Where the time of its preparation went.
    fn phases(&self) -> Vec<Phase> {
        Vec::new()
    }

    /// What compiles candidates ahead, while the bench measures others; `None`: there is nothing to compile.
    fn compiler(&self) -> Option<Arc<dyn Compile>> {
        None
    }
}

impl<B: Bench> Bench for &mut B {
    type Built = B::Built;

    fn build(&self, schedule: &Schedule) -> Result<B::Built, Failure> {
        (**self).build(schedule)
    }

    fn resources(&self, built: &B::Built) -> Option<Resources> {
        (**self).resources(built)
    }

    fn check(&mut self, built: &mut B::Built) -> Result<f64, Failure> {
        (**self).check(built)
    }

    fn time(&mut self, built: &mut B::Built, round: usize) -> Result<f64, Failure> {
        (**self).time(built, round)
    }

    fn clocks(&self) -> Option<Clocks> {
        (**self).clocks()
    }

    fn limit(&mut self, limit: Duration) {
        (**self).limit(limit);
    }

    fn phases(&self) -> Vec<Phase> {
        (**self).phases()
    }

    fn compiler(&self) -> Option<Arc<dyn Compile>> {
        (**self).compiler()
    }
}

/// Why a candidate is dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// How its trial ends; never [`Status::Ok`].
    pub status: Status,
    /// The worst relative error, of a wrong result.
    pub error: Option<f64>,
    /// What its kernels use, where that is known.
    pub resources: Option<Resources>,
    /// Whether the device is beyond use in this process: the search stores the trial and ends.
    pub fatal: bool,
    /// Whether something else than the candidate is to blame: no trial is stored, the search ends.
    pub blameless: bool,
}

impl Failure {
    /// A candidate that is dropped while the search goes on.
    pub fn new(status: Status) -> Failure {
        Failure { status, error: None, resources: None, fatal: false, blameless: false }
    }
}

/// One point of the space.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The schedule.
    pub schedule: Schedule,
    /// The schedule as it is stored.
    pub config: Config,
    /// The constraint that it breaks, which says why it is not tried.
    pub constraint: Option<String>,
    /// Whether this is what a plan uses where nothing is tuned.
    pub is_default: bool,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every candidate has a trial, and the best went through the run-off.
    Complete,
    /// It was asked to stop; what was done is stored.
    Stopped,
    /// The time was spent: the best of those that were tried went through the run-off, which may have been cut
    /// short ([`undecided`]).
    Spent,
    /// The best is so near to what is possible that the rest was not tried.
    AtFloor,
}

/// Searches `candidates` on one bench: [`search_on`] several.
///
/// # Errors
/// As [`search_on`].
pub fn search<B: Bench + Send>(
    candidates: &[Candidate],
    store: &mut Store,
    effort: &Effort,
    progress: &dyn Progress,
    stop: &Stop,
    bench: impl FnOnce() -> Result<B, Error>,
) -> Result<Ended, Error> {
    search_on(candidates, store, effort, progress, stop, || Ok(vec![bench()?]))
}

/// Searches `candidates` on several benches of one kind at once, which share them; the run-off is the first
/// one's. They are made only when something has to be measured, so that a search with nothing left to do
/// costs nothing.
///
/// # Errors
/// When the store cannot be read or written, the benches cannot be made, or a device fails for good.
pub fn search_on<B: Bench + Send>(
    candidates: &[Candidate],
    store: &mut Store,
    effort: &Effort,
    progress: &dyn Progress,
    stop: &Stop,
    benches: impl FnOnce() -> Result<Vec<B>, Error>,
) -> Result<Ended, Error> {
    let open: Vec<usize> =
        (0..candidates.len()).filter(|&at| store.known(&candidates[at].config).is_none()).collect();
    let (broken, untried): (Vec<usize>, Vec<usize>) =
        open.into_iter().partition(|&at| candidates[at].constraint.is_some());
    let constraints = broken.iter().map(|&at| {
        let why = candidates[at].constraint.clone().unwrap_or_default();
        store.dropped(&candidates[at].config, Status::Constraint(why))
    });
    let constraints = constraints.collect();
    store.keep(constraints)?;

    let search = Search { candidates, effort, progress, stop, store: Mutex::new(store) };
    if untried.is_empty() && search.finalists().is_empty() {
        return Ok(Ended::Complete);
    }
    if stop.requested() {
        return Ok(Ended::Stopped);
    }
    let mut benches = benches()?;
    progress.begin((untried.len() * (2 + effort.screening)) as u64);
    let ended = search.all(&mut benches, &untried);
    progress.end();
    ended
}

/// A search under way.
struct Search<'a> {
    candidates: &'a [Candidate],
    effort: &'a Effort,
    progress: &'a dyn Progress,
    stop: &'a Stop,
    store: Mutex<&'a mut Store>,
}

impl<'a> Search<'a> {
    fn all<B: Bench + Send>(&self, benches: &mut [B], untried: &[usize]) -> Result<Ended, Error> {
        let screened = match self.screen_all(benches, untried)? {
            Ended::Stopped => return Ok(Ended::Stopped),
            Ended::AtFloor => Ended::AtFloor,
            // The time may be over with nothing left to try, or have cut a batch short.
            Ended::Complete | Ended::Spent => {
                let store = self.store();
                let is_known = |at: &usize| store.known(&self.candidates[*at].config).is_some();
                if untried.iter().all(is_known) { Ended::Complete } else { Ended::Spent }
            }
        };
        let Some(first) = benches.first_mut() else { return Err(Error::NoCandidate) };
        Ok(match self.run_off(first)? {
            Ended::Complete => screened,
            ended => ended,
        })
    }

    /// The screening, a thread a bench; compilation goes on beside it.
    fn screen_all<B: Bench + Send>(&self, benches: &mut [B], untried: &[usize]) -> Result<Ended, Error> {
        if untried.is_empty() {
            return Ok(Ended::Complete);
        }
        // The first that is not a lot slower than the best: whoever is the best was lucky too.
        let near = screening::SLOW_YARDSTICK * self.best();
        let stored = (0..self.candidates.len()).find(|&at| self.time(at).is_some_and(|ms| ms <= near));
        let common = stored.or_else(|| untried.first().copied().filter(|_| benches.len() > 1));
        let compiler = benches.first().and_then(Bench::compiler);
        std::thread::scope(|scope| {
            let schedules = untried.iter().map(|&at| (at, self.candidates[at].schedule)).collect();
            let ahead = compiler.map(|compiler| Ahead::start(scope, compiler, schedules));
            let shared = &Shared::new(untried, common, ahead.as_ref());
            let (first, others) = benches.split_first_mut().ok_or(Error::NoCandidate)?;
            let outcomes: Vec<Result<Ended, Error>> = std::thread::scope(|lanes| {
                let started: Vec<_> =
                    others.iter_mut().map(|bench| lanes.spawn(move || self.screen(bench, shared))).collect();
                let mut outcomes = vec![self.screen(first, shared)];
                outcomes.extend(
                    started
                        .into_iter()
                        .map(|lane| lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
                );
                outcomes
            });
            // The gravest of their ends: an error, a stop, the time, the floor.
            let mut worst = Ended::Complete;
            for outcome in outcomes {
                worst = match (worst, outcome?) {
                    (Ended::Stopped, _) | (_, Ended::Stopped) => Ended::Stopped,
                    (Ended::Spent, _) | (_, Ended::Spent) => Ended::Spent,
                    (Ended::AtFloor, _) | (_, Ended::AtFloor) => Ended::AtFloor,
                    (Ended::Complete, Ended::Complete) => Ended::Complete,
                };
            }
            Ok(worst)
        })
    }

    fn store(&self) -> MutexGuard<'_, &'a mut Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time that counts of a candidate, in ms.
    fn time(&self, index: usize) -> Option<f64> {
        self.store().known(&self.candidates[index].config)?.deciding_time()
    }

    /// What the best so far took in its own last runs, in ms.
    fn last_runs_of_best(&self) -> f64 {
        let store = self.store();
        let trials = self.candidates.iter().filter_map(|candidate| store.known(&candidate.config));
        trials.min_by(|a, b| a.standing(b)).and_then(Trial::time).unwrap_or(f64::INFINITY)
    }

    /// The best time stored so far.
    fn best(&self) -> f64 {
        (0..self.candidates.len()).filter_map(|at| self.time(at)).fold(f64::INFINITY, f64::min)
    }

    fn measured<B>(
        &self,
        entrant: &Entrant<B>,
        settled: Settled,
        before: Option<Clocks>,
        after: Option<Clocks>,
    ) -> Result<Trial, Error> {
        let config = &self.candidates[entrant.index].config;
        let mut trial = self
            .store()
            .measured(config, entrant.samples())?
            .with_gradient_error(entrant.error)
            .with_settled(settled)
            .with_clocks(before, after);
        trial.resources = entrant.resources;
        Ok(trial)
    }

    fn drop_candidate(&self, index: usize, failure: Failure) -> Result<(), Error> {
        let config = &self.candidates[index].config;
        let reason = failure.status.reason().to_owned();
        if failure.blameless {
            // Whoever asked to stop is why.
            return if self.stop.requested() { Ok(()) } else { Err(Error::Worker { reason }) };
        }
        let mut store = self.store();
        let mut trial = store.dropped(config, failure.status);
        trial.gradient_error = failure.error;
        trial.resources = failure.resources;
        store.keep(vec![trial])?;
        if failure.fatal {
            return Err(Error::DeviceLost { schedule: describe(&self.candidates[index].schedule), reason });
        }
        Ok(())
    }
}

/// A schedule in a few words.
pub fn describe(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Cpu(cpu) => format!("token block {}, strip {}", cpu.token_block, cpu.strip),
        Schedule::Gpu(gpu) => {
            let tile = |t: &cce_codegen::schedule::Tile| {
                format!("{}x{}x{}/{} {}x{}", t.m, t.n, t.k, t.stages, t.warps_m, t.warps_n)
            };
            format!(
                "{:?} logits {} splits {} group {}, backward {} dC {} dE {} chunk {} hot {}",
                gpu.family,
                tile(&gpu.logits),
                gpu.splits,
                gpu.group,
                tile(&gpu.logits_gradient),
                tile(&gpu.classifier_gradient),
                tile(&gpu.hidden_gradient),
                gpu.chunk,
                gpu.hot
            )
            .to_lowercase()
        }
    }
}
