//! The winner against a data file's references.

use super::output::table;
use crate::Error;
use crate::arguments::Arguments;
use crate::bench::{Comparison, CudaMemory, HostMemory, Memory, PlanBench, Results};
use crate::data::{Head, IGNORED};
use crate::task::Task;
use cce_codegen::ir::{InputKind, Program};
use cce_codegen::problem::{DType, Filter};
use cce_codegen::schedule::Schedule;
use cce_codegen::valid::{ProgramBuilder, Site};
use cce_runtime::{Device, DeviceKind, Gradients};
use serde::Serialize;

/// What is to be checked: plain cross entropy on the head, on this device, with this schedule. The file's
/// references are values of its tokens that count, and gradients of the mean over these.
#[derive(Debug)]
pub struct Check<'a> {
    /// The task that was tuned.
    pub task: &'a Task,
    /// Where.
    pub device: &'a Device,
    /// The file, in the task's type.
    pub head: &'a Head,
    /// The winner.
    pub schedule: Schedule,
    /// References of the file that the head came without, and why, if there are any.
    pub left_out: Option<&'a str>,
}

/// One comparison with a reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// What was compared.
    pub what: &'static str,
    /// Relative error.
    pub error: f64,
    /// The most that is rounding (or, under a filter, its noise).
    pub limit: f64,
    /// Result and reference, where they are one number.
    pub values: Option<(f64, f64)>,
}

/// All comparisons.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// The filter of the gradients.
    pub filter: String,
    /// One a reference.
    pub lines: Vec<Line>,
    /// What was not compared and why, a line each.
    pub not_compared: Vec<String>,
}

impl Check<'_> {
    /// Runs it.
    ///
    /// # Errors
    /// What the plan reports.
    pub fn run(&self, filter: Filter) -> Result<Checked, Error> {
        let mut not_compared: Vec<String> = self.left_out.iter().map(|&why| why.to_owned()).collect();
        let nothing =
            |not_compared| Ok(Checked { filter: filter.to_string(), lines: Vec::new(), not_compared });
        let plain = cross_entropy_and_lse().filter(|_| {
            cce::losses::named("cross_entropy")
                .is_some_and(|program| program.hash() == self.task.program.hash())
        });
        let Some(program) = plain else {
            let tuned = self.task.program.name();
            not_compared = vec![format!(
                "not compared: the file's references, which are for plain cross entropy; {tuned} was tuned"
            )];
            return nothing(not_compared);
        };
        if self.counted().next().is_none() {
            not_compared.push("not compared: the file's references, since no token counts".to_owned());
            return nothing(not_compared);
        }
        let references = &self.head.references;
        let task = Task {
            program,
            filter: Some(filter),
            gradients: Gradients {
                hidden: references.hidden_gradient.is_some(),
                classifier: references.classifier_gradient.is_some(),
            },
            input_gradients: Vec::new(),
            memory_limit: self.task.memory_limit,
            ..self.task.clone()
        };
        let results = match self.device.kind() {
            DeviceKind::Cpu => self.results(HostMemory, &task)?,
            DeviceKind::Cuda => self.results(CudaMemory::new(self.device)?, &task)?,
        };
        Ok(Checked { not_compared, ..self.compare(&results, filter) })
    }

    /// The tokens that count.
    fn counted(&self) -> impl Iterator<Item = usize> {
        let targets = &self.head.targets;
        (0..self.head.tokens).filter(|&token| targets.get(token) != IGNORED)
    }

    fn results<M: Memory>(&self, memory: M, task: &Task) -> Result<Results, Error> {
        let arguments = Arguments::new(&task.program, task.tokens, task.vocab, &[])?;
        let mut bench =
            PlanBench::new(memory, self.device.clone(), task.clone(), self.head, &arguments, None)?;
        bench.run(&task.plan(self.device, self.schedule)?)
    }

    fn compare(&self, results: &Results, filter: Filter) -> Checked {
        let references = &self.head.references;
        let (outputs, gradients) = limits(self.task.dtype, filter);
        let output =
            |name: &str| results.outputs.iter().find(|(of, _)| of == name).map(|(_, v)| v.as_slice());
        let gradient =
            |name: &str| results.gradients.iter().find(|(of, _)| of == name).map(|(_, v)| v.as_slice());
        let mut lines = Vec::new();
        let tokens: Vec<usize> = self.counted().collect();
        if let Some(expected) = references.mean_loss_of(&tokens) {
            let found = f64::from(results.reduced);
            let error = ((found - expected) / expected).abs();
            lines.push(Line { what: "mean loss", error, limit: outputs, values: Some((found, expected)) });
        }
        let per_token = [("loss a token", "loss", &references.loss), ("lse", "lse", &references.lse)];
        for (what, name, expected) in per_token {
            if let (Some(expected), Some(found)) = (expected, output(name)) {
                let expected: Vec<f32> = tokens.iter().map(|&token| expected[token] as f32).collect();
                let found: Vec<f32> = tokens.iter().map(|&token| found[token]).collect();
                let error = Comparison::of(&found, &expected).error;
                lines.push(Line { what, error, limit: outputs, values: None });
            }
        }
        let width = self.head.width;
        if let (Some(expected), Some(found)) = (&references.hidden_gradient, gradient("dE")) {
            let error = Comparison::of(&found[..expected.len().min(found.len())], expected).error;
            lines.push(Line { what: "rows of dE", error, limit: gradients, values: None });
        }
        if let (Some((rows, expected)), Some(found)) = (&references.classifier_gradient, gradient("dC")) {
            let picked: Vec<f32> =
                rows.iter().flat_map(|row| found[row * width..(row + 1) * width].iter().copied()).collect();
            let error = Comparison::of(&picked, expected).error;
            lines.push(Line { what: "rows of dC", error, limit: gradients, values: None });
        }
        Checked { filter: filter.to_string(), lines, not_compared: Vec::new() }
    }
}

/// The most that outputs and gradients may be off: fp32 sums of exact products; gradients rounded to the
/// inputs' type, as a factor and as a result. Under the sampled filter gradients carry its noise, 1e-2 at its
/// default on a trained head.
fn limits(dtype: DType, filter: Filter) -> (f64, f64) {
    let rounding = match dtype {
        DType::F32 => 1e-4,
        DType::F16 | DType::Bf16 => 4e-3,
    };
    let gradients = match filter {
        Filter::Exact => rounding,
        Filter::Blocks { eps } | Filter::Sampled { eps, .. } => rounding + 2.0 * f64::from(eps).sqrt(),
    };
    (1e-5, gradients)
}

/// Plain cross entropy that also puts out the lse.
fn cross_entropy_and_lse() -> Option<Program> {
    let site = Site::default();
    let mut builder = ProgramBuilder::new(site, "cross_entropy_and_lse");
    let x = builder.input(site, "x", InputKind::Logit);
    let y = builder.input(site, "y", InputKind::Target);
    let (lse, at) = (builder.lse(site, x), builder.at(site, x, y));
    let loss = builder.sub(site, lse, at);
    builder.output(site, "loss", loss);
    builder.output(site, "lse", lse);
    builder.finish().ok()
}

impl Checked {
    /// Whether every error is within its limit.
    pub fn is_right(&self) -> bool {
        self.lines.iter().all(|line| line.error <= line.limit)
    }

    pub(super) fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .lines
            .iter()
            .map(|line| {
                let verdict = if line.error <= line.limit { "right" } else { "WRONG" };
                let values = line.values.map(|(found, expected)| format!("{found:.7} against {expected:.7}"));
                vec![
                    line.what.to_owned(),
                    format!("{:.1e}", line.error),
                    format!("{:.1e}", line.limit),
                    verdict.to_owned(),
                    values.unwrap_or_default(),
                ]
            })
            .collect();
        let not_compared: String = self.not_compared.iter().map(|line| format!("{line}\n")).collect();
        if rows.is_empty() {
            return not_compared;
        }
        let header = ["the file's references", "relative error", "limit", "", ""];
        let table = table(&header, &rows, &[1, 2]);
        format!("{table}(gradients under the filter {})\n{not_compared}", self.filter)
    }
}
