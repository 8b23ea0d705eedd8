//! Configurations that gave wrong results: none of them may win, on any host.
//!
//! The rule: a wrong result disqualifies its configuration, for the key and generation, whoever measured it and at
//! whichever of the key's shapes, because a race that shows on one machine is a race on every one. It is taken back by
//! the host that found it alone, which measures the configuration right later, at the same shape. A later crash or
//! timeout takes nothing back, and neither does a right result of another host or shape.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hash::ConfigHash;
use crate::key::Shape;
use crate::provenance::Generation;
use crate::trial::{Status, Trial};
use crate::winner::{GENERATIONS_KEPT, Winner};

/// A configuration that is [`disqualified`] for a key: what is kept of it beside the key's winners, so that no layer of
/// winners offers it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Wrong {
    /// Which configuration.
    pub config: ConfigHash,
    /// What generated it.
    pub generation: Generation,
}

impl Wrong {
    /// Those of a key, in a fixed order: of as many generations as winners are kept of, those found wrong last.
    pub(crate) fn of_generations_kept(disqualified: &BTreeMap<Made<'_>, &Trial>) -> Vec<Wrong> {
        let mut newest: BTreeMap<&Generation, u64> = BTreeMap::new();
        for ((_, generation), trial) in disqualified {
            let known = newest.entry(generation).or_default();
            *known = trial.provenance.unix_ms.max(*known);
        }
        let mut newest: Vec<(&Generation, u64)> = newest.into_iter().collect();
        newest.sort_by(|(a, age_a), (b, age_b)| age_b.cmp(age_a).then(a.cmp(b)));
        newest.truncate(GENERATIONS_KEPT);
        let is_kept = |made: &&Made<'_>| newest.iter().any(|(generation, _)| *generation == made.1);
        let of =
            |(config, generation): &Made<'_>| Wrong { config: *config, generation: (*generation).clone() };
        disqualified.keys().filter(is_kept).map(of).collect()
    }

    /// Whether this is what it is about.
    pub(crate) fn is_of(&self, winner: &Winner) -> bool {
        self.generation == winner.generation && self.config == winner.config.hash()
    }
}

/// Which configuration, of which generation.
type Made<'a> = (ConfigHash, &'a Generation);

/// What one host found of a configuration at one shape.
#[derive(Default)]
struct Found<'a> {
    wrong: Option<&'a Trial>,
    right: Option<u64>,
}

/// The configurations of a key that are disqualified, and of each the newest trial that does it. `trials` are all of the
/// key, in any order.
pub fn disqualified<'a>(trials: impl IntoIterator<Item = &'a Trial>) -> BTreeMap<Made<'a>, &'a Trial> {
    type Place<'a> = (Made<'a>, &'a str, Shape);
    let mut found: BTreeMap<Place<'a>, Found<'a>> = BTreeMap::new();
    for trial in trials {
        let made = (trial.config.hash(), &trial.generation);
        let is_wrong = matches!(trial.status, Status::Wrong(_));
        if !is_wrong && trial.time().is_none() {
            continue;
        }
        let place = found.entry((made, trial.provenance.host.as_str(), trial.shape)).or_default();
        match is_wrong {
            true => place.wrong = newer(place.wrong, trial),
            false => place.right = place.right.max(Some(trial.provenance.unix_ms)),
        }
    }
    let mut disqualified = BTreeMap::new();
    for ((made, ..), Found { wrong, right }) in found {
        // In the same millisecond the wrong one stands.
        if let Some(wrong) = wrong.filter(|wrong| right.is_none_or(|right| wrong.provenance.unix_ms >= right))
        {
            let known = disqualified.remove(&made);
            disqualified.extend(newer(known, wrong).map(|newest| (made, newest)));
        }
    }
    disqualified
}

/// The newer of two; of the same millisecond, the one whose text comes first, whatever the order of arrival.
fn newer<'a>(known: Option<&'a Trial>, trial: &'a Trial) -> Option<&'a Trial> {
    let age = |t: &Trial| (t.provenance.unix_ms, std::cmp::Reverse(t.status.reason().to_owned()));
    Some(known.filter(|known| age(known) >= age(trial)).unwrap_or(trial))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn at(host: &str, ms: u64, status: Option<Status>) -> Trial {
        let mut trial = sample::trial(1, 1.0);
        trial.provenance.host = host.into();
        trial.provenance.unix_ms = ms;
        if let Some(status) = status {
            trial.status = status;
            (trial.median, trial.samples) = (None, Vec::new());
        }
        trial
    }

    fn wrong() -> Option<Status> {
        Some(Status::Wrong("dC differs".into()))
    }

    fn is_out(trials: &[Trial]) -> bool {
        let backwards: Vec<&Trial> = trials.iter().rev().collect();
        let (one, other) = (disqualified(trials), disqualified(backwards));
        assert_eq!(one, other, "the order of arrival matters");
        !one.is_empty()
    }

    #[test]
    fn a_wrong_result_disqualifies_until_its_own_host_finds_it_right() {
        let (a, b) = ("a", "b");
        assert!(!is_out(&[at(a, 1, None), at(b, 2, None)]));
        assert!(is_out(&[at(a, 1, wrong()), at(b, 2, None)]));
        assert!(is_out(&[at(a, 1, None), at(a, 2, wrong()), at(b, 3, None)]));
        assert!(!is_out(&[at(a, 1, wrong()), at(a, 2, None)]));
        assert!(is_out(&[at(a, 1, wrong()), at(a, 1, None)]), "in the same millisecond");
        // Each host answers for its own.
        assert!(is_out(&[at(a, 1, wrong()), at(b, 2, wrong()), at(b, 3, None)]));
        assert!(!is_out(&[at(a, 1, wrong()), at(b, 2, wrong()), at(b, 3, None), at(a, 4, None)]));
    }

    #[test]
    fn neither_a_crash_nor_another_shape_nor_another_generation_takes_it_back() {
        let crashed = at("a", 2, Some(Status::Crashed("it ended".into())));
        assert!(is_out(&[at("a", 1, wrong()), crashed]));
        let mut elsewhere = at("a", 2, None);
        elsewhere.shape = Shape::new(8000, 2304, 256_000);
        assert!(is_out(&[at("a", 1, wrong()), elsewhere]));
        let mut newer = at("a", 2, None);
        newer.generation = Generation::new("2", "s1");
        let trials = [at("a", 1, wrong()), newer.clone()];
        let out = disqualified(&trials);
        assert_eq!(out.len(), 1);
        assert!(!out.contains_key(&(newer.config.hash(), &newer.generation)));
    }
}
