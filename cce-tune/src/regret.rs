//! How much slower than its own best a shape is with the schedule that is selected for it from others.
//!
//! One problem is held out, the winners of the others are the database that a plan of it would ask, by the code that
//! plans ask, and the selected schedule's recorded time is compared with the recorded best. The best of many times
//! that do not repeat exactly is too good by chance: what is found here is an upper bound.

use crate::Error;
use crate::recording::{Recorded, Recording};
use crate::stored;
use crate::strategy::far_apart;
use cce_codegen::ir::Program;
use cce_codegen::schedule::{GpuSchedule, Schedule};
use cce_runtime::selection::{self, Question};
use cce_tuning_db::{Grade, Key, KeyWinners, Profile, Provenance, Request, Settled, Trial, Winners};

/// What holding out one problem came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Regret {
    /// The recording.
    pub name: String,
    /// How good the match was.
    pub grade: Grade,
    /// What was selected.
    pub selected: Found,
    /// The default schedule.
    pub default: Found,
    /// Why what was stored was passed over.
    pub notes: Vec<String>,
}

/// What a recording knows of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Found {
    /// Its time over the best: 0.03 is 3 % slower.
    Recorded(f64),
    /// It was not recorded; the one with its tiles that is nearest to it takes so much.
    Nearest(f64),
    /// None with its tiles was recorded that ran.
    Unknown,
}

impl Found {
    /// The time over the best, if there is one.
    pub fn over_best(self) -> Option<f64> {
        match self {
            Found::Recorded(over) | Found::Nearest(over) => Some(over),
            Found::Unknown => None,
        }
    }
}

/// Holds out each recording of which others say something at all; `consulted` near problems are asked. Losses
/// that `program` does not know are left out.
///
/// # Errors
/// Those of serialisation, and when a key is for a problem that this version does not have.
pub fn regrets(
    recordings: &[Recording],
    consulted: usize,
    program: impl Fn(&Key) -> Option<Program>,
) -> Result<Vec<Regret>, Error> {
    let winners = recordings.iter().map(winners).collect::<Result<Vec<_>, _>>()?;
    let mut regrets = Vec::new();
    for held_out in recordings {
        // Of one problem there may be several recordings.
        let others = winners.iter().filter(|entry| entry.key != held_out.key);
        let others: Vec<KeyWinners> = others
            .filter(|entry| crate::strategy::distance(&held_out.key, &entry.key).is_some())
            .cloned()
            .collect();
        if let (false, Some(program)) = (others.is_empty(), program(&held_out.key)) {
            regrets.extend(held_out_of(held_out, others, consulted, &program)?);
        }
    }
    Ok(regrets)
}

fn held_out_of(
    held_out: &Recording,
    others: Vec<KeyWinners>,
    consulted: usize,
    program: &Program,
) -> Result<Option<Regret>, Error> {
    let Some(best) = held_out.best() else { return Ok(None) };
    let problem = stored::problem(program, &held_out.key, held_out.shape)
        .map_err(|reason| Error::Nothing { reason: format!("{}: {reason}", held_out.name) })?;
    let default = match selection::gpu_of(&held_out.key.device) {
        Some(gpu) => Some(Schedule::Gpu(GpuSchedule::default_for(program, &problem, &gpu))),
        None => selection::cpu_space(&problem).first().copied().map(Schedule::Cpu),
    };
    let default = default.map_or(Found::Unknown, |default| found(held_out, &default, best));
    let profile = Profile::new("the others", Provenance::new("replay", 0), others);
    let layers = Winners::empty().with_profile(profile);
    let request = Request::new(held_out.key.clone(), held_out.generation.clone());
    let question = Question::new(program, &problem, request).with_consulted(consulted);
    let chosen = question.choose(&layers, |schedule| match failed(held_out, &schedule) {
        // A plan cannot know that a schedule would be slow; it does know what does not fit.
        Some(reason) => Err(reason),
        None => Ok(found(held_out, &schedule, best)),
    });
    Ok(Some(Regret {
        name: held_out.name.clone(),
        grade: chosen.grade,
        selected: chosen.value.unwrap_or(default),
        default,
        notes: chosen.notes,
    }))
}

/// Why a schedule could not run, if it was recorded that it could not.
fn failed(recording: &Recording, schedule: &Schedule) -> Option<String> {
    let same = recording.trials.iter().find(|trial| trial.schedule == *schedule)?;
    same.time.is_none().then(|| same.status.reason().to_owned())
}

/// The schedule's time, or of those that ran with all its tiles that of the one that differs least in its numbers.
fn found(recording: &Recording, schedule: &Schedule, best: f64) -> Found {
    let of = |trial: &Recorded| {
        let (ms, _) = trial.time?;
        Some((far_apart(&trial.schedule, schedule)?, ms / best - 1.0))
    };
    match recording.trials.iter().filter_map(of).min_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((0.0, over)) => Found::Recorded(over),
        Some((_, over)) => Found::Nearest(over),
        None => Found::Unknown,
    }
}

/// A recording's winners, as a database keeps them; of equal times the one that was recorded first comes first.
fn winners(recording: &Recording) -> Result<KeyWinners, Error> {
    let mut ranked: Vec<(&Schedule, f64)> =
        recording.trials.iter().filter_map(|trial| Some((&trial.schedule, trial.time?.0))).collect();
    ranked.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut trials = Vec::new();
    for (place, (schedule, ms)) in (0u32..).zip(ranked) {
        let config = selection::config(schedule).map_err(|error| Error::Json(error.to_string()))?;
        let (generation, provenance) = (recording.generation.clone(), recording.provenance.clone());
        let trial = Trial::measured(config, recording.shape, vec![ms], generation, provenance)?;
        trials.push(trial.with_settled(Settled::placed(ms, place)));
    }
    Ok(KeyWinners::choose(recording.key.clone(), &trials))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::invented;

    fn of(recordings: &[Recording]) -> Result<Vec<Regret>, Error> {
        regrets(recordings, selection::CONSULTED, |_| cce::losses::named("cross_entropy"))
    }

    #[test]
    fn a_near_shape_s_winner_is_looked_up_in_the_held_out_recording() {
        let all = [invented::recording(4), invented::near(4)];
        let regrets = of(&all).unwrap();
        assert_eq!(regrets.len(), 2);
        for regret in &regrets {
            assert!(matches!(regret.grade, Grade::NearShape { .. }), "{regret:?}");
            let selected = regret.selected.over_best().unwrap();
            assert!((0.0..0.1).contains(&selected), "{regret:?}");
        }
    }

    #[test]
    fn what_says_nothing_of_a_problem_is_not_asked() {
        let all = [invented::recording(0), invented::recording(1)];
        assert_eq!(of(&all).unwrap(), []);
    }

    #[test]
    fn beyond_the_snap_limit_it_is_the_default_s() {
        let mut far = invented::near(4);
        far.key.problem.tokens_bucket = 512;
        let all = [invented::recording(4), far];
        let regret = &of(&all).unwrap()[0];
        assert_eq!(regret.grade, Grade::Default);
        assert_eq!(regret.selected, regret.default);
    }
}
