//! Selection: which stored configurations to try for a call, in which order, and how good a match each is.
//!
//! Selection never fails and never decides alone: it returns candidates, the caller validates each against
//! the actual call ([`Selection::choose`]) and launches the first that fits, or its own default. A store
//! thereby cannot turn a working call into a failing one.

use std::fmt;

use crate::hash::ConfigHash;
use crate::key::{Device, Key, MemoryClass, Problem, Shape};
use crate::provenance::{Generation, Provenance};
use crate::warning::{Source, Warning};
use crate::winner::{KeyWinners, Winner};

/// The default snap limit, in units of [`Shape::distance`]: a factor of four in one dimension, or of two in
/// each of two or three dimensions (distance 1.41 and 1.73). Beyond it a default schedule is the better
/// guess.
pub const SNAP_LIMIT: f64 = 2.0;

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
}

impl Request {
    /// A request with the default snap limit.
    #[must_use]
    pub fn new(key: Key, generation: Generation) -> Self {
        Self { key, generation, provenance: None, snap_limit: SNAP_LIMIT }
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

    /// How a stored key relates to the request: `None` when its winners are of no use.
    pub(crate) fn relation(&self, stored: &Key) -> Option<Relation> {
        if !stored.is_related_to(&self.key) {
            return None;
        }
        self.to_problem(self.to_device(&stored.device)?, stored.memory, &stored.problem)
    }

    /// How a device relates to the request's: `None` when its winners are of no use.
    pub(crate) fn to_device(&self, stored: &Device) -> Option<Nearness> {
        let distance = stored.distance(&self.key.device)?;
        Some(Nearness { same: *stored == self.key.device, distance })
    }

    /// How a problem on a device relates to the request; it wants the same gradients.
    pub(crate) fn to_problem(
        &self,
        device: Nearness,
        memory: MemoryClass,
        stored: &Problem,
    ) -> Option<Relation> {
        let ours = &self.key.problem;
        let flag = |differs: bool| if differs { 0.25 } else { 0.0 };
        let shape = stored.shape().distance(&ours.shape())
            + flag(stored.ignored != ours.ignored)
            + flag(stored.accumulate != ours.accumulate)
            + memory_distance(memory, self.key.memory);
        let kind = match (device.same, shape == 0.0) {
            (true, true) => Kind::Same,
            (true, false) => Kind::NearShape,
            (false, _) => Kind::OtherDevice,
        };
        (shape <= self.snap_limit).then_some(Relation { kind, distance: shape + device.distance })
    }
}

/// How a device relates to a request's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nearness {
    same: bool,
    distance: f64,
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

/// One stored key as found in a layer, to be put in order.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) relation: Relation,
    pub(crate) stored: KeyWinners,
    pub(crate) source: Source,
}

/// Orders what the layers gave, in their order, into candidates. What one of them found wrong for a key, none offers.
pub(crate) fn order(request: &Request, layers: Vec<Found>) -> Vec<Candidate> {
    let mut ranked = Vec::new();
    let has_wrong = |found: &&Found| !found.stored.wrong.is_empty();
    let wrong: Vec<KeyWinners> = layers.iter().filter(has_wrong).map(|found| found.stored.clone()).collect();
    for Found { relation, stored, source } in layers {
        let is_wrong = |winner: &Winner| wrong.iter().any(|one| one.disqualifies(&stored.key, winner));
        for winner in stored.winners.into_iter().filter(|winner| !is_wrong(winner)) {
            let stale = winner.generation != request.generation;
            let grade = match relation.kind {
                Kind::Same if stale => Grade::Stale,
                Kind::Same => Grade::Exact,
                Kind::NearShape => Grade::NearShape { from: winner.shape },
                Kind::OtherDevice => Grade::OtherGpu { from: stored.key.device.clone() },
            };
            // An exact one of any layer goes before a stale one; among neighbours nearness counts first.
            let first = (relation.kind, relation.kind == Kind::Same && stale);
            let candidate =
                Candidate { key: stored.key.clone(), winner, grade, stale, source: source.clone() };
            ranked.push((first, relation.distance, stale, candidate));
        }
    }
    // Stable: layers keep their order, and winners theirs within a layer.
    ranked.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    ranked.into_iter().map(|(.., candidate)| candidate).collect()
}
