//! The run-off: the few best, interleaved, with enough rounds to tell them apart; ties go to the simplest.
//!
//! What wins must not depend on the noise of one run. So: all that the screening found near the best take
//! part; they are compared by the middle of their ratios within a round, which neither drifting clocks nor a few
//! outliers move; rounds are added while a ratio's interval contains the edge of a tie; and among those that
//! tie with the fastest the order of [`simplicity`] decides.

use super::rounds::{Entrant, Rule};
use super::statistics::{interval, median, middle};
use super::{Bench, Ended, Search, simplicity};
use crate::Error;
use cce_tuning_db::{Settled, Trial};

impl Search<'_> {
    /// Who has to be in a run-off: the best few, if one of them is newer than the last one. Empty: nobody.
    pub(super) fn finalists(&self) -> Vec<usize> {
        if self.effort.finalists == 0 {
            return Vec::new();
        }
        let store = self.store();
        let timed = || {
            self.candidates.iter().enumerate().filter_map(|(at, candidate)| {
                let trial = store.known(&candidate.config)?;
                let placed = trial.settled.is_some_and(|settled| settled.place.is_some());
                Some((at, trial.deciding_time()?, placed, trial.provenance.unix_ms))
            })
        };
        // Those from before the last run-off that were not in it have lost already.
        let last = timed().filter(|(_, _, placed, _)| *placed).map(|(.., when)| when).max();
        let mut pool: Vec<(usize, f64, bool)> = timed()
            .filter(|(_, _, placed, when)| *placed || last.is_none_or(|last| *when > last))
            .map(|(at, ms, placed, _)| (at, ms, placed))
            .collect();
        pool.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        // Near the third: the first may be one that a few samples made too fast.
        let best = pool.get(2).or(pool.last()).map_or(f64::INFINITY, |third| third.1);
        let near = pool.iter().filter(|(_, ms, _)| *ms <= best * (1.0 + self.effort.near)).count();
        pool.truncate(near.max(self.effort.finalists).min(self.effort.most_finalists.max(1)));
        match pool.iter().all(|(_, _, placed)| *placed) {
            true => Vec::new(),
            false => pool.into_iter().map(|(at, ..)| at).collect(),
        }
    }

    /// Run-offs until the best few have been in one.
    pub(super) fn run_off<B: Bench>(&self, bench: &mut B) -> Result<Ended, Error> {
        loop {
            let finalists = self.finalists();
            if finalists.is_empty() {
                return Ok(Ended::Complete);
            }
            let rounds = self.effort.final_rounds(self.best());
            self.progress.more((finalists.len() * (1 + rounds)) as u64);
            self.progress.say(&format!("run-off of the {} best", finalists.len()));
            let Some(mut entrants) = self.checked(bench, &finalists, false)? else {
                return Ok(Ended::Stopped);
            };
            let extend = |entrants: &[Entrant<B::Built>], done: usize| {
                let open = !self.effort.is_over() && is_open(entrants, 1.0 + self.effort.tie);
                let more = if open { done + 4 } else { done };
                more.min(3 * rounds)
            };
            let rule = Rule { rounds, extend: &extend, screening: None, stays: None };
            let done = self.rounds(bench, &mut entrants, &rule);
            let failed = !done.failed.is_empty();
            for (index, failure) in done.failed {
                self.drop_candidate(index, failure)?;
            }
            if done.stopped {
                return Ok(Ended::Stopped);
            }
            if failed {
                // The others do not count without whoever takes its place.
                continue;
            }
            let trials = self
                .settle(&entrants)
                .into_iter()
                .map(|(at, settled)| self.measured(&entrants[at], settled, done.before, done.after));
            let trials: Vec<Trial> = trials.collect::<Result<_, Error>>()?;
            self.store().keep(trials)?;
        }
    }

    /// The places, best first: which entrant, and what counts for it.
    fn settle<B>(&self, entrants: &[Entrant<B>]) -> Vec<(usize, Settled)> {
        let Some(leader) = leader(entrants) else { return Vec::new() };
        let ratio = |at: usize| match at == leader {
            true => 1.0,
            false => middle(&entrants[at].ratios(&entrants[leader])),
        };
        let ties = |at: usize| ratio(at) <= 1.0 + self.effort.tie;
        let simple = |at: usize| simplicity(&self.candidates[entrants[at].index].schedule);
        let mut order: Vec<usize> = (0..entrants.len()).collect();
        order.sort_by(|&a, &b| {
            let among_ties = || simple(a).cmp(&simple(b));
            let among_others = || ratio(a).total_cmp(&ratio(b)).then_with(among_ties);
            ties(b).cmp(&ties(a)).then_with(|| if ties(a) { among_ties() } else { among_others() })
        });
        // On the scale of the run-off before, if there was one: its other places stay true beside these.
        let before = |at: usize| {
            let store = self.store();
            let trial = store.known(&self.candidates[entrants[at].index].config)?;
            trial.settled.filter(|settled| settled.place.is_some()).map(|settled| (at, settled.ms))
        };
        let incumbent = (0..entrants.len()).filter_map(before).min_by(|a, b| a.1.total_cmp(&b.1));
        let scale = incumbent.map_or_else(|| entrants[leader].median(), |(at, ms)| ms / ratio(at));
        let winners = order.first().map_or(scale, |&first| scale * ratio(first));
        let of = |(place, &at): (usize, &usize)| {
            let ms = if ties(at) { winners } else { winners.max(scale * ratio(at)) };
            (at, Settled::placed(ms, place as u32))
        };
        order.iter().enumerate().map(of).collect()
    }
}

/// Whether more rounds could change who is within this multiple of the fastest's time.
pub(super) fn is_open<B>(entrants: &[Entrant<B>], edge: f64) -> bool {
    let Some(leader) = leader(entrants) else { return false };
    entrants.iter().enumerate().filter(|(at, entrant)| *at != leader && !entrant.out).any(|(_, entrant)| {
        let (low, high) = interval(&entrant.ratios(&entrants[leader]));
        low <= edge && edge <= high
    })
}

/// The fastest: by the middle over the rounds of its time over the round's own median.
pub(super) fn leader<B>(entrants: &[Entrant<B>]) -> Option<usize> {
    let rounds = entrants.iter().map(|entrant| entrant.times.len()).max()?;
    let of_round = |round: usize| -> f64 {
        let times = entrants.iter().filter_map(|entrant| entrant.times.get(round).copied().flatten());
        median(&times.collect::<Vec<f64>>())
    };
    let usual: Vec<f64> = (0..rounds).map(of_round).collect();
    let score = |entrant: &Entrant<B>| {
        let relative = entrant.times.iter().zip(&usual).filter_map(|(ms, usual)| Some((*ms)? / usual));
        middle(&relative.collect::<Vec<f64>>())
    };
    (0..entrants.len()).min_by(|&a, &b| score(&entrants[a]).total_cmp(&score(&entrants[b])))
}
