//! What is tuned: a loss, a shape, and how it will be called.

use crate::Error;
use cce_codegen::ir::Program;
use cce_codegen::plan::refuses;
use cce_codegen::problem::{DType, Filter, IndexType, Problem};
use cce_codegen::schedule::Schedule;
use cce_runtime::{Device, Gradients, Plan, PlanBuilder};

/// A problem as a user's plan states it: the tuner's plans are built by the same calls, so that what is
/// stored is found.
#[derive(Clone, Debug)]
pub struct Task {
    /// The loss.
    pub program: Program,
    /// N.
    pub tokens: usize,
    /// D.
    pub width: usize,
    /// V.
    pub vocab: usize,
    /// Type of hidden states and classifier.
    pub dtype: DType,
    /// The filter; `None`: the default of a plan.
    pub filter: Option<Filter>,
    /// Which of dE and dC are computed.
    pub gradients: Gradients,
    /// Row, Col and Scalar inputs whose gradients are computed too.
    pub input_gradients: Vec<String>,
    /// Type of the targets.
    pub index: IndexType,
    /// Whether tokens may be ignored.
    pub ignored: bool,
    /// The most bytes of workspace.
    pub memory_limit: Option<u64>,
}

impl Task {
    /// Both gradients, targets i32, tokens possibly ignored, the default filter, no limit.
    pub fn new(program: Program, tokens: usize, width: usize, vocab: usize, dtype: DType) -> Task {
        Task {
            program,
            tokens,
            width,
            vocab,
            dtype,
            filter: None,
            gradients: Gradients::both(),
            input_gradients: Vec::new(),
            index: IndexType::I32,
            ignored: true,
            memory_limit: None,
        }
    }

    /// The builder of its plans.
    pub fn builder(&self) -> PlanBuilder {
        let mut builder = Plan::builder(&self.program, self.tokens, self.width, self.vocab)
            .dtype(self.dtype)
            .gradients(self.gradients)
            .index(self.index)
            .ignore_index(self.ignored.then_some(crate::data::IGNORED));
        if let Some(filter) = self.filter {
            builder = builder.filter(filter);
        }
        if let Some(bytes) = self.memory_limit {
            builder = builder.workspace_limit(bytes);
        }
        self.input_gradients.iter().fold(builder, |builder, name| builder.input_gradient(name))
    }

    /// A plan with this schedule.
    ///
    /// # Errors
    /// Why the schedule, or the task itself, is not possible on the device.
    pub fn plan(&self, device: &Device, schedule: Schedule) -> Result<Plan, Error> {
        Ok(self.builder().schedule(schedule).build(device)?)
    }

    /// The problem as a plan on a GPU has it, its filter decided; needs no GPU.
    ///
    /// # Errors
    /// Why the task is not possible on any device.
    pub fn gpu_problem(&self) -> Result<Problem, Error> {
        // A plan of the CPU device checks names and types in the same way.
        let mut problem = self.exact().builder().build(&Device::cpu())?.problem().clone();
        let aligned = Problem::new(self.tokens, self.width, self.vocab, self.dtype);
        problem.hidden_layout = aligned.hidden_layout;
        problem.classifier_layout = aligned.classifier_layout;
        problem.workspace_limit = self.memory_limit;
        problem.filter = self.filter.unwrap_or(Filter::SAMPLED);
        // As a plan on a GPU, which samples by default where it can.
        let large = problem.hidden_gradient.is_some() || problem.classifier_gradient.is_some();
        if self.filter.is_none() && (!large || refuses(&self.program, &problem).is_some()) {
            problem.filter = Filter::Exact;
        }
        Ok(problem)
    }

    /// The same, computed exactly: what its reference is.
    #[must_use]
    pub fn exact(&self) -> Task {
        Task { filter: Some(Filter::Exact), memory_limit: None, ..self.clone() }
    }
}
