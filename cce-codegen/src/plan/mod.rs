//! What runs on a GPU: an ordered list of kernels, their arguments, and where everything lives: in the
//! workspace, or in outputs that are not yet finished.
//!
//! A plan is plain data. Whoever runs it allocates one workspace, resolves each [`Arg`] to bytes and launches
//! in order; nothing else has to be known. Launches of an empty grid are left out by the runner.

mod backward;
mod build;
mod chunks;
mod dump;
mod forward;
mod memory;
mod operand;
mod sampled;
pub(crate) mod saved;
pub(crate) mod skipped;
mod walk;

pub use build::{PlanError, cannot_skip, refuses};
pub(crate) use build::{sums_raw_logits, widest_chunk};
pub use memory::{Buffer, Region, WorkspaceLayout};

use crate::ir::{InputId, Program};
use crate::problem::Problem;
use crate::schedule::{Family, GpuSchedule};
use std::sync::Arc;

/// A source to be compiled, and what its kernels need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// A short name: `forward`, `logits_gradient` ...
    pub name: &'static str,
    /// Header-free CUDA C++.
    pub source: Arc<str>,
    /// The entry points, each `extern "C"`.
    pub entries: Vec<&'static str>,
    /// The family, for a matrix kernel.
    pub family: Option<Family>,
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Index of the module in [`GpuPlan::modules`].
    pub module: usize,
    /// The entry point.
    pub entry: &'static str,
    /// Blocks, one-dimensional; 0: nothing to do.
    pub blocks: u32,
    /// Threads a block.
    pub threads: u32,
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
    /// Arguments in the order of the kernel's parameters.
    pub args: Vec<Arg>,
}

/// A matrix of 16-bit elements that TMA copies boxes of: `CUtensorMap`, 128-byte swizzle, boxes of 64 elements
/// along a row, zeros outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Where it is.
    pub matrix: Matrix,
    /// Rows.
    pub rows: u64,
    /// How its elements follow each other.
    pub form: MatrixForm,
    /// Rows of a box.
    pub box_rows: u32,
}

/// How the elements of a matrix follow each other, of which a [`TensorMap`] is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixForm {
    /// Row by row: a map of rank 2, coordinates (column, row).
    Rows {
        /// Elements of a row.
        columns: u64,
        /// Elements between rows; a multiple of 8.
        stride: u64,
    },
    /// In blocks of 64 columns, each row by row, without gaps: the element at (row, column) is at
    /// `(column / 64 * rows + row) * 64 + column % 64`. A map of rank 3, coordinates (column in the block,
    /// row, block).
    Blocks {
        /// Blocks.
        blocks: u64,
    },
}

/// What a [`TensorMap`] is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// The hidden states.
    Hidden,
    /// The classifier.
    Classifier,
    /// A part of the workspace.
    Workspace(Buffer),
    /// Scratch in the part of dC that is not yet written: see [`Arg::ClassifierTail`].
    ClassifierTail {
        /// Bytes from there to the last multiple of 1024 in dC; itself a multiple of 1024.
        back: u64,
    },
}

/// A kernel argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// Pointer to the hidden states.
    Hidden,
    /// Pointer to the classifier.
    Classifier,
    /// A matrix for TMA, 128 bytes.
    TensorMap(TensorMap),
    /// Pointer to the targets; null for a program without a target.
    Targets,
    /// `struct Values`: for each Row and Col input a pointer, for each Scalar input `{ const float* pointer;
    /// float value; }`, in the order of the program's inputs; an int 0 if there is none.
    Values,
    /// `struct Upstreams`: for each output `{ const float* rows; { const float* pointer; float value; }
    /// reduced; int has_reduced; }`: the sum of both, `rows` null where there are none.
    Upstreams,
    /// `struct Reduction { int mode; { const float* pointer; float value; } divisor; const float* weights;
    /// }`, `mode` 0: sum or none, 1: tokens that count, 2: divisor, 3: weights at the targets.
    Reduction,
    /// `struct Rows`: for each output, where its values `[N]` f32 are (the caller's, else the scratch of
    /// [`GpuPlan::output_rows`]).
    OutputRows,
    /// `struct Rows`: for each output, the caller's pointer to its reduced value, or null.
    Reduced,
    /// `struct InputRows`: the caller's pointers for the wanted Row inputs, then scratch rows for the wanted
    /// Scalar inputs, in the order of [`GpuPlan::row_gradients`] and [`GpuPlan::scalar_gradients`]; one null
    /// pointer if there is none.
    InputRows,
    /// Pointer to dE.
    HiddenGradient,
    /// Pointer to dC.
    ClassifierGradient,
    /// Pointer to scratch in the part of dC that is not yet written, whatever its alignment:
    /// `((dC + bytes of dC) & ~1023) - back`.
    ClassifierTail {
        /// Bytes from there to the last multiple of 1024 in dC.
        back: u64,
    },
    /// The caller's pointer to the gradient of this input.
    InputGradient(InputId),
    /// Pointer into the workspace.
    Workspace(Buffer),
    /// `struct SeedArg { const u64* pointer; u64 value; }`: the call's seed.
    Seed,
    /// A null pointer.
    Null,
    /// A 32-bit integer.
    Int(i32),
    /// The ignored index, 64 bits.
    Ignore,
}

/// Where the decisions are which tiles of logits are computed in the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveTiles {
    /// By tiles of columns and of rows (in the order in which tokens are walked): a byte each, 0 or 1.
    pub decisions: Buffer,
    /// Rows of a tile.
    pub rows: u32,
    /// Columns of a tile.
    pub columns: u32,
    /// How many rows count, one i32; `None`: all N.
    pub counted: Option<Buffer>,
}

impl LiveTiles {
    /// How many logits of `counted` rows are in tiles that are computed.
    pub fn kept_logits(&self, problem: &Problem, counted: usize, decisions: &[u8]) -> u64 {
        let (rows, columns) = (self.rows as usize, self.columns as usize);
        let within = |at: usize, each: usize, end: usize| end.saturating_sub(at * each).min(each) as u64;
        let tiles = decisions.iter().enumerate().filter(|(_, live)| **live != 0);
        let row_tiles = problem.tokens.div_ceil(rows).max(1);
        tiles
            .map(|(at, _)| {
                within(at % row_tiles, rows, counted) * within(at / row_tiles, columns, problem.vocab)
            })
            .sum()
    }
}

/// Where the number of entries that sampling kept is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptCounts {
    /// By row, in the order in which tokens are walked: u32, `[N]`, of which those of rows that count are
    /// written.
    pub of_rows: Buffer,
    /// How many rows count, one i32; `None`: all N.
    pub rows: Option<Buffer>,
}

/// What runs on a GPU for one program, problem and schedule.
#[derive(Clone, Debug)]
pub struct GpuPlan {
    /// The program.
    pub program: Program,
    /// The problem.
    pub problem: Problem,
    /// The schedule, its chunk as the workspace's limit allows.
    pub schedule: GpuSchedule,
    /// Sources, to be compiled independently of each other.
    pub modules: Vec<Module>,
    /// Launches of the forward pass. The last one reduces over tokens.
    pub forward: Vec<Launch>,
    /// Launches of the backward pass; empty where no gradient is wanted.
    pub backward: Vec<Launch>,
    /// Sizes and places of everything in the workspace.
    pub workspace: WorkspaceLayout,
    /// The check of the targets, for calls that ask for it: leaves the first out-of-range row (-1: none) and
    /// its target in `bad_target`.
    pub check_targets: Option<Launch>,
    /// Two i64.
    pub bad_target: Buffer,
    /// Scratch for outputs that the caller does not take row by row: `[outputs][N]` f32.
    pub output_rows: Buffer,
    /// How many entries each row kept, where columns are sampled: held from the forward pass on.
    pub kept: Option<KeptCounts>,
    /// Which tiles of the gradient are computed, where some are skipped: held from the forward pass on.
    pub live: Option<LiveTiles>,
    /// What the forward pass accumulates, f32 a token.
    pub statistics: usize,
    /// Row inputs whose gradients are wanted, in the order of `InputRows`.
    pub row_gradients: Vec<InputId>,
    /// Scalar inputs whose gradients are wanted, with their scratch rows.
    pub scalar_gradients: Vec<(InputId, Buffer)>,
}
