//! The CPU device: the same program in Rust, on the rayon pool that a call is made from.
//!
//! ```text
//! Lowered ── code ──▶ StripCode (over the vocabulary, f32, vectorised)   strip, math
//!                     RowCode   (a token, f64)                           row
//! call ── host ──▶ slices, tokens that count
//! exact ──▶ tiles of logits: product, stats, gradient, products          layout, memory, product
//! ```
//!
//! Invariants: the numbers do not depend on how many threads there are; beyond the workspace only scratch of some ten
//! kilobytes a thread is allocated (and what the product crate packs, some megabytes); ignored tokens are packed out.

mod code;
mod exact;
mod gradient;
mod host;
mod layout;
mod math;
mod memory;
mod product;
mod row;
mod stats;
mod strip;
mod tensor;

use crate::error::{Error, Result};
use crate::executor::{
    Executor, ResolvedBackward, ResolvedForward, ResolvedGradients, ResolvedInputs, ResolvedOutput,
    ResolvedSettings, ResolvedStep, ResolvedUpstream,
};
use crate::workspace::{RawWorkspace, WorkspaceSize};
use cce_codegen::diff::{Wanted, lower};
use cce_codegen::ir::Program;
use cce_codegen::problem::{Filter, Problem};
use cce_codegen::schedule::Schedule;
use code::{ForwardCode, GradientCode};
use exact::{Buffers, Large, Walk};
use host::{HostCall, HostGradients, HostOutputs};
use layout::{Blocks, Regions};

/// The filter of a plan: the caller's if it is allowed, else what the program allows, which `notes` says.
pub(crate) fn decide_filter(
    program: &Program,
    problem: &Problem,
    wish: Option<Filter>,
    notes: &mut Vec<String>,
) -> Result<Filter> {
    let _ = (program, problem, notes);
    match wish {
        None | Some(Filter::Exact) => Ok(Filter::Exact),
        Some(filter) => Err(Error::FilterNotAllowed {
            filter: format!("{filter:?}"),
            reason: "the CPU device offers Exact".to_owned(),
        }),
    }
}

/// A plan on the CPU.
pub(crate) struct CpuExecutor {
    problem: Problem,
    schedule: Schedule,
    forward: ForwardCode,
    gradient: Option<GradientCode>,
    blocks: Blocks,
    regions: Regions,
}

impl CpuExecutor {
    /// Compiles the program for the host and lays out the workspace.
    pub(crate) fn new(
        program: &Program,
        problem: Problem,
        schedule: Option<Schedule>,
    ) -> Result<CpuExecutor> {
        let schedule = match schedule {
            None => layout::default_schedule(&problem),
            Some(Schedule::Cpu(schedule)) => schedule,
            Some(Schedule::Gpu(_)) => {
                return Err(Error::InvalidProblem {
                    reason: "the schedule is for a GPU, expected one for the CPU device".to_owned(),
                });
            }
        };
        let logit = problem.hidden_gradient.is_some() || problem.classifier_gradient.is_some();
        let lowered = lower(program, &Wanted { logit, inputs: problem.input_gradients.clone() });
        let forward = ForwardCode::compile(&lowered);
        let gradient = problem.wants_gradients().then(|| GradientCode::compile(&lowered, logit));
        let (blocks, regions) = layout::choose(&problem, &schedule, &forward, gradient.as_ref())?;
        Ok(CpuExecutor { problem, schedule: Schedule::Cpu(schedule), forward, gradient, blocks, regions })
    }

    fn walk<'a, 'c>(&'a self, call: &'a HostCall<'c>) -> Walk<'a, 'c> {
        Walk { forward: &self.forward, gradient: self.gradient.as_ref(), blocks: &self.blocks, call }
    }

    fn run_forward(
        &self,
        inputs: &ResolvedInputs,
        settings: &ResolvedSettings,
        outputs: &[ResolvedOutput],
        workspace: RawWorkspace,
    ) -> Result<()> {
        // SAFETY: a resolved call's views and workspace are valid during the call and do not overlap, and live on the host.
        unsafe {
            let call = HostCall::new(&self.problem, inputs, settings, &[])?;
            let mut buffers = Buffers::new(&self.regions, workspace, &call);
            self.walk(&call).forward(&mut buffers, &mut HostOutputs::new(outputs), None);
        }
        Ok(())
    }

    fn run_backward(
        &self,
        inputs: &ResolvedInputs,
        settings: &ResolvedSettings,
        upstreams: &[ResolvedUpstream],
        gradients: &ResolvedGradients,
        workspace: RawWorkspace,
    ) -> Result<()> {
        // SAFETY: as in `run_forward`.
        unsafe {
            let call = HostCall::new(&self.problem, inputs, settings, upstreams)?;
            let mut buffers = Buffers::new(&self.regions, workspace, &call);
            let mut gradients = HostGradients::new(gradients);
            let walk = self.walk(&call);
            walk.backward(&mut buffers, &mut self.large(&mut gradients));
            walk.inputs(&buffers, &mut gradients, &self.problem.input_gradients);
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
        self.regions.size
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
        self.run_forward(&call.inputs, &call.settings, &call.outputs, call.workspace)
    }

    fn backward(&self, call: &ResolvedBackward) -> Result<()> {
        self.run_backward(&call.inputs, &call.settings, &call.upstreams, &call.gradients, call.workspace)
    }

    fn step(&self, call: &ResolvedStep) -> Result<()> {
        let walks = self.gradient.as_ref().is_some_and(GradientCode::walks);
        if !(walks && self.blocks.fused(self.problem.vocab)) {
            self.run_forward(&call.inputs, &call.settings, &call.outputs, call.workspace)?;
            return self.run_backward(
                &call.inputs,
                &call.settings,
                &call.upstreams,
                &call.gradients,
                call.workspace,
            );
        }
        // SAFETY: as in `run_forward`.
        unsafe {
            let host = HostCall::new(&self.problem, &call.inputs, &call.settings, &call.upstreams)?;
            let mut buffers = Buffers::new(&self.regions, call.workspace, &host);
            let mut gradients = HostGradients::new(&call.gradients);
            let walk = self.walk(&host);
            let mut large = self.large(&mut gradients);
            walk.forward(&mut buffers, &mut HostOutputs::new(&call.outputs), Some(&mut large));
            walk.inputs(&buffers, &mut gradients, &self.problem.input_gradients);
        }
        Ok(())
    }
}

impl CpuExecutor {
    fn describe(&self) -> String {
        let Blocks { order, tokens, chunk, strip, panel } = self.blocks;
        let Problem { tokens: n, hidden: d, vocab: v, dtype, filter, .. } = &self.problem;
        let fused = self.blocks.fused(*v);
        format!(
            "cpu plan: {n} tokens x {d} hidden x {v} vocab, {}, {filter:?}\n\
             tile: {tokens} tokens x {chunk} columns, strips of {strip}, panel of {panel} classifier rows\n\
             backward: {order:?}, {}\n\
             workspace: peak {} bytes, held {} bytes\n",
            dtype.name(),
            if fused { "one tile for forward and backward in a step" } else { "logits computed again" },
            self.regions.size.peak,
            self.regions.size.held
        )
    }
}
