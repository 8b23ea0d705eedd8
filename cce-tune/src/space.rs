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
    /// What the candidates of a GPU vary one part of; `None`: the space does not grow.
    base: Option<GpuSchedule>,
}

impl Space {
    /// The candidates of the CPU device.
    ///
    /// # Errors
    /// Those of serialisation.
    pub fn cpu(problem: &Problem) -> Result<Space, Error> {
        let schedules = selection::cpu_space(problem).into_iter().map(|s| (Schedule::Cpu(s), None));
        Ok(Space { candidates: candidates(schedules)?, base: None })
    }

    /// The candidates of a GPU, those that break a constraint with the reason.
    ///
    /// # Errors
    /// Those of serialisation.
    pub fn gpu(program: &Program, problem: &Problem, gpu: &Gpu) -> Result<Space, Error> {
        let space = GpuSchedule::space(program, problem, gpu);
        let base = space.first().map(|first| first.0);
        let schedules = space
            .into_iter()
            .map(|(schedule, fits)| (Schedule::Gpu(schedule), fits.err().map(|e| e.to_string())));
        Ok(Space { candidates: candidates(schedules)?, base })
    }

    /// Keeps the first candidates that can run, at most so many, and adds none later.
    pub fn limit(&mut self, most: usize) {
        self.candidates.retain(|candidate| candidate.constraint.is_none());
        self.candidates.truncate(most);
        self.base = None;
    }

    /// Keeps every `of`-th candidate, beginning with number `index`, and adds none later: one share of a
    /// fleet's work.
    pub fn share(&mut self, index: usize, of: usize) {
        let mut at = 0;
        self.candidates.retain(|_| {
            at += 1;
            (at - 1) % of.max(1) == index
        });
        self.base = None;
    }

    /// Adds what the results so far suggest; returns whether there was anything to add. The space of a GPU
    /// varies one part of the default at a time (forward walk, gradient of the logits, dC, dE, chunk, hot columns): parts
    /// that hardly touch each other's time. What is added puts the best of each part together. Where the
    /// default itself was dropped (its kernels spill under a heavy loss, say), so were most of its
    /// variations, for its sake and not for theirs: then they are added again as variations of the best that
    /// did run.
    ///
    /// The same results lead to the same candidates, so that a search that is resumed ends where it would
    /// have.
    ///
    /// # Errors
    /// Those of serialisation.
    pub fn grow(&mut self, store: &Store) -> Result<bool, Error> {
        let Some(base) = self.base else { return Ok(false) };
        let timed: Vec<(GpuSchedule, f64)> = self
            .candidates
            .iter()
            .filter_map(|candidate| match candidate.schedule {
                Schedule::Gpu(schedule) => Some((schedule, store.known(&candidate.config)?.time()?)),
                Schedule::Cpu(_) => None,
            })
            .collect();
        let together = together(&base, &timed);
        let mut added = vec![together];
        if !timed.is_empty() && timed.iter().all(|(schedule, _)| *schedule != base) && together != base {
            added.extend(self.candidates.iter().filter_map(|candidate| match candidate.schedule {
                Schedule::Gpu(schedule) => varied(&base, &schedule, &together),
                Schedule::Cpu(_) => None,
            }));
            self.base = Some(together);
        }
        let before = self.candidates.len();
        for candidate in candidates(added.into_iter().map(|schedule| (Schedule::Gpu(schedule), None)))? {
            if !self.candidates.iter().any(|known| known.config == candidate.config) {
                self.candidates.push(candidate);
            }
        }
        Ok(self.candidates.len() > before)
    }
}

/// The parts of a schedule that are varied one at a time: each sets the part of the first to that of the
/// second. Hot columns stay whole tiles of the logits.
const PARTS: [fn(&mut GpuSchedule, &GpuSchedule); 6] = [
    |to, from| {
        (to.logits, to.splits, to.group) = (from.logits, from.splits, from.group);
        to.hot = to.hot.next_multiple_of(to.logits.n);
    },
    |to, from| to.logits_gradient = from.logits_gradient,
    |to, from| to.classifier_gradient = from.classifier_gradient,
    |to, from| to.hidden_gradient = from.hidden_gradient,
    |to, from| to.chunk = from.chunk,
    |to, from| to.hot = from.hot.next_multiple_of(to.logits.n),
];

/// Whether `schedule` is `base` with this part changed, or not even that.
fn differs_only(
    part: fn(&mut GpuSchedule, &GpuSchedule),
    base: &GpuSchedule,
    schedule: &GpuSchedule,
) -> bool {
    let mut with_part = *base;
    part(&mut with_part, schedule);
    with_part == *schedule
}

/// What varies one part of `base`, as the same variation of another schedule.
fn varied(base: &GpuSchedule, schedule: &GpuSchedule, other: &GpuSchedule) -> Option<GpuSchedule> {
    let part = PARTS.into_iter().find(|part| differs_only(*part, base, schedule))?;
    let mut varied = *other;
    part(&mut varied, schedule);
    Some(varied)
}

/// `base` with each part replaced by the fastest candidate's that differs from it in this part alone.
fn together(base: &GpuSchedule, timed: &[(GpuSchedule, f64)]) -> GpuSchedule {
    let mut together = *base;
    for part in PARTS {
        let alike = timed.iter().filter(|(schedule, _)| differs_only(part, base, schedule));
        if let Some((best, _)) = alike.min_by(|a, b| a.1.total_cmp(&b.1)) {
            part(&mut together, best);
        }
    }
    together
}

fn candidates(schedules: impl Iterator<Item = (Schedule, Option<String>)>) -> Result<Vec<Candidate>, Error> {
    schedules
        .map(|(schedule, constraint)| {
            let config = selection::config(&schedule).map_err(|error| Error::Json(error.to_string()))?;
            Ok(Candidate { schedule, config, constraint })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::Ranking;
    use crate::search::{Bench, Effort, Failure, search};
    use crate::{progress::Silent, stop::Stop};
    use cce_codegen::problem::DType;
    use cce_tuning_db::{
        Clocks, Database, Device, Generation, Key, ProgramHash, Provenance, Resources, Shape, Status,
    };

    /// A GPU of invented times: every part costs something of its own.
    struct Invented {
        spills: fn(&GpuSchedule) -> bool,
    }

    fn cost(schedule: &GpuSchedule) -> f64 {
        let tile = |t: &cce_codegen::schedule::Tile| f64::from((t.m * 7 + t.n * 5 + t.k * 3 + t.stages) % 97);
        tile(&schedule.logits)
            + tile(&schedule.logits_gradient)
            + tile(&schedule.classifier_gradient)
            + tile(&schedule.hidden_gradient)
            + f64::from(schedule.chunk % 91 + schedule.splits % 5 + schedule.group % 7)
            + 100.0
    }

    impl Bench for Invented {
        type Built = GpuSchedule;

        fn build(&self, schedule: &Schedule) -> Result<GpuSchedule, Failure> {
            match schedule {
                Schedule::Gpu(gpu) if !(self.spills)(gpu) => Ok(*gpu),
                _ => Err(Failure::new(Status::Resources("spilled 80 bytes".to_owned()))),
            }
        }

        fn resources(&self, _: &GpuSchedule) -> Option<Resources> {
            None
        }

        fn check(&mut self, _: &mut GpuSchedule) -> Result<f64, Failure> {
            Ok(0.0)
        }

        fn time(&mut self, schedule: &mut GpuSchedule, _: usize) -> Result<f64, Failure> {
            Ok(cost(schedule))
        }

        fn clocks(&self) -> Option<Clocks> {
            None
        }
    }

    fn space() -> (Space, GpuSchedule) {
        let program = cce::losses::named("cross_entropy").unwrap();
        let problem = Problem::new(8192, 2304, 256_000, DType::Bf16);
        let gpu = Gpu::h100();
        (Space::gpu(&program, &problem, &gpu).unwrap(), GpuSchedule::default_for(&program, &problem, &gpu))
    }

    /// Searches until the space grows no more; returns it, the ranking and how often something was added.
    fn exhaust(spills: fn(&GpuSchedule) -> bool, folder: &std::path::Path) -> (Space, Ranking, usize) {
        let (mut space, _) = space();
        let shape = Shape::new(8, 8, 8);
        let key = Key::new(ProgramHash::of(b"p"), cce_tuning_db::Problem::new(shape), Device::cpu("x", 1));
        let (made, here) = (Generation::new("1", "s"), Provenance::new("here", 0));
        let mut store = Store::open(Database::open(folder).unwrap(), key, shape, made, here).unwrap();
        let mut grown = 0;
        loop {
            let ready = || Ok(Invented { spills });
            let effort = Effort::default();
            search(&space.candidates, &mut store, &effort, &Silent, &Stop::new(), ready).unwrap();
            if !space.grow(&store).unwrap() {
                break;
            }
            grown += 1;
            assert!(grown < 10, "it grows for ever");
        }
        let ranking = Ranking::new(&space.candidates, &store);
        (space, ranking, grown)
    }

    fn winner(ranking: &Ranking) -> GpuSchedule {
        match ranking.winner().unwrap().schedule {
            Schedule::Gpu(schedule) => schedule,
            Schedule::Cpu(_) => panic!("a CPU schedule"),
        }
    }

    #[test]
    fn the_best_of_each_part_is_put_together_and_wins() {
        let folder = tempfile::tempdir().unwrap();
        let (space, ranking, grown) = exhaust(|_| false, folder.path());
        assert_eq!(grown, 1);
        let best = |part: fn(&mut GpuSchedule, &GpuSchedule)| {
            let base = space.base.unwrap();
            let costs = space.candidates.iter().filter_map(|c| match c.schedule {
                Schedule::Gpu(s) if c.constraint.is_none() && s.family == base.family => {
                    let mut with = base;
                    part(&mut with, &s);
                    Some(cost(&with) - cost(&base))
                }
                _ => None,
            });
            costs.fold(f64::INFINITY, f64::min)
        };
        let expected = cost(&space.base.unwrap()) + PARTS.into_iter().map(best).sum::<f64>();
        assert!((cost(&winner(&ranking)) - expected).abs() < 1e-9);
        // The same results lead to the same end, without another measurement.
        let (_, again, _) = exhaust(|_| false, folder.path());
        assert_eq!(winner(&again), winner(&ranking));
    }

    #[test]
    fn when_the_default_spills_its_variations_are_tried_without_what_spills() {
        let folder = tempfile::tempdir().unwrap();
        let (_, base) = space();
        let gradient = base.logits_gradient;
        assert_eq!((gradient.m, gradient.n), (128, 256), "choose another tile for this test");
        let spills = |s: &GpuSchedule| (s.logits_gradient.m, s.logits_gradient.n) == (128, 256);
        let (space, ranking, _) = exhaust(spills, folder.path());
        assert!(!spills(&winner(&ranking)));
        let measured =
            ranking.entries.iter().filter(|e| e.trial.as_ref().is_some_and(|t| t.time().is_some()));
        assert!(measured.count() > space.candidates.len() / 4, "{:?}", ranking.counts());
        assert_ne!(winner(&ranking).logits, base.logits);
    }
}
