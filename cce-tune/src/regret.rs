//! How much slower than its own best a shape is with the schedule that is selected for it from others.
//!
//! One problem is held out, the winners of the others are the database that a plan of it would ask, by the code that
//! plans ask. The selected schedule's time is compared with the best by what the recording as a whole says of both (a
//! single recorded time is off by a few percent), or measured beside the winner.

use crate::Error;
use crate::interleaved;
use crate::recording::{Recorded, Recording};
use crate::search::{Bench, describe, middle};
use crate::stop::Stop;
use crate::stored;
use crate::strategy::{far_apart, over_best};
use crate::task::Task;
use crate::verify::summary;
use cce_codegen::ir::Program;
use cce_codegen::problem::Problem;
use cce_codegen::schedule::{GpuSchedule, Schedule};
use cce_runtime::selection::{self, Chosen, Question};
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

/// What a recording says of a schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Its time over the best: 0.03 is 3 % slower. Both as all trials of the recording together have them; of one with
    /// few trials the recorded times, and where the schedule is not among them that of the nearest with its tiles.
    /// `None`: there is none.
    pub over_best: Option<f64>,
    /// The standard deviation of that, as far as the trials tell; `None`: they are too few to tell.
    pub deviation: Option<f64>,
    /// Whether the schedule itself was recorded.
    pub recorded: bool,
}

/// Holds out each of `asked` of which other recordings say something at all; `consulted` near problems are asked.
/// Losses that `program` does not know are left out.
///
/// # Errors
/// Those of serialisation, and when a key is for a problem that this version does not have.
pub fn regrets(
    asked: &[&Recording],
    recordings: &[Recording],
    consulted: usize,
    program: impl Fn(&Key) -> Option<Program>,
) -> Result<Vec<Regret>, Error> {
    let winners = recordings.iter().map(winners).collect::<Result<Vec<_>, _>>()?;
    let mut regrets = Vec::new();
    for held_out in asked {
        let others = others(&held_out.key, &winners);
        if let (false, Some(program)) = (others.is_empty(), program(&held_out.key)) {
            regrets.extend(held_out_of(held_out, others, consulted, &program)?);
        }
    }
    Ok(regrets)
}

/// Those of other problems that say something of one. Of one problem there may be several.
fn others(key: &Key, winners: &[KeyWinners]) -> Vec<KeyWinners> {
    let says =
        |entry: &&KeyWinners| entry.key != *key && crate::strategy::distance(key, &entry.key).is_some();
    winners.iter().filter(says).cloned().collect()
}

fn held_out_of(
    held_out: &Recording,
    others: Vec<KeyWinners>,
    consulted: usize,
    program: &Program,
) -> Result<Option<Regret>, Error> {
    let Some(best) = held_out.best() else { return Ok(None) };
    let problem = problem(held_out, program)?;
    let default = default_schedule(held_out, program, &problem).ok_or(Error::NoCandidate)?;
    // A plan cannot know that a schedule would be slow; it does know what does not fit.
    let chosen = selected(held_out, others, consulted, program, &problem, |schedule| {
        failed(held_out, &schedule).map_or(Ok(schedule), Err)
    });
    let both = [chosen.value.unwrap_or(default), default];
    let smooth = over_best(held_out, &both);
    let found = |at: usize, schedule: &Schedule| {
        let near = nearest(held_out, schedule);
        let recorded = near.is_some_and(|(far, _)| far == 0.0);
        match smooth.as_ref().and_then(|smooth| smooth.get(at)) {
            Some(&(over, deviation)) => Found { over_best: Some(over), deviation: Some(deviation), recorded },
            None => Found { over_best: near.map(|(_, ms)| ms / best - 1.0), deviation: None, recorded },
        }
    };
    let [selected, default] = [found(0, &both[0]), found(1, &both[1])];
    Ok(Some(Regret {
        name: held_out.name.clone(),
        grade: chosen.grade,
        selected,
        default,
        notes: chosen.notes,
    }))
}

/// What a plan of the held-out problem selects from others' winners.
fn selected<T>(
    held_out: &Recording,
    others: Vec<KeyWinners>,
    consulted: usize,
    program: &Program,
    problem: &Problem,
    fit: impl FnMut(Schedule) -> Result<T, String>,
) -> Chosen<T> {
    let profile = Profile::new("the others", Provenance::new("replay", 0), others);
    let request = Request::new(held_out.key.clone(), held_out.generation.clone());
    let question = Question::new(program, problem, request).with_consulted(consulted);
    question.choose(&Winners::empty().with_profile(profile), fit)
}

fn problem(recording: &Recording, program: &Program) -> Result<Problem, Error> {
    stored::problem(program, &recording.key, recording.shape).map_err(|reason| nothing(recording, &reason))
}

fn task(recording: &Recording, program: &Program) -> Result<Task, Error> {
    stored::task(program, &recording.key, recording.shape).map_err(|reason| nothing(recording, &reason))
}

fn nothing(recording: &Recording, reason: &str) -> Error {
    Error::Nothing { reason: format!("{}: {reason}", recording.name) }
}

fn default_schedule(recording: &Recording, program: &Program, problem: &Problem) -> Option<Schedule> {
    match selection::gpu_of(&recording.key.device) {
        Some(gpu) => Some(Schedule::Gpu(GpuSchedule::default_for(program, problem, &gpu))),
        None => selection::cpu_space(problem).first().copied().map(Schedule::Cpu),
    }
}

/// How a held-out problem is measured.
#[derive(Clone, Copy, Debug)]
pub struct Measuring {
    /// Near problems that are asked.
    pub consulted: usize,
    /// Timed runs of each schedule, interleaved.
    pub rounds: usize,
}

/// The regret of one problem, measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// How good the match was.
    pub grade: Grade,
    /// The best that tuning the problem itself found, in a few words.
    pub winner: String,
    /// Its time, in ms: the median.
    pub winner_ms: f64,
    /// What was selected with the problem held out.
    pub selected: Compared,
    /// The default schedule.
    pub default: Compared,
    /// Why what was stored was passed over.
    pub notes: Vec<String>,
}

/// A schedule beside the winner.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// In a few words.
    pub schedule: String,
    /// The middle of its ratios to the winner in each round, less 1: 0 of the winner itself. Or why there is none.
    pub regret: Result<f64, String>,
}

/// Measures what would be selected for `held_out` from the others, and the default, beside the winner that tuning it
/// found. `None`: there are no others, or no winner, or it was asked to stop.
///
/// # Errors
/// When the winner no longer runs, what `bench` reports, and when the device fails for good.
pub fn measured<B: Bench>(
    held_out: &Recording,
    recordings: &[Recording],
    program: &Program,
    measuring: &Measuring,
    bench: impl FnOnce(Schedule) -> Result<B, Error>,
    stop: &Stop,
) -> Result<Option<Measured>, Error> {
    let all = recordings.iter().map(winners).collect::<Result<Vec<_>, _>>()?;
    let others = others(&held_out.key, &all);
    let won = winners(held_out)?.winners.into_iter().next();
    let Some(winner) = won.and_then(|won| selection::schedule(&won.config).ok()) else { return Ok(None) };
    if others.is_empty() {
        return Ok(None);
    }
    let problem = problem(held_out, program)?;
    let default = default_schedule(held_out, program, &problem).ok_or(Error::NoCandidate)?;
    let mut bench = bench(winner)?;
    let task = task(held_out, program)?;
    let gpu = selection::gpu_of(&held_out.key.device);
    // As a plan: what cannot be built is passed over. A bench may tell that only when it checks.
    let chosen = selected(held_out, others, measuring.consulted, program, &problem, |schedule| {
        stored::fits(&task, &problem, schedule, gpu.as_ref()).map(|()| schedule)
    });
    let selected = chosen.value.unwrap_or(default);
    let mut schedules = vec![winner];
    for schedule in [selected, default] {
        if !schedules.contains(&schedule) {
            schedules.push(schedule);
        }
    }
    let Some(timed) = interleaved::time(&schedules, &mut bench, measuring.rounds, stop)? else {
        return Ok(None);
    };
    let of = |schedule: Schedule| timed.iter().find(|timed| timed.schedule == schedule);
    let reference = of(winner).filter(|timed| !timed.samples.is_empty()).ok_or_else(|| {
        let failure = of(winner).and_then(|timed| timed.failure.clone()).unwrap_or_default();
        Error::Nothing { reason: format!("the winner of {} no longer runs: {failure}", held_out.name) }
    })?;
    let compared = |schedule: Schedule| {
        let timed = of(schedule);
        let samples = timed.map(|timed| timed.samples.as_slice()).unwrap_or_default();
        let ratios: Vec<f64> =
            samples.iter().zip(&reference.samples).map(|(ms, winner_ms)| ms / winner_ms).collect();
        let failure = timed.and_then(|timed| timed.failure.clone());
        Compared {
            schedule: describe(&schedule),
            regret: match failure {
                Some(failure) => Err(failure),
                None => Ok(middle(&ratios) - 1.0),
            },
        }
    };
    Ok(Some(Measured {
        grade: chosen.grade,
        winner: describe(&winner),
        winner_ms: summary(reference.samples.clone()).map_or(f64::NAN, |(median, _)| median),
        selected: compared(selected),
        default: compared(default),
        notes: chosen.notes,
    }))
}

/// Why a schedule could not run, if it was recorded that it could not.
fn failed(recording: &Recording, schedule: &Schedule) -> Option<String> {
    let same = recording.trials.iter().find(|trial| trial.schedule == *schedule)?;
    same.time.is_none().then(|| same.status.reason().to_owned())
}

/// Of the trials with all of a schedule's tiles that ran the one that differs least in its numbers: how far it is, and
/// its time in ms.
fn nearest(recording: &Recording, schedule: &Schedule) -> Option<(f64, f64)> {
    let of = |trial: &Recorded| Some((far_apart(&trial.schedule, schedule)?, trial.time?.0));
    recording.trials.iter().filter_map(of).min_by(|a, b| a.0.total_cmp(&b.0))
}

/// A recording's winners, as a database keeps them.
fn winners(recording: &Recording) -> Result<KeyWinners, Error> {
    let mut trials = Vec::new();
    for known in &recording.trials {
        let Some((ms, _)) = known.time else { continue };
        let config = selection::config(&known.schedule).map_err(|error| Error::Json(error.to_string()))?;
        let (generation, provenance) = (recording.generation.clone(), recording.provenance.clone());
        let trial = Trial::measured(config, recording.shape, vec![ms], generation, provenance)?;
        trials.push(trial.with_settled(known.settled.unwrap_or(Settled::paired(ms))));
    }
    Ok(KeyWinners::choose(recording.key.clone(), &trials))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::Failure;
    use crate::strategy::invented;
    use cce_tuning_db::{Clocks, Resources, Status};

    fn of(recordings: &[Recording]) -> Result<Vec<Regret>, Error> {
        let asked: Vec<&Recording> = recordings.iter().collect();
        regrets(&asked, recordings, selection::CONSULTED, |_| cce::losses::named("cross_entropy"))
    }

    #[test]
    fn a_near_shape_s_winner_is_looked_up_in_the_held_out_recording() {
        let all = [invented::recording(4), invented::near(4)];
        let regrets = of(&all).unwrap();
        assert_eq!(regrets.len(), 2);
        for regret in &regrets {
            assert!(matches!(regret.grade, Grade::NearShape { .. }), "{regret:?}");
            let selected = regret.selected.over_best.unwrap();
            assert!((0.0..0.1).contains(&selected), "{regret:?}");
        }
    }

    #[test]
    fn what_says_nothing_of_a_problem_is_not_asked() {
        let all = [invented::recording(0), invented::recording(1)];
        assert_eq!(of(&all).unwrap(), []);
    }

    /// A bench that, as one in another process, promises to build whatever it is asked for; a check tells.
    struct Willing;

    impl Bench for Willing {
        type Built = Schedule;

        fn build(&self, schedule: &Schedule) -> Result<Schedule, Failure> {
            Ok(*schedule)
        }

        fn resources(&self, _: &Schedule) -> Option<Resources> {
            None
        }

        fn check(&mut self, built: &mut Schedule) -> Result<f64, Failure> {
            match built {
                Schedule::Gpu(gpu) if gpu.logits.stages > 8 => {
                    Err(Failure::new(Status::Compile("too large".to_owned())))
                }
                _ => Ok(0.0),
            }
        }

        fn time(&mut self, _: &mut Schedule, _: usize) -> Result<f64, Failure> {
            Ok(1.0)
        }

        fn clocks(&self) -> Option<Clocks> {
            None
        }
    }

    #[test]
    fn a_stored_winner_that_does_not_fit_is_passed_over_for_the_next_or_the_default() {
        let held_out = invented::recording(4);
        let program = cce::losses::named("cross_entropy").unwrap();
        let measure = |others: &[&Recording]| {
            let all: Vec<Recording> = others.iter().map(|&other| other.clone()).collect();
            let measuring = Measuring { consulted: selection::CONSULTED, rounds: 3 };
            measured(&held_out, &all, &program, &measuring, |_| Ok(Willing), &Stop::new()).unwrap().unwrap()
        };
        let near = invented::near(4);
        let mut large = near.clone();
        for trial in &mut large.trials {
            let Schedule::Gpu(gpu) = &mut trial.schedule else { panic!("a schedule of another device") };
            gpu.logits.stages = 64;
        }
        let mut elsewhere = held_out.clone();
        elsewhere.key.device = cce_tuning_db::Device::gpu("another gpu", (9, 0), 114, 232_448, 50 << 20);
        let from = |grade: &Grade| match grade {
            Grade::NearShape { .. } => "near shape",
            Grade::OtherGpu { .. } => "other device",
            Grade::Default => "default",
            _ => "another",
        };
        for (others, expected) in [
            (vec![&near, &elsewhere], "near shape"),
            (vec![&large, &elsewhere], "other device"),
            (vec![&large], "default"),
        ] {
            let found = measure(&others);
            assert_eq!(from(&found.grade), expected);
            assert_eq!(found.selected.regret, Ok(0.0));
            assert_eq!(found.selected == found.default, expected == "default", "{found:?}");
            let said =
                found.notes.iter().any(|note| note.contains("was not used") && note.contains("64 stages"));
            assert_eq!(said, expected != "near shape", "{:?}", found.notes);
        }
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
