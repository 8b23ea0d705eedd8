//! One part at a time: coordinate descent with regrouping.
//!
//! Parts of a schedule hardly touch each other's time. So everything that differs from a centre in one part is
//! tried, then what the best of each part make together, then the same around the best of these, until nothing
//! around a centre is better than it.

use super::pool::{Give, PARTS};
use super::{Outcome, Pool, Strategy, untried};
use cce_codegen::schedule::Schedule;

/// Coordinate descent from the default.
#[derive(Clone, Copy, Debug)]
pub struct Descent;

impl Strategy for Descent {
    fn next(&self, pool: &Pool, outcomes: &[Option<Outcome>], most: usize) -> Vec<usize> {
        if pool.is_empty() {
            return Vec::new();
        }
        let schedules = pool.schedules();
        let is_open = |at: &usize| outcomes.get(*at).is_some_and(Option::is_none);
        let mut centre = 0;
        let mut seen = Vec::new();
        loop {
            seen.push(centre);
            let mut around: Vec<usize> = (0..pool.len())
                .filter(|&at| {
                    at == centre
                        || PARTS
                            .iter()
                            .any(|part| with(*part, &schedules[centre], &schedules[at]) == schedules[at])
                })
                .collect();
            if seen.len() == 1 {
                // Schedules of other families differ in everything; they are few.
                around.extend((0..pool.len()).filter(|&at| family(&schedules[at]) != family(&schedules[0])));
            }
            let open: Vec<usize> = around.iter().copied().filter(is_open).take(most).collect();
            if !open.is_empty() {
                return open;
            }
            let time = |at: usize| outcomes.get(at).copied().flatten().and_then(Outcome::time);
            let together = pool.place(&together(pool, centre, &around, time));
            if let Some(together) = together.filter(is_open) {
                return vec![together];
            }
            let known = around.into_iter().chain(together).filter_map(|at| Some((at, time(at)?)));
            match known.min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0))) {
                Some((best, _)) if !seen.contains(&best) => centre = best,
                Some(_) => return Vec::new(),
                // Nothing near the default runs: on with the next that was not tried, until something does.
                None => {
                    let timed = (0..pool.len()).filter_map(|at| Some((at, time(at)?)));
                    match timed.min_by(|a, b| a.1.total_cmp(&b.1)) {
                        Some((best, _)) if !seen.contains(&best) => centre = best,
                        _ => return untried(outcomes).take(most).collect(),
                    }
                }
            }
        }
    }
}

fn family(schedule: &Schedule) -> Option<cce_codegen::schedule::Family> {
    match schedule {
        Schedule::Gpu(gpu) => Some(gpu.family),
        Schedule::Cpu(_) => None,
    }
}

/// `base` with the part of another.
fn with(part: Give, base: &Schedule, other: &Schedule) -> Schedule {
    let mut with = *base;
    part(&mut with, other);
    with
}

/// The centre with each part replaced by the fastest schedule's that differs from it in this part alone.
fn together(pool: &Pool, centre: usize, around: &[usize], time: impl Fn(usize) -> Option<f64>) -> Schedule {
    let schedules = pool.schedules();
    let mut together = schedules[centre];
    for part in PARTS {
        let alike = around
            .iter()
            .filter(|&&at| with(part, &schedules[centre], &schedules[at]) == schedules[at])
            .filter_map(|&at| Some((at, time(at)?)));
        if let Some((best, _)) = alike.min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0))) {
            part(&mut together, &schedules[best]);
        }
    }
    together
}
