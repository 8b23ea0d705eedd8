//! How long the search took: the time between trials, without that in which nobody searched.
//!
//! A trial holds when it was kept and its timed runs; the rest of a batch's time (compiling, checking, warming up) is
//! not recorded, and neither is when a command began or ended. What is kept together is therefore one batch, the time
//! since the batch before it that its own runs do not explain is its *wait*, and a wait is a pause if it is far longer
//! than those of this search are. Where the batch before was a run-off and this one is none, a command had ended as a rule: there
//! the waits of other batches explain nothing.

use cce_tuning_db::Trial;

/// What is kept within so many ms is one batch.
const TOGETHER: u64 = 1000;
/// A wait up to this, in ms, is no pause: a batch may compile so long.
const FLOOR: u64 = 30_000;
/// A wait up to so many times the usual one is no pause.
const USUAL: u64 = 3;

/// The time of a search.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Clock {
    /// Of each trial, ms of search since the first.
    pub(super) ms: Vec<u64>,
    /// How many pauses were left out.
    pub(super) pauses: usize,
}

/// What was kept together.
struct Batch {
    /// When, in ms: the first and the last of it.
    first: u64,
    last: u64,
    /// Its runs: those that were timed, and the one of each configuration that was checked, in ms.
    runs: f64,
    screening: bool,
    run_off: bool,
}

/// The time between two batches, in ms.
struct Gap {
    whole: u64,
    wait: u64,
    /// Whether a command ended in it.
    between_commands: bool,
}

impl Clock {
    /// Of trials in the order in which they were kept.
    pub(super) fn of(trials: &[&Trial]) -> Clock {
        let batches = batches(trials);
        let gaps: Vec<Gap> = batches.windows(2).map(|two| Gap::between(&two[0], &two[1])).collect();
        let is_pause: Vec<bool> = (0..gaps.len()).map(|at| gaps[at].is_pause(usual(&gaps, at))).collect();
        // When each batch begins, in ms of search.
        let mut begins = vec![0];
        for ((gap, is_pause), batch) in gaps.iter().zip(&is_pause).zip(&batches) {
            let spent = if *is_pause { gap.whole - gap.wait } else { gap.whole };
            begins.push(begins[begins.len() - 1] + batch.last - batch.first + spent);
        }
        let mut of = 0;
        let ms = trials.iter().map(|trial| {
            let at = trial.provenance.unix_ms;
            while batches.get(of + 1).is_some_and(|next| next.first <= at) {
                of += 1;
            }
            begins[of] + batches.get(of).map_or(0, |batch| at.saturating_sub(batch.first))
        });
        Clock { ms: ms.collect(), pauses: is_pause.iter().filter(|is_pause| **is_pause).count() }
    }
}

fn batches(trials: &[&Trial]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for trial in trials {
        let at = trial.provenance.unix_ms;
        if batches.last().is_none_or(|batch| at.saturating_sub(batch.last) > TOGETHER) {
            batches.push(Batch { first: at, last: at, runs: 0.0, screening: false, run_off: false });
        }
        let Some(batch) = batches.last_mut() else { continue };
        batch.last = at.max(batch.last);
        batch.runs += trial.samples.iter().sum::<f64>() + trial.time().unwrap_or(0.0);
        let placed = trial.settled.is_some_and(|settled| settled.place.is_some());
        batch.run_off |= placed;
        batch.screening |= !placed && trial.time().is_some();
    }
    batches
}

impl Gap {
    fn between(before: &Batch, after: &Batch) -> Gap {
        let whole = after.first - before.last;
        let wait = whole.saturating_sub(after.runs as u64);
        let between_commands = before.run_off && after.screening && !after.run_off;
        Gap { whole, wait, between_commands }
    }

    fn is_pause(&self, usual: u64) -> bool {
        let most = if self.between_commands { FLOOR } else { FLOOR.max(usual.saturating_mul(USUAL)) };
        self.wait > most
    }
}

/// The median wait of the other gaps within commands, the shorter one of two; 0 where there are none.
fn usual(gaps: &[Gap], but: usize) -> u64 {
    let others = gaps.iter().enumerate().filter(|(at, gap)| *at != but && !gap.between_commands);
    let mut waits: Vec<u64> = others.map(|(_, gap)| gap.wait).collect();
    waits.sort_unstable();
    waits.get(waits.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_tuning_db::{Config, Generation, Provenance, Settled, Shape, Status};
    use serde_json::json;

    /// A batch of four that is kept so many seconds after the one before, with so many ms of runs each.
    #[derive(Clone, Copy)]
    struct Kept {
        after: f64,
        runs: f64,
        run_off: bool,
    }

    fn screened(after: f64, runs: f64) -> Kept {
        Kept { after, runs, run_off: false }
    }

    fn run_off(after: f64, runs: f64) -> Kept {
        Kept { after, runs, run_off: true }
    }

    fn trials(batches: &[Kept]) -> Vec<Trial> {
        let mut now = 1_700_000_000_000;
        let mut trials = Vec::new();
        for batch in batches {
            now += (1e3 * batch.after) as u64;
            for of in 0..4 {
                let number = trials.len();
                let config = Config::new(json!({"cpu": {"token_block": number}}));
                let at = Provenance::new("here", now + of);
                let (shape, generation) = (Shape::new(1, 1, 1), Generation::new("1", "s"));
                let samples = vec![batch.runs / 5.0; 4];
                let trial = Trial::measured(config, shape, samples, generation, at).unwrap();
                trials.push(trial.with_settled(match batch.run_off {
                    true => Settled::placed(batch.runs, of as u32),
                    false => Settled::paired(batch.runs),
                }));
            }
            now += 3;
        }
        trials
    }

    /// Pauses, and seconds of search.
    fn clock(batches: &[Kept]) -> (usize, f64) {
        let trials = trials(batches);
        let clock = Clock::of(&trials.iter().collect::<Vec<_>>());
        assert_eq!(clock.ms.len(), trials.len());
        assert!(clock.ms.is_sorted() && clock.ms[0] == 0, "{:?}", clock.ms);
        (clock.pauses, (clock.ms[trials.len() - 1] as f64 / 1e3).round())
    }

    #[test]
    fn a_minute_between_two_commands_is_left_out_whether_or_not_the_first_came_to_its_run_off() {
        let quick = screened(1.5, 100.0);
        assert_eq!(clock(&[quick, quick, run_off(2.0, 400.0), screened(61.0, 100.0), quick]), (1, 5.0));
        assert_eq!(clock(&[quick, quick, quick, screened(61.0, 100.0), quick, quick]), (1, 6.0));
        assert_eq!(clock(&[quick, screened(61.0, 100.0)]), (1, 0.0));
    }

    #[test]
    fn a_batch_that_compiles_for_twenty_seconds_counts() {
        let quick = screened(1.5, 100.0);
        assert_eq!(clock(&[quick, quick, screened(20.4, 100.0), quick]), (0, 23.0));
        let slow = screened(20.4, 100.0);
        assert_eq!(clock(&[slow, slow, slow, run_off(22.0, 400.0)]), (0, 63.0));
    }

    #[test]
    fn a_minute_is_left_out_of_a_search_whose_every_batch_takes_twenty_seconds() {
        let slow = screened(20.0, 100.0);
        let commands = [slow, slow, run_off(2.0, 100.0), screened(80.0, 100.0), slow, slow];
        assert_eq!(clock(&commands), (1, 62.0));
        assert_eq!(clock(&[slow, slow, slow, screened(80.0, 100.0), slow]), (1, 60.0));
    }

    #[test]
    fn commands_of_a_batch_each_do_not_take_their_pauses_for_what_is_usual() {
        let command = [screened(90.0, 100.0), run_off(2.0, 100.0)];
        let three = [command, command, command].concat();
        assert_eq!(clock(&three), (2, 7.0));
    }

    #[test]
    fn long_runs_and_long_waits_of_every_batch_are_search() {
        // As on a CPU: a minute of timed runs a batch, and a wait that grows with them.
        let runs = screened(100.0, 20_000.0);
        assert_eq!(clock(&[runs, runs, run_off(110.0, 25_000.0)]), (0, 210.0));
        // Slow to compile, batch for batch.
        let compiles = screened(70.0, 100.0);
        assert_eq!(clock(&[compiles, compiles, compiles, screened(150.0, 100.0)]), (0, 290.0));
        assert_eq!(clock(&[compiles, compiles, compiles, screened(500.0, 100.0)]), (1, 140.0));
    }

    #[test]
    fn what_a_batch_ran_after_a_pause_counts() {
        let runs = screened(10.0, 2000.0);
        assert_eq!(clock(&[runs, runs, run_off(9.0, 2000.0), screened(3600.0, 2000.0), runs]), (1, 37.0));
    }

    #[test]
    fn candidates_that_were_dropped_one_by_one_are_part_of_the_search() {
        let mut all = trials(&[screened(1.0, 100.0)]);
        for seconds in 1..=40 {
            let mut one = Trial::dropped(
                Config::new(json!({"cpu": {"token_block": 1000 + seconds}})),
                Shape::new(1, 1, 1),
                Status::Compile("no".to_owned()),
                Generation::new("1", "s"),
                Provenance::new("here", 0),
            );
            one.provenance.unix_ms = all[3].provenance.unix_ms + 2000 * seconds;
            all.push(one);
        }
        let clock = Clock::of(&all.iter().collect::<Vec<_>>());
        assert_eq!((clock.pauses, clock.ms[43]), (0, 80_003));
    }

    #[test]
    fn of_no_trials_there_is_no_time() {
        assert_eq!(Clock::of(&[]), Clock { ms: Vec::new(), pauses: 0 });
    }
}
