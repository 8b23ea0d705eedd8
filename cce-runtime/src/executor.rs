//! The seam between the public API and the devices.
//!
//! [`crate::Plan`] validates a call once, completely, and hands the result to its [`Executor`]. An executor
//! may rely on everything below without looking again: sizes, types, strides and alignment are the problem's;
//! every pointer lives where the executor runs; every input of the program is there; the gradients are
//! exactly those of the problem; the workspace is large enough. What it finds out itself are properties of
//! the *data*: ignored and out-of-range targets.

use crate::call::ArgSource;
use crate::cuda::Kernels;
use crate::error::Result;
use crate::views::RawView;
use crate::workspace::{RawWorkspace, WorkspaceSize};
use cce_codegen::ir::InputId;
use cce_codegen::problem::Problem;
use cce_codegen::schedule::Schedule;

/// Runs calls of one plan on one device. Calls may come from several threads at once, each with its own
/// workspace.
pub(crate) trait Executor: Send + Sync {
    /// What every workspace given to the calls holds at least.
    fn workspace(&self) -> WorkspaceSize;

    /// The problem as the executor runs it (its filter decided).
    fn problem(&self) -> &Problem;

    /// The schedule in use.
    fn schedule(&self) -> &Schedule;

    /// What it launches on a GPU.
    fn kernels(&self) -> Kernels {
        Kernels::default()
    }

    /// The executor's stages as text: `plan` on every device, `cuda` and `ptx` on a GPU. `None`: it has no
    /// such level.
    fn dump(&self, level: &str) -> Option<Result<String>>;

    /// Computes the outputs and leaves in the first `held` bytes of the workspace what a backward needs.
    ///
    /// # Errors
    /// [`crate::Error::TargetOutOfRange`] under `check_targets`; whatever the device reports.
    fn forward(&self, call: &ResolvedForward) -> Result<()>;

    /// Computes the gradients from the held part that a forward of the same inputs left.
    fn backward(&self, call: &ResolvedBackward) -> Result<()>;

    /// How many entries a forward kept whose held part stands in this workspace, of all tokens together;
    /// `None` if the plan's filter keeps none. Waits for the call's stream.
    fn kept_entries(&self, settings: &ResolvedSettings, workspace: RawWorkspace) -> Result<Option<u64>>;

    /// Both at once, for which `held` is not asked.
    fn step(&self, call: &ResolvedStep) -> Result<()>;
}

/// A host value or a device address.
pub(crate) type Scalar<T> = ArgSource<T>;

/// The inputs of a call.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedInputs {
    /// [N, D] in the problem's type and layout.
    pub(crate) hidden: RawView,
    /// [V, D] in the problem's type and layout.
    pub(crate) classifier: RawView,
    /// [N] in the problem's index type; `None` if the program has no target.
    pub(crate) targets: Option<RawView>,
    /// The target that marks an ignored token; `None` if every token counts.
    pub(crate) ignore_index: Option<i64>,
    /// By the program's [`InputId`].
    pub(crate) values: Vec<ResolvedInput>,
}

/// One input of the program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ResolvedInput {
    /// The raw logit or the target, which are not given by name.
    Implied,
    /// f32 [N].
    Row(RawView),
    /// f32 [V].
    Col(RawView),
    /// One f32.
    Scalar(Scalar<f32>),
}

/// The call's settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResolvedSettings {
    pub(crate) reduction: ResolvedReduction,
    pub(crate) seed: Scalar<u64>,
    /// The raw CUDA stream; `None`: the default one. Always `None` on the CPU.
    pub(crate) stream: Option<u64>,
    pub(crate) check_targets: bool,
}

/// The token reduction.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ResolvedReduction {
    /// The sum, with factor 1 (`TokenReduction::None` too: then no reduced output is wanted).
    Sum,
    /// Divided by max(count, 1).
    Mean,
    /// Divided by this value.
    DividedBy(Scalar<f32>),
    /// Divided by the sum of this Col input at the targets of the tokens that count (factor 0 if they sum to
    /// nothing).
    MeanByTarget(InputId),
}

/// Where one output goes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ResolvedOutput {
    /// f32 [N].
    pub(crate) rows: Option<RawView>,
    /// f32 [1].
    pub(crate) reduced: Option<RawView>,
}

/// The upstream gradient of one output: the sum of both parts; both absent: zero.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ResolvedUpstream {
    /// Of the reduced value: to be multiplied by the reduction's factor.
    pub(crate) scalar: Option<Scalar<f32>>,
    /// f32 [N], of the token's value.
    pub(crate) rows: Option<RawView>,
}

/// Where the gradients go.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedGradients {
    /// [N, D] contiguous; present iff the problem wants it, of the type that it says.
    pub(crate) hidden: Option<RawView>,
    /// [V, D] contiguous; present iff the problem wants it, of the type that it says.
    pub(crate) classifier: Option<RawView>,
    /// f32, one for each of the problem's `input_gradients`, in that order.
    pub(crate) inputs: Vec<RawView>,
}

/// A forward call.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedForward {
    pub(crate) inputs: ResolvedInputs,
    pub(crate) settings: ResolvedSettings,
    pub(crate) workspace: RawWorkspace,
    /// By the program's output index.
    pub(crate) outputs: Vec<ResolvedOutput>,
}

/// A backward call.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedBackward {
    pub(crate) inputs: ResolvedInputs,
    pub(crate) settings: ResolvedSettings,
    pub(crate) workspace: RawWorkspace,
    /// By the program's output index.
    pub(crate) upstreams: Vec<ResolvedUpstream>,
    pub(crate) gradients: ResolvedGradients,
}

/// Forward and backward under a known upstream.
#[derive(Clone, Debug)]
pub(crate) struct ResolvedStep {
    pub(crate) inputs: ResolvedInputs,
    pub(crate) settings: ResolvedSettings,
    pub(crate) workspace: RawWorkspace,
    /// By the program's output index.
    pub(crate) outputs: Vec<ResolvedOutput>,
    /// By the program's output index.
    pub(crate) upstreams: Vec<ResolvedUpstream>,
    pub(crate) gradients: ResolvedGradients,
}
