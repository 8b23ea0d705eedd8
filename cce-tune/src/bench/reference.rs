//! The reference of the reference: a part of the problem against the f64 oracle.

use super::{Comparison, Memory, PlanBench, Results, Tolerance};
use crate::Error;
use crate::arguments::Arguments;
use crate::data::{Head, IGNORED};
use crate::task::Task;
use cce_codegen::interp::reference::{Reference, ReferenceError, ReferenceResult};
use cce_codegen::problem::Filter;
use cce_codegen::schedule::Schedule;
use cce_runtime::{Device, Plan};

/// Tokens of the part.
const TOKENS: usize = 16;
/// Vocabulary entries of the part.
const VOCAB: usize = 8192;

/// The first tokens against the first entries: a part of a problem that an f64 computation, which materialises the
/// logits, can do. It works from the inputs as rounded to the task's type.
pub(super) struct Part {
    head: Head,
    task: Task,
    arguments: Arguments,
}

/// What the f64 computation says the part's results are.
pub(super) struct Expected {
    result: ReferenceResult,
    counted: usize,
}

impl Part {
    /// What a part of this task is computed by, exactly; known before its inputs are.
    pub(super) fn task(task: &Task) -> Task {
        Task { tokens: task.tokens.min(TOKENS), vocab: task.vocab.min(VOCAB), ..task.exact() }
    }

    pub(super) fn new(task: &Task, head: &Head, arguments: &Arguments) -> Part {
        let task = Part::task(task);
        let head = head.part(task.tokens, task.vocab);
        let arguments = arguments.first(task.tokens, task.vocab);
        Part { head, task, arguments }
    }

    /// What a plan of the part's task computes.
    ///
    /// # Errors
    /// [`Error::NotFinite`]; what the plan reports.
    pub(super) fn results<M: Memory>(
        &self,
        memory: M,
        device: &Device,
        plan: &Plan,
    ) -> Result<Results, Error> {
        let task = self.task.clone();
        let mut bench = PlanBench::new(memory, device.clone(), task, &self.head, &self.arguments, None)?;
        let results = bench.run(plan)?;
        results.check_finite(&self.task.program, &self.arguments)?;
        Ok(results)
    }

    /// The f64 computation.
    ///
    /// # Errors
    /// [`Error::ReferenceWrong`] where the part is none.
    pub(super) fn expected(&self) -> Result<Expected, Error> {
        let Part { head: part, task, arguments } = self;
        let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&x| f64::from(x)).collect() };
        let (e, c) = (wide(&part.hidden.to_f32()), wide(&part.classifier.to_f32()));
        let counts = |token: usize| part.targets.get(token) != IGNORED || !task.program.has_target();
        let targets: Vec<Option<usize>> =
            (0..part.tokens).map(|token| usize::try_from(part.targets.get(token)).ok()).collect();
        let counted = (0..part.tokens).filter(|&token| counts(token)).count().max(1);
        let values: Vec<(&str, Vec<f64>)> = arguments
            .rows
            .iter()
            .chain(&arguments.cols)
            .map(|(name, values)| (name.as_str(), wide(values)))
            .chain(arguments.scalars.iter().map(|(name, value)| (name.as_str(), vec![f64::from(*value)])))
            .collect();
        let oracle = || -> Result<ReferenceResult, ReferenceError> {
            let mut oracle = Reference::new(&task.program, task.width, &e, &c)?;
            if task.program.has_target() {
                oracle = oracle.targets(&targets)?;
            }
            for (name, values) in &values {
                oracle = oracle.input(name, values)?;
            }
            let reduced = reduced_output(task);
            let upstream: Vec<Vec<f64>> = (0..task.program.outputs().len())
                .map(|at| vec![if at == reduced { 1.0 / counted as f64 } else { 0.0 }; part.tokens])
                .collect();
            let wanted: Vec<&str> = task.input_gradients.iter().map(String::as_str).collect();
            oracle.run(&upstream, &wanted)
        };
        let result = oracle().map_err(|error| Error::ReferenceWrong { reason: error.to_string() })?;
        Ok(Expected { result, counted })
    }

    /// Compares what a plan computed with what it should have.
    ///
    /// # Errors
    /// [`Error::ReferenceWrong`] when they differ by more than rounding.
    pub(super) fn compare(&self, results: &Results, expected: &Expected) -> Result<(), Error> {
        let narrow = |values: &[f64]| -> Vec<f32> { values.iter().map(|&x| x as f32).collect() };
        let tolerance = Tolerance::of(self.task.dtype, Filter::Exact);
        let mut wrong = Vec::new();
        let Expected { result: expected, counted } = expected;
        let mean: f64 = expected.outputs[reduced_output(&self.task)].iter().sum::<f64>() / *counted as f64;
        let comparison = Comparison::of(&[results.reduced], &[mean as f32]);
        wrong.extend(comparison.judge("the mean loss", tolerance.outputs).err());
        for ((name, result), expected) in results.outputs.iter().zip(&expected.outputs) {
            let comparison = Comparison::of(result, &narrow(expected));
            wrong.extend(comparison.judge(&format!("output {name}"), tolerance.outputs).err());
        }
        for (name, result) in &results.gradients {
            let expected = match name.as_str() {
                "dE" => narrow(&expected.hidden_gradient),
                "dC" => narrow(&expected.classifier_gradient),
                other => {
                    let of = |of: &str| other.strip_prefix("the gradient of ") == Some(of);
                    let found = expected.input_gradients.iter().find(|(name, _)| of(name));
                    found.map(|(_, values)| narrow(values)).unwrap_or_default()
                }
            };
            wrong.extend(Comparison::of(result, &expected).judge(name, tolerance.gradients).err());
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Error::ReferenceWrong { reason: wrong.join("; ") }),
        }
    }
}

/// The number of the output that is reduced: `loss`, or the first.
fn reduced_output(task: &Task) -> usize {
    task.program.outputs().iter().position(|output| output.name == "loss").unwrap_or(0)
}

/// Computes a part of the problem with this schedule, exactly, and compares outputs and gradients with an f64
/// computation.
///
/// # Errors
/// [`Error::ReferenceWrong`] when they differ by more than rounding, [`Error::NotFinite`] when the plan's are not
/// finite; what the plan reports.
pub fn check_against_f64<M: Memory>(
    memory: M,
    device: &Device,
    task: &Task,
    head: &Head,
    arguments: &Arguments,
    schedule: Schedule,
) -> Result<(), Error> {
    let part = Part::new(task, head, arguments);
    let results = part.results(memory, device, &part.task.plan(device, schedule)?)?;
    part.compare(&results, &part.expected()?)
}
