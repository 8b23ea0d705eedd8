//! Which schedule a plan uses when its caller names none: the best that the tuner stored, if it fits.
//!
//! The glue between three vocabularies: a program, a problem and a device become a key (`key`), a
//! [`Schedule`] becomes a stored configuration and back, and this build of the code generator becomes a
//! generation (`generation`). The tuner stores under what this module says, and a plan asks for the same,
//! where `places` says.
//!
//! Invariants: nothing here makes a plan fail. What cannot be read, understood or used ends in the default
//! schedule, with a note that says so once a process. Nothing here writes.
//!
//! | variable | |
//! |---|---|
//! | `CCE_TUNING_DIR` | the folder of the tuning database; `none`: no database and no profiles, shipped ones neither |
//! | `XDG_DATA_HOME` | else its `cce`; else `~/.local/share/cce` |
//! | `CCE_PROFILE` | profile files, separated as in `PATH`, asked after the database, before the shipped ones |

mod cpu_space;
mod generation;
mod key;
mod near;
mod places;
mod shipped;

pub use cpu_space::cpu_space;
pub use generation::generation;
pub use key::{config, cpu, gpu, gpu_of, key, limit_of, schedule, shape};
pub use near::CONSULTED;
pub use places::{folder, open, profiles};
pub use shipped::{SHIPPED, Shipped};

use cce_codegen::ir::Program;
use cce_codegen::problem::Problem;
use cce_codegen::schedule::Schedule;
use cce_tuning_db as db;
use cce_tuning_db::{Candidate, Grade, Request, Winners};
use places::winners;

/// How a plan came by its schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen<T> {
    /// How good the match is; [`Grade::Default`] when nothing stored was used.
    pub grade: Grade,
    /// What the plan made of the stored schedule; `None`: the caller takes its default.
    pub value: Option<T>,
    /// What a user may want to know: warnings of the database, winners that did not fit.
    pub notes: Vec<String>,
}

/// Goes through the stored winners for a plan, best first, and takes the first that `fit` accepts. `fit`
/// makes of a schedule whatever the plan needs, or says why it does not fit.
pub fn choose<T>(
    program: &Program,
    problem: &Problem,
    device: db::Device,
    fit: impl FnMut(Schedule) -> Result<T, String>,
) -> Chosen<T> {
    match winners(&device) {
        Some(winners) => choose_from(&winners, program, problem, device, fit),
        None => Chosen { grade: Grade::Default, value: None, notes: Vec::new() },
    }
}

/// As [`choose`], from these winners.
pub fn choose_from<T>(
    winners: &Winners,
    program: &Program,
    problem: &Problem,
    device: db::Device,
    fit: impl FnMut(Schedule) -> Result<T, String>,
) -> Chosen<T> {
    let generation = generation(&device);
    match key(program, problem, device) {
        Ok(key) => Question::new(program, problem, Request::new(key, generation)).choose(winners, fit),
        // A filter that no key can state is refused by the plan itself, in better words.
        Err(_) => Chosen { grade: Grade::Default, value: None, notes: Vec::new() },
    }
}

/// What a plan asks the winners.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    program: &'a Program,
    problem: &'a Problem,
    request: Request,
    consulted: usize,
}

impl<'a> Question<'a> {
    /// Asks for this problem of this loss; the request is that of its key.
    #[must_use]
    pub fn new(program: &'a Program, problem: &'a Problem, request: Request) -> Self {
        Self { program, problem, request, consulted: CONSULTED }
    }

    /// Changes how many near problems are asked: see [`CONSULTED`].
    #[must_use]
    pub fn with_consulted(mut self, problems: usize) -> Self {
        self.consulted = problems;
        self
    }

    /// The problem's own winners, best first, then what follows from those of near shapes, then of other devices:
    /// the first that `fit` accepts.
    pub fn choose<T>(
        &self,
        winners: &Winners,
        mut fit: impl FnMut(Schedule) -> Result<T, String>,
    ) -> Chosen<T> {
        let mut own = winners.select(&self.request);
        let mut notes: Vec<String> = own.warnings.iter().map(ToString::to_string).collect();
        let mut rejected = |grade: &Grade, reason: &str| {
            notes.push(format!("a stored schedule ({grade}) was not used: {reason}"));
        };
        let is_own = |candidate: &Candidate| matches!(candidate.grade, Grade::Exact | Grade::Stale);
        let (mut near, mut elsewhere) = (Vec::new(), Vec::new());
        for candidate in own.candidates.extract_if(.., |candidate| !is_own(candidate)) {
            match candidate.grade {
                Grade::NearShape { .. } => near.push(candidate),
                _ => elsewhere.push(candidate),
            }
        }
        let choice = own.choose(|candidate| schedule(&candidate.winner.config).and_then(&mut fit));
        for rejection in &choice.rejected {
            rejected(&rejection.grade, &rejection.reason);
        }
        if let Some((_, value)) = choice.chosen {
            return Chosen { grade: choice.grade, value: Some(value), notes };
        }
        for mut candidates in [near, elsewhere] {
            let Some(nearest) = candidates.first().map(|candidate| candidate.grade.clone()) else { continue };
            candidates.retain(|candidate| !candidate.stale);
            let device = &self.request.key.device;
            let carried = near::carried(self.program, self.problem, device, &candidates, self.consulted);
            let outcome = carried.unwrap_or_else(|| {
                Err("another version made it, whose default schedules are not known here".to_owned())
            });
            match outcome.and_then(|(grade, schedule)| Ok((grade, fit(schedule)?))) {
                Ok((grade, value)) => return Chosen { grade, value: Some(value), notes },
                Err(reason) => rejected(&nearest, &reason),
            }
        }
        Chosen { grade: Grade::Default, value: None, notes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::ir::InputKind;
    use cce_codegen::problem::DType;
    use cce_codegen::schedule::CpuSchedule;
    use cce_codegen::valid::{ProgramBuilder, Site};
    use cce_tuning_db::{Generation, KeyWinners, Profile, Provenance, Trial};

    pub(super) fn device() -> db::Device {
        db::Device::cpu("a processor", 2)
    }

    fn winners_of(problem: &Problem, schedules: &[(Schedule, f64)], generation: &Generation) -> Winners {
        let key = key(&program(), problem, device()).unwrap();
        let trials: Vec<Trial> = schedules
            .iter()
            .map(|(schedule, ms)| {
                let provenance = Provenance::new("here", 1);
                let config = config(schedule).unwrap();
                Trial::measured(config, shape(problem), vec![*ms], generation.clone(), provenance).unwrap()
            })
            .collect();
        let entries = vec![KeyWinners::choose(key, &trials)];
        Winners::empty().with_profile(Profile::new("test", Provenance::new("here", 1), entries))
    }

    fn cpu_schedule(token_block: u32) -> Schedule {
        Schedule::Cpu(CpuSchedule { token_block, strip: 1024 })
    }

    #[test]
    fn a_stored_schedule_of_this_generation_is_chosen_as_exact() {
        let problem = Problem::new(256, 64, 512, DType::F32);
        let stored = [(cpu_schedule(32), 2.0), (cpu_schedule(64), 1.0)];
        let winners = winners_of(&problem, &stored, &generation(&device()));
        let chosen = choose_from(&winners, &program(), &problem, device(), Ok);
        assert_eq!(chosen.grade, Grade::Exact);
        assert_eq!(chosen.value, Some(cpu_schedule(64)));
        assert!(chosen.notes.is_empty(), "{:?}", chosen.notes);
    }

    #[test]
    fn a_winner_that_does_not_fit_the_call_gives_way_to_the_next_and_is_named() {
        let problem = Problem::new(256, 64, 512, DType::F32);
        let stored = [(cpu_schedule(32), 2.0), (cpu_schedule(64), 1.0)];
        let winners = winners_of(&problem, &stored, &generation(&device()));
        let refuse_64 = |schedule| match schedule == cpu_schedule(64) {
            true => Err("too large today".to_owned()),
            false => Ok(schedule),
        };
        let chosen = choose_from(&winners, &program(), &problem, device(), refuse_64);
        assert_eq!(chosen.value, Some(cpu_schedule(32)));
        assert!(chosen.notes[0].contains("too large today"), "{:?}", chosen.notes);
        let none = choose_from(&winners, &program(), &problem, device(), |_| Err::<(), _>("no".to_owned()));
        assert_eq!((none.grade, none.value), (Grade::Default, None));
    }

    #[test]
    fn a_winner_of_another_generation_is_stale_and_one_of_another_shape_is_near() {
        let problem = Problem::new(256, 64, 512, DType::F32);
        let stored = [(cpu_schedule(64), 1.0)];
        let old = winners_of(&problem, &stored, &Generation::new("0.0.1", "another"));
        let chosen = choose_from(&old, &program(), &problem, device(), Ok);
        assert_eq!(chosen.grade, Grade::Stale);
        assert_eq!(chosen.notes.len(), 1);

        let current = winners_of(&problem, &stored, &generation(&device()));
        let larger = Problem::new(1024, 64, 512, DType::F32);
        let chosen = choose_from(&current, &program(), &larger, device(), Ok);
        assert!(matches!(chosen.grade, Grade::NearShape { .. }), "{:?}", chosen.grade);
    }

    /// `weight * (lse(x + bias) - at(x + bias, y))`.
    pub(super) fn program() -> Program {
        let site = Site::default();
        let mut builder = ProgramBuilder::new(site, "loss");
        let x = builder.input(site, "x", InputKind::Logit);
        let y = builder.input(site, "y", InputKind::Target);
        let bias = builder.input(site, "bias", InputKind::Col);
        let weight = builder.input(site, "weight", InputKind::Row);
        let z = builder.add(site, x, bias);
        let (lse, at) = (builder.lse(site, z), builder.at(site, z, y));
        let nll = builder.sub(site, lse, at);
        let loss = builder.mul(site, weight, nll);
        builder.output(site, "loss", loss);
        builder.finish().unwrap()
    }
}
