//! Stored winners, measured again: whether each still runs, is right, and takes the time that is stored.
//!
//! Invariant: nothing is written. A verification says what moved; tuning again is what corrects it.

use crate::Error;
use crate::interleaved::{self, Timed};
use crate::search::{Bench, describe};
use crate::stop::Stop;
use cce_codegen::schedule::Schedule;
use cce_tuning_db::{KeyWinners, Trial, Winner};
use serde::Serialize;

/// How winners are measured again.
#[derive(Clone, Copy, Debug)]
pub struct Measuring {
    /// Timed runs of each, interleaved.
    pub rounds: usize,
    /// The share, of 1, by which a time may differ before it has moved.
    pub tolerance: f64,
}

/// One schedule and its times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// The schedule in a few words.
    pub schedule: String,
    /// The stored median in ms, of runs like these; `None` for the default schedule.
    pub stored_ms: Option<f64>,
    /// The median now, in ms.
    pub ms: Option<f64>,
    /// The interquartile range now, in ms.
    pub spread_ms: Option<f64>,
    /// Why it was not timed.
    pub failure: Option<String>,
}

impl Line {
    /// By how many ms a run is off as a rule: half of the interquartile range. Less than that has not moved.
    fn deviation(&self) -> f64 {
        self.spread_ms.unwrap_or(0.0) / 2.0
    }
}

/// What a verification of one problem found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// The stored winners, best first, then the default schedule unless it is one of them.
    pub lines: Vec<Line>,
    /// What no longer holds, a sentence each; empty: everything does.
    pub moved: Vec<String>,
}

/// Measures the winners of a problem, and `default`, again. `None`: asked to stop.
///
/// # Errors
/// When the device fails for good, or the bench can measure nothing, for no schedule's fault.
pub fn measure<B: Bench>(
    winners: &[(&Winner, Schedule)],
    default: Option<Schedule>,
    bench: &mut B,
    measuring: &Measuring,
    stop: &Stop,
) -> Result<Option<Verified>, Error> {
    let further = default.filter(|default| winners.iter().all(|(_, schedule)| schedule != default));
    let schedules: Vec<Schedule> = winners.iter().map(|(_, schedule)| *schedule).chain(further).collect();
    let Some(timed) = interleaved::time(&schedules, bench, measuring.rounds, stop)? else { return Ok(None) };
    let stored = winners.iter().map(|(winner, _)| Some(*winner)).chain([None]);
    let lines: Vec<Line> = timed.into_iter().zip(stored).map(|(timed, winner)| line(timed, winner)).collect();
    Ok(Some(Verified { moved: moved(&lines, measuring.tolerance), lines }))
}

fn line(timed: Timed, winner: Option<&Winner>) -> Line {
    let (ms, spread_ms) = summary(timed.samples).unzip();
    Line {
        schedule: describe(&timed.schedule),
        stored_ms: winner.map(|winner| winner.median),
        ms,
        spread_ms,
        failure: timed.failure,
    }
}

/// Median and interquartile range, as trials have them.
pub(crate) fn summary(samples: Vec<f64>) -> Option<(f64, f64)> {
    use cce_tuning_db::{Config, Generation, Provenance, Shape};
    let config = Config::new(serde_json::Value::Null);
    let (generation, provenance) = (Generation::new("", ""), Provenance::new("", 0));
    let trial = Trial::measured(config, Shape::new(0, 0, 0), samples, generation, provenance).ok()?;
    trial.median.zip(trial.spread)
}

/// What no longer holds of these lines.
fn moved(lines: &[Line], tolerance: f64) -> Vec<String> {
    let mut moved = Vec::new();
    for (place, line) in lines.iter().enumerate() {
        match (line.stored_ms, line.ms, &line.failure) {
            (Some(_), _, Some(failure)) => {
                moved.push(format!("number {} ({}) no longer runs: {failure}", place + 1, line.schedule));
            }
            (Some(stored), Some(now), _)
                if place == 0 && (now - stored).abs() > tolerance * stored + line.deviation() =>
            {
                let (percent, what) = match now > stored {
                    true => (100.0 * (now / stored - 1.0), "slower"),
                    false => (100.0 * (1.0 - now / stored), "faster"),
                };
                moved.push(format!(
                    "the winner takes {now:.3} ms, {percent:.0} % {what} than the {stored:.3} ms stored"
                ));
            }
            _ => {}
        }
    }
    let timed = |(place, line): (usize, &Line)| Some((place, line.ms?));
    let fastest = lines.iter().enumerate().filter_map(timed).min_by(|a, b| a.1.total_cmp(&b.1));
    let first = lines.first().and_then(|line| Some((line.ms?, line.deviation())));
    if let (Some((winner, deviation)), Some((place, ms))) = (first, fastest)
        && winner - ms > tolerance * ms + deviation + lines[place].deviation()
    {
        let other = match lines[place].stored_ms {
            Some(_) => format!("number {} ({})", place + 1, lines[place].schedule),
            None => format!("the default ({})", lines[place].schedule),
        };
        moved.push(format!("{other} is faster here: {ms:.3} ms against the winner's {winner:.3} ms"));
    }
    moved
}

/// The winners of a key that a plan of this version takes first: those of its generation, else all; at most so many.
pub fn foremost<'a>(
    stored: &'a KeyWinners,
    generation: &cce_tuning_db::Generation,
    most: usize,
) -> Vec<&'a Winner> {
    let current: Vec<&Winner> =
        stored.winners.iter().filter(|winner| winner.generation == *generation).take(most).collect();
    match current.is_empty() {
        true => stored.winners.iter().take(most).collect(),
        false => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(stored_ms: Option<f64>, ms: Option<f64>) -> Line {
        let failure = ms.is_none().then(|| "wrong: dE differs".to_owned());
        Line { schedule: "s".to_owned(), stored_ms, ms, spread_ms: ms.map(|_| 0.0), failure }
    }

    #[test]
    fn what_is_within_the_tolerance_holds() {
        let lines = [line(Some(1.0), Some(1.05)), line(Some(1.1), Some(0.97)), line(None, Some(3.0))];
        assert_eq!(moved(&lines, 0.1), Vec::<String>::new());
    }

    #[test]
    fn a_slower_or_faster_winner_a_failure_and_a_faster_default_are_each_said() {
        assert!(moved(&[line(Some(1.0), Some(1.5))], 0.1)[0].contains("50 % slower"));
        assert!(moved(&[line(Some(2.0), Some(1.0))], 0.1)[0].contains("50 % faster"));
        assert!(moved(&[line(Some(1.0), None)], 0.1)[0].contains("no longer runs: wrong: dE differs"));
        let said = moved(&[line(Some(1.0), Some(1.0)), line(None, Some(0.5))], 0.1);
        assert!(said[0].starts_with("the default (s) is faster here: 0.500 ms"), "{said:?}");
        let said = moved(&[line(Some(1.0), Some(1.0)), line(Some(1.1), None)], 0.1);
        assert!(said[0].starts_with("number 2 (s) no longer runs"), "{said:?}");
    }
}
