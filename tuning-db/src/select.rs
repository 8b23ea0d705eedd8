//! Selection: which stored configurations to try for a call, in which order, and how good a match each is.
//!
//! Selection never fails and never decides alone: it returns candidates, the caller validates each against
//! the actual call ([`Selection::choose`]) and launches the first that fits, or its own default. A store
//! thereby cannot turn a working call into a failing one.

use std::collections::HashMap;
use std::fmt;

use crate::hash::ConfigHash;
use crate::key::{Device, Key, MemoryClass, Shape};
use crate::provenance::{Generation, Provenance};
use crate::warning::{Source, Warning};
use crate::winner::Winner;

/// The default snap limit, in units of [`Shape::distance`]: a factor of four in one dimension, or of two in
/// each of two or three dimensions (distance 1.41 and 1.73). Beyond it a default schedule is the better
/// guess.
pub const SNAP_LIMIT: f64 = 2.0;

/// How many near shapes are judged together, by default: of the winners of all of them that comes first which does
/// best over them, the nearer ones counting more.
pub const CONSULTED: usize = 1;

/// How many keys are followed for shapes that are near, and again for other devices.
const NEIGHBOURS: usize = 8;

/// What a call asks for.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Request {
    /// The key of the call.
    pub key: Key,
    /// The code generator and search space of this process.
    pub generation: Generation,
    /// Driver and NVRTC of this process, to remark on differences; `None` remarks on nothing.
    pub provenance: Option<Provenance>,
    /// Farther shapes are not taken: see [`SNAP_LIMIT`].
    pub snap_limit: f64,
    /// Near shapes whose winners are judged together: see [`CONSULTED`].
    pub consulted: usize,
}

impl Request {
    /// A request with the default snap limit.
    #[must_use]
    pub fn new(key: Key, generation: Generation) -> Self {
        Self { key, generation, provenance: None, snap_limit: SNAP_LIMIT, consulted: CONSULTED }
    }

    /// States driver and NVRTC, to be told when winners were measured with others.
    #[must_use]
    pub fn with_provenance(mut self, provenance: Provenance) -> Self {
        self.provenance = Some(provenance);
        self
    }

    /// Changes the snap limit; 0 takes no other shape than the bucket's.
    #[must_use]
    pub fn with_snap_limit(mut self, limit: f64) -> Self {
        self.snap_limit = limit;
        self
    }

    /// Changes how many near shapes are judged together; 1 takes the nearest's winners alone.
    #[must_use]
    pub fn with_consulted(mut self, shapes: usize) -> Self {
        self.consulted = shapes;
        self
    }

    /// How a stored key relates to the request: `None` when its winners are of no use.
    pub(crate) fn relation(&self, stored: &Key) -> Option<Relation> {
        if !stored.is_related_to(&self.key) {
            return None;
        }
        let (ours, theirs) = (&self.key.problem, &stored.problem);
        let flag = |differs: bool| if differs { 0.25 } else { 0.0 };
        let shape = theirs.shape().distance(&ours.shape())
            + flag(theirs.ignored != ours.ignored)
            + flag(theirs.accumulate != ours.accumulate)
            + memory_distance(stored.memory, self.key.memory);
        let device = stored.device.distance(&self.key.device)?;
        let kind = match (stored.device == self.key.device, shape == 0.0) {
            (true, true) => Kind::Same,
            (true, false) => Kind::NearShape,
            (false, _) => Kind::OtherDevice,
        };
        (shape <= self.snap_limit).then_some(Relation { kind, distance: shape + device })
    }
}

/// What was tuned under a tighter limit fits; what was tuned under a looser one may not, and comes later.
fn memory_distance(stored: MemoryClass, asked: MemoryClass) -> f64 {
    match stored.cmp(&asked) {
        std::cmp::Ordering::Equal => 0.0,
        std::cmp::Ordering::Less => 0.5,
        std::cmp::Ordering::Greater => 1.0,
    }
}

/// How a stored key relates to a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Relation {
    pub(crate) kind: Kind,
    pub(crate) distance: f64,
}

/// In the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Same,
    NearShape,
    OtherDevice,
}

/// Keeps the relations worth decoding: all of the same key, the nearest of the others.
pub(crate) fn nearest<T>(mut found: Vec<(Relation, T)>) -> Vec<(Relation, T)> {
    found.sort_by(|(a, _), (b, _)| a.kind.cmp(&b.kind).then(a.distance.total_cmp(&b.distance)));
    let mut taken = [0_usize; 3];
    found.retain(|(relation, _)| {
        let limit = if relation.kind == Kind::Same { usize::MAX } else { NEIGHBOURS };
        taken.get_mut(relation.kind as usize).is_some_and(|n| {
            *n += 1;
            *n <= limit
        })
    });
    found
}

/// How good a match a candidate is; earlier is better.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Grade {
    /// This key, this device, this code generator and search space.
    Exact,
    /// This key and device, measured by another code generator or in another search space.
    Stale,
    /// This device, the nearest known problem: another shape, memory class or flag.
    NearShape {
        /// The shape it was measured on.
        from: Shape,
    },
    /// Another GPU (or, for the CPU device, another CPU).
    OtherGpu {
        /// The device it was measured on.
        from: Device,
    },
    /// Nothing stored fits: the caller's default.
    Default,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Stale => f.write_str("stale"),
            Self::NearShape { from } => {
                write!(f, "near shape (tuned at {} x {} x {})", from.tokens, from.hidden, from.vocab)
            }
            Self::OtherGpu { from } => write!(f, "other device (tuned on {})", from.name()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A stored configuration worth trying.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Candidate {
    /// The key it is stored under.
    pub key: Key,
    /// The configuration and its measurement.
    pub winner: Winner,
    /// How good a match it is.
    pub grade: Grade,
    /// Whether another code generator or search space made it (for every grade).
    pub stale: bool,
    /// Where it is stored.
    pub source: Source,
}

/// Candidates for a call, best first, and what is worth saying; both may be empty.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Selection {
    /// Best first.
    pub candidates: Vec<Candidate>,
    /// What was not said before.
    pub warnings: Vec<Warning>,
}

impl Selection {
    /// Tries the candidates in order and takes the first that `validate` accepts. `validate` returns what it
    /// made of the configuration (a schedule, a plan), or the reason why it does not fit this call.
    pub fn choose<T>(&self, mut validate: impl FnMut(&Candidate) -> Result<T, String>) -> Choice<T> {
        let mut rejected = Vec::new();
        for candidate in &self.candidates {
            match validate(candidate) {
                Ok(value) => {
                    return Choice {
                        grade: candidate.grade.clone(),
                        chosen: Some((candidate.clone(), value)),
                        rejected,
                    };
                }
                Err(reason) => rejected.push(Rejection {
                    config: candidate.winner.config.hash(),
                    grade: candidate.grade.clone(),
                    reason,
                }),
            }
        }
        Choice { grade: Grade::Default, chosen: None, rejected }
    }
}

/// The outcome of [`Selection::choose`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Choice<T> {
    /// [`Grade::Default`] when nothing was chosen.
    pub grade: Grade,
    /// The candidate, and what validation made of it.
    pub chosen: Option<(Candidate, T)>,
    /// What was tried before.
    pub rejected: Vec<Rejection>,
}

/// A candidate that did not fit the call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rejection {
    /// Which configuration.
    pub config: ConfigHash,
    /// How good a match it would have been.
    pub grade: Grade,
    /// Why it did not fit.
    pub reason: String,
}

/// Winners of one stored key as found in a layer, to be put in order.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) relation: Relation,
    pub(crate) key: Key,
    pub(crate) winners: Vec<Winner>,
    pub(crate) source: Source,
}

/// Orders what the layers gave, in their order, into candidates.
pub(crate) fn order(request: &Request, layers: Vec<Found>) -> Vec<Candidate> {
    let mut ranked = Vec::new();
    let costs = Costs::of(request, &layers);
    for found in layers {
        for winner in found.winners {
            let stale = winner.generation != request.generation;
            let grade = match found.relation.kind {
                Kind::Same if stale => Grade::Stale,
                Kind::Same => Grade::Exact,
                Kind::NearShape => Grade::NearShape { from: winner.shape },
                Kind::OtherDevice => Grade::OtherGpu { from: found.key.device.clone() },
            };
            // An exact one of any layer goes before a stale one; among neighbours nearness counts first.
            let first = (found.relation.kind, found.relation.kind == Kind::Same && stale);
            let cost = match found.relation.kind {
                Kind::NearShape => costs.over_all(found.relation.distance, &winner.config.hash()),
                Kind::Same | Kind::OtherDevice => None,
            };
            // Those that are not judged together come after those that are, the nearest first.
            let cost = cost.unwrap_or(f64::INFINITY);
            let candidate =
                Candidate { key: found.key.clone(), winner, grade, stale, source: found.source.clone() };
            ranked.push((first, cost, found.relation.distance, stale, candidate));
        }
    }
    // Stable: layers keep their order, and winners theirs within a layer.
    ranked.sort_by(|a, b| {
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3))
    });
    ranked.into_iter().map(|(.., candidate)| candidate).collect()
}

/// What configurations cost the near shapes that are judged together.
struct Costs {
    shapes: Vec<ShapeCosts>,
}

/// What is known of one shape: the time of each of its winners over its best, and what the others take at least.
struct ShapeCosts {
    distance: f64,
    times: HashMap<ConfigHash, f64>,
    others: f64,
}

/// What a configuration that is no winner of a shape is taken to cost there besides what its last winner does.
const NOT_A_WINNER: f64 = 0.02;

impl Costs {
    fn of(request: &Request, layers: &[Found]) -> Costs {
        let mut near: Vec<&Found> = layers.iter().filter(|f| f.relation.kind == Kind::NearShape).collect();
        near.sort_by(|a, b| a.relation.distance.total_cmp(&b.relation.distance));
        let consulted = if request.consulted > 1 { request.consulted } else { 0 };
        let shapes = near.into_iter().take(consulted).filter_map(|found| {
            // Winners come in groups of generations, the newest first: the first group's times.
            let made = &found.winners.first()?.generation;
            let winners = || found.winners.iter().filter(|winner| winner.generation == *made);
            let best = winners().map(Winner::order_time).min_by(f64::total_cmp)?;
            let times: HashMap<ConfigHash, f64> =
                winners().map(|winner| (winner.config.hash(), winner.order_time() / best - 1.0)).collect();
            let last = times.values().copied().fold(0.0, f64::max);
            Some(ShapeCosts { distance: found.relation.distance, times, others: last + NOT_A_WINNER })
        });
        Costs { shapes: shapes.collect() }
    }

    /// The mean over the shapes, the nearer ones counting more. `None` for a winner of a shape that is farther.
    fn over_all(&self, distance: f64, config: &ConfigHash) -> Option<f64> {
        let farthest = self.shapes.last()?.distance;
        let weight = |shape: &ShapeCosts| 1.0 / (0.25 + shape.distance);
        let cost = |shape: &ShapeCosts| shape.times.get(config).copied().unwrap_or(shape.others);
        let sum: f64 = self.shapes.iter().map(|shape| weight(shape) * cost(shape)).sum();
        let weights: f64 = self.shapes.iter().map(weight).sum();
        (distance <= farthest).then(|| sum / weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    /// The near shape of so many times the tokens, with these configurations' times.
    fn near(times: u64, medians: &[(u32, f64)]) -> Found {
        let mut key = sample::key();
        key.problem.tokens_bucket *= times;
        let trials: Vec<_> = medians.iter().map(|&(config, ms)| sample::trial(config, ms)).collect();
        let winners = crate::winner::KeyWinners::choose(key.clone(), &trials).winners;
        let relation = Relation { kind: Kind::NearShape, distance: (times as f64).log2() };
        Found { relation, key, winners, source: Source::Database }
    }

    fn ordered(consulted: usize, layers: Vec<Found>) -> Vec<f64> {
        let made = sample::trial(0, 1.0).generation;
        let request = Request::new(sample::key(), made).with_consulted(consulted);
        order(&request, layers).iter().map(|candidate| candidate.winner.median).collect()
    }

    #[test]
    fn judged_together_the_configuration_that_does_well_on_all_near_shapes_comes_first() {
        // 1 is the best of the nearest shape and bad on the other two; 2 is 1 % behind on each.
        let layers = || {
            vec![
                near(2, &[(1, 1.0), (2, 1.01)]),
                near(4, &[(3, 2.0), (2, 2.02), (1, 2.6)]),
                near(8, &[(4, 4.0), (2, 4.04), (1, 5.2)]),
            ]
        };
        assert_eq!(ordered(1, layers())[0], 1.0);
        assert_eq!(ordered(3, layers())[0], 1.01);
        // All are there all the same, each for the caller to validate.
        assert_eq!(ordered(3, layers()).len(), ordered(1, layers()).len());
    }

    #[test]
    fn shapes_that_are_not_judged_come_after_those_that_are_the_nearest_first() {
        let layers =
            vec![near(2, &[(1, 1.0)]), near(4, &[(2, 2.0)]), near(16, &[(3, 9.0)]), near(8, &[(4, 5.0)])];
        let order = ordered(2, layers);
        assert_eq!(order[2..], [5.0, 9.0]);
    }
}
