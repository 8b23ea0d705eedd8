//! Plans: a program made ready for one problem on one device.
//!
//! A plan is built once ([`PlanBuilder`]) and called many times. A call is validated completely (`resolve`),
//! then handed to the device's executor. Plans are `Send + Sync`: calls may run at the same time, each with a
//! workspace of its own.
//!
//! On a GPU a call whose addresses and scalars were seen some times before launches a CUDA graph of the plan's own, instead of
//! its kernels one by one: the same work for less of the host's time. A stream that is being captured gets the kernels.

mod builder;
mod resolve;
mod run;
mod staging;
#[cfg(test)]
mod tests;

pub use builder::PlanBuilder;
pub use run::RunResult;

use crate::call::Call;
use crate::cuda::Kernels;
use crate::device::{Device, Inner};
use crate::error::{Error, Result};
use crate::executor::{Executor, ResolvedBackward, ResolvedForward, ResolvedStep};
use crate::inputs::Inputs;
use crate::outputs::{GradientViews, Outputs, Upstream};
use crate::workspace::{Saved, Workspace, WorkspaceSize};
use cce_codegen::ir::Program;
use cce_codegen::problem::Problem;
use cce_codegen::schedule::Schedule;
use cce_tuning_db::Grade;

/// A program made ready for one problem on one device.
pub struct Plan {
    id: u64,
    device: Device,
    program: Program,
    ignore_index: Option<i64>,
    notes: Vec<String>,
    grade: Grade,
    executor: Box<dyn Executor>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("program", &self.program.name())
            .field("device", &self.device.name())
            .field("problem", self.problem())
            .field("schedule", self.schedule())
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// Starts a plan for `tokens` tokens, hidden size `hidden` and `vocab` vocabulary entries.
    pub fn builder(program: &Program, tokens: usize, hidden: usize, vocab: usize) -> PlanBuilder {
        PlanBuilder::new(program, tokens, hidden, vocab)
    }

    /// The workspace that each call needs.
    pub fn workspace(&self) -> WorkspaceSize {
        self.executor.workspace()
    }

    /// What the plan was made for; the filter is the one in use.
    pub fn problem(&self) -> &Problem {
        self.executor.problem()
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The schedule in use.
    pub fn schedule(&self) -> &Schedule {
        self.executor.schedule()
    }

    /// How good the schedule's match is.
    pub fn grade(&self) -> &Grade {
        &self.grade
    }

    /// The device it runs on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its kernels on a GPU, to be kept as long as a CUDA graph that was captured from its calls, where the plan itself is not.
    pub fn kernels(&self) -> Kernels {
        self.executor.kernels()
    }

    /// What was decided for the caller and is worth knowing, one sentence each: a default filter that is not
    /// available, say.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The plan's stages as text: `plan`, and on a GPU `cuda` and `ptx`.
    ///
    /// # Errors
    /// [`Error::UnknownName`] for a level that this device does not have; what compiling reports for `ptx`.
    pub fn dump(&self, level: &str) -> Result<String> {
        self.executor.dump(level).unwrap_or_else(|| {
            Err(Error::UnknownName {
                what: "dump level".to_owned(),
                name: level.to_owned(),
                known: format!(
                    "what the device {} offers: plan; on a GPU also cuda and ptx",
                    self.device.name()
                ),
            })
        })
    }

    /// A workspace of the size this plan needs, on its device.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`], [`Error::OutOfMemory`].
    pub fn allocate(&self) -> Result<Workspace<'static>> {
        match self.device.inner() {
            Inner::Cpu => Workspace::allocate_host(self.workspace().peak),
            Inner::Cuda(context) => {
                let bytes = self.workspace().peak;
                let buffer = context.alloc(bytes as usize, "the workspace")?;
                let address = buffer.ptr().0;
                Ok(Workspace::from_owned_device(address, bytes, self.device.place(), Box::new(buffer)))
            }
        }
    }

    /// Computes the outputs. Nothing is computed for gradients that the plan does not want.
    ///
    /// # Errors
    /// Whatever does not fit the plan, before anything runs; [`Error::TargetOutOfRange`] in a checked call.
    pub fn forward(
        &self,
        inputs: &Inputs<'_>,
        call: &Call<'_>,
        workspace: &mut Workspace<'_>,
        outputs: Outputs<'_>,
    ) -> Result<Saved> {
        let resolver = self.resolver();
        let resolved = ResolvedForward {
            inputs: resolver.inputs(inputs)?,
            settings: resolver.settings(call)?,
            outputs: resolver.outputs(&outputs, call)?,
            workspace: resolver.workspace(workspace)?,
        };
        let stamp = workspace.advance();
        self.executor.forward(&resolved)?;
        Ok(Saved { plan: self.id, stamp })
    }

    /// Computes the gradients from what a forward of the same inputs under the same call saved in
    /// `workspace`.
    ///
    /// # Errors
    /// [`Error::StaleSaved`] if `saved` is of another plan or workspace, or a later call overwrote the
    /// workspace; whatever does not fit the plan.
    pub fn backward(
        &self,
        saved: Saved,
        inputs: &Inputs<'_>,
        upstream: &Upstream<'_>,
        call: &Call<'_>,
        workspace: &mut Workspace<'_>,
        gradients: GradientViews<'_>,
    ) -> Result<()> {
        let resolver = self.resolver();
        self.check_saved(&saved, workspace)?;
        let resolved = ResolvedBackward {
            inputs: resolver.inputs(inputs)?,
            settings: resolver.settings(call)?,
            upstreams: resolver.upstreams(upstream)?,
            gradients: resolver.gradients(&gradients)?,
            workspace: resolver.workspace(workspace)?,
        };
        self.executor.backward(&resolved)
    }

    /// Forward and backward at once, under a known upstream: cheaper than the two apart.
    ///
    /// # Errors
    /// As [`Plan::forward`] and [`Plan::backward`].
    pub fn step(
        &self,
        inputs: &Inputs<'_>,
        upstream: &Upstream<'_>,
        call: &Call<'_>,
        workspace: &mut Workspace<'_>,
        outputs: Outputs<'_>,
        gradients: GradientViews<'_>,
    ) -> Result<()> {
        let resolver = self.resolver();
        let resolved = ResolvedStep {
            inputs: resolver.inputs(inputs)?,
            settings: resolver.settings(call)?,
            outputs: resolver.outputs(&outputs, call)?,
            upstreams: resolver.upstreams(upstream)?,
            gradients: resolver.gradients(&gradients)?,
            workspace: resolver.workspace(workspace)?,
        };
        workspace.advance();
        self.executor.step(&resolved)
    }

    /// What a forward of this plan left in the held part of `workspace`, where that was lent by itself and
    /// the forward's own [`Workspace`] and [`Saved`] are gone: an autograd that keeps the held part in a tensor.
    ///
    /// # Safety
    /// The held part is, byte for byte, as a forward of this very plan left it, under the inputs and the call
    /// that the backward is given.
    pub unsafe fn saved_in(&self, workspace: &Workspace<'_>) -> Saved {
        Saved { plan: self.id, stamp: workspace.stamp() }
    }

    /// How many entries the forward of `saved` kept, of all tokens together: what a backward under
    /// [`Filter::Sampled`](cce_codegen::problem::Filter::Sampled) gathers, besides targets and the columns
    /// that are treated densely; under [`Filter::Blocks`](cce_codegen::problem::Filter::Blocks) all logits in the
    /// tiles that are not skipped, their targets among them. `None` if the plan's filter keeps no entries. A diagnostic: waits for the
    /// stream of `call`, which is that of the forward.
    ///
    /// # Errors
    /// As [`Plan::backward`].
    pub fn kept_entries(
        &self,
        saved: &Saved,
        call: &Call<'_>,
        workspace: &mut Workspace<'_>,
    ) -> Result<Option<u64>> {
        let resolver = self.resolver();
        self.check_saved(saved, workspace)?;
        self.executor.kept_entries(&resolver.settings(call)?, resolver.workspace(workspace)?)
    }

    fn check_saved(&self, saved: &Saved, workspace: &Workspace<'_>) -> Result<()> {
        let reason = if saved.plan != self.id {
            "it was saved by another plan"
        } else if saved.stamp.0 != workspace.stamp().0 {
            "it was saved in another workspace"
        } else if saved.stamp.1 != workspace.stamp().1 {
            "a later call overwrote the workspace"
        } else {
            return Ok(());
        };
        Err(Error::StaleSaved { reason: reason.to_owned() })
    }

    fn resolver(&self) -> resolve::Resolver<'_> {
        resolve::Resolver {
            program: &self.program,
            problem: self.executor.problem(),
            place: self.device.place(),
            ignore_index: self.ignore_index,
            needed: self.executor.workspace(),
        }
    }
}
