//! The schedules of a problem that may be tried, and why others may not.

use crate::Error;
use crate::search::Candidate;
use crate::share::shares;
use cce_codegen::ir::Program;
use cce_codegen::problem::Problem;
use cce_codegen::schedule::{Gpu, GpuSpace, Schedule};
use cce_runtime::selection;
use serde::Serialize;
use std::collections::HashSet;

/// Schedules that a search chooses from, at most, unless it is told otherwise: what an exhaustive search of a
/// large head does in a few minutes.
pub const SEARCHED: u64 = 600;

/// What is searched.
#[derive(Clone, Debug)]
pub struct Space {
    /// The schedule's parts and the values of each.
    pub knobs: Vec<Knob>,
    /// How many schedules the knobs' values make.
    pub size: u64,
    /// Those that may be tried: none breaks a constraint. The first is the one used where nothing is tuned.
    pub candidates: Vec<Candidate>,
    /// The first so many candidates are tried before others: the default, and what is suggested.
    pub first: usize,
    /// Those that differ from the default in one part and break a constraint, with the reason.
    pub broken: Vec<Candidate>,
}

/// A part of the schedule, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Knob {
    /// Which part.
    pub name: String,
    /// Its values, the default's first.
    pub values: Vec<String>,
    /// The first so many values are searched.
    pub searched: usize,
    /// Why it is off: it does not matter for this problem.
    pub off: Option<String>,
    /// Values that cannot be, with the reason.
    pub left_out: Vec<(String, String)>,
}

impl Space {
    /// Keeps share number `index` of `of`: one machine's part of a fleet's work, in which every value of a knob is that
    /// is there often enough. The shares have every candidate once, and are the same on every machine.
    pub fn share(&mut self, index: usize, of: usize) {
        let mut shares = shares(&self.candidates, of).into_iter();
        self.candidates.retain(|_| shares.next() == Some(index));
    }

    /// Puts these schedules behind the default, whether they are among the candidates or not.
    ///
    /// # Errors
    /// Those of serialisation.
    pub fn suggest(&mut self, schedules: Vec<Schedule>) -> Result<(), Error> {
        let is_new = |schedule: &Schedule| self.candidates.first().is_none_or(|d| d.schedule != *schedule);
        let suggested = candidates(schedules.into_iter().filter(is_new).map(|schedule| (schedule, None)))?;
        let behind = self.first.min(self.candidates.len());
        self.first = behind + suggested.len();
        self.candidates.retain(|known| suggested.iter().all(|new| new.schedule != known.schedule));
        self.candidates.splice(behind..behind, suggested);
        Ok(())
    }

    /// Puts these schedules behind all others, unless they are among the candidates.
    ///
    /// # Errors
    /// Those of serialisation.
    pub fn extend(&mut self, schedules: Vec<Schedule>) -> Result<(), Error> {
        let mut new = candidates(schedules.into_iter().map(|schedule| (schedule, None)))?;
        new.retain(|new| self.candidates.iter().all(|known| new.schedule != known.schedule));
        new.sort_by_key(|new| new.config.hash());
        self.candidates.extend(new);
        Ok(())
    }

    /// The space of the CPU device.
    ///
    /// # Errors
    /// Those of serialisation.
    pub fn cpu(problem: &Problem) -> Result<Space, Error> {
        let space = selection::cpu_space(problem);
        let knob = |name: &str, value: fn(&cce_codegen::schedule::CpuSchedule) -> u32| {
            let mut values: Vec<String> = Vec::new();
            for value in space.iter().map(|schedule| value(schedule).to_string()) {
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            let off = (values.len() == 1).then(|| "one size covers the whole problem".to_owned());
            Knob { name: name.to_owned(), searched: values.len(), values, off, left_out: Vec::new() }
        };
        Ok(Space {
            knobs: vec![knob("token block", |s| s.token_block), knob("strip", |s| s.strip)],
            size: space.len() as u64,
            candidates: default_first(candidates(space.into_iter().map(|s| (Schedule::Cpu(s), None)))?),
            first: 1,
            broken: Vec::new(),
        })
    }

    /// The space of a GPU, of which at most `most` schedules are searched.
    ///
    /// # Errors
    /// Those of serialisation.
    pub fn gpu(program: &Program, problem: &Problem, gpu: &Gpu, most: u64) -> Result<Space, Error> {
        let mut space = GpuSpace::of(program, problem, gpu);
        space.limit(most);
        let knobs = space.knobs().iter().map(|knob| Knob {
            name: knob.part.name().to_owned(),
            values: knob.values.iter().map(ToString::to_string).collect(),
            searched: knob.searched,
            off: knob.off.clone(),
            left_out: knob.left_out.iter().map(|(value, why)| (value.to_string(), why.clone())).collect(),
        });
        let possible = space.schedules().filter(|(_, fits)| fits.is_ok());
        let broken = space
            .one_at_a_time()
            .into_iter()
            .filter_map(|(schedule, fits)| Some((Schedule::Gpu(schedule), Some(fits.err()?.to_string()))));
        Ok(Space {
            knobs: knobs.collect(),
            size: space.size(),
            candidates: default_first(candidates(
                possible.map(|(schedule, _)| (Schedule::Gpu(schedule), None)),
            )?),
            first: 1,
            broken: candidates(broken)?,
        })
    }
}

fn default_first(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    if let Some(first) = candidates.first_mut() {
        first.is_default = true;
    }
    candidates
}

fn candidates(schedules: impl Iterator<Item = (Schedule, Option<String>)>) -> Result<Vec<Candidate>, Error> {
    let mut seen = HashSet::new();
    schedules
        .filter(|(schedule, _)| seen.insert(*schedule))
        .map(|(schedule, constraint)| {
            let config = selection::config(&schedule).map_err(|error| Error::Json(error.to_string()))?;
            Ok(Candidate { schedule, config, constraint, is_default: false })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::problem::{DType, Filter};

    fn space(problem: &Problem, most: u64) -> Space {
        let program = cce::losses::named("cross_entropy").unwrap();
        Space::gpu(&program, problem, &Gpu::h100(), most).unwrap()
    }

    #[test]
    fn the_default_comes_first_and_every_candidate_once_and_possible() {
        let problem = Problem { filter: Filter::SAMPLED, ..Problem::new(8192, 2304, 256_000, DType::Bf16) };
        let space = space(&problem, SEARCHED);
        let program = cce::losses::named("cross_entropy").unwrap();
        let default = cce_codegen::schedule::GpuSchedule::default_for(&program, &problem, &Gpu::h100());
        assert_eq!(space.candidates[0].schedule, Schedule::Gpu(default));
        let distinct: HashSet<_> = space.candidates.iter().map(|c| c.config.hash()).collect();
        assert_eq!(distinct.len(), space.candidates.len());
        assert!((200..=600).contains(&distinct.len()), "{}", distinct.len());
        assert!(space.candidates.iter().all(|candidate| candidate.constraint.is_none()));
        assert!(space.size > 100_000, "{}", space.size);
    }

    #[test]
    fn what_is_suggested_comes_behind_the_default_once_whether_it_was_a_candidate_or_not() {
        let problem = Problem { filter: Filter::SAMPLED, ..Problem::new(8192, 2304, 256_000, DType::Bf16) };
        let mut space = space(&problem, SEARCHED);
        let before: Vec<Schedule> = space.candidates.iter().map(|candidate| candidate.schedule).collect();
        let Schedule::Gpu(mut other) = before[0] else { panic!("a GPU's") };
        other.chunk += 1;
        let other = Schedule::Gpu(other);
        space.suggest(vec![before[7], before[0], other]).unwrap();
        let after: Vec<Schedule> = space.candidates.iter().map(|candidate| candidate.schedule).collect();
        assert_eq!((space.first, after.len()), (3, before.len() + 1));
        assert_eq!(after[..4], [before[0], before[7], other, before[1]]);
        assert_eq!(space.candidates.iter().filter(|candidate| candidate.is_default).count(), 1);
    }

    #[test]
    fn what_was_stored_besides_comes_last_and_once() {
        let problem = Problem { filter: Filter::Exact, ..Problem::new(8192, 2304, 256_000, DType::Bf16) };
        let mut space = space(&problem, 100);
        let before: Vec<Schedule> = space.candidates.iter().map(|candidate| candidate.schedule).collect();
        let Schedule::Gpu(mut other) = before[0] else { panic!("a GPU's") };
        other.chunk += 1;
        let other = Schedule::Gpu(other);
        space.extend(vec![before[7], other, before[0], other]).unwrap();
        let after: Vec<Schedule> = space.candidates.iter().map(|candidate| candidate.schedule).collect();
        assert_eq!((&after[..before.len()], &after[before.len()..]), (&before[..], &[other][..]));
        assert_eq!((space.first, space.candidates.iter().filter(|c| c.is_default).count()), (1, 1));
    }

    #[test]
    fn knobs_say_what_is_searched_and_why_others_are_off() {
        let problem = Problem { filter: Filter::Exact, ..Problem::new(8192, 2304, 256_000, DType::Bf16) };
        let few = space(&problem, 100);
        assert!(few.candidates.len() <= 100);
        let knob = |name: &str| few.knobs.iter().find(|knob| knob.name == name).unwrap();
        assert!(knob("hot columns").off.as_deref().unwrap().contains("every column alike"));
        assert!(knob("logits tile").searched < knob("logits tile").values.len());
        assert_eq!(knob("logits tile").values[0], "128x256x64/4");
    }

    #[test]
    fn what_breaks_a_constraint_is_named_with_the_reason_and_is_no_candidate() {
        let problem = Problem { filter: Filter::Exact, ..Problem::new(8192, 576, 49_152, DType::Bf16) };
        let program = cce::losses::named("cross_entropy").unwrap();
        let space = Space::gpu(&program, &problem, &Gpu::of_capability(8, 6), SEARCHED).unwrap();
        assert!(!space.broken.is_empty());
        for broken in &space.broken {
            assert!(broken.constraint.as_deref().unwrap().contains("shared memory"), "{broken:?}");
            assert!(space.candidates.iter().all(|candidate| candidate.config != broken.config));
        }
    }
}
