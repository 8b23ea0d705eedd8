//! The model-guided strategy: what is tried next is what is expected to improve most.
//!
//! 1. *Opening*: the default, what was best on problems like this one, and schedules in which as many pairs of values
//!    meet as can be, so that every part is seen in company.
//! 2. *Improvement*: the expected improvement of log time (Jones, Schonlau, Welch: Efficient Global Optimization,
//!    1998) under a process over the parts ([`super::process`]), times the chance to run ([`super::blame`]). A batch
//!    takes each choice as if it had come out as expected, so that it does not hold one guess many times.
//! 3. *Polish*: when no schedule is expected to improve the best by more than a fraction of what repeats, those that
//!    differ from the best in one part and are not expected to be much slower. A process that is too sure of itself is
//!    found out there. When the best stays the best, it ends.
//!
//! Trials of other shapes and devices say beforehand what to expect: their own processes predict this pool, nearer
//! ones weigh more. What is observed here corrects them.

use super::process::Process;
use super::{Experience, Outcome, Pool, Strategy, blame, descent};
use crate::data::random::{Purpose, Stream};
use cce_codegen::schedule::Schedule;
use std::collections::HashSet;

/// Schedules of the opening.
const OPENING: usize = 16;

/// Of the opening, at most so many are what experience says is best.
const FROM_EXPERIENCE: usize = 6;

/// Times above the best times this are all alike: slow.
const SLOW: f64 = 2.5;

/// The expected improvement, relative to the best time, below which a schedule is not worth a trial.
const WORTHLESS: f64 = 2e-4;

/// Around the best, schedules that are expected to take more than this times its time are not tried.
const NOT_MUCH_SLOWER: f64 = 1.1;

/// Schedules with a lower chance to run are not tried around the best.
const LIKELY: f64 = 0.2;

/// The fraction of a pool that is tried at most, and the fewest in any case.
const FRACTION: usize = 4;
const FEWEST: usize = 40;

/// Trials of a problem that a prediction is made from, at most: the fastest, and others.
const MOST_OF_A_PROBLEM: usize = 160;

/// The strategy.
#[derive(Clone, Debug)]
pub struct Model {
    /// Another order of what is left to chance for each.
    pub seed: u64,
    /// Trials of other problems.
    pub experience: Experience,
}

impl Strategy for Model {
    fn next(&self, pool: &Pool, outcomes: &[Option<Outcome>], most: usize) -> Vec<usize> {
        let expected = self.expected(pool);
        let tried = outcomes.iter().flatten().count();
        let best = outcomes.iter().flatten().filter_map(|outcome| outcome.time()).min_by(f64::total_cmp);
        let mut next = Vec::new();
        let opening = OPENING.min(pool.len() / 2);
        if tried < opening || best.is_none() {
            let wanted = opening.saturating_sub(tried).clamp(1, most.max(1));
            next = self.opening(pool, outcomes, expected.as_deref(), wanted);
        }
        if let Some(best) = best
            && next.len() < most
        {
            self.improvements(pool, outcomes, expected, best, most, &mut next);
        }
        next.truncate(most);
        next
    }

    fn most_trials(&self, pool: &Pool) -> usize {
        (pool.len() / FRACTION).max(FEWEST)
    }
}

impl Model {
    /// The default, the best that is known of similar problems, and what brings most new pairs of values together.
    fn opening(
        &self,
        pool: &Pool,
        outcomes: &[Option<Outcome>],
        expected: Option<&[f64]>,
        wanted: usize,
    ) -> Vec<usize> {
        let is_open = |at: usize| outcomes.get(at).is_some_and(Option::is_none);
        let chances = blame::chances(pool, outcomes);
        let mut chosen: Vec<usize> = (0..pool.len().min(1)).filter(|&at| is_open(at)).collect();
        if let Some(expected) = expected {
            let mut order: Vec<usize> = (0..pool.len()).filter(|&at| is_open(at)).collect();
            order.sort_by(|&a, &b| expected[a].total_cmp(&expected[b]).then(a.cmp(&b)));
            order.retain(|at| !chosen.contains(at));
            chosen.extend(order.into_iter().take(FROM_EXPERIENCE.min(wanted)));
        }
        let mut met: HashSet<[usize; 4]> = HashSet::new();
        let pairs = |at: usize| {
            let values = pool.values(at);
            (0..values.len())
                .flat_map(move |p| (p + 1..values.len()).map(move |q| [p, values[p], q, values[q]]))
        };
        let ran = |at: usize| outcomes[at].is_some_and(|outcome| outcome.time().is_some());
        for at in (0..pool.len()).filter(|&at| ran(at)).chain(chosen.iter().copied()) {
            met.extend(pairs(at));
        }
        while chosen.len() < wanted {
            let candidates = (0..pool.len()).filter(|at| is_open(*at) && !chosen.contains(at));
            let worth = |at: usize| {
                let new = pairs(at).filter(|pair| !met.contains(pair)).count() as f64;
                let chance = Stream::new(self.seed, Purpose::Search, at as u64).uniform();
                (new + chance) * chances[at]
            };
            let best =
                candidates.map(|at| (worth(at), at)).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            let Some((_, best)) = best else { break };
            met.extend(pairs(best));
            chosen.push(best);
        }
        chosen.truncate(wanted);
        chosen
    }

    /// Adds what is expected to improve most, up to `most` in all.
    fn improvements(
        &self,
        pool: &Pool,
        outcomes: &[Option<Outcome>],
        expected: Option<Vec<f64>>,
        best: f64,
        most: usize,
        next: &mut Vec<usize>,
    ) {
        let expected = expected.unwrap_or_else(|| vec![0.0; pool.len()]);
        let observed = observed(outcomes.iter().copied().enumerate(), best);
        let chances = blame::chances(pool, outcomes);
        let mut process = Process::fit(pool.parts(), &expected, &observed);
        for &at in next.iter() {
            process.take_in(at, None);
        }
        while next.len() < most {
            let open = super::untried(outcomes).filter(|at| !next.contains(at));
            let worth = |at: usize| {
                let (mean, deviation) = process.belief(at);
                chances[at] * improvement(mean, deviation, 0.0)
            };
            let best = open.map(|at| (worth(at), at)).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            match best {
                Some((worth, at)) if worth > WORTHLESS => {
                    process.take_in(at, None);
                    next.push(at);
                }
                _ => break,
            }
        }
        if next.is_empty() {
            let time = |at: usize| outcomes[at].and_then(Outcome::time).unwrap_or(f64::INFINITY);
            let centre = (0..pool.len()).min_by(|&a, &b| time(a).total_cmp(&time(b)));
            let around = centre.map_or_else(Vec::new, |centre| descent::around(pool, centre));
            let promising = |at: &usize| {
                outcomes[*at].is_none()
                    && chances[*at] > LIKELY
                    && process.belief(*at).0 < NOT_MUCH_SLOWER.ln()
            };
            next.extend(around.into_iter().filter(promising).take(most));
        }
    }

    /// The logarithms of times, relative to a best, that other problems' trials let expect.
    fn expected(&self, pool: &Pool) -> Option<Vec<f64>> {
        let mut sum = vec![0.0; pool.len()];
        let mut weights = 0.0;
        for (distance, trials) in &self.experience.problems {
            let Some(best) = trials.iter().filter_map(|(_, outcome)| outcome.time()).min_by(f64::total_cmp)
            else {
                continue;
            };
            let mut trials: Vec<&(Schedule, Outcome)> = trials.iter().collect();
            let time = |trial: &&(Schedule, Outcome)| trial.1.time().unwrap_or(f64::INFINITY);
            trials.sort_by(|a, b| time(a).total_cmp(&time(b)));
            let stride = trials.len().div_ceil(MOST_OF_A_PROBLEM).max(1);
            let trials: Vec<&(Schedule, Outcome)> = trials.into_iter().step_by(stride).collect();
            let together =
                Pool::new(trials.iter().map(|trial| trial.0).chain(pool.schedules().iter().copied()));
            let places = trials.iter().filter_map(|trial| Some((together.place(&trial.0)?, Some(trial.1))));
            let nothing = vec![0.0; together.len()];
            let process = Process::fit(together.parts(), &nothing, &observed(places, best));
            let weight = 1.0 / (0.25 + distance);
            for (sum, schedule) in sum.iter_mut().zip(pool.schedules()) {
                *sum += weight * together.place(schedule).map_or(0.0, |at| process.belief(at).0);
            }
            weights += weight;
        }
        (weights > 0.0).then(|| sum.into_iter().map(|sum| sum / weights).collect())
    }
}

/// Of those that ran, the logarithm of the time relative to the best.
fn observed(outcomes: impl Iterator<Item = (usize, Option<Outcome>)>, best: f64) -> Vec<(usize, f64)> {
    outcomes.filter_map(|(at, outcome)| Some((at, (outcome?.time()? / best).ln().min(SLOW.ln())))).collect()
}

/// By how much a normal variable is expected to fall below `best`: E max(best - x, 0).
fn improvement(mean: f64, deviation: f64, best: f64) -> f64 {
    if deviation <= 1e-9 {
        return (best - mean).max(0.0);
    }
    let z = (best - mean) / deviation;
    (best - mean) * cumulative(z) + deviation * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt()
}

/// The standard normal distribution (Abramowitz and Stegun, 26.2.17): to 7.5e-8.
fn cumulative(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let polynomial = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530]
        .into_iter()
        .fold(0.0, |sum, factor| (sum + factor) * t);
    let above = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt() * polynomial;
    if z > 0.0 { 1.0 - above } else { above }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_improvement_is_that_of_a_normal_variable() {
        // E max(-x, 0) of a standard normal x is 1 / sqrt(2 pi).
        assert!((improvement(0.0, 1.0, 0.0) - 0.398_942_28).abs() < 1e-6);
        assert!((improvement(-2.0, 0.0, 0.0) - 2.0).abs() < 1e-12);
        assert!(improvement(5.0, 1.0, 0.0) < 1e-6);
        assert!(
            (cumulative(1.96) - 0.975_002_1).abs() < 1e-6 && (cumulative(-1.0) - 0.158_655_3).abs() < 1e-6
        );
    }
}
