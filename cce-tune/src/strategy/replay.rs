//! Strategies on recorded trials: the recorded median is the time of a schedule, and what was not recorded is no
//! part of the space.

use super::{Experience, Kind, Outcome, Pool};
use crate::recording::Recording;

/// How near the recorded best a strategy has to come.
pub const LIMITS: [f64; 3] = [0.05, 0.02, 0.01];

/// Schedules of a batch, unless told otherwise: those that a machine with an H100 builds at once.
pub const BATCH: usize = 16;

/// What became of one strategy on one recording with one seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Played {
    /// Trials in all, when the strategy had nothing left that is worth one.
    pub trials: usize,
    /// How many trials it took to come within each of [`LIMITS`] of the recorded best, trials that failed included;
    /// `None`: it ended before.
    pub within: [Option<usize>; 3],
    /// The time of its winner over the recorded best: 1 is the best.
    pub winner: f64,
}

/// Plays a strategy on a recording to its end, `batch` schedules at a time. `None` if nothing in it ran.
pub fn play(
    recording: &Recording,
    kind: Kind,
    seed: u64,
    batch: usize,
    experience: &Experience,
) -> Option<Played> {
    let pool = Pool::new(recording.trials.iter().map(|trial| trial.schedule));
    let recorded: Vec<Outcome> = recording.trials.iter().map(|trial| trial.outcome()).collect();
    let best = recording.best()?;
    let strategy = kind.with(seed, experience.clone());
    let most = strategy.most_trials(&pool);
    let mut outcomes = vec![None; pool.len()];
    let mut played = Played { trials: 0, within: [None; 3], winner: f64::INFINITY };
    while played.trials < most {
        let next = strategy.next(&pool, &outcomes, batch.max(1).min(most - played.trials));
        if next.is_empty() {
            break;
        }
        for at in next {
            played.trials += 1;
            outcomes[at] = recorded.get(at).copied();
            if let Some(ms) = recorded.get(at).and_then(|outcome| outcome.time()) {
                played.winner = played.winner.min(ms / best);
            }
            for (limit, within) in LIMITS.into_iter().zip(&mut played.within) {
                if played.winner <= 1.0 + limit {
                    within.get_or_insert(played.trials);
                }
            }
        }
    }
    Some(played)
}

/// What the other recordings teach of this one.
pub fn experience(of: &Recording, all: &[Recording]) -> Experience {
    let others: Vec<Recording> = all.iter().filter(|other| *other != of).cloned().collect();
    Experience::of(&of.key, &others)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Recorded;
    use crate::strategy::invented;
    use cce_tuning_db::Status;

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    /// Over several invented problems and seeds: the fraction of the pool that it took to come within 2 %, and the
    /// winner over the best.
    fn on_invented(kind: Kind) -> Vec<(f64, f64)> {
        let mut results = Vec::new();
        for problem in 0..6 {
            let recording = invented::recording(problem);
            for seed in 0..2 {
                let played = play(&recording, kind, seed, BATCH, &Experience::default()).unwrap();
                let all = recording.trials.len();
                results.push((played.within[1].unwrap_or(all) as f64 / all as f64, played.winner));
            }
        }
        results
    }

    #[test]
    fn every_strategy_ends_and_tries_nothing_twice() {
        let recording = invented::recording(3);
        for kind in Kind::ALL {
            let played = play(&recording, kind, 1, 7, &Experience::default()).unwrap();
            assert!(played.trials <= recording.trials.len(), "{kind}");
            assert!(played.winner < 1.5, "{kind}: {played:?}");
        }
        let all = play(&recording, Kind::Exhaustive, 0, 16, &Experience::default()).unwrap();
        assert_eq!((all.trials, all.winner), (recording.trials.len(), 1.0));
    }

    #[test]
    fn the_same_seed_plays_the_same_and_another_seed_otherwise() {
        let recording = invented::recording(1);
        for kind in Kind::ALL {
            let played = |seed| play(&recording, kind, seed, BATCH, &Experience::default()).unwrap();
            assert_eq!(played(5), played(5), "{kind}");
        }
        let random =
            |seed| play(&recording, Kind::Random, seed, BATCH, &Experience::default()).unwrap().within;
        assert!((1..6).any(|seed| random(seed) != random(0)));
    }

    #[test]
    fn the_model_takes_a_quarter_of_the_trials_for_a_winner_within_two_percent() {
        let model = on_invented(Kind::Model);
        let fraction = median(model.iter().map(|r| r.0).collect());
        assert!(fraction <= 0.25, "{model:?}");
        assert!(model.iter().all(|r| r.1 <= 1.02), "{model:?}");
        let random = median(on_invented(Kind::Random).iter().map(|r| r.0).collect());
        assert!(fraction < random, "{fraction}, {random}");
    }

    #[test]
    fn a_default_that_fails_and_most_of_a_tile_s_schedules_with_it_hide_no_winner() {
        let mut recording = invented::recording(2);
        let guilty = invented::logits_of(&recording.trials[0].schedule);
        for trial in &mut recording.trials {
            if invented::logits_of(&trial.schedule) == guilty {
                let status = Status::Resources("spilled 80 bytes".to_owned());
                *trial = Recorded { schedule: trial.schedule, status, time: None, settled: None };
            }
        }
        for kind in [Kind::Model, Kind::Descent] {
            let played = play(&recording, kind, 0, BATCH, &Experience::default()).unwrap();
            assert!(played.winner < 1.05, "{kind}: {played:?}");
        }
    }

    #[test]
    fn what_is_known_of_a_near_shape_saves_trials() {
        let all = [invented::recording(4), invented::near(4)];
        let cold = play(&all[0], Kind::Model, 0, 4, &Experience::default()).unwrap();
        let warm = play(&all[0], Kind::Model, 0, 4, &experience(&all[0], &all)).unwrap();
        assert!(warm.within[1].unwrap() <= cold.within[1].unwrap(), "{warm:?} {cold:?}");
        assert!(warm.within[1].unwrap() <= 12, "{warm:?}");
    }
}
