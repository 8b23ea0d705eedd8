//! The winner against a data file's references.
//!
//! A sampled gradient has noise as large as loss and data make it: as a candidate's it is compared by whether it is
//! biased, over as many seeds as that takes ([`crate::bench`]).

use super::output::table;
use crate::Error;
use crate::arguments::Arguments;
use crate::bench::{Bias, Comparison, CudaMemory, HostMemory, Memory, PlanBench, Results, Verdict};
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
    /// Relative error; of a sampled gradient, in the mean over the seeds.
    pub error: f64,
    /// The most that is rounding, or what the filter leaves open.
    pub limit: f64,
    /// Runs that it is told from, with a seed each.
    pub seeds: usize,
    /// The noise of one run, relative, where several were compared.
    pub noise: Option<f64>,
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
        let expected = self.expected();
        let first = self.found(&results);
        let errors: Vec<f64> =
            first.iter().zip(&expected).map(|(a, (_, b))| Comparison::of(a, b).error).collect();
        let is_sampled = matches!(filter, Filter::Sampled { .. });
        // What was not written is wrong whatever the seed.
        if !is_sampled
            || errors.iter().all(|error| *error <= limit)
            || errors.iter().any(|error| error.is_infinite())
        {
            let line = |((what, _), error): (&(&'static str, _), f64)| Line::plain(what, error, limit);
            lines.extend(expected.iter().zip(errors).map(line));
            return Ok(lines);
        }
        let run = |seed| Ok(self.found(&bench.run_with(&plan, seed)?));
        lines.extend(sampled(&expected, first, limit, run)?);
        Ok(lines)
    }

    /// The gradients' references, by what they are of.
    fn expected(&self) -> Vec<(&'static str, &[f32])> {
        let references = &self.head.references;
        let hidden = references.hidden_gradient.iter().map(|rows| ("rows of dE", rows.as_slice()));
        let classifier =
            references.classifier_gradient.iter().map(|(_, rows)| ("rows of dC", rows.as_slice()));
        hidden.chain(classifier).collect()
    }

    /// What a run computed of them.
    fn found(&self, results: &Results) -> Vec<Vec<f32>> {
        let references = &self.head.references;
        let gradient =
            |name: &str| results.gradients.iter().find(|(of, _)| of == name).map(|(_, v)| v.as_slice());
        let width = self.head.width;
        let hidden = references.hidden_gradient.iter().map(|expected| {
            let found = gradient("dE").unwrap_or_default();
            found[..expected.len().min(found.len())].to_vec()
        });
        let classifier = references.classifier_gradient.iter().map(|(rows, _)| {
            let found = gradient("dC").unwrap_or_default();
            let row = |row: &usize| found.get(row * width..(row + 1) * width).unwrap_or_default();
            rows.iter().flat_map(row).copied().collect()
        });
        hidden.chain(classifier).collect()
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
            lines.push(Line { values, ..Line::plain("mean loss", error, OUTPUTS) });
        }
        let per_token = [("loss a token", "loss", &references.loss), ("lse", "lse", &references.lse)];
        for (what, name, expected) in per_token {
            if let (Some(expected), Some(found)) = (expected, output(name)) {
                let expected: Vec<f32> = tokens.iter().map(|&token| expected[token] as f32).collect();
                let found: Vec<f32> = tokens.iter().map(|&token| found[token]).collect();
                let error = Comparison::of(&found, &expected).error;
                lines.push(Line::plain(what, error, OUTPUTS));
            }
        }
        lines
    }
}

impl Line {
    /// Of one run.
    fn plain(what: &'static str, error: f64, limit: f64) -> Line {
        Line { what, error, limit, seeds: 1, noise: None, values: None }
    }
}

/// Gradients that are sampled, beside their references, from as many pairs of seeds as it takes to tell of all whether
/// they are biased; `first` is what seed 0 gave.
fn sampled(
    expected: &[(&'static str, &[f32])],
    first: Vec<Vec<f32>>,
    rounding: f64,
    mut run: impl FnMut(u64) -> Result<Vec<Vec<f32>>, Error>,
) -> Result<Vec<Line>, Error> {
    let mut biases = vec![Bias::default(); expected.len()];
    let mut next = Some(first);
    for pair in 0.. {
        let a = match next.take() {
            Some(first) => first,
            None => run(2 * pair)?,
        };
        let b = run(2 * pair + 1)?;
        for (bias, ((a, b), (_, expected))) in biases.iter_mut().zip(a.iter().zip(&b).zip(expected)) {
            bias.add(Comparison::of(a, expected), Comparison::of(b, expected), Comparison::of(b, a));
        }
        let is_open = |(bias, (what, _)): (&Bias, &(&str, _))| bias.judge(what, rounding) == Verdict::Open;
        if !biases.iter().zip(expected).any(is_open) {
            break;
        }
    }
    let line = |(bias, (what, _)): (&Bias, &(&'static str, _))| Line {
        seeds: bias.seeds(),
        noise: Some(bias.noise()),
        ..Line::plain(what, bias.size(), bias.limit(rounding))
    };
    Ok(biases.iter().zip(expected).map(line).collect())
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
        self.lines.iter().all(|line| line.error <= line.limit)
    }

    pub(super) fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .lines
            .iter()
            .map(|line| {
                let verdict = if line.error <= line.limit { "right" } else { "WRONG" };
                let values = line.values.map(|(found, expected)| format!("{found:.7} against {expected:.7}"));
                let seeds = line
                    .noise
                    .map(|noise| format!("in the mean over {} seeds, noise of one {noise:.1e}", line.seeds));
                vec![
                    line.what.to_owned(),
                    format!("{:.1e}", line.error),
                    format!("{:.1e}", line.limit),
                    verdict.to_owned(),
                    values.or(seeds).unwrap_or_default(),
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
