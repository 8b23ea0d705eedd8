//! The winner against a data file's references.
//!
//! A sampled gradient has noise, as large as loss and data make it, and of a few rows perhaps nothing else: so an exact plan
//! is compared with the file's rows, and the winner, as a candidate is ([`crate::bench`]), with all that the exact plan
//! computes.

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
use cce_runtime::{Device, DeviceKind, Gradients, Plan};
use cce_tuning_db::Status;
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
    /// The type of the file itself.
    pub of: DType,
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
    /// Relative error; of sampled gradients, the worse one's in one run, its noise.
    pub error: f64,
    /// The most that is rounding, or what the filter leaves open; none of noise.
    pub limit: Option<f64>,
    /// Why it is wrong, where it is.
    pub wrong: Option<String>,
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
        if self.of != self.task.dtype {
            let (of, dtype) = (self.of.name(), self.task.dtype.name());
            not_compared = vec![format!(
                "not compared: the file's references, which are of its {of} inputs; {dtype} was tuned, leave out --dtype"
            )];
            return nothing(not_compared);
        }
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
        let lines = match self.device.kind() {
            DeviceKind::Cpu => self.lines(HostMemory, &task, filter)?,
            DeviceKind::Cuda => self.lines(CudaMemory::new(self.device)?, &task, filter)?,
        };
        Ok(Checked { filter: filter.to_string(), lines, not_compared })
    }

    /// The tokens that count.
    fn counted(&self) -> impl Iterator<Item = usize> {
        let targets = &self.head.targets;
        (0..self.head.tokens).filter(|&token| targets.get(token) != IGNORED)
    }

    fn lines<M: Memory>(&self, memory: M, task: &Task, filter: Filter) -> Result<Vec<Line>, Error> {
        let arguments = Arguments::new(&task.program, task.tokens, task.vocab, &[])?;
        let mut bench =
            PlanBench::new(memory, self.device.clone(), task.clone(), self.head, &arguments, None)?;
        let plan = task.plan(self.device, self.schedule)?;
        let results = bench.run(&plan)?;
        let mut lines = self.outputs(&results);
        let limit = limit_of_gradients(self.task.dtype, filter);
        let is_sampled = matches!(filter, Filter::Sampled { .. });
        if !is_sampled || !(task.gradients.hidden || task.gradients.classifier) {
            lines.extend(self.gradients(&results, ["rows of dE", "rows of dC"], limit));
            return Ok(lines);
        }
        let exact = task.exact().builder().build(self.device)?;
        bench.make_reference(&exact, &arguments)?;
        let names = ["rows of dE, exact", "rows of dC, exact"];
        let of_exact = bench.reference()?.map(|exact| self.gradients(&exact, names, limit));
        lines.extend(of_exact.into_iter().flatten());
        lines.push(sampled(&mut bench, &plan)?);
        Ok(lines)
    }

    /// Gradients beside the file's rows.
    fn gradients(&self, results: &Results, names: [&'static str; 2], limit: f64) -> Vec<Line> {
        let references = &self.head.references;
        let of = |name: &str| {
            let found = results.gradients.iter().find(|(of, _)| of == name);
            found.map_or(&[][..], |(_, values)| values.as_slice())
        };
        let width = self.head.width;
        let mut lines = Vec::new();
        if let Some(expected) = &references.hidden_gradient {
            let found = of("dE");
            let found = found.get(..expected.len()).unwrap_or(found);
            lines.push(Line::of(names[0], Comparison::of(found, expected).error, limit));
        }
        if let Some((rows, expected)) = &references.classifier_gradient {
            let found = of("dC");
            let row = |row: &usize| found.get(row * width..(row + 1) * width).unwrap_or_default();
            let found: Vec<f32> = rows.iter().flat_map(row).copied().collect();
            lines.push(Line::of(names[1], Comparison::of(&found, expected).error, limit));
        }
        lines
    }

    fn outputs(&self, results: &Results) -> Vec<Line> {
        let references = &self.head.references;
        let output =
            |name: &str| results.outputs.iter().find(|(of, _)| of == name).map(|(_, v)| v.as_slice());
        let mut lines = Vec::new();
        let tokens: Vec<usize> = self.counted().collect();
        if let Some(expected) = references.mean_loss_of(&tokens) {
            let found = f64::from(results.reduced);
            let error = ((found - expected) / expected).abs();
            let values = Some((found, expected));
            lines.push(Line { values, ..Line::of("mean loss", error, OUTPUTS) });
        }
        let per_token = [("loss a token", "loss", &references.loss), ("lse", "lse", &references.lse)];
        for (what, name, expected) in per_token {
            if let (Some(expected), Some(found)) = (expected, output(name)) {
                let expected: Vec<f32> = tokens.iter().map(|&token| expected[token] as f32).collect();
                let found: Vec<f32> = tokens.iter().map(|&token| found[token]).collect();
                let error = Comparison::of(&found, &expected).error;
                lines.push(Line::of(what, error, OUTPUTS));
            }
        }
        lines
    }
}

impl Line {
    fn of(what: &'static str, error: f64, limit: f64) -> Line {
        let is_right = error <= limit;
        let wrong = (!is_right).then(|| "differs by more than rounding".to_owned());
        Line { what, error, limit: Some(limit), wrong, values: None }
    }

    fn is_right(&self) -> bool {
        self.wrong.is_none()
    }
}

/// The winner's gradients beside all that the bench's reference holds.
fn sampled<M: Memory>(bench: &mut PlanBench<M>, plan: &Plan) -> Result<Line, Error> {
    let line = |error, wrong| Line { what: "sampled gradients", error, limit: None, wrong, values: None };
    match bench.judge(plan) {
        Ok(error) => Ok(line(error, None)),
        Err(failure) => match failure.status {
            Status::Wrong(reason) => Ok(line(failure.error.unwrap_or(f64::INFINITY), Some(reason))),
            status => {
                let reason =
                    format!("the winner could not be run beside exact gradients: {}", status.reason());
                Err(Error::Inputs { reason })
            }
        },
    }
}

/// The most that outputs may be off: fp32 sums of exact products.
const OUTPUTS: f64 = 1e-5;

/// The most that gradients may be off, beside the noise of sampled ones: they are rounded to the inputs' type, as a
/// factor and as a result.
fn limit_of_gradients(dtype: DType, filter: Filter) -> f64 {
    let rounding = match dtype {
        DType::F32 => 1e-4,
        DType::F16 | DType::Bf16 => 4e-3,
    };
    match filter {
        Filter::Exact | Filter::Sampled { .. } => rounding,
        Filter::Blocks { eps } => rounding + 2.0 * f64::from(eps).sqrt(),
    }
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
        self.lines.iter().all(Line::is_right)
    }

    pub(super) fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .lines
            .iter()
            .map(|line| {
                let values = line.values.map(|(found, expected)| format!("{found:.7} against {expected:.7}"));
                let noise = line.limit.is_none().then(|| "noise, no bias".to_owned());
                vec![
                    line.what.to_owned(),
                    format!("{:.1e}", line.error),
                    line.limit.map_or_else(|| "-".to_owned(), |limit| format!("{limit:.1e}")),
                    if line.is_right() { "right" } else { "WRONG" }.to_owned(),
                    values.or(line.wrong.clone()).or(noise).unwrap_or_default(),
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
