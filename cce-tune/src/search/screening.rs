//! The screening: every candidate once, in batches, on one bench or on several of the same kind.
//!
//! One candidate is the *yardstick* and runs in every batch: times of different batches, or of different
//! devices of one kind, are compared through it, so that clocks that drift between two batches change
//! nothing. It is changed only for one that is a lot faster: whoever just won a batch was lucky too, and
//! what is measured against it would seem faster than it is.

use super::ahead::Ahead;
use super::rounds::{Entrant, Rule};
use super::statistics::{interval, middle};
use super::ties::{is_open, leader};
use super::{Bench, Ended, Failure, Search, describe};
use crate::Error;
use cce_tuning_db::{Settled, Trial};
use rayon::prelude::*;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// A yardstick that takes this much longer than the best gives way to it.
pub(super) const SLOW_YARDSTICK: f64 = 1.25;

/// What the lanes of a screening share.
pub(super) struct Shared<'a> {
    /// Candidates that nobody has taken yet.
    queue: Mutex<VecDeque<usize>>,
    /// The candidate that every lane begins with as its yardstick, and its time in ms once known.
    common: Option<usize>,
    scale: Mutex<Option<f64>>,
    ahead: Option<&'a Ahead>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(untried: &[usize], common: Option<usize>, ahead: Option<&'a Ahead>) -> Shared<'a> {
        let queue = Mutex::new(untried.iter().copied().collect());
        Shared { queue, common, scale: Mutex::new(None), ahead }
    }

    fn take(&self, most: usize) -> Vec<usize> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let most = most.min(queue.len());
        queue.drain(..most).collect()
    }
}

impl Search<'_> {
    /// Screens on one bench what the queue has.
    pub(super) fn screen<B: Bench>(&self, bench: &mut B, shared: &Shared<'_>) -> Result<Ended, Error> {
        let mut yardstick: Option<Entrant<B::Built>> = None;
        let mut first = true;
        loop {
            let best = self.best();
            if self.stop.requested() {
                return Ok(Ended::Stopped);
            }
            if self.effort.is_at_floor(self.last_runs_of_best()) {
                return Ok(Ended::AtFloor);
            }
            // Something has to win, even when it takes longer.
            let over = self.effort.screening_is_over();
            if over && best.is_finite() {
                return Ok(Ended::Spent);
            }
            let group = shared.take(if over { 1 } else { self.effort.batch.max(1) });
            if group.is_empty() {
                return Ok(Ended::Complete);
            }
            let Some(compiled) = self.compiled(&group, shared.ahead, best.is_finite())? else { continue };
            if std::mem::take(&mut first)
                && let Some(common) = shared.common.filter(|common| !group.contains(common))
            {
                self.progress.more(1);
                yardstick = self.checked(bench, &[common], false)?.and_then(|mut made| made.pop());
            }
            let Some(entrants) = self.checked(bench, &compiled, true)? else { return Ok(Ended::Stopped) };
            let mut group: Vec<Entrant<B::Built>> = yardstick.take().into_iter().collect();
            self.progress.more((group.len() * self.effort.screening) as u64);
            let known = group.first().map(|yardstick| yardstick.index);
            group.extend(entrants);
            let edge = 1.0 + self.effort.near;
            let stays = known.or(shared.common);
            let extend = |entrants: &mut [Entrant<B::Built>], done: usize| {
                let noisy = stays.is_some_and(|stays| is_noisy(entrants, stays, edge));
                let open = !self.effort.screening_is_over() && (noisy || is_open(entrants, edge));
                (if open { done + 1 } else { done }).min(2 * self.effort.screening)
            };
            let rounds = self.effort.screening;
            let rule = Rule { rounds, fewest: 1, extend: &extend, screening: Some(best), stays };
            let rounds = self.rounds(bench, &mut group, &rule);
            for (index, failure) in rounds.failed {
                self.drop_candidate(index, failure)?;
            }
            let enough = if rounds.stopped { self.effort.screening } else { 1 };
            group.retain(|entrant| entrant.samples().len() >= enough);
            let (scale, reference) = self.scale(&group, known, shared);
            let mut trials: Vec<Trial> = Vec::with_capacity(group.len());
            let mut fastest: Option<(f64, usize)> = None;
            for (at, entrant) in group.iter().enumerate() {
                let Some(reference) = reference.and_then(|at| group.get(at)) else { break };
                let ms = scale * relative(entrant, reference);
                if !entrant.out && fastest.is_none_or(|(best, _)| ms < best) {
                    fastest = Some((ms, at));
                }
                if known != Some(entrant.index) {
                    trials.push(self.measured(entrant, Settled::paired(ms), rounds.before, rounds.after)?);
                }
            }
            self.store().keep(trials)?;
            if rounds.stopped {
                return Ok(Ended::Stopped);
            }
            let slow = |at: &usize| {
                let ratio = |(_, best): (f64, usize)| middle(&group[*at].ratios(&group[best]));
                fastest.map(ratio).is_some_and(|ratio| ratio > SLOW_YARDSTICK)
            };
            let next = reference.filter(|at| !slow(at)).or(fastest.map(|(_, at)| at));
            yardstick = next.map(|at| group.swap_remove(at));
            if let Some(yardstick) = &mut yardstick {
                (yardstick.times, yardstick.counts, yardstick.out) = (Vec::new(), Vec::new(), false);
            }
        }
    }

    /// The entrant that the others of a batch are compared with, and its time in ms: the yardstick, the
    /// candidate that all lanes share, or the fastest.
    fn scale<B>(
        &self,
        group: &[Entrant<B>],
        known: Option<usize>,
        shared: &Shared<'_>,
    ) -> (f64, Option<usize>) {
        let of = |index: Option<usize>| group.iter().position(|entrant| Some(entrant.index) == index);
        if let Some(at) = known.and_then(|known| of(Some(known))).or_else(|| of(shared.common)) {
            let entrant = &group[at];
            let stored = self.time(entrant.index);
            let mut common = shared.scale.lock().unwrap_or_else(PoisonError::into_inner);
            let ms = match (stored, shared.common == Some(entrant.index)) {
                (Some(ms), _) => ms,
                (None, true) => *common.get_or_insert_with(|| entrant.median()),
                (None, false) => entrant.median(),
            };
            return (ms, Some(at));
        }
        let fastest = (0..group.len()).min_by(|&a, &b| group[a].median().total_cmp(&group[b].median()));
        (fastest.map_or(f64::NAN, |at| group[at].median()), fastest)
    }

    /// Those of a batch that compiled; the others are stored with their reasons. `None`: the time is over, or
    /// asked to stop.
    fn compiled(
        &self,
        group: &[usize],
        ahead: Option<&Ahead>,
        has_best: bool,
    ) -> Result<Option<Vec<usize>>, Error> {
        let Some(ahead) = ahead else { return Ok(Some(group.to_vec())) };
        let mut compiled = Vec::with_capacity(group.len());
        for &index in group {
            let until = self.effort.screen_until.filter(|_| has_best || !compiled.is_empty());
            self.progress.say("compiling");
            match ahead.wait(index, self.stop, until) {
                Some(Ok(_)) => compiled.push(index),
                Some(Err(failure)) => {
                    self.drop_candidate(index, failure)?;
                    self.progress.step(2 + self.effort.screening as u64);
                }
                None if self.stop.requested() || compiled.is_empty() => return Ok(None),
                None => break,
            }
        }
        Ok(Some(compiled))
    }

    /// Builds candidates in parallel and checks each; stores those that are dropped. `None`: asked to stop.
    /// In the run-off the check is repeated all the same: a result that is right only sometimes is a race.
    pub(super) fn checked<B: Bench>(
        &self,
        bench: &mut B,
        group: &[usize],
        screening: bool,
    ) -> Result<Option<Vec<Entrant<B::Built>>>, Error> {
        let shared: &B = bench;
        let built: Vec<Option<Result<B::Built, Failure>>> = group
            .par_iter()
            .map(|&at| (!self.stop.requested()).then(|| shared.build(&self.candidates[at].schedule)))
            .collect();
        let mut entrants = Vec::with_capacity(group.len());
        // A run-off is a comparison.
        let fewest = if screening { 1 } else { 2 };
        let best = self.best();
        let rounds = self.effort.final_rounds(best);
        for (&index, built) in group.iter().zip(built) {
            let over = match screening {
                true => self.effort.screening_is_over(),
                // What is left of the time has to do for the rounds: a few that are compared to the end say more than many
                // that are not.
                false => self.effort.is_over_after(best * (rounds * (entrants.len() + 1)) as f64),
            };
            if over && entrants.len() >= fewest {
                // The rest is left for another time: nothing of it is stored.
                break;
            }
            let Some(built) = built.filter(|_| !self.stop.requested()) else { return Ok(None) };
            self.progress.say(&format!("checking {}", describe(&self.candidates[index].schedule)));
            let checked = built.and_then(|mut built| {
                let error = bench.check(&mut built)?;
                let resources = bench.resources(&built);
                Ok(Entrant {
                    index,
                    built,
                    resources,
                    error,
                    times: Vec::new(),
                    counts: Vec::new(),
                    out: false,
                })
            });
            self.progress.step(if screening { 2 } else { 1 });
            match checked {
                Ok(entrant) => entrants.push(entrant),
                Err(failure) => {
                    self.drop_candidate(index, failure)?;
                    self.progress.step(if screening { self.effort.screening as u64 } else { 0 });
                }
            }
        }
        Ok(Some(entrants))
    }
}

/// Whether the yardstick's own time is known worse than what it is needed for: a batch that is compared with a
/// wrong one is wrong as a whole.
fn is_noisy<B>(entrants: &[Entrant<B>], yardstick: usize, edge: f64) -> bool {
    let (Some(yardstick), Some(leader)) =
        (entrants.iter().find(|entrant| entrant.index == yardstick), leader(entrants))
    else {
        return false;
    };
    let (low, high) = match entrants[leader].index == yardstick.index {
        true => interval(&yardstick.samples()),
        false => interval(&yardstick.ratios(&entrants[leader])),
    };
    high > low * edge
}

/// An entrant's time over the reference's: the middle of the pairs. One that was left out has few, of which one
/// may be far off: of two estimates, the one by pairs and the one by medians, it has the larger.
fn relative<B>(entrant: &Entrant<B>, reference: &Entrant<B>) -> f64 {
    let paired = middle(&entrant.ratios(reference));
    let apart = entrant.median() / reference.median();
    if paired.is_finite() && !entrant.out { paired } else { paired.max(apart) }
}
