//! The reference of the reference: a part of the problem against the f64 oracle.

use super::{Comparison, Memory, PlanBench, Tolerance};
use crate::Error;
use crate::arguments::Arguments;
use crate::data::{Head, IGNORED};
use crate::task::Task;
use cce_codegen::interp::reference::Reference;
use cce_codegen::problem::Filter;
use cce_codegen::schedule::Schedule;
use cce_runtime::Device;

/// Tokens of the part.
const TOKENS: usize = 16;
/// Vocabulary entries of the part.
const VOCAB: usize = 8192;

/// Computes the first tokens against the first entries with this schedule, exactly, and compares outputs and
/// gradients with the oracle, which materialises the logits in f64. The oracle works from the inputs as
/// rounded to the task's type.
///
/// # Errors
/// [`Error::ReferenceWrong`] when they differ by more than rounding, [`Error::NotFinite`] when either is not
/// finite; what the plan reports.
pub fn check_against_f64<M: Memory>(
    memory: M,
    device: &Device,
    task: &Task,
    head: &Head,
    arguments: &Arguments,
    schedule: Schedule,
) -> Result<(), Error> {
    let part = head.part(TOKENS, VOCAB);
    let task = Task { tokens: part.tokens, vocab: part.vocab, ..task.exact() };
    let arguments = arguments.first(part.tokens, part.vocab);
    let plan = task.plan(device, schedule)?;
    let mut bench = PlanBench::new(memory, device.clone(), task.clone(), &part, &arguments, None)?;
    let results = bench.run(&plan)?;

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
    let oracle = || -> Result<_, cce_codegen::interp::reference::ReferenceError> {
        let mut oracle = Reference::new(&task.program, task.width, &e, &c)?;
        if task.program.has_target() {
            oracle = oracle.targets(&targets)?;
        }
        for (name, values) in &values {
            oracle = oracle.input(name, values)?;
        }
        let outputs = task.program.outputs();
        let reduced = outputs.iter().position(|output| output.name == "loss").unwrap_or(0);
        let upstream: Vec<Vec<f64>> = (0..outputs.len())
            .map(|at| vec![if at == reduced { 1.0 / counted as f64 } else { 0.0 }; part.tokens])
            .collect();
        let wanted: Vec<&str> = task.input_gradients.iter().map(String::as_str).collect();
        oracle.run(&upstream, &wanted)
    };
    let expected = oracle().map_err(|error| Error::ReferenceWrong { reason: error.to_string() })?;

    results.check_finite(&task.program, &arguments)?;
    let narrow = |values: &[f64]| -> Vec<f32> { values.iter().map(|&x| x as f32).collect() };
    let tolerance = Tolerance::of(task.dtype, Filter::Exact);
    let mut wrong = Vec::new();
    let outputs = task.program.outputs();
    let reduced = outputs.iter().position(|output| output.name == "loss").unwrap_or(0);
    let mean: f64 = expected.outputs[reduced].iter().sum::<f64>() / counted as f64;
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
