//! The CPU device: the same program in Rust, on the rayon pool that a call is made from.
//!
//! ```text
//! Lowered ── code ──▶ StripCode (over the vocabulary, f32, vectorised)   strip, math
//!                     RowCode   (a token, f64)                           row
//! call ── host ──▶ slices, tokens that count                             tensor
//! loops ──▶ blocks of tokens: logits, statistics, outputs                product, stats
//! exact, sampled ──▶ tiles of logits become gradients; inputs            gradient, layout, memory
//! ```
//!
//! Invariants: the numbers do not depend on how many threads there are; beyond the workspace only scratch of
//! some ten kilobytes a thread is allocated (and what the product crate packs, some megabytes); ignored
//! tokens are packed out.

mod code;
mod exact;
mod gradient;
mod host;
mod inputs;
mod layout;
mod loops;
mod math;
mod memory;
mod product;
mod row;
mod sampled;
mod skipped;
mod stats;
mod strip;
mod tensor;

use crate::error::{Error, Result};
use crate::executor::{
    Executor, ResolvedBackward, ResolvedForward, ResolvedGradients, ResolvedInputs, ResolvedOutput,
    ResolvedSettings, ResolvedStep, ResolvedUpstream,
};
use crate::workspace::{RawWorkspace, WorkspaceSize};
use cce_codegen::diff::{NotRankOne, Wanted, lower};
use cce_codegen::ir::Program;
use cce_codegen::plan::cannot_skip;
use cce_codegen::problem::{Filter, Problem};
use cce_codegen::schedule::Schedule;
use code::{ForwardCode, GradientCode};
use exact::Buffers;
use host::{HostCall, HostGradients, HostOutputs};
pub(crate) use layout::default_schedule;
use layout::{Blocks, Order, Regions};
use loops::{Large, Loops};
use sampled::{SampledBuffers, SampledCode, SampledRegions, Shape};

/// The filter of a plan: the caller's if it is allowed; else `Sampled` where the program allows it, or
/// `Exact`, and `notes` says why.
pub(crate) fn decide_filter(
    program: &Program,
    problem: &Problem,
    wish: Option<Filter>,
    notes: &mut Vec<String>,
) -> Result<Filter> {
    let refused =
        |filter: Filter, reason: String| Err(Error::FilterNotAllowed { filter: filter.to_string(), reason });
    match wish {
        Some(Filter::Exact) => Ok(Filter::Exact),
        Some(filter @ Filter::Blocks { .. }) => {
            match cannot_skip(program, &Problem { filter, ..problem.clone() }) {
                None => Ok(filter),
                Some(reason) => refused(filter, reason),
            }
        }
        Some(filter @ Filter::Sampled { .. }) => {
            if let Some(mistake) = filter.mistake() {
                return refused(filter, mistake.to_owned());
            }
            match not_sampled(program, problem) {
                None => Ok(filter),
                Some(reason) => refused(filter, reason),
            }
        }
        // What is not computed is not thinned.
        None if problem.hidden_gradient.is_none() && problem.classifier_gradient.is_none() => {
            Ok(Filter::Exact)
        }
        // Every column would be hot.
        None if sampled::hot_columns(problem.vocab) == problem.vocab => {
            notes.push(format!("the filter is exact: of {} columns none would be sampled", problem.vocab));
            Ok(Filter::Exact)
        }
        None => match not_sampled(program, problem) {
            None => Ok(Filter::SAMPLED),
            Some(reason) => {
                notes.push(format!("the filter is exact: {reason}"));
                Ok(Filter::Exact)
            }
        },
    }
}

/// Why this program's gradient cannot be sampled.
fn not_sampled(program: &Program, problem: &Problem) -> Option<String> {
    let logit = logit_wanted(problem);
    let mut lowered = lower(program, &Wanted { logit, inputs: problem.input_gradients.clone() });
    if lowered.softmax.is_none() {
        return Some("the program has no softmax, so there is nothing to sample".to_owned());
    }
    lowered.uniform_factors(logit).err().map(|reason| reason.to_string())
}

fn logit_wanted(problem: &Problem) -> bool {
    problem.hidden_gradient.is_some() || problem.classifier_gradient.is_some()
}

/// A plan on the CPU.
pub(crate) struct CpuExecutor {
    problem: Problem,
    schedule: Schedule,
    forward: ForwardCode,
    blocks: Blocks,
    size: WorkspaceSize,
    filtered: Filtered,
}

/// What the filter decides.
enum Filtered {
    Exact { gradient: Option<Box<GradientCode>>, regions: Box<Regions> },
    Sampled { code: Box<SampledCode>, shape: Shape, regions: Box<SampledRegions> },
}

/// The inputs, settings and workspace of any call.
struct Given<'a> {
    inputs: &'a ResolvedInputs,
    settings: &'a ResolvedSettings,
    workspace: RawWorkspace,
}

impl CpuExecutor {
    /// Compiles the program for the host and lays out the workspace. The problem's filter has been decided.
    pub(crate) fn new(
        program: &Program,
        problem: Problem,
        schedule: Option<Schedule>,
    ) -> Result<CpuExecutor> {
        let schedule = match schedule {
            None => default_schedule(&problem),
            Some(Schedule::Cpu(schedule)) => schedule,
            Some(Schedule::Gpu(_)) => {
                return Err(Error::InvalidProblem {
                    reason: "the schedule is for a GPU, expected one for the CPU device".to_owned(),
                });
            }
        };
        layout::check(&schedule)?;
        let logit = logit_wanted(&problem);
        let lowered = lower(program, &Wanted { logit, inputs: problem.input_gradients.clone() });
        let forward = ForwardCode::compile(&lowered);
        let (blocks, size, filtered) = match problem.filter {
            Filter::Sampled { eps, max_entries } if problem.wants_gradients() => {
                let not_allowed = |reason: NotRankOne| Error::FilterNotAllowed {
                    filter: problem.filter.to_string(),
                    reason: reason.to_string(),
                };
                let code = SampledCode::compile(lowered, logit).map_err(not_allowed)?;
                let shape = Shape::new(problem.vocab, eps, max_entries);
                let (tokens, regions) = sampled::choose(&problem, &schedule, &shape, &forward, &code)?;
                let blocks = Blocks {
                    order: Order::TokensOuter,
                    tokens,
                    chunk: problem.vocab,
                    strip: (schedule.strip as usize).min(problem.vocab),
                    panel: layout::panel_rows(&problem, problem.vocab),
                };
                let size = regions.size;
                let (code, regions) = (Box::new(code), Box::new(regions));
                (blocks, size, Filtered::Sampled { code, shape, regions })
            }
            _ => {
                let gradient = problem.wants_gradients().then(|| GradientCode::compile(&lowered, logit));
                let (blocks, regions) = layout::choose(&problem, &schedule, &forward, gradient.as_ref())?;
                let (gradient, regions) = (gradient.map(Box::new), Box::new(regions));
                (blocks, regions.size, Filtered::Exact { gradient, regions })
            }
        };
        Ok(CpuExecutor { problem, schedule: Schedule::Cpu(schedule), forward, blocks, size, filtered })
    }

    fn loops<'a, 'c>(&'a self, call: &'a HostCall<'c>) -> Loops<'a, 'c> {
        let gradient = match &self.filtered {
            Filtered::Exact { gradient, .. } => gradient.as_deref(),
            Filtered::Sampled { .. } => None,
        };
        let skipped_below = self.skipped_below();
        Loops { forward: &self.forward, gradient, blocks: &self.blocks, skipped_below, call }
    }

    /// The threshold of the filter `Blocks`, where there are gradients to skip parts of.
    fn skipped_below(&self) -> Option<f64> {
        match self.problem.filter {
            Filter::Blocks { eps } if self.problem.wants_gradients() => Some(f64::from(eps)),
            _ => None,
        }
    }

    /// Whether forward and backward share a tile in a step: what is skipped is known only after the forward.
    fn fuses(&self) -> bool {
        let is_exact = matches!(self.filtered, Filtered::Exact { .. });
        is_exact && self.blocks.fused(self.problem.vocab) && self.skipped_below().is_none()
    }

    fn run_forward(&self, given: &Given<'_>, outputs: &[ResolvedOutput]) -> Result<()> {
        // SAFETY: a resolved call's views and workspace are valid during the call and do not overlap, and
        // live on the host.
        unsafe {
            let call = HostCall::new(&self.problem, given.inputs, given.settings, &[])?;
            let (loops, mut outputs) = (self.loops(&call), HostOutputs::new(outputs));
            match &self.filtered {
                Filtered::Exact { regions, .. } => {
                    let mut buffers = Buffers::new(regions, given.workspace, &call);
                    loops.forward(&mut buffers, &mut outputs, None);
                }
                Filtered::Sampled { code, shape, regions } => {
                    let mut buffers = SampledBuffers::new(regions, given.workspace, &call);
                    sampled::forward(&loops, code, shape, &mut buffers, &mut outputs);
                }
            }
        }
        Ok(())
    }

    fn run_backward(
        &self,
        given: &Given<'_>,
        upstreams: &[ResolvedUpstream],
        gradients: &ResolvedGradients,
    ) -> Result<()> {
        let wanted = &self.problem.input_gradients;
        // SAFETY: as in `run_forward`.
        unsafe {
            let call = HostCall::new(&self.problem, given.inputs, given.settings, upstreams)?;
            let (loops, mut gradients) = (self.loops(&call), HostGradients::new(gradients));
            let mut large = self.large(&mut gradients);
            match &self.filtered {
                Filtered::Exact { gradient: None, .. } => {}
                Filtered::Exact { gradient: Some(code), regions } => {
                    let mut buffers = Buffers::new(regions, given.workspace, &call);
                    loops.backward(&mut buffers, &mut large);
                    let data = (buffers.tokens, &*buffers.records, &*buffers.col_sums);
                    loops.input_gradients(code, data, &mut gradients, wanted);
                }
                Filtered::Sampled { code, shape, regions } => {
                    let mut buffers = SampledBuffers::new(regions, given.workspace, &call);
                    sampled::backward(&loops, code, shape, &mut buffers, &mut large);
                    let data = (buffers.tokens, &*buffers.records, &*buffers.col_sums);
                    loops.input_gradients(&code.hot, data, &mut gradients, wanted);
                }
            }
        }
        Ok(())
    }

    /// Takes the two large gradients out.
    fn large<'c>(&self, gradients: &mut HostGradients<'c>) -> Large<'c> {
        Large {
            hidden: gradients.hidden.take().zip(self.problem.hidden_gradient),
            classifier: gradients.classifier.take().zip(self.problem.classifier_gradient),
        }
    }
}

impl Executor for CpuExecutor {
    fn workspace(&self) -> WorkspaceSize {
        self.size
    }

    fn problem(&self) -> &Problem {
        &self.problem
    }

    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn dump(&self, level: &str) -> Option<Result<String>> {
        (level == "plan").then(|| Ok(self.describe()))
    }

    fn forward(&self, call: &ResolvedForward) -> Result<()> {
        let given = Given { inputs: &call.inputs, settings: &call.settings, workspace: call.workspace };
        self.run_forward(&given, &call.outputs)
    }

    fn backward(&self, call: &ResolvedBackward) -> Result<()> {
        let given = Given { inputs: &call.inputs, settings: &call.settings, workspace: call.workspace };
        self.run_backward(&given, &call.upstreams, &call.gradients)
    }

    fn kept_entries(&self, _: &ResolvedSettings, workspace: RawWorkspace) -> Result<Option<u64>> {
        Ok(match &self.filtered {
            Filtered::Exact { regions, .. } => self.skipped_below().map(|_| {
                // SAFETY: as below.
                unsafe { skipped::kept_entries(regions, workspace) }
            }),
            // SAFETY: a resolved call's workspace is valid during the call and lives on the host.
            Filtered::Sampled { regions, .. } => Some(unsafe { sampled::kept_entries(regions, workspace) }),
        })
    }

    fn step(&self, call: &ResolvedStep) -> Result<()> {
        let given = Given { inputs: &call.inputs, settings: &call.settings, workspace: call.workspace };
        match &self.filtered {
            Filtered::Exact { gradient: Some(code), regions } if code.walks() && self.fuses() => {
                // SAFETY: as in `run_forward`.
                unsafe {
                    let host = HostCall::new(&self.problem, given.inputs, given.settings, &call.upstreams)?;
                    let mut buffers = Buffers::new(regions, given.workspace, &host);
                    let mut gradients = HostGradients::new(&call.gradients);
                    let loops = self.loops(&host);
                    let mut large = self.large(&mut gradients);
                    loops.forward(&mut buffers, &mut HostOutputs::new(&call.outputs), Some(&mut large));
                    let data = (buffers.tokens, &*buffers.records, &*buffers.col_sums);
                    loops.input_gradients(code, data, &mut gradients, &self.problem.input_gradients);
                }
                Ok(())
            }
            _ => {
                self.run_forward(&given, &call.outputs)?;
                self.run_backward(&given, &call.upstreams, &call.gradients)
            }
        }
    }
}

impl CpuExecutor {
    fn describe(&self) -> String {
        let Blocks { order, tokens, chunk, strip, panel } = self.blocks;
        let Problem { tokens: n, hidden: d, vocab: v, dtype, filter, .. } = &self.problem;
        format!(
            "cpu plan: {n} tokens x {d} hidden x {v} vocab, {}, {filter}\n\
             tile: {tokens} tokens x {chunk} columns, strips of {strip}, panel of {panel} classifier rows\n\
             backward: {order:?}, {}\n\
             workspace: peak {} bytes, held {} bytes\n",
            dtype.name(),
            if self.fuses() {
                "one tile for forward and backward in a step"
            } else {
                "logits computed again"
            },
            self.size.peak,
            self.size.held
        )
    }
}
