//! The run-off: the few best and the default, interleaved, with enough rounds to tell them apart.
//!
//! All that the screening found near the best take part, and the default schedule with them; rounds are added while
//! it is open who wins, for those that still may; [`super::ties`] decides. A run-off that the time cuts short says
//! so in what it stores, and a later search goes on with all that were near. What a whole one decided is undone by
//! another whole one only.

use super::rounds::{Entrant, Rule};
use super::statistics::median;
use super::ties::{Band, decide, is_undecided};
use super::{Bench, Candidate, Effort, Ended, Search, Store, simplicity};
use crate::Error;
use cce_tuning_db::{Settled, Trial};
use std::time::Duration;

/// Rounds of one that is cut short by the time, at least.
const FEWEST: usize = 3;
/// Rounds are added up to so many times as many runs as without.
const MORE_RUNS: usize = 3;
/// Rounds at most, of which the last have few entrants left, as a multiple of those without.
const MORE_ROUNDS: usize = 9;

/// Of a candidate that was timed.
struct Known {
    index: usize,
    ms: f64,
    placed: Option<Settled>,
    when: u64,
}

impl Known {
    fn is_compared(&self) -> bool {
        self.placed.is_some_and(|settled| !settled.cut_short)
    }

    /// Whether it won a whole run-off.
    fn has_won(&self) -> bool {
        self.placed.is_some_and(|settled| settled.place == Some(0) && !settled.cut_short)
    }
}

/// Who has to be in a run-off: the default, whoever won the last whole one, and the best few, if one of them was in none,
/// or in one that was cut short. Empty: nobody.
fn finalists(candidates: &[Candidate], store: &Store, effort: &Effort) -> Vec<Known> {
    if effort.finalists == 0 {
        return Vec::new();
    }
    let timed = candidates.iter().enumerate().filter_map(|(index, candidate)| {
        let trial = store.known(&candidate.config)?;
        let placed = trial.settled.filter(|settled| settled.place.is_some());
        Some(Known { index, ms: trial.deciding_time()?, placed, when: trial.provenance.unix_ms })
    });
    let mut pool: Vec<Known> = timed.collect();
    // Those from before the last run-off that were not in it have lost already, unless it was cut short, or showed
    // that its entrants had been lucky in the screening: a yardstick that was unlucky makes a whole batch seem fast.
    let last = pool.iter().filter(|known| known.is_compared()).map(|known| known.when).max();
    let won = pool.iter().filter_map(|known| known.placed).filter(|settled| settled.place == Some(0));
    let won = won.map(|settled| settled.ms).fold(f64::INFINITY, f64::min);
    let has_lost =
        |known: &Known| last.is_some_and(|last| known.when <= last) && known.ms * (1.0 + effort.tie) >= won;
    pool.retain(|known| known.placed.is_some() || !has_lost(known));
    pool.sort_by(|a, b| a.ms.total_cmp(&b.ms).then(a.index.cmp(&b.index)));
    // Near the third: the first may be one that a few samples made too fast.
    let best = pool.get(2).or(pool.last()).map_or(f64::INFINITY, |third| third.ms);
    let near = pool.iter().filter(|known| known.ms <= best * (1.0 + effort.near)).count();
    let most = near.max(effort.finalists).min(effort.most_finalists.max(1));
    let is_default = |known: &Known| candidates[known.index].is_default;
    let default = pool.iter().position(is_default).filter(|&at| pool[at].ms <= best * effort.hopeless);
    // Wherever it came in, so that what is won is known, and what is stored can be compared: most batches had it as
    // their yardstick. First, so that it takes part in a run-off that is cut short.
    let mut chosen: Vec<Known> = default.map(|at| pool.remove(at)).into_iter().collect();
    // Wherever it is now, so that it loses to whom it was compared with alone.
    let won = (0..pool.len()).filter(|&at| pool[at].has_won()).max_by_key(|&at| pool[at].when);
    let won = won.filter(|&at| chosen.iter().all(|known| !known.has_won() || known.when < pool[at].when));
    chosen.extend(won.map(|at| pool.remove(at)));
    pool.truncate(most.saturating_sub(chosen.len()).max(1));
    chosen.extend(pool);
    if chosen.iter().all(Known::is_compared) { Vec::new() } else { chosen }
}

/// How many candidates a run-off that was cut short left undecided.
pub fn undecided(candidates: &[Candidate], store: &Store, effort: &Effort) -> usize {
    finalists(candidates, store, effort).iter().filter(|known| !known.is_compared()).count()
}

/// How long a whole run-off takes, by the time of the best.
pub fn run_off_time(candidates: &[Candidate], store: &Store, effort: &Effort) -> Duration {
    let known = finalists(candidates, store, effort);
    let best = known.iter().map(|known| known.ms).fold(f64::INFINITY, f64::min);
    let runs = known.len() * (1 + effort.final_rounds(best));
    Duration::try_from_secs_f64(best * runs as f64 / 1e3).unwrap_or_default()
}

impl Search<'_> {
    /// [`finalists`], by their indices.
    pub(super) fn finalists(&self) -> Vec<usize> {
        let chosen = finalists(self.candidates, &self.store(), self.effort);
        chosen.into_iter().map(|known| known.index).collect()
    }

    /// Run-offs until the best few have been in one, or the time is over.
    pub(super) fn run_off<B: Bench>(&self, bench: &mut B) -> Result<Ended, Error> {
        loop {
            let known = finalists(self.candidates, &self.store(), self.effort);
            let finalists: Vec<usize> = known.iter().map(|known| known.index).collect();
            if finalists.is_empty() {
                return Ok(Ended::Complete);
            }
            let decided = known.iter().any(Known::has_won);
            if decided && self.effort.is_over() {
                return Ok(Ended::Spent);
            }
            // Two of them, checked and timed.
            let least = 2 * (1 + FEWEST);
            if finalists.len() > 1 && self.effort.is_too_late(self.best() * least as f64) {
                return Ok(Ended::Spent);
            }
            let rounds = self.effort.final_rounds(self.best());
            self.progress.more((finalists.len() * (1 + rounds)) as u64);
            self.progress.say(&format!("run-off of the {} best", finalists.len()));
            let Some(mut entrants) = self.checked(bench, &finalists, false)? else {
                return Ok(Ended::Stopped);
            };
            let dropped = finalists.iter().filter(|&&at| self.time(at).is_none()).count();
            let all = entrants.len() + dropped == finalists.len();
            if decided && !all {
                return Ok(Ended::Spent);
            }
            let extend = |entrants: &mut [Entrant<B::Built>], done: usize| {
                let default = self.default_of(entrants);
                let runs: usize = entrants.iter().map(|entrant| entrant.samples().len()).sum();
                let may = runs < MORE_RUNS * rounds * entrants.len() && !self.effort.is_over();
                match may && is_undecided(entrants, default, self.band()) {
                    true => (done + 4).min(MORE_ROUNDS * rounds),
                    false => done,
                }
            };
            let fewest = if decided { 0 } else { FEWEST };
            let rule = Rule { rounds, fewest, extend: &extend, screening: None, stays: None };
            let done = self.rounds(bench, &mut entrants, &rule);
            let failed = dropped + done.failed.len();
            for (index, failure) in done.failed {
                self.drop_candidate(index, failure)?;
            }
            if done.stopped {
                return Ok(Ended::Stopped);
            }
            if failed > 0 {
                // The others do not count without whoever takes its place.
                continue;
            }
            let cut_short = !all || done.cut_short;
            if decided && cut_short {
                return Ok(Ended::Spent);
            }
            let trials = self.settle(&entrants).into_iter().map(|(at, settled)| {
                self.measured(&entrants[at], settled.in_a_cut(cut_short), done.before, done.after)
            });
            let trials: Vec<Trial> = trials.collect::<Result<_, Error>>()?;
            self.store().keep(trials)?;
            if cut_short {
                return Ok(Ended::Spent);
            }
        }
    }

    fn band(&self) -> Band {
        Band { least: self.effort.least_tie, most: self.effort.tie, farthest: self.effort.near }
    }

    fn default_of<B>(&self, entrants: &[Entrant<B>]) -> Option<usize> {
        entrants.iter().position(|entrant| self.candidates[entrant.index].is_default)
    }

    /// The places, best first: which entrant, and what counts for it.
    fn settle<B>(&self, entrants: &[Entrant<B>]) -> Vec<(usize, Settled)> {
        let simple = |at: usize| simplicity(&self.candidates[entrants[at].index].schedule);
        let Some(decision) = decide(entrants, self.default_of(entrants), self.band(), simple) else {
            return Vec::new();
        };
        let ratios = &decision.ratios;
        // On the scale of what is stored, so that all of it can be compared: that of the run-off before, or of the
        // default, which most batches had as their yardstick, or of most.
        let before = |at: usize| Some((at, self.time(entrants[at].index)? / ratios[at]));
        let is_placed = |at: usize| {
            let store = self.store();
            let trial = store.known(&self.candidates[entrants[at].index].config);
            trial.is_some_and(|trial| trial.settled.is_some_and(|settled| settled.place.is_some()))
        };
        let scales: Vec<(usize, f64)> = (0..entrants.len()).filter_map(before).collect();
        let of = |at: usize| scales.iter().find(|scale| scale.0 == at).map(|scale| scale.1);
        let placed: Vec<f64> =
            scales.iter().filter(|scale| is_placed(scale.0)).map(|scale| scale.1).collect();
        let anchor = match self.default_of(entrants).and_then(of) {
            _ if !placed.is_empty() => median(&placed),
            Some(default) => default,
            None => median(&scales.iter().map(|scale| scale.1).collect::<Vec<f64>>()),
        };
        let scale = if anchor.is_finite() { anchor } else { entrants[decision.leader].median() };
        let winners = decision.order.first().map_or(scale, |&first| scale * ratios[first]);
        let of = |(place, &at): (usize, &usize)| {
            let settled = Settled::placed(scale * ratios[at], place as u32);
            (at, if decision.ties[at] { settled.tying(winners) } else { settled })
        };
        decision.order.iter().enumerate().map(of).collect()
    }
}
