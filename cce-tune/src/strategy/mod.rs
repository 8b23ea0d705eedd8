//! Which schedules are tried next.
//!
//! A [`Strategy`] sees the [`Pool`] of schedules that may be tried and what became of those that were, and names
//! the next. It keeps nothing between two questions: the same seed and the same outcomes lead to the same
//! schedules, so that a search that is resumed goes on as it would have, and what runs on a device can be replayed on
//! recorded trials.
//!
//! Failures are outcomes like times: what did not compile, spilled or could not be launched says something of its
//! parts.

mod blame;
mod descent;
mod exhaustive;
#[cfg(test)]
pub(crate) mod invented;
mod model;
mod pool;
mod process;
pub mod replay;
mod smooth;

pub use descent::Descent;
pub use exhaustive::{Exhaustive, Random};
pub use model::Model;
pub use pool::Pool;
pub(crate) use pool::far_apart;
pub(crate) use smooth::over_best;

pub use crate::recording::Outcome;

use crate::recording::Recording;
use cce_codegen::schedule::Schedule;
use cce_tuning_db::Key;

/// Names the schedules to try next.
pub trait Strategy {
    /// The next schedules, by their places in the pool: at most `most`, none of them tried, best first. `outcomes`
    /// has a place for each schedule of the pool. None: nothing is left that is worth a trial.
    fn next(&self, pool: &Pool, outcomes: &[Option<Outcome>], most: usize) -> Vec<usize>;

    /// The most schedules of this pool that are worth trying in all.
    fn most_trials(&self, pool: &Pool) -> usize {
        pool.len()
    }
}

/// Trials of other problems, which a strategy may learn from.
#[derive(Clone, Debug, Default)]
pub struct Experience {
    /// Of each problem how far it is (1: a factor of two in a size, or about as much) and its trials.
    pub problems: Vec<(f64, Vec<(Schedule, Outcome)>)>,
}

impl Experience {
    /// What these teach of a problem: the nearest of the same loss, type, objective and filter.
    pub fn of(key: &Key, recordings: &[Recording]) -> Experience {
        let near = recordings.iter().filter_map(|other| Some((distance(key, &other.key)?, other)));
        let mut near: Vec<(f64, &Recording)> = near.collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        near.truncate(MOST_PROBLEMS);
        let trials =
            |other: &Recording| other.trials.iter().map(|trial| (trial.schedule, trial.outcome())).collect();
        Experience { problems: near.into_iter().map(|(far, other)| (far, trials(other))).collect() }
    }
}

/// Problems that a strategy learns from, at most: the nearest.
const MOST_PROBLEMS: usize = 4;

/// Farther problems teach nothing: a factor of sixteen in one size, or another generation of GPUs.
const FARTHEST: f64 = 4.0;

/// How far a problem's trials are from being another's: `None` if they say nothing of it. Shape and device count
/// alike, a factor of two as 1.
pub(crate) fn distance(of: &Key, other: &Key) -> Option<f64> {
    let alike = of.program == other.program
        && of.dtype == other.dtype
        && of.objective == other.objective
        && of.filter == other.filter
        && of.problem.gradients == other.problem.gradients;
    let shape = of.problem.shape().distance(&other.problem.shape());
    let distance = alike.then_some(shape + of.device.distance(&other.device)?)?;
    (distance <= FARTHEST).then_some(distance)
}

/// The strategies there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kind {
    /// Every schedule of the pool, the default first.
    Exhaustive,
    /// The default, then others in an order of chance.
    Random,
    /// One part at a time around the default, then around what the best parts make together.
    Descent,
    /// What a model of the times expects to improve most.
    #[default]
    Model,
}

impl Kind {
    /// Every strategy, the default first.
    pub const ALL: [Kind; 4] = [Kind::Model, Kind::Descent, Kind::Random, Kind::Exhaustive];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Exhaustive => "exhaustive",
            Kind::Random => "random",
            Kind::Descent => "descent",
            Kind::Model => "model",
        }
    }

    /// The strategy, with a seed for what it leaves to chance, and what is known of other problems.
    pub fn with(self, seed: u64, experience: Experience) -> Box<dyn Strategy> {
        match self {
            Kind::Exhaustive => Box::new(Exhaustive),
            Kind::Random => Box::new(Random { seed }),
            Kind::Descent => Box::new(Descent),
            Kind::Model => Box::new(Model { seed, experience }),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let [others @ .., last] = Kind::ALL.map(Kind::name);
            format!("expected {} or {last}, found {text}", others.join(", "))
        })
    }
}

/// The schedules that were not tried.
fn untried(outcomes: &[Option<Outcome>]) -> impl Iterator<Item = usize> + '_ {
    outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_none()).map(|(at, _)| at)
}
