//! The candidates of a problem.

use crate::Error;
use crate::search::{Candidate, Store};
use cce_codegen::ir::Program;
use cce_codegen::problem::Problem;
use cce_codegen::schedule::{Gpu, GpuSchedule, Schedule};
use cce_runtime::selection;

/// What is searched, and how results lead to further candidates.
#[derive(Clone, Debug)]
pub struct Space {
    /// In the order in which they are tried; the first is the schedule used where nothing is tuned.
    pub candidates: Vec<Candidate>,
    axes: bool,
}

impl Space {
    /// The candidates of the CPU device.
    ///
    /// # Errors
    /// Those of serialisation.
    pub fn cpu(problem: &Problem) -> Result<Space, Error> {
        let schedules = selection::cpu_space(problem).into_iter().map(|s| (Schedule::Cpu(s), None));
        Ok(Space { candidates: candidates(schedules)?, axes: false })
    }

    /// The candidates of a GPU, those that break a constraint with the reason.
    ///
    /// # Errors
    /// Those of serialisation.
    pub fn gpu(program: &Program, problem: &Problem, gpu: &Gpu) -> Result<Space, Error> {
        let space = GpuSchedule::space(program, problem, gpu).into_iter();
        let schedules =
            space.map(|(schedule, fits)| (Schedule::Gpu(schedule), fits.err().map(|e| e.to_string())));
        Ok(Space { candidates: candidates(schedules)?, axes: true })
    }

    /// Keeps the first candidates that can run, at most so many, and adds none later.
    pub fn limit(&mut self, most: usize) {
        self.candidates.retain(|candidate| candidate.constraint.is_none());
        self.candidates.truncate(most);
        self.axes = false;
    }

    /// Adds what the results so far suggest; returns whether there was anything to add. The space of a GPU
    /// varies one part of the default at a time, forward walk, gradient of the logits, dC, dE, chunk: parts
    /// that hardly touch each other's time. What is added puts the best of each part together.
    ///
    /// # Errors
    /// Those of serialisation.
    pub fn grow(&mut self, store: &Store) -> Result<bool, Error> {
        let Some(together) = self.axes.then(|| together(&self.candidates, store)).flatten() else {
            return Ok(false);
        };
        let added = candidates(std::iter::once((Schedule::Gpu(together), None)))?;
        let known = |candidate: &Candidate| self.candidates.iter().any(|c| c.config == candidate.config);
        let new: Vec<Candidate> = added.into_iter().filter(|candidate| !known(candidate)).collect();
        let grown = !new.is_empty();
        self.candidates.extend(new);
        Ok(grown)
    }
}

fn candidates(schedules: impl Iterator<Item = (Schedule, Option<String>)>) -> Result<Vec<Candidate>, Error> {
    schedules
        .map(|(schedule, constraint)| {
            let config = selection::config(&schedule).map_err(|error| Error::Json(error.to_string()))?;
            Ok(Candidate { schedule, config, constraint })
        })
        .collect()
}

/// The default with each part replaced by the fastest candidate's that differs from the default in this part
/// alone.
fn together(candidates: &[Candidate], store: &Store) -> Option<GpuSchedule> {
    let timed: Vec<(GpuSchedule, f64)> = candidates
        .iter()
        .filter_map(|candidate| match candidate.schedule {
            Schedule::Gpu(schedule) => Some((schedule, store.known(&candidate.config)?.time()?)),
            Schedule::Cpu(_) => None,
        })
        .collect();
    let Schedule::Gpu(base) = candidates.first()?.schedule else { return None };
    let parts: [fn(&mut GpuSchedule, &GpuSchedule); 5] = [
        |to, from| (to.logits, to.splits, to.group) = (from.logits, from.splits, from.group),
        |to, from| to.logits_gradient = from.logits_gradient,
        |to, from| to.classifier_gradient = from.classifier_gradient,
        |to, from| to.hidden_gradient = from.hidden_gradient,
        |to, from| to.chunk = from.chunk,
    ];
    let mut together = base;
    for part in parts {
        let only_here = |schedule: &GpuSchedule| {
            let mut base_with_part = base;
            part(&mut base_with_part, schedule);
            base_with_part == *schedule
        };
        let best = timed.iter().filter(|(s, _)| only_here(s)).min_by(|a, b| a.1.total_cmp(&b.1));
        if let Some((best, _)) = best {
            part(&mut together, best);
        }
    }
    Some(together)
}
