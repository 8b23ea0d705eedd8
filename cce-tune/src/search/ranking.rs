//! The result of a search: every candidate in order, each that did not win with its reason.

use super::{Candidate, Store, describe};
use cce_codegen::schedule::Schedule;
use cce_tuning_db::{ShownTimes, Status, Trial};
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
    /// What was measured, or why nothing was.
    pub trial: Trial,
    /// The time to show, in ms, of one that ended well: see [`ShownTimes`].
    pub ms: Option<f64>,
    /// The interquartile range of its runs on that scale, in ms.
    pub spread_ms: Option<f64>,
    /// Why it did not win; empty for the winner.
    pub reason: String,
}

/// All candidates that were tried, best first; then those that were dropped, by the kind of their end.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// In order.
    pub entries: Vec<Ranked>,
}

impl Ranking {
    /// Ranks those of these candidates that the store knows.
    pub fn new(candidates: &[Candidate], store: &Store) -> Ranking {
        let known =
            candidates.iter().filter_map(|candidate| Some((candidate, store.known(&candidate.config)?)));
        let mut known: Vec<(&Candidate, &Trial)> = known.collect();
        known.sort_by(|(_, a), (_, b)| {
            let standing = || match a.status {
                Status::Ok => a.standing(b),
                // Those that were dropped stay in the order of the space.
                _ => Ordering::Equal,
            };
            order(&a.status).cmp(&order(&b.status)).then_with(standing)
        });
        let times = ShownTimes::of(known.iter().map(|(_, trial)| *trial));
        let best = known.first().and_then(|(candidate, trial)| {
            let ms = times.ms(trial)?;
            Some(Best { trial, ms, is_default: candidate.is_default })
        });
        let ranked = known.iter().enumerate().map(|(place, (candidate, trial))| Ranked {
            schedule: candidate.schedule,
            description: describe(&candidate.schedule),
            is_default: candidate.is_default,
            ms: times.ms(trial),
            spread_ms: times.spread_ms(trial),
            reason: match (times.ms(trial), &best) {
                _ if place == 0 && best.is_some() => String::new(),
                (Some(ms), Some(best)) => slower(trial, ms, best),
                _ => trial.status.reason().to_owned(),
            },
            trial: (*trial).clone(),
        });
        Ranking { entries: ranked.collect() }
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

    /// How many ended in each way: `ok`, `constraint`, ...
    pub fn counts(&self) -> Vec<(&'static str, usize)> {
        let mut counts: Vec<(&'static str, usize)> = Vec::new();
        for entry in &self.entries {
            let name = entry.trial.status.name();
            match counts.last_mut() {
                Some((last, count)) if *last == name => *count += 1,
                _ => counts.push((name, 1)),
            }
        }
        counts
    }
}

/// Measured ones first; a wrong result, which is a defect, before what merely does not fit.
fn order(status: &Status) -> u8 {
    match status {
        Status::Ok => 0,
        Status::Wrong(_) => 1,
        Status::Crashed(_) | Status::Launch(_) => 2,
        Status::Timeout(_) => 3,
        Status::Compile(_) => 4,
        Status::Resources(_) => 5,
        Status::Constraint(_) => 6,
        _ => 7,
    }
}

/// What the others are compared with.
struct Best<'a> {
    trial: &'a Trial,
    /// The time to show.
    ms: f64,
    is_default: bool,
}

/// Why a trial that is shown with so many ms is not the best.
fn slower(trial: &Trial, ms: f64, best: &Best<'_>) -> String {
    let percent = 100.0 * (ms / best.ms - 1.0);
    let tie = trial.settled.and_then(|settled| settled.tie_ms);
    if tie.is_some() && tie == best.trial.deciding_time() {
        let why = if best.is_default { "the best is the default" } else { "the best is simpler" };
        let (by, how) = (percent.abs(), if percent < 0.0 { "faster" } else { "slower" });
        return format!("{by:.1} % {how}, a tie: {why}");
    }
    if percent < 0.0 {
        return format!("not in the run-off; {:.1} % faster in its screening", -percent);
    }
    let spread = |trial: &Trial| 100.0 * trial.relative_spread().unwrap_or(0.0);
    if percent <= spread(trial).max(spread(best.trial)) && percent < 10.0 {
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

    /// Beside a best one of 10 ms, of which the last runs took 20.
    fn reason(other: &Trial, is_default: bool) -> String {
        let mut winner = trial(20.0, Some(Settled::placed(10.0, 0)));
        winner.spread = Some(2.0);
        let ms = ShownTimes::of([&winner, other]).ms(other).unwrap();
        slower(other, ms, &Best { trial: &winner, ms: 20.0, is_default })
    }

    #[test]
    fn what_was_faster_in_its_screening_alone_is_not_said_to_be_slower() {
        let lucky = trial(9.5, Some(Settled::paired(9.5)));
        assert_eq!(reason(&lucky, false), "not in the run-off; 5.0 % faster in its screening");
        let slow = trial(13.0, None);
        assert_eq!(reason(&slow, false), "30 % slower");
    }

    #[test]
    fn what_ties_says_by_how_much_and_why_it_is_not_the_best() {
        let tied = |ms| trial(10.1, Some(Settled::placed(ms, 1).tying(10.0)));
        assert_eq!(reason(&tied(9.96), true), "0.4 % faster, a tie: the best is the default");
        assert_eq!(reason(&tied(10.07), false), "0.7 % slower, a tie: the best is simpler");
        // It tied with a winner that has lost since.
        let stale = trial(10.1, Some(Settled::placed(10.4, 1).tying(10.3)));
        assert_eq!(reason(&stale, false), "4.0 % slower, within the spread");
    }
}
