//! The search: which candidates are tried, checked, timed, stored, and which one wins.
//!
//! It knows nothing of devices: a [`Bench`] builds, checks and times one schedule, a [`Store`] keeps trials.
//! What it does:
//! 1. Trials stored before, by the same code generator for the same key, are not repeated.
//! 2. *Screening*, a batch at a time: build the batch in parallel, check every survivor's results, then time
//!    all of them in interleaved rounds, so that a change of clocks or a busy neighbour meets them all alike.
//!    Store the batch.
//! 3. *Finals*: the few best, again interleaved, with more rounds; stored as corrections of their screening.
//!    Repeated until every one of the few best has been timed that way.
//!
//! Invariants: what has been stored stays true when the search is stopped or killed at any point, and a later
//! search goes on from there; a candidate whose results are wrong is never timed and never wins; every
//! candidate ends with a status, and those that are not best with a reason.

mod ranking;
mod store;
#[cfg(test)]
mod tests;

pub use ranking::{Ranked, Ranking};
pub use store::Store;

use crate::Error;
use crate::progress::Progress;
use crate::stop::Stop;
use cce_codegen::schedule::Schedule;
use cce_tuning_db::{Clocks, Config, Resources, Status, Trial};
use rayon::prelude::*;
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
}

impl Failure {
    /// A candidate that is dropped while the search goes on.
    pub fn new(status: Status) -> Failure {
        Failure { status, error: None, resources: None, fatal: false }
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
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Rounds of the screening.
    pub screening: usize,
    /// Rounds of the finals of a candidate that takes less than 200 ms; slower ones take fewer.
    pub finals: usize,
    /// How many go to the finals.
    pub finalists: usize,
    /// Candidates that are built in parallel and timed in turn.
    pub batch: usize,
    /// A candidate whose first run takes this much longer than the best is not timed again.
    pub hopeless: f64,
    /// A run longer than this ends the candidate.
    pub timeout: Duration,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort {
            screening: 3,
            finals: 11,
            finalists: 4,
            batch: rayon::current_num_threads().max(8),
            hopeless: 2.0,
            timeout: Duration::from_secs(60),
        }
    }
}

impl Effort {
    /// Rounds of the finals when the best takes `ms`: steps, so that a measurement that comes out a little
    /// different asks for the same number.
    fn final_rounds(&self, ms: f64) -> usize {
        match ms {
            ms if ms < 200.0 => self.finals,
            ms if ms < 2000.0 => self.finals.min(7),
            _ => self.finals.min(3),
        }
    }
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every candidate has a trial, and the best went through the finals.
    Complete,
    /// It was asked to stop; what was done is stored.
    Stopped,
}

/// A candidate that survived its check.
struct Entrant<B> {
    index: usize,
    built: B,
    samples: Vec<f64>,
    resources: Option<Resources>,
    error: f64,
}

/// Searches `candidates`. `bench` is made only when something has to be measured, so that a search with
/// nothing left to do costs nothing.
///
/// # Errors
/// When the store cannot be read or written, the bench cannot be made, or the device fails for good.
pub fn search<B: Bench>(
    candidates: &[Candidate],
    store: &mut Store,
    effort: &Effort,
    progress: &dyn Progress,
    stop: &Stop,
    bench: impl FnOnce() -> Result<B, Error>,
) -> Result<Ended, Error> {
    let open: Vec<usize> =
        (0..candidates.len()).filter(|&at| store.known(&candidates[at].config).is_none()).collect();
    let (broken, untried): (Vec<usize>, Vec<usize>) =
        open.into_iter().partition(|&at| candidates[at].constraint.is_some());
    let constraints = broken.iter().map(|&at| {
        let why = candidates[at].constraint.clone().unwrap_or_default();
        store.dropped(&candidates[at].config, Status::Constraint(why))
    });
    store.keep(constraints.collect())?;

    if untried.is_empty() && finalists(candidates, store, effort).missing.is_empty() {
        return Ok(Ended::Complete);
    }
    if stop.requested() {
        return Ok(Ended::Stopped);
    }
    let bench = bench()?;
    let mut run = Run { candidates, store, effort, progress, stop, bench };
    progress.begin((untried.len() * (2 + effort.screening)) as u64);
    let ended = run.screen(&untried).and_then(|ended| match ended {
        Ended::Complete => run.finals(),
        Ended::Stopped => Ok(Ended::Stopped),
    });
    progress.end();
    ended
}

/// The best few, and which of them have not been through the finals.
struct Finalists {
    all: Vec<usize>,
    missing: Vec<usize>,
    rounds: usize,
}

fn finalists(candidates: &[Candidate], store: &Store, effort: &Effort) -> Finalists {
    let mut timed: Vec<(f64, usize, usize)> = candidates
        .iter()
        .enumerate()
        .filter_map(|(at, candidate)| {
            let trial = store.known(&candidate.config)?;
            Some((trial.time()?, at, trial.samples.len()))
        })
        .collect();
    timed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let rounds = effort.final_rounds(timed.first().map_or(0.0, |best| best.0));
    timed.truncate(effort.finalists);
    Finalists {
        all: timed.iter().map(|t| t.1).collect(),
        missing: timed.iter().filter(|t| t.2 < rounds).map(|t| t.1).collect(),
        rounds,
    }
}

struct Run<'a, B: Bench> {
    candidates: &'a [Candidate],
    store: &'a mut Store,
    effort: &'a Effort,
    progress: &'a dyn Progress,
    stop: &'a Stop,
    bench: B,
}

impl<B: Bench> Run<'_, B> {
    fn screen(&mut self, untried: &[usize]) -> Result<Ended, Error> {
        for batch in untried.chunks(self.effort.batch.max(1)) {
            let entrants = match self.prepare(batch, true)? {
                Some(entrants) => entrants,
                None => return Ok(Ended::Stopped),
            };
            if self.measure(entrants, self.effort.screening, self.effort.hopeless)? == Ended::Stopped {
                return Ok(Ended::Stopped);
            }
        }
        Ok(Ended::Complete)
    }

    fn finals(&mut self) -> Result<Ended, Error> {
        loop {
            let finalists = finalists(self.candidates, self.store, self.effort);
            if finalists.missing.is_empty() {
                return Ok(Ended::Complete);
            }
            self.progress.more((finalists.all.len() * (1 + finalists.rounds)) as u64);
            let entrants = match self.prepare(&finalists.all, false)? {
                Some(entrants) => entrants,
                None => return Ok(Ended::Stopped),
            };
            // Every finalist takes all its rounds: else it would be a finalist for ever.
            if self.measure(entrants, finalists.rounds, f64::INFINITY)? == Ended::Stopped {
                return Ok(Ended::Stopped);
            }
        }
    }

    /// Builds a batch in parallel and checks it; stores those that are dropped. `None`: asked to stop. In the
    /// finals (`screening` false) the check is repeated all the same: a result that is right only sometimes
    /// is a race.
    fn prepare(&mut self, batch: &[usize], screening: bool) -> Result<Option<Vec<Entrant<B::Built>>>, Error> {
        let (bench, candidates, stop) = (&self.bench, self.candidates, self.stop);
        self.progress.say(&match screening {
            true => format!("building {} candidates", batch.len()),
            false => format!("finals of the {} best", batch.len()),
        });
        let built: Vec<Option<Result<B::Built, Failure>>> = batch
            .par_iter()
            .map(|&at| (!stop.requested()).then(|| bench.build(&candidates[at].schedule)))
            .collect();
        let mut entrants = Vec::with_capacity(batch.len());
        for (&index, built) in batch.iter().zip(built) {
            if screening {
                self.progress.step(1);
            }
            let Some(built) = built else { return Ok(None) };
            if self.stop.requested() {
                return Ok(None);
            }
            let checked = built.and_then(|mut built| {
                let resources = self.bench.resources(&built);
                let error = self.bench.check(&mut built)?;
                Ok(Entrant { index, built, samples: Vec::new(), resources, error })
            });
            self.progress.step(1);
            match checked {
                Ok(entrant) => entrants.push(entrant),
                Err(failure) => {
                    self.drop_candidate(index, failure)?;
                    self.progress.step(if screening { self.effort.screening as u64 } else { 0 });
                }
            }
        }
        Ok(Some(entrants))
    }

    /// Times entrants in interleaved rounds and stores them. When asked to stop, those with as many samples
    /// as a screening takes are stored; the others will be done again.
    fn measure(
        &mut self,
        mut entrants: Vec<Entrant<B::Built>>,
        rounds: usize,
        hopeless: f64,
    ) -> Result<Ended, Error> {
        let before = self.bench.clocks();
        let mut best = self.best();
        let mut ended = Ended::Complete;
        'rounds: for round in 0..rounds {
            // Another one goes first in every round.
            let first = round % entrants.len().max(1);
            let order: Vec<usize> = (0..entrants.len()).map(|k| (k + first) % entrants.len()).collect();
            let mut failed = Vec::new();
            for at in order {
                if self.stop.requested() {
                    ended = Ended::Stopped;
                    break 'rounds;
                }
                let entrant = &mut entrants[at];
                if entrant.samples.first().is_none_or(|&ms| ms <= hopeless * best) {
                    match self.bench.time(&mut entrant.built, round) {
                        Ok(ms) if Duration::from_secs_f64(ms.max(0.0) / 1e3) > self.effort.timeout => {
                            failed.push((at, self.too_long(ms)));
                        }
                        Ok(ms) => {
                            entrant.samples.push(ms);
                            if ms < best {
                                best = ms;
                                let schedule = &self.candidates[entrant.index].schedule;
                                self.progress.best(ms, &describe(schedule));
                            }
                            let text = describe(&self.candidates[entrant.index].schedule);
                            self.progress.say(&format!("{text}: {ms:.3} ms"));
                        }
                        Err(failure) => failed.push((at, failure)),
                    }
                }
                self.progress.step(1);
            }
            failed.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
            for (at, failure) in failed {
                let entrant = entrants.remove(at);
                self.drop_candidate(entrant.index, failure)?;
            }
        }
        let after = self.bench.clocks();
        let enough = match ended {
            Ended::Complete => 1,
            Ended::Stopped => self.effort.screening,
        };
        let mut trials: Vec<Trial> = Vec::with_capacity(entrants.len());
        for entrant in entrants.into_iter().filter(|entrant| entrant.samples.len() >= enough) {
            let config = &self.candidates[entrant.index].config;
            let mut trial = self
                .store
                .measured(config, entrant.samples)?
                .with_gradient_error(entrant.error)
                .with_clocks(before, after);
            trial.resources = entrant.resources;
            trials.push(trial);
        }
        self.store.keep(trials)?;
        Ok(ended)
    }

    /// The best time stored so far.
    fn best(&self) -> f64 {
        let times = self.candidates.iter().filter_map(|c| self.store.known(&c.config)?.time());
        times.fold(f64::INFINITY, f64::min)
    }

    fn too_long(&self, ms: f64) -> Failure {
        let limit = self.effort.timeout.as_secs_f64();
        Failure::new(Status::Timeout(format!("one run took {:.1} s, the limit is {limit:.1} s", ms / 1e3)))
    }

    fn drop_candidate(&mut self, index: usize, failure: Failure) -> Result<(), Error> {
        let config = &self.candidates[index].config;
        let reason = failure.status.reason().to_owned();
        let mut trial = self.store.dropped(config, failure.status);
        trial.gradient_error = failure.error;
        trial.resources = failure.resources;
        self.store.keep(vec![trial])?;
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
