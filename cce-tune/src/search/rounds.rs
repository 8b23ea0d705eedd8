//! Interleaved rounds: every entrant once a round, there and back, then from another one on, so that a change
//! of clocks or a busy neighbour meets them all alike, a drift moves each as often up as down beside any
//! other, and each round makes pairs.
//!
//! A round in which the device was held back differently from the rest (NVML's throttle reasons) is done
//! again, at most as many times as there are rounds; where that does not help, all rounds count.

use super::statistics::{interval, median};
use super::{Bench, Failure, Search, describe};
use cce_tuning_db::{Clocks, Resources, Status};
use std::collections::BTreeMap;
use std::time::Duration;

/// What holds a clock down from outside the tuner's work: NVML's power cap, slowdowns and brake.
const HELD_BACK: u64 = 0x4 | 0x8 | 0x20 | 0x40 | 0x80;

/// A candidate that survived its check.
pub(super) struct Entrant<B> {
    pub index: usize,
    pub built: B,
    pub resources: Option<Resources>,
    pub error: f64,
    /// In ms, by round; `None`: not timed in it.
    pub times: Vec<Option<f64>>,
    /// Which rounds count; all that are not told of do.
    pub counts: Vec<bool>,
    /// Not timed any more: it cannot win.
    pub out: bool,
}

impl<B> Entrant<B> {
    /// The time in a round, if it counts.
    pub(super) fn time_in(&self, round: usize) -> Option<f64> {
        let counts = self.counts.get(round).copied().unwrap_or(true);
        self.times.get(round).copied().flatten().filter(|_| counts)
    }

    /// The times that count; all, of one that was out before the first round that does.
    pub(super) fn samples(&self) -> Vec<f64> {
        let counted: Vec<f64> = (0..self.times.len()).filter_map(|round| self.time_in(round)).collect();
        if counted.is_empty() { self.times.iter().copied().flatten().collect() } else { counted }
    }

    pub(super) fn median(&self) -> f64 {
        median(&self.samples())
    }

    /// This one's time over the other's, in each round that timed both and counts; in each that timed both, where
    /// none of those counts: a round held both back alike.
    pub(super) fn ratios(&self, other: &Self) -> Vec<f64> {
        let ratio = |(mine, theirs): (Option<f64>, Option<f64>)| Some(mine? / theirs?);
        let rounds = 0..self.times.len().min(other.times.len());
        let counted = rounds.filter_map(|round| ratio((self.time_in(round), other.time_in(round))));
        let counted: Vec<f64> = counted.collect();
        if counted.is_empty() {
            return self.times.iter().copied().zip(other.times.iter().copied()).filter_map(ratio).collect();
        }
        counted
    }
}

/// How rounds came to their end.
pub(super) struct Rounds {
    /// Asked to stop, in the midst of a round or before.
    pub stopped: bool,
    pub before: Option<Clocks>,
    pub after: Option<Clocks>,
    /// Those that failed, no longer among the entrants.
    pub failed: Vec<(usize, Failure)>,
    /// Ended by the time before there were as many as the rule asks for.
    pub cut_short: bool,
}

/// How many rounds, and when an entrant is out.
pub(super) struct Rule<'a, B> {
    /// Rounds that count.
    pub rounds: usize,
    /// Of these, those that are done even when the time is over.
    pub fewest: usize,
    /// Called when there are as many: how many there shall be, more than now to go on. It may leave entrants out.
    pub extend: &'a dyn Fn(&mut [Entrant<B>], usize) -> usize,
    /// Whether those that cannot win are left out, and the best time so far, in ms.
    pub screening: Option<f64>,
    /// The candidate that is never left out: the yardstick.
    pub stays: Option<usize>,
}

impl Search<'_> {
    /// Times entrants.
    pub(super) fn rounds<B: Bench>(
        &self,
        bench: &mut B,
        entrants: &mut Vec<Entrant<B::Built>>,
        rule: &Rule<'_, B::Built>,
    ) -> Rounds {
        let before = bench.clocks();
        let watched = before.is_some_and(|clocks| clocks.throttle_reasons.is_some());
        let mut best = rule.screening.unwrap_or(f64::INFINITY);
        let mut done = Rounds { stopped: false, before, after: None, failed: Vec::new(), cut_short: false };
        // What held the device back, by round; `None`: not the same throughout.
        let mut states: Vec<Option<u64>> = Vec::new();
        let mut wanted = rule.rounds;
        // Runs that the progress was told of and that have not been: more come where rounds are added or repeated.
        let mut announced = rule.rounds * entrants.len();
        'rounds: while !entrants.is_empty() {
            let counting = counting(&states).iter().filter(|counts| **counts).count();
            if counting >= wanted || states.len() >= 2 * wanted {
                let more = (rule.extend)(entrants, counting);
                if more <= wanted {
                    break;
                }
                wanted = more;
                continue;
            }
            let over = match rule.screening {
                Some(_) => self.effort.screening_is_over(),
                None => self.effort.is_over(),
            };
            if over && counting >= rule.fewest {
                done.cut_short = counting < rule.rounds;
                break;
            }
            let round = states.len();
            let mut failed: Vec<(usize, Failure)> = Vec::new();
            let (mut state, mut same) = (None, true);
            let count = entrants.len();
            let order = (0..count).map(|k| if round.is_multiple_of(2) { k } else { count - 1 - k });
            for at in order.map(|k| (k + round / 2) % count) {
                if self.stop.requested() {
                    done.stopped = true;
                    break 'rounds;
                }
                let entrant = &mut entrants[at];
                if !entrant.out {
                    let text = describe(&self.candidates[entrant.index].schedule);
                    self.progress.say(&text);
                    bench.limit(self.effort.limit(best));
                    match bench.time(&mut entrant.built, round) {
                        Ok(ms) if Duration::from_secs_f64(ms.max(0.0) / 1e3) > self.effort.timeout => {
                            failed.push((at, self.too_long(ms)));
                        }
                        Ok(ms) => {
                            entrant.times.resize(round, None);
                            entrant.times.push(Some(ms));
                            if ms < best && rule.screening.is_some() {
                                self.progress.best(ms, &text);
                            }
                            best = best.min(ms);
                            let held = match watched {
                                true => bench.clocks().and_then(|clocks| clocks.throttle_reasons),
                                false => None,
                            };
                            let held = held.unwrap_or(0) & HELD_BACK;
                            same &= *state.get_or_insert(held) == held;
                        }
                        Err(failure) => failed.push((at, failure)),
                    }
                }
                match announced.checked_sub(1) {
                    Some(left) => announced = left,
                    None => self.progress.more(1),
                }
                self.progress.step(1);
            }
            failed.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
            done.failed.extend(failed.into_iter().map(|(at, why)| (entrants.remove(at).index, why)));
            states.push(same.then_some(state.unwrap_or(0)));
            if rule.screening.is_some() {
                self.leave_out(entrants, best, rule.stays);
            }
        }
        if !done.stopped {
            self.progress.step(announced as u64);
        }
        done.after = bench.clocks();
        let counts = counting(&states);
        entrants.iter_mut().for_each(|entrant| entrant.counts.clone_from(&counts));
        done
    }

    /// Leaves out whoever cannot win: whose first two runs both took a multiple of the best's; or, from three
    /// runs on, whose lower bound, relative to the leader in pairs of one round, is above the leader's own
    /// upper bound, and above a tie. One run that is far off is no reason.
    fn leave_out<B>(&self, entrants: &mut [Entrant<B>], best: f64, stays: Option<usize>) {
        for entrant in entrants.iter_mut().filter(|entrant| stays != Some(entrant.index)) {
            let two: Vec<f64> = entrant.times.iter().copied().flatten().take(2).collect();
            entrant.out |= two.len() == 2 && two.iter().all(|ms| *ms > self.effort.hopeless * best);
        }
        let Some(leader) = (0..entrants.len())
            .filter(|&at| !entrants[at].out)
            .min_by(|&a, &b| entrants[a].median().total_cmp(&entrants[b].median()))
        else {
            return;
        };
        let samples = entrants[leader].samples();
        if samples.len() < 3 {
            return;
        }
        let upper = (interval(&samples).1 / median(&samples)).max(1.0 + self.effort.tie);
        for at in 0..entrants.len() {
            if at == leader || stays == Some(entrants[at].index) {
                continue;
            }
            let ratios = entrants[at].ratios(&entrants[leader]);
            entrants[at].out |= ratios.len() >= 3 && interval(&ratios).0 > upper;
        }
    }

    fn too_long(&self, ms: f64) -> Failure {
        let limit = self.effort.timeout.as_secs_f64();
        Failure::new(Status::Timeout(format!("one run took {:.1} s, the limit is {limit:.1} s", ms / 1e3)))
    }
}

/// Which rounds count: those in which the device was held back as in most, throughout; all, where they would
/// be fewer than three of many.
fn counting(states: &[Option<u64>]) -> Vec<bool> {
    let mut often: BTreeMap<u64, usize> = BTreeMap::new();
    for state in states.iter().flatten() {
        *often.entry(*state).or_default() += 1;
    }
    let most = often.iter().max_by_key(|(state, times)| (**times, std::cmp::Reverse(**state)));
    match most {
        Some((usual, times)) if *times >= states.len().min(3) || 2 * times > states.len() => {
            states.iter().map(|state| *state == Some(*usual)).collect()
        }
        _ => vec![true; states.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_under_another_power_cap_do_not_count_and_where_all_differ_all_count() {
        let (free, capped) = (Some(0), Some(4));
        assert_eq!(counting(&[free, capped, free, None, free]), [true, false, true, false, true]);
        assert_eq!(counting(&[capped, capped, capped, free]), [true, true, true, false]);
        assert_eq!(counting(&[free, capped, None, None]), [true; 4]);
        assert_eq!(counting(&[]), [true; 0]);
    }
}
