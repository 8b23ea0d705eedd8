//! What a recording as a whole says of the times of its schedules.
//!
//! A single recorded time is off by a few percent: it does not repeat exactly, those of a run-off are of another hour
//! than the rest, and the best of hundreds is the best by chance as well. The process that the model strategy searches
//! with, fitted to all times, takes of each part and pair of parts what many trials have in common.

use super::pool::{Features, parts};
use super::process::Process;
use crate::recording::Recording;
use cce_codegen::schedule::Schedule;

/// Fewer trials say nothing of what they have in common.
const FEWEST: usize = 40;

/// By how much schedules take longer than the best recorded one, with the standard deviation of what is believed of
/// each: 0.03 is 3 %. `None` of a recording with few trials.
pub(crate) fn over_best(recording: &Recording, schedules: &[Schedule]) -> Option<Vec<(f64, f64)>> {
    let timed: Vec<(&Schedule, f64)> =
        recording.trials.iter().filter_map(|trial| Some((&trial.schedule, trial.time?.0.ln()))).collect();
    if timed.len() < FEWEST {
        return None;
    }
    let points: Vec<Vec<Features>> =
        timed.iter().map(|(schedule, _)| *schedule).chain(schedules).map(parts).collect();
    let expected = vec![0.0; points.len()];
    let observed: Vec<(usize, f64)> = timed.iter().enumerate().map(|(at, (_, log))| (at, *log)).collect();
    let process = Process::fit(&points, &expected, &observed);
    let best = (0..timed.len()).map(|at| process.belief(at).0).min_by(f64::total_cmp)?;
    let over = |at: usize| {
        let (mean, deviation) = process.belief(at);
        ((mean - best).exp() - 1.0, deviation)
    };
    Some((timed.len()..points.len()).map(over).collect())
}
