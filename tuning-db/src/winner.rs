//! From all trials of a key to its few best: the only part of the database that readers need.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::hash::ConfigHash;
use crate::key::{Key, Shape};
use crate::provenance::{Generation, Provenance};
use crate::trial::{Resources, Settled, Standing, Trial};
use crate::wrong::{Wrong, disqualified};

/// How many configurations are kept a key and generation. A caller validates the first against the actual
/// call and takes the next when it does not fit; after eight, the default schedule is as good a guess.
pub const WINNERS_KEPT: usize = 8;

/// How many generations of a key are kept, the newest first. Older ones remain in the log.
pub const GENERATIONS_KEPT: usize = 3;

/// A configuration worth launching.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Winner {
    /// What to launch.
    pub config: Config,
    /// The exact shape it was measured on.
    pub shape: Shape,
    /// Median time, in ms.
    pub median: f64,
    /// Interquartile range, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<f64>,
    /// What counts when winners are put in order, where it is not the median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Settled>,
    /// What its kernels use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Worst relative error of its gradients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_error: Option<f64>,
    /// What generated it.
    pub generation: Generation,
    /// Who measured it, when and with what.
    pub provenance: Provenance,
}

impl Winner {
    /// The winner's view of a trial that ended well; `None` for every other.
    #[must_use]
    pub fn of(trial: &Trial) -> Option<Self> {
        Some(Self {
            config: trial.config.clone(),
            shape: trial.shape,
            median: trial.time()?,
            spread: trial.spread,
            settled: trial.settled,
            resources: trial.resources,
            gradient_error: trial.gradient_error.filter(|e| e.is_finite()),
            generation: trial.generation.clone(),
            provenance: trial.provenance.clone(),
        })
    }

    /// The time that counts, in ms: the settled one, else the median. To compare winners of a problem by, not to be
    /// shown: see [`ShownTimes`](crate::ShownTimes). What is shown of a problem's first winner is its median.
    #[must_use]
    pub fn deciding_time(&self) -> f64 {
        self.settled.map_or(self.median, |settled| settled.ms)
    }

    /// The order of winners: that of their trials, [`Trial::standing`].
    fn rank(&self, other: &Self) -> std::cmp::Ordering {
        let standing = |winner: &Self| Standing::of(winner.settled, winner.median, winner.spread);
        standing(self).cmp(&standing(other)).then_with(|| self.config.hash().cmp(&other.config.hash()))
    }
}

/// The best of one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KeyWinners {
    /// What they are winners for.
    pub key: Key,
    /// Grouped by generation, the newest first; fastest first within one.
    pub winners: Vec<Winner>,
    /// What gave wrong results for the key: never among the winners, and taken from no other layer either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<Wrong>,
}

impl KeyWinners {
    /// Winners for a key, ordered and cut as the database keeps them.
    #[must_use]
    pub fn new(key: Key, winners: Vec<Winner>) -> Self {
        Self { key, winners: best(winners), wrong: Vec::new() }
    }

    /// Both, of one key. What either found wrong is no winner.
    #[must_use]
    pub fn joined_with(self, other: Self) -> Self {
        let mut wrong = [self.wrong, other.wrong].concat();
        wrong.sort();
        wrong.dedup();
        let mut winners = [self.winners, other.winners].concat();
        winners.retain(|winner| !wrong.iter().any(|wrong| wrong.is_of(winner)));
        Self { wrong, ..Self::new(self.key, winners) }
    }

    /// Whether a winner of `key` was found wrong here.
    pub(crate) fn disqualifies(&self, key: &Key, winner: &Winner) -> bool {
        self.key == *key && self.wrong.iter().any(|wrong| wrong.is_of(winner))
    }

    /// Chooses from all trials of a key.
    ///
    /// On one host, the newest trial of a configuration replaces its earlier ones: it is a correction. A [measurement
    /// anew](Trial::anew) counts, in the place of all that is older, once it has a whole run-off. Between hosts the better
    /// record wins. What is [`disqualified`] wins nowhere.
    #[must_use]
    pub fn choose<'a>(key: Key, trials: impl IntoIterator<Item = &'a Trial>) -> Self {
        let trials: Vec<&Trial> = trials.into_iter().collect();
        let wrong = disqualified(trials.iter().copied());
        let newest = newest_by_slot(trials);
        let winners = newest
            .iter()
            .filter(|((config, generation, _), _)| !wrong.contains_key(&(*config, *generation)))
            .filter_map(|(_, trial)| Winner::of(trial))
            .collect();
        Self { wrong: Wrong::of_generations_kept(&wrong), ..Self::new(key, winners) }
    }
}

/// Which configuration, of which generation, on which host.
type Slot<'a> = (ConfigHash, &'a Generation, &'a str);

/// The trial that counts of each configuration, generation and host: the newest.
pub fn newest<'a>(trials: impl IntoIterator<Item = &'a Trial>) -> impl Iterator<Item = &'a Trial> {
    newest_by_slot(trials).into_values()
}

/// Those of a key's trials that count: of each generation, host and shape that has a whole run-off, what is not older than
/// the latest [measurement anew](Trial::anew) that has one, and of no later one, which has none yet; of others all.
pub fn counting<'a>(trials: impl IntoIterator<Item = &'a Trial>) -> impl Iterator<Item = &'a Trial> {
    let trials: Vec<&Trial> = trials.into_iter().collect();
    let series = |trial: &'a Trial| (&trial.generation, trial.provenance.host.as_str(), trial.shape);
    let mut since: BTreeMap<_, u64> = BTreeMap::new();
    let is_whole =
        |trial: &&&Trial| trial.settled.is_some_and(|settled| settled.place.is_some() && !settled.cut_short);
    for trial in trials.iter().filter(is_whole) {
        let since = since.entry(series(trial)).or_default();
        *since = trial.anew.unwrap_or(0).max(*since);
    }
    let counts = move |trial: &&'a Trial| {
        since.get(&series(trial)).is_none_or(|since| {
            trial.provenance.unix_ms >= *since && trial.anew.is_none_or(|anew| anew <= *since)
        })
    };
    trials.into_iter().filter(counts)
}

fn newest_by_slot<'a>(trials: impl IntoIterator<Item = &'a Trial>) -> BTreeMap<Slot<'a>, &'a Trial> {
    let mut newest: BTreeMap<Slot<'a>, &Trial> = BTreeMap::new();
    for trial in counting(trials) {
        let slot = (trial.config.hash(), &trial.generation, trial.provenance.host.as_str());
        newest
            .entry(slot)
            .and_modify(|known| {
                if supersedes(trial, known) {
                    *known = trial;
                }
            })
            .or_insert(trial);
    }
    newest
}

/// Newer, or, in the same millisecond, the one that is not a success, or the slower: whatever the order of
/// arrival, the same trial stays.
fn supersedes(trial: &Trial, known: &Trial) -> bool {
    let age = |t: &Trial| (t.provenance.unix_ms, t.time().is_none());
    let time = |t: &Trial| t.time().unwrap_or(f64::INFINITY);
    age(trial).cmp(&age(known)).then(time(trial).total_cmp(&time(known))).is_gt()
}

fn best(mut winners: Vec<Winner>) -> Vec<Winner> {
    winners.sort_by(Winner::rank);
    let mut generations: BTreeMap<Generation, (u64, Vec<Winner>)> = BTreeMap::new();
    for winner in winners {
        let (newest, kept) = generations.entry(winner.generation.clone()).or_default();
        *newest = (*newest).max(winner.provenance.unix_ms);
        if kept.len() < WINNERS_KEPT && kept.iter().all(|k| k.config.hash() != winner.config.hash()) {
            kept.push(winner);
        }
    }
    let mut generations: Vec<_> = generations.into_iter().collect();
    generations.sort_by(|(a, (age_a, _)), (b, (age_b, _))| age_b.cmp(age_a).then(a.cmp(b)));
    generations.into_iter().take(GENERATIONS_KEPT).flat_map(|(_, (_, kept))| kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use crate::trial::Status;

    fn medians(winners: &[Winner]) -> Vec<f64> {
        winners.iter().map(|w| w.median).collect()
    }

    #[test]
    fn the_fastest_come_first_and_only_a_few_are_kept() {
        let trials: Vec<_> = (0..20).rev().map(|i| sample::trial(i, 1.0 + f64::from(i))).collect();
        let chosen = KeyWinners::choose(sample::key(), &trials);
        assert_eq!(medians(&chosen.winners), (0..8).map(|i| 1.0 + f64::from(i)).collect::<Vec<_>>());
    }

    #[test]
    fn what_was_settled_in_a_run_off_comes_first_and_a_tie_goes_to_the_better_placed() {
        let screened = sample::trial(1, 1.0);
        let settled = |config, median, place| {
            let ms = if place == 0 { 1.5 } else { 1.49 };
            let settled = crate::trial::Settled::placed(ms, place).tying(1.5);
            sample::trial(config, median).with_settled(settled)
        };
        let (second, first) = (settled(2, 1.4, 1), settled(3, 1.6, 0));
        let chosen = KeyWinners::choose(sample::key(), [&screened, &second, &first]);
        assert_eq!(medians(&chosen.winners), [1.6, 1.4, 1.0]);
        let text = serde_json::to_string(&chosen.winners[0]).unwrap();
        assert_eq!(serde_json::from_str::<Winner>(&text).unwrap(), chosen.winners[0]);
    }

    #[test]
    fn a_newer_measurement_replaces_an_older_one_of_the_same_host_even_when_slower() {
        let old = sample::trial(1, 1.0);
        let mut new = sample::trial(1, 2.0);
        new.provenance.unix_ms += 1;
        for order in [[&old, &new], [&new, &old]] {
            assert_eq!(medians(&KeyWinners::choose(sample::key(), order).winners), [2.0]);
        }
    }

    #[test]
    fn what_was_measured_anew_replaces_all_that_is_older_once_it_has_a_whole_run_off() {
        use crate::trial::Settled;
        let at = |config, median, ms: u64| {
            let mut trial = sample::trial(config, median);
            trial.provenance.unix_ms = ms;
            trial
        };
        let before = at(1, 1.0, 10).with_settled(Settled::placed(1.0, 0));
        let mut elsewhere = at(4, 0.5, 10);
        elsewhere.provenance.host = "other".into();
        let mut of_another_shape = at(5, 0.7, 10);
        of_another_shape.shape.tokens -= 1;
        let others = [&before, &elsewhere, &of_another_shape];
        let screened = at(2, 2.0, 21).with_anew(Some(20));
        let second = at(3, 3.0, 22).with_anew(Some(20));
        // From another folder of this host: newer, and of no measurement anew.
        let newer = at(6, 6.0, 30);
        let chosen = |more: &[&Trial]| {
            let all = [&others[..], more].concat();
            let reversed: Vec<&Trial> = all.iter().copied().rev().collect();
            let chosen = KeyWinners::choose(sample::key(), all);
            assert_eq!(chosen, KeyWinners::choose(sample::key(), reversed));
            medians(&chosen.winners)
        };
        assert_eq!(chosen(&[&screened, &second, &newer]), [1.0, 0.5, 0.7, 6.0]);
        let cut = second.clone().with_settled(Settled::placed(3.0, 0).in_a_cut(true));
        assert_eq!(chosen(&[&screened, &cut, &newer]), [1.0, 0.5, 0.7, 6.0]);
        let whole = second.with_settled(Settled::placed(3.0, 0));
        assert_eq!(chosen(&[&screened, &whole, &newer]), [3.0, 0.5, 0.7, 2.0, 6.0]);
    }

    #[test]
    fn between_hosts_the_better_record_wins_and_keeps_its_provenance() {
        let mine = sample::trial(1, 2.0);
        let mut theirs = sample::trial(1, 1.5);
        theirs.provenance.host = "other".into();
        let chosen = KeyWinners::choose(sample::key(), [&mine, &theirs]);
        assert_eq!(medians(&chosen.winners), [1.5]);
        assert_eq!(chosen.winners[0].provenance.host, "other");
    }

    #[test]
    fn a_wrong_result_on_any_host_disqualifies() {
        let fast = sample::trial(1, 1.0);
        let slow = sample::trial(2, 9.0);
        let mut wrong = sample::trial(1, 1.0);
        wrong.status = Status::Wrong("dC differs".into());
        wrong.provenance.host = "other".into();
        assert_eq!(medians(&KeyWinners::choose(sample::key(), [&fast, &slow, &wrong]).winners), [9.0]);
    }

    #[test]
    fn every_generation_keeps_its_own_winners_and_the_oldest_generation_goes() {
        let mut trials = Vec::new();
        for age in 0..4 {
            let mut trial = sample::trial(age, 1.0 + f64::from(age));
            trial.generation.codegen = format!("v{age}");
            trial.provenance.unix_ms = 1000 + u64::from(age);
            trials.push(trial);
        }
        let chosen = KeyWinners::choose(sample::key(), &trials);
        let versions: Vec<_> = chosen.winners.iter().map(|w| w.generation.codegen.as_str()).collect();
        assert_eq!(versions, ["v3", "v2", "v1"]);
    }
}
