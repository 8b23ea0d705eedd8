//! The result of a search: every candidate in order, each that did not win with its reason.

use super::{Candidate, Store, describe};
use cce_codegen::schedule::Schedule;
use cce_tuning_db::{Status, Trial};
use std::cmp::Ordering;

/// One candidate's place.
#[derive(Clone, Debug)]
pub struct Ranked {
    /// The schedule.
    pub schedule: Schedule,
    /// The schedule in a few words.
    pub description: String,
    /// Whether this is what a plan uses where nothing is tuned.
    pub is_default: bool,
    /// What was measured; `None` if the search was stopped before it came to this one.
    pub trial: Option<Trial>,
    /// The time to show, in ms, of one that ended well: [`Trial::shown_time`].
    pub ms: Option<f64>,
    /// Why it did not win; empty for the winner.
    pub reason: String,
}

impl Ranked {
    /// The interquartile range of its runs in ms, on the scale of the time to show.
    pub fn spread_ms(&self) -> Option<f64> {
        Some(self.ms? * self.trial.as_ref()?.relative_spread()?)
    }
}

/// All candidates, best first; then those that were dropped, by the kind of their end; then those not tried.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// In order.
    pub entries: Vec<Ranked>,
}

impl Ranking {
    /// Ranks what the store knows of these candidates.
    pub fn new(candidates: &[Candidate], store: &Store) -> Ranking {
        let mut entries: Vec<Ranked> = candidates
            .iter()
            .map(|candidate| Ranked {
                schedule: candidate.schedule,
                description: describe(&candidate.schedule),
                is_default: candidate.is_default,
                trial: store.known(&candidate.config).cloned(),
                ms: None,
                reason: String::new(),
            })
            .collect();
        entries.sort_by(|a, b| {
            let standing = || match (&a.trial, &b.trial) {
                (Some(a), Some(b)) if a.status == Status::Ok => a.standing(b),
                // Those that were dropped stay in the order of the space.
                _ => Ordering::Equal,
            };
            order(a).cmp(&order(b)).then_with(standing)
        });
        let best = entries.first().and_then(Best::of);
        for (place, entry) in entries.iter_mut().enumerate() {
            entry.ms = entry
                .trial
                .as_ref()
                .zip(best.as_ref())
                .and_then(|(trial, best)| trial.shown_time(&best.trial));
            entry.reason = match (&entry.trial, &best) {
                (None, _) => "not tried yet".to_owned(),
                (Some(_), Some(_)) if place == 0 => String::new(),
                (Some(trial), Some(best)) if trial.status == Status::Ok => slower(trial, best),
                (Some(trial), _) => trial.status.reason().to_owned(),
            };
        }
        Ranking { entries }
    }

    /// The best one that was measured.
    pub fn winner(&self) -> Option<&Ranked> {
        self.entries.first().filter(|first| first.ms.is_some())
    }

    /// What a plan uses where nothing is tuned, if it was measured.
    pub fn default(&self) -> Option<&Ranked> {
        self.entries.iter().find(|entry| entry.is_default && entry.ms.is_some())
    }

    /// The winner's time over the default's, if both were measured.
    pub fn of_default(&self) -> Option<f64> {
        Some(self.winner()?.ms? / self.default()?.ms?)
    }

    /// How many ended in each way: `ok`, `constraint`, ..., `not tried`.
    pub fn counts(&self) -> Vec<(&'static str, usize)> {
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for entry in &self.entries {
            let name = entry.trial.as_ref().map_or("not tried", |trial| trial.status.name());
            match counts.last_mut() {
                Some((last, count)) if *last == name => *count += 1,
                _ => counts.push((name, 1)),
            }
        }
        counts
    }
}

/// Measured ones first; a wrong result, which is a defect, before what merely does not fit.
fn order(entry: &Ranked) -> u8 {
    match entry.trial.as_ref().map(|trial| &trial.status) {
        Some(Status::Ok) => 0,
        Some(Status::Wrong(_)) => 1,
        Some(Status::Crashed(_) | Status::Launch(_)) => 2,
        Some(Status::Timeout(_)) => 3,
        Some(Status::Compile(_)) => 4,
        Some(Status::Resources(_)) => 5,
        Some(Status::Constraint(_)) => 6,
        Some(_) => 7,
        None => 8,
    }
}

/// What the others are compared with.
struct Best {
    trial: Trial,
    ms: f64,
    is_default: bool,
}

impl Best {
    fn of(winner: &Ranked) -> Option<Best> {
        let trial = winner.trial.clone()?;
        Some(Best { ms: trial.deciding_time()?, trial, is_default: winner.is_default })
    }
}

fn slower(trial: &Trial, best: &Best) -> String {
    let Some(ms) = trial.deciding_time() else { return String::new() };
    let percent = 100.0 * (ms / best.ms - 1.0);
    if trial.settled.is_some_and(|settled| settled.tie_ms == Some(best.ms)) {
        let why = if best.is_default { "the best is the default" } else { "the best is simpler" };
        let (by, how) = (percent.abs(), if percent < 0.0 { "faster" } else { "slower" });
        return format!("{by:.1} % {how}, a tie: {why}");
    }
    if percent < 0.0 {
        return format!("not in the run-off; {:.1} % faster in its screening", -percent);
    }
    let spread = |trial: &Trial| 100.0 * trial.relative_spread().unwrap_or(0.0);
    if percent <= spread(trial).max(spread(&best.trial)) && percent < 10.0 {
        return format!("{percent:.1} % slower, within the spread");
    }
    match percent {
        p if p < 9.95 => format!("{p:.1} % slower"),
        p if p < 100.0 => format!("{p:.0} % slower"),
        p => format!("{:.1} times the best", 1.0 + p / 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_tuning_db::{Config, Generation, Provenance, Settled, Shape};

    fn trial(ms: f64, settled: Option<Settled>) -> Trial {
        let (generation, provenance) = (Generation::new("1", "s"), Provenance::new("host", 1));
        let config = Config::new(serde_json::json!({"ms": ms}));
        let mut trial =
            Trial::measured(config, Shape::new(1, 1, 1), vec![ms], generation, provenance).unwrap();
        trial.settled = settled;
        trial
    }

    fn best(is_default: bool) -> Best {
        let mut trial = trial(10.0, None);
        trial.spread = Some(1.0);
        Best { trial, ms: 10.0, is_default }
    }

    #[test]
    fn what_was_faster_in_its_screening_alone_is_not_said_to_be_slower() {
        let lucky = trial(9.5, Some(Settled::paired(9.5)));
        assert_eq!(slower(&lucky, &best(false)), "not in the run-off; 5.0 % faster in its screening");
        let slow = trial(13.0, None);
        assert_eq!(slower(&slow, &best(false)), "30 % slower");
    }

    #[test]
    fn what_ties_says_by_how_much_and_why_it_is_not_the_best() {
        let tied = |ms| trial(10.1, Some(Settled::placed(ms, 1).tying(10.0)));
        assert_eq!(slower(&tied(9.96), &best(true)), "0.4 % faster, a tie: the best is the default");
        assert_eq!(slower(&tied(10.07), &best(false)), "0.7 % slower, a tie: the best is simpler");
        // It tied with a winner that has lost since.
        let stale = trial(10.1, Some(Settled::placed(10.4, 1).tying(10.3)));
        assert_eq!(slower(&stale, &best(false)), "4.0 % slower, within the spread");
    }
}
