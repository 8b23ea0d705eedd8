//! How much slower than its own best a shape is with the schedule that is selected for it from others.
//!
//! One recording is held out, the winners of the others are the database that a plan of its problem would ask, by
//! the code that plans ask, and the selected schedule's recorded time is compared with the recorded best.

use crate::Error;
use crate::recording::{Recorded, Recording};
use crate::strategy::far_apart;
use cce_codegen::schedule::Schedule;
use cce_runtime::selection;
use cce_tuning_db::{Grade, KeyWinners, Profile, Provenance, Request, Trial, Winners};

/// What holding out one recording came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Regret {
    /// The recording.
    pub name: String,
    /// How good the match was.
    pub grade: Grade,
    /// The selected schedule's time over the best: 0.03 is 3 % slower. `None` if nothing like it was recorded.
    pub selected: Option<f64>,
    /// Whether the selected schedule itself was recorded; else it is the one with its tiles that is nearest to it.
    pub recorded: bool,
    /// The default schedule's, if that ran.
    pub default: Option<f64>,
    /// Stored schedules that were passed over: they failed here.
    pub passed: usize,
}

/// Holds out each recording of which others say something at all (the same loss, type, filter and gradients).
///
/// # Errors
/// Those of serialisation.
pub fn regrets(recordings: &[Recording]) -> Result<Vec<Regret>, Error> {
    let winners = recordings.iter().map(winners).collect::<Result<Vec<_>, _>>()?;
    let mut regrets = Vec::new();
    for (at, held_out) in recordings.iter().enumerate() {
        let others =
            winners.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, entry)| entry.clone());
        let others: Vec<KeyWinners> =
            others.filter(|entry| crate::strategy::distance(&held_out.key, &entry.key).is_some()).collect();
        if !others.is_empty() {
            regrets.extend(held_out_of(held_out, others));
        }
    }
    Ok(regrets)
}

fn held_out_of(held_out: &Recording, others: Vec<KeyWinners>) -> Option<Regret> {
    let best = held_out.best()?;
    let over = |time: Option<(f64, f64)>| time.map(|(ms, _)| ms / best - 1.0);
    let profile = Profile::new("the others", Provenance::new("replay", 0), others);
    let layers = Winners::empty().with_profile(profile);
    let selection = layers.select(&Request::new(held_out.key.clone(), held_out.generation.clone()));
    let choice = selection.choose(|candidate| {
        let schedule = selection::schedule(&candidate.winner.config)?;
        match nearest(held_out, &schedule) {
            Some((found, recorded)) if found.time.is_some() => Ok((over(found.time), recorded)),
            // A plan cannot know that it would have been slow; it does know what does not fit.
            Some((found, _)) => Err(found.status.reason().to_owned()),
            None => Ok((None, false)),
        }
    });
    let default = held_out.trials.first().and_then(|first| over(first.time));
    let (selected, recorded) = match choice.chosen {
        Some((_, found)) => found,
        None => (default, true),
    };
    Some(Regret {
        name: held_out.name.clone(),
        grade: choice.grade,
        selected,
        recorded,
        default,
        passed: choice.rejected.len(),
    })
}

/// The recorded schedule, or of those that have all its tiles the one that differs least in its numbers.
fn nearest<'a>(recording: &'a Recording, schedule: &Schedule) -> Option<(&'a Recorded, bool)> {
    let of = |trial: &'a Recorded| Some((far_apart(&trial.schedule, schedule)?, trial));
    let found = recording.trials.iter().filter_map(of).min_by(|a, b| a.0.total_cmp(&b.0));
    found.map(|(far, trial)| (trial, far == 0.0))
}

/// A recording's winners, as a database keeps them.
fn winners(recording: &Recording) -> Result<KeyWinners, Error> {
    let mut trials = Vec::new();
    for trial in &recording.trials {
        let config = selection::config(&trial.schedule).map_err(|error| Error::Json(error.to_string()))?;
        let (generation, provenance) = (recording.generation.clone(), recording.provenance.clone());
        trials.push(match trial.time {
            Some((ms, _)) => Trial::measured(config, recording.shape, vec![ms], generation, provenance)?,
            None => Trial::dropped(config, recording.shape, trial.status.clone(), generation, provenance),
        });
    }
    Ok(KeyWinners::choose(recording.key.clone(), &trials))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::invented;

    #[test]
    fn a_near_shape_s_winner_is_looked_up_in_the_held_out_recording() {
        let all = [invented::recording(4), invented::near(4)];
        let regrets = regrets(&all).unwrap();
        assert_eq!(regrets.len(), 2);
        for regret in &regrets {
            assert!(matches!(regret.grade, Grade::NearShape { .. }), "{regret:?}");
            let selected = regret.selected.unwrap();
            assert!((0.0..0.1).contains(&selected), "{regret:?}");
        }
    }

    #[test]
    fn what_says_nothing_of_a_problem_is_not_asked() {
        let all = [invented::recording(0), invented::recording(1)];
        assert_eq!(regrets(&all).unwrap(), []);
    }

    #[test]
    fn beyond_the_snap_limit_it_is_the_default_s() {
        let mut far = invented::near(4);
        far.key.problem.tokens_bucket = 512;
        let all = [invented::recording(4), far];
        let regret = &regrets(&all).unwrap()[0];
        assert_eq!(regret.grade, Grade::Default);
        assert_eq!(regret.selected, regret.default);
    }
}
