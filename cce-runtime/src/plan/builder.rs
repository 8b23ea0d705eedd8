//! The builder of plans.

use super::Plan;
use super::resolve::Resolver;
use crate::cpu::{self, CpuExecutor};
use crate::cuda::{self, CudaExecutor};
use crate::device::{Device, Inner};
use crate::driver::Context;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::outputs::Gradients;
use crate::selection;
use crate::workspace::{WorkspaceSize, next_plan_id};
use cce_codegen::ir::{InputKind, Program};
use cce_codegen::problem::{DType, Filter, GradientOutput, Ignored, IndexType, Layout, Problem};
use cce_codegen::schedule::{Gpu, GpuSchedule, Schedule};
use cce_tuning_db::Grade;

/// Makes a [`Plan`]. Everything has a default; `build` checks it all.
#[derive(Clone, Debug)]
pub struct PlanBuilder {
    program: Program,
    problem: Problem,
    filter: Option<Filter>,
    hidden_gradient: Wish,
    classifier_gradient: Wish,
    input_gradients: Vec<String>,
    hidden_layout: Option<Layout>,
    classifier_layout: Option<Layout>,
    ignore_index: Option<i64>,
    schedule: Option<Schedule>,
}

/// Whether a large gradient is wanted, and how.
#[derive(Clone, Copy, Debug)]
enum Wish {
    /// In the inputs' type, overwritten.
    Own,
    /// As given.
    Given(Option<GradientOutput>),
}

impl PlanBuilder {
    pub(super) fn new(program: &Program, tokens: usize, hidden: usize, vocab: usize) -> PlanBuilder {
        PlanBuilder {
            program: program.clone(),
            problem: Problem::new(tokens, hidden, vocab, DType::F32),
            filter: None,
            hidden_gradient: Wish::Own,
            classifier_gradient: Wish::Own,
            input_gradients: Vec::new(),
            hidden_layout: None,
            classifier_layout: None,
            ignore_index: Some(-100),
            schedule: None,
        }
    }

    /// The type of hidden states and classifier. Default: f32.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> PlanBuilder {
        self.problem.dtype = dtype;
        self
    }

    /// The filter. Default: [`Filter::SAMPLED`] where the program allows it, else [`Filter::Exact`],
    /// which [`Plan::notes`] says.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> PlanBuilder {
        self.filter = Some(filter);
        self
    }

    /// Which of dE and dC are computed, in the inputs' type and overwritten. Default: both.
    #[must_use]
    pub fn gradients(mut self, gradients: Gradients) -> PlanBuilder {
        let wish = |wanted: bool| if wanted { Wish::Own } else { Wish::Given(None) };
        self.hidden_gradient = wish(gradients.hidden);
        self.classifier_gradient = wish(gradients.classifier);
        self
    }

    /// How dE is delivered, or `None` if it is not wanted.
    #[must_use]
    pub fn hidden_gradient(mut self, output: Option<GradientOutput>) -> PlanBuilder {
        self.hidden_gradient = Wish::Given(output);
        self
    }

    /// How dC is delivered, or `None` if it is not wanted.
    #[must_use]
    pub fn classifier_gradient(mut self, output: Option<GradientOutput>) -> PlanBuilder {
        self.classifier_gradient = Wish::Given(output);
        self
    }

    /// Asks for the gradient of a Row, Col or Scalar input too.
    #[must_use]
    pub fn input_gradient(mut self, name: &str) -> PlanBuilder {
        self.input_gradients.push(name.to_owned());
        self
    }

    /// The type of the targets. Default: i32.
    #[must_use]
    pub fn index(mut self, index: IndexType) -> PlanBuilder {
        self.problem.index = index;
        self
    }

    /// The target that marks a token that counts for nothing; `None`: every token counts. Default: -100.
    #[must_use]
    pub fn ignore_index(mut self, index: Option<i64>) -> PlanBuilder {
        self.ignore_index = index;
        self
    }

    /// The layout of the hidden states. Default: contiguous, 16-byte aligned (on the CPU: aligned to its
    /// element).
    #[must_use]
    pub fn hidden_layout(mut self, layout: Layout) -> PlanBuilder {
        self.hidden_layout = Some(layout);
        self
    }

    /// The layout of the classifier. Default: contiguous, 16-byte aligned (on the CPU: aligned to its
    /// element).
    #[must_use]
    pub fn classifier_layout(mut self, layout: Layout) -> PlanBuilder {
        self.classifier_layout = Some(layout);
        self
    }

    /// The most bytes of workspace that the plan may need. Default: no limit.
    #[must_use]
    pub fn workspace_limit(mut self, bytes: u64) -> PlanBuilder {
        self.problem.workspace_limit = Some(bytes);
        self
    }

    /// The schedule. Default: the best one known.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> PlanBuilder {
        self.schedule = Some(schedule);
        self
    }

    /// Builds the plan.
    ///
    /// # Errors
    /// Whatever does not fit: shapes, names, types, a filter that is not allowed, a schedule of another
    /// device, a workspace limit that nothing fits in.
    pub fn build(self, device: &Device) -> Result<Plan> {
        let mut problem = self.problem(device)?;
        let mut notes = Vec::new();
        let (executor, grade): (Box<dyn Executor>, Grade) = match device.inner() {
            Inner::Cpu => {
                problem.filter = cpu::decide_filter(&self.program, &problem, self.filter, &mut notes)?;
                let (executor, grade) = self.cpu_executor(problem, &mut notes)?;
                (Box::new(executor), grade)
            }
            Inner::Cuda(context) => {
                let given = match self.schedule {
                    Some(Schedule::Gpu(schedule)) => Some(schedule.family),
                    _ => None,
                };
                let asked = cuda::Asked { filter: self.filter, family: given };
                problem.filter = cuda::decide_filter(context, &self.program, &problem, &asked, &mut notes)?;
                let (executor, grade) = self.cuda_executor(problem, context, &mut notes)?;
                (Box::new(executor), grade)
            }
        };
        Ok(Plan {
            id: next_plan_id(),
            device: device.clone(),
            ignore_index: self.ignore_index.filter(|_| self.program.has_target()),
            program: self.program,
            notes,
            grade,
            executor,
        })
    }

    /// With the caller's schedule, or the best stored one that fits, or the default.
    fn cpu_executor(&self, problem: Problem, notes: &mut Vec<String>) -> Result<(CpuExecutor, Grade)> {
        let build = |schedule| CpuExecutor::new(&self.program, problem.clone(), schedule);
        if let Some(schedule) = self.schedule {
            return Ok((build(Some(schedule))?, Grade::Exact));
        }
        let chosen = selection::choose(&self.program, &problem, selection::cpu(), |schedule| {
            build(Some(schedule)).map_err(|error| error.to_string())
        });
        notes.extend(chosen.notes);
        match chosen.value {
            Some(executor) => Ok((executor, chosen.grade)),
            None => Ok((build(None)?, Grade::Default)),
        }
    }

    /// With the caller's schedule, or the best stored one that fits, or the default.
    fn cuda_executor(
        &self,
        problem: Problem,
        context: &Context,
        notes: &mut Vec<String>,
    ) -> Result<(CudaExecutor, Grade)> {
        let build = |schedule: Schedule, notes: &mut Vec<String>| match schedule {
            Schedule::Gpu(schedule) => CudaExecutor::new(context, &self.program, &problem, &schedule, notes),
            Schedule::Cpu(_) => Err(Error::InvalidProblem {
                reason: "the schedule is for the CPU device, expected one for a GPU".to_owned(),
            }),
        };
        if let Some(schedule) = self.schedule {
            return Ok((build(schedule, notes)?, Grade::Exact));
        }
        let mut said = Vec::new();
        let device = selection::gpu(context.info());
        let chosen = selection::choose(&self.program, &problem, device, |schedule| {
            build(schedule, &mut said).map_err(|error| error.to_string())
        });
        notes.extend(chosen.notes);
        notes.extend(said);
        match chosen.value {
            Some(executor) => Ok((executor, chosen.grade)),
            None => {
                let default = GpuSchedule::default_for(&self.program, &problem, &Gpu::from(context.info()));
                Ok((build(Schedule::Gpu(default), notes)?, Grade::Default))
            }
        }
    }

    fn problem(&self, device: &Device) -> Result<Problem> {
        let mut problem = self.problem.clone();
        for (name, size) in [("hidden size", problem.hidden), ("vocabulary", problem.vocab)] {
            if size == 0 {
                return Err(Error::InvalidProblem {
                    reason: format!("the {name} is 0, expected at least 1"),
                });
            }
        }
        // Each is counted in 32 bits with room for sentinels, and the product of two fits in 64.
        for (name, size) in [
            ("tokens", problem.tokens),
            ("hidden units", problem.hidden),
            ("vocabulary entries", problem.vocab),
        ] {
            if size > (1 << 28) {
                return Err(Error::InvalidProblem {
                    reason: format!("{size} {name}, expected at most {}", 1u32 << 28),
                });
            }
        }
        if let (IndexType::I32, Some(index)) = (problem.index, self.ignore_index)
            && i32::try_from(index).is_err()
        {
            return Err(Error::InvalidProblem {
                reason: format!(
                    "the ignored index is {index}, expected one that fits the targets' type, i32"
                ),
            });
        }
        problem.ignored = match self.ignore_index {
            Some(_) if self.program.has_target() => Ignored::Possible,
            _ => Ignored::None,
        };
        let own = GradientOutput { dtype: problem.dtype, accumulate: false };
        let decide = |wish: Wish, what: &str| {
            let output = match wish {
                Wish::Own => Some(own),
                Wish::Given(output) => output,
            };
            match output {
                Some(output) if output.dtype != problem.dtype && output.dtype != DType::F32 => {
                    Err(Error::InvalidProblem {
                        reason: format!(
                            "{what} is asked for in {}, expected {} (the inputs' type) or f32",
                            output.dtype.name(),
                            problem.dtype.name()
                        ),
                    })
                }
                output => Ok(output),
            }
        };
        let hidden_gradient = decide(self.hidden_gradient, "the gradient of the hidden states")?;
        let classifier_gradient = decide(self.classifier_gradient, "the gradient of the classifier")?;
        problem.hidden_gradient = hidden_gradient;
        problem.classifier_gradient = classifier_gradient;
        let layout = |given: Option<Layout>, what: &str| {
            // A GPU's kernels read 16 bytes at a time unless the problem says otherwise; the host's take any
            // element.
            let align = match device.inner() {
                Inner::Cpu => problem.dtype.bytes(),
                Inner::Cuda(_) => 16,
            };
            let layout = given.unwrap_or(Layout { row_stride: problem.hidden, align });
            if layout.row_stride < problem.hidden {
                return Err(Error::InvalidProblem {
                    reason: format!(
                        "{what} has row stride {}, expected at least the hidden size {}",
                        layout.row_stride, problem.hidden
                    ),
                });
            }
            if layout.row_stride > (1 << 30) {
                return Err(Error::InvalidProblem {
                    reason: format!(
                        "{what} has row stride {}, expected at most {} elements",
                        layout.row_stride,
                        1u32 << 30
                    ),
                });
            }
            if !layout.align.is_power_of_two() || layout.align < problem.dtype.bytes() {
                return Err(Error::InvalidProblem {
                    reason: format!(
                        "{what} states an alignment of {} bytes, expected a power of two of at least {}",
                        layout.align,
                        problem.dtype.bytes()
                    ),
                });
            }
            Ok(layout)
        };
        let hidden_layout = layout(self.hidden_layout, "the layout of the hidden states")?;
        let classifier_layout = layout(self.classifier_layout, "the layout of the classifier")?;
        problem.hidden_layout = hidden_layout;
        problem.classifier_layout = classifier_layout;
        let resolver = Resolver {
            program: &self.program,
            problem: &problem,
            place: device.place(),
            ignore_index: self.ignore_index,
            needed: WorkspaceSize { peak: 0, held: 0 },
        };
        let kinds = [InputKind::Row, InputKind::Col, InputKind::Scalar];
        let mut wanted = Vec::new();
        for name in &self.input_gradients {
            let id = resolver.input("input to differentiate by", name, &kinds)?;
            if wanted.contains(&id) {
                return Err(Error::InvalidProblem {
                    reason: format!("the gradient of `{name}` is asked for twice"),
                });
            }
            wanted.push(id);
        }
        problem.input_gradients = wanted;
        Ok(problem)
    }
}
