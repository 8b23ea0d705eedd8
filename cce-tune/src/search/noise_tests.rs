//! The search on benches whose clocks drift and whose samples are now and then far off: the winner must be
//! the same whatever the noise.

use super::tests::{candidates, store};
use super::*;
use crate::progress::Silent;
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::Mutex;

/// A device with a true time for every schedule, seen through noise.
struct Noisy<'a> {
    truth: &'a (dyn Fn(&Schedule) -> f64 + Sync),
    /// The standard deviation of a run, as a part of its time.
    noise: f64,
    /// How often a run is far off.
    outliers: f64,
    state: Mutex<u64>,
    runs: u64,
    throttled: bool,
    /// The round from which on the power cap holds; `None`: it does now and then.
    capped_from: Option<usize>,
    /// How much faster or slower this device is.
    speed: f64,
}

impl Noisy<'_> {
    fn new(truth: &(dyn Fn(&Schedule) -> f64 + Sync), (noise, outliers): (f64, f64), seed: u64) -> Noisy<'_> {
        let state = Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Noisy { truth, noise, outliers, state, runs: 0, throttled: false, capped_from: None, speed: 1.0 }
    }

    /// Uniform in [0, 1).
    fn random(&self) -> f64 {
        let mut state = self.state.lock().unwrap();
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Close to normal, of variance 1.
    fn deviation(&self) -> f64 {
        (0..12).map(|_| self.random()).sum::<f64>() - 6.0
    }
}

impl Bench for Noisy<'_> {
    type Built = f64;

    fn build(&self, schedule: &Schedule) -> Result<f64, Failure> {
        Ok((self.truth)(schedule))
    }

    fn resources(&self, _: &f64) -> Option<Resources> {
        None
    }

    fn check(&mut self, _: &mut f64) -> Result<f64, Failure> {
        Ok(0.0)
    }

    fn time(&mut self, built: &mut f64, round: usize) -> Result<f64, Failure> {
        self.runs += 1;
        // Clocks that swing by 10 % within 125 runs: more than what separates the candidates.
        let drift = 1.0 + 0.05 * (self.runs as f64 / 40.0).sin();
        let noise = 1.0 + self.noise * self.deviation();
        let outlier = if self.random() < self.outliers { 1.2 + self.random() } else { 1.0 };
        // A power cap, which the sensors tell.
        self.throttled = match self.capped_from {
            Some(from) => round >= from,
            None => self.random() < 0.05,
        };
        let held = if self.throttled { 1.3 } else { 1.0 };
        Ok(*built * drift * noise * outlier * held * self.speed)
    }

    fn clocks(&self) -> Option<Clocks> {
        let reasons = if self.throttled { 4 } else { 0 };
        Some(Clocks::new(Some(1500), None).with_state(None, None, Some(reasons)))
    }
}

/// One search of these candidates; the winner.
fn search_once(
    candidates: &[Candidate],
    truth: &(dyn Fn(&Schedule) -> f64 + Sync),
    noise: (f64, f64),
    seed: u64,
    devices: &[f64],
) -> Schedule {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(folder.path());
    let effort = Effort { batch: 6, ..Effort::default() };
    let benches = || {
        let of = |(at, speed): (usize, &f64)| {
            let bench = Noisy::new(truth, noise, seed + 100 * at as u64);
            Noisy { speed: *speed, ..bench }
        };
        Ok(devices.iter().enumerate().map(of).collect())
    };
    let ended = search_on(candidates, &mut store, &effort, &Silent, &Stop::new(), benches).unwrap();
    assert_eq!(ended, Ended::Complete);
    store.publish().unwrap();
    let ranking = Ranking::new(candidates, &store);
    // What a plan would take is what the table says.
    let stored = cce_tuning_db::Winners::open(folder.path()).all();
    assert_eq!(stored[0].1.winners[0].config, ranking.entries[0].trial.config);
    // Whatever the clocks did before, the winner is shown with what its last runs took.
    let winner = ranking.winner().unwrap();
    assert_eq!(winner.ms, winner.trial.time());
    // What a failure shows.
    for entry in ranking.entries.iter().take(14) {
        println!(
            "seed {seed}: {:?} of {:.4}, {}: {}",
            entry.ms,
            truth(&entry.schedule),
            entry.description,
            entry.reason
        );
    }
    ranking.entries[0].schedule
}

fn block_of(schedule: &Schedule) -> u32 {
    match schedule {
        Schedule::Cpu(cpu) => cpu.token_block,
        Schedule::Gpu(_) => 0,
    }
}

/// The token block that wins, of those with these times; the first one may be the default.
fn winner(truth: fn(u32) -> f64, all: &[u32], default: bool, seed: u64, devices: &[f64]) -> u32 {
    let mut candidates = candidates(all.iter().copied());
    candidates[0].is_default = default;
    let truth = |schedule: &Schedule| truth(block_of(schedule));
    block_of(&search_once(&candidates, &truth, (0.0025, 0.1), seed, devices))
}

/// Token blocks 10 to 49 in a scrambled order; each costs 3 % more than the one below.
fn scrambled() -> Vec<u32> {
    (0..40).map(|at| 10 + at * 17 % 40).collect()
}

#[test]
fn five_searches_with_different_noise_agree_on_the_fastest() {
    let truth = |block: u32| 5.0 * 1.03f64.powi((i64::from(block) - 23).unsigned_abs() as i32);
    for seed in 1..=5 {
        assert_eq!(winner(truth, &scrambled(), false, seed, &[1.0]), 23, "seed {seed}");
    }
}

#[test]
fn five_searches_with_different_noise_agree_on_the_simplest_of_those_that_tie() {
    // 30 is the fastest by a hair; 20 to 29 are within 0.3 % of it and simpler; the others are 4 % behind.
    let truth = |block: u32| match block {
        20..=30 => 5.0 * (1.003 - 0.0003 * f64::from(block - 20)),
        _ => 5.2,
    };
    for seed in 1..=5 {
        assert_eq!(winner(truth, &scrambled(), false, seed, &[1.0]), 20, "seed {seed}");
    }
}

#[test]
fn devices_of_one_kind_that_differ_by_a_few_percent_share_the_candidates_and_find_the_same() {
    let truth = |block: u32| 5.0 * 1.03f64.powi((i64::from(block) - 23).unsigned_abs() as i32);
    for seed in 1..=5 {
        assert_eq!(winner(truth, &scrambled(), false, seed, &[1.0, 1.06, 0.95]), 23, "seed {seed}");
    }
}

#[test]
fn searches_agree_on_the_default_when_it_is_nearly_the_fastest_and_a_simpler_one_sits_at_the_edge_of_the_tie()
{
    // 40, the default, is 0.6 % behind 30, the fastest; 10 is simpler than both and 1 % behind.
    let truth = |block: u32| match block {
        30 => 5.0,
        40 => 5.03,
        10 => 5.05,
        _ => 5.0 * (1.02 + 0.001 * f64::from(block)),
    };
    let all: Vec<u32> = [40].into_iter().chain(10..40).collect();
    for seed in 1..=8 {
        assert_eq!(winner(truth, &all, true, seed, &[1.0]), 40, "seed {seed}");
    }
}

#[test]
fn searches_agree_on_the_fastest_when_simpler_ones_sit_one_percent_behind() {
    // 40, the default, is 6 % behind. 30 is the fastest, 31 and 29 tie with it; 10, 11 and 12 are simpler and about
    // 1 % behind.
    let truth = |block: u32| match block {
        29 => 5.01,
        30 => 5.0,
        31 => 5.005,
        10 => 5.05,
        11 => 5.049,
        12 => 5.051,
        40 => 5.3,
        _ => 5.0 * (1.02 + 0.001 * f64::from(block)),
    };
    let all: Vec<u32> = [40].into_iter().chain(10..40).collect();
    for seed in 1..=8 {
        assert_eq!(winner(truth, &all, true, seed, &[1.0]), 29, "seed {seed}");
    }
}

#[test]
fn a_default_far_from_the_best_loses_and_one_that_is_slower_by_more_than_a_tie_does_too() {
    for slower in [1.02, 1.08] {
        let times: fn(u32) -> f64 = if slower < 1.05 {
            |block| if block == 40 { 5.1 } else { 5.0 * (1.0 + 0.004 * f64::from(block.abs_diff(20))) }
        } else {
            |block| if block == 40 { 5.4 } else { 5.0 * (1.0 + 0.004 * f64::from(block.abs_diff(20))) }
        };
        let all: Vec<u32> = [40].into_iter().chain(10..40).collect();
        for seed in 1..=4 {
            let won = winner(times, &all, true, seed, &[1.0]);
            assert!(times(won) < 5.0 * 1.01, "{slower}, seed {seed}: {won}");
        }
    }
}

#[test]
fn a_power_cap_that_stays_from_the_midst_of_a_run_off_on_loses_nothing_of_what_was_out_before() {
    // 40, the default, is at the edge of a tie with 30, so that rounds are added; 10 to 13 are out after the first.
    let truth = |schedule: &Schedule| match block_of(schedule) {
        30 => 5.0,
        40 => 5.05,
        block => 5.1 + 0.01 * f64::from(block - 10),
    };
    let mut candidates = candidates([40, 30, 10, 11, 12, 13]);
    candidates[0].is_default = true;
    for seed in 1..=8 {
        let folder = tempfile::tempdir().unwrap();
        let mut store = store(folder.path());
        let effort = Effort::default();
        // The screening has fewer rounds.
        let capped_from = Some(effort.finals);
        let bench = || Ok(Noisy { capped_from, ..Noisy::new(&truth, (0.004, 0.0), seed) });
        let ended = search(&candidates, &mut store, &effort, &Silent, &Stop::new(), bench).unwrap();
        assert_eq!(ended, Ended::Complete, "seed {seed}");
        let fastest = store.known(&candidates[1].config).unwrap().settled.unwrap();
        for candidate in &candidates {
            let settled = store.known(&candidate.config).unwrap().settled.unwrap();
            let (ratio, expected) = (settled.ms / fastest.ms, truth(&candidate.schedule) / 5.0);
            assert!(settled.place.is_some(), "seed {seed}: {settled:?}");
            assert!((ratio / expected - 1.0).abs() < 0.005, "seed {seed}: {ratio} of {expected}");
        }
    }
}

/// The trials of a recorded grid that are at most 8 % behind its best, and its default, first.
fn recorded(path: &std::path::Path, jitter: u64) -> (Vec<Candidate>, HashMap<Schedule, f64>) {
    let recording = crate::recording::Recording::read(path).unwrap().remove(0);
    let best = recording.best().unwrap();
    let truth = |_: &Schedule| 1.0;
    let noise = Noisy::new(&truth, (0.0, 0.0), 1 + jitter);
    let near = recording.trials.iter().enumerate().filter_map(|(at, trial)| {
        let ms = trial.outcome().time().filter(|ms| at == 0 || *ms <= 1.08 * best)?;
        // Another grid of the same kind.
        let moved = if jitter == 0 { 1.0 } else { 1.0 + 0.005 * noise.deviation() };
        Some((trial.schedule, ms * moved))
    });
    let near: Vec<(Schedule, f64)> = near.collect();
    let candidate = |(at, (schedule, _)): (usize, &(Schedule, f64))| Candidate {
        schedule: *schedule,
        config: Config::new(serde_json::to_value(schedule).unwrap()),
        constraint: None,
        is_default: at == 0,
    };
    (near.iter().enumerate().map(candidate).collect(), near.into_iter().collect())
}

/// With `CCE_SLOW_TESTS=1`, of 20 grids a recording: the share of grids on which five searches agree, by noise.
#[test]
fn repeated_searches_of_recorded_grids_agree_and_none_is_slower_than_the_default() {
    let slow = std::env::var_os("CCE_SLOW_TESTS").is_some_and(|value| value == "1");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let (grids, noises): (u64, &[f64]) = if slow { (20, &[0.003, 0.005, 0.01]) } else { (2, &[0.003]) };
    for &noise in noises {
        let jobs: Vec<(&std::path::PathBuf, u64)> =
            files.iter().flat_map(|file| (0..grids).map(move |grid| (file, grid))).collect();
        let outcomes: Vec<(usize, usize, f64, f64)> = jobs
            .par_iter()
            .map(|&(file, grid)| {
                let (candidates, times) = recorded(file, grid);
                let truth = |schedule: &Schedule| times[schedule];
                let won: Vec<Schedule> = (1..=5)
                    .map(|seed| search_once(&candidates, &truth, (noise, 0.02), 1000 * grid + seed, &[1.0]))
                    .collect();
                let pairs = (0..5).flat_map(|a| (0..a).map(move |b| (a, b)));
                let agree = pairs.filter(|&(a, b)| won[a] == won[b]).count();
                let best = times.values().copied().fold(f64::INFINITY, f64::min);
                let default = times[&candidates[0].schedule];
                let slowest = won.iter().map(|schedule| times[schedule]).fold(0.0, f64::max);
                (usize::from(agree == 10), agree, slowest / best, slowest / default)
            })
            .collect();
        let count = outcomes.len();
        let five: usize = outcomes.iter().map(|outcome| outcome.0).sum();
        let pairs: usize = outcomes.iter().map(|outcome| outcome.1).sum();
        let slowest = outcomes.iter().map(|outcome| outcome.2).fold(0.0, f64::max);
        let over = outcomes.iter().map(|outcome| outcome.3).fold(0.0, f64::max);
        println!(
            "AGREEMENT noise {:.1} %: all five on {five} of {count} grids, {:.1} % of pairs; slowest winner \
             {slowest:.4} of the best, {over:.4} of the default",
            100.0 * noise,
            10.0 * pairs as f64 / count as f64
        );
        assert!(over <= 1.001, "{over}");
        assert!(slowest < 1.0 + 0.01 + 2.0 * noise, "{slowest}");
        assert!(noise > 0.004 || 10 * five >= 8 * count, "{five} of {count}");
    }
}
