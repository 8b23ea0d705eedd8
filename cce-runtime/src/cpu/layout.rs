//! Choosing blocks, and the workspace that they need.
//!
//! The tile is `token_block` tokens by `chunk` columns of logits. Two orders of the loops exist for the
//! backward:
//!
//! ```text
//! TokensOuter   for each block { for each chunk }   dE of a block at once; dC of all columns is accumulated
//! VocabOuter    for each chunk { for each block }   dC of a chunk at once; dE of all tokens is accumulated
//! ```
//!
//! With all columns in one chunk, TokensOuter computes forward and backward from one tile: three products
//! instead of four. What is accumulated stands in the caller's buffer where that is f32, and in the workspace
//! otherwise.

use super::code::{ForwardCode, GradientCode};
use super::memory::{Planner, Region};
use crate::error::{Error, Result};
use crate::workspace::WorkspaceSize;
use cce_codegen::problem::{DType, Filter, Problem};
use cce_codegen::schedule::CpuSchedule;

/// Which loop is the outer one in the backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    TokensOuter,
    VocabOuter,
}

/// Sizes of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    pub(crate) order: Order,
    /// Tokens of a tile.
    pub(crate) tokens: usize,
    /// Columns of a tile: a multiple of `strip`, or all.
    pub(crate) chunk: usize,
    /// Columns that one pass takes at a time.
    pub(crate) strip: usize,
    /// Rows of the classifier converted to f32 at a time; 0 if they are f32.
    pub(crate) panel: usize,
}

impl Blocks {
    /// Whether one tile serves forward and backward.
    pub(crate) fn fused(&self, vocab: usize) -> bool {
        self.order == Order::TokensOuter && self.chunk >= vocab
    }
}

/// The regions of a workspace, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Regions {
    /// A record a token: what is held from forward to backward.
    pub(crate) records: Region<f64>,
    /// Where strips are skipped, by block of tokens and strip, how many elements are computed: held, too.
    pub(crate) live: Region<u32>,
    pub(crate) active: Region<u32>,
    pub(crate) targets: Region<u32>,
    /// The largest logits of a block's tokens by strip, where strips are skipped.
    pub(crate) maxima: Region<f32>,
    pub(crate) e: Region<f32>,
    pub(crate) tile: Region<f32>,
    pub(crate) coefficients: Region<f32>,
    /// The outputs of a block's tokens.
    pub(crate) values: Region<f64>,
    pub(crate) panel: Region<f32>,
    pub(crate) de: Region<f32>,
    pub(crate) dc: Region<f32>,
    pub(crate) col_sums: Region<f64>,
    pub(crate) size: WorkspaceSize,
}

/// The default tile: as much as stays below a twentieth of the logits of 4096 tokens over 49152 columns,
/// which is also about what a last-level cache holds.
const TILE_BYTES: usize = 34 << 20;

/// Fewer tokens than this make the products with the tile slow, so that a large vocabulary gets a larger tile
/// instead.
const LEAST_TOKENS: usize = 128;

/// Bytes of the converted panel: it stays in the second-level cache for the product that follows.
const PANEL_BYTES: usize = 2 << 20;

/// The schedule where none is given.
pub(crate) fn default_schedule(problem: &Problem) -> CpuSchedule {
    let fitting = TILE_BYTES / (4 * problem.vocab);
    let tokens = fitting.clamp(LEAST_TOKENS, 512) / 16 * 16;
    CpuSchedule { token_block: tokens as u32, strip: 512 }
}

/// A schedule's numbers make sense.
pub(crate) fn check(schedule: &CpuSchedule) -> Result<()> {
    if schedule.token_block == 0 || schedule.strip == 0 {
        return Err(Error::InvalidProblem {
            reason: format!(
                "the schedule has token block {} and strip {}, expected at least 1 each",
                schedule.token_block, schedule.strip
            ),
        });
    }
    Ok(())
}

/// Chooses blocks that fit the problem's workspace limit, the fastest of those.
pub(crate) fn choose(
    problem: &Problem,
    schedule: &CpuSchedule,
    forward: &ForwardCode,
    gradient: Option<&GradientCode>,
) -> Result<(Blocks, Regions)> {
    let limit = problem.workspace_limit.unwrap_or(u64::MAX);
    let strip = (schedule.strip as usize).min(problem.vocab);
    let most = (schedule.token_block as usize).min(problem.tokens.max(1));
    let mut best: Option<(f64, Blocks, Regions)> = None;
    let mut smallest = u64::MAX;
    for tokens in halvings(most) {
        for strips in halvings(problem.vocab.div_ceil(strip)) {
            for order in [Order::TokensOuter, Order::VocabOuter] {
                let panel = panel_rows(problem, strips * strip);
                // Under pressure the panel shrinks with the tile.
                let panel = if tokens < 16 { panel.min(16) } else { panel };
                let chunk = (strips * strip).min(problem.vocab);
                let blocks = Blocks { order, tokens, chunk, strip, panel };
                let regions = regions(problem, &blocks, forward, gradient);
                smallest = smallest.min(regions.size.peak);
                let cost = cost(problem, &blocks, gradient.is_some_and(GradientCode::walks));
                if regions.size.peak <= limit && best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                    best = Some((cost, blocks, regions));
                }
            }
        }
    }
    match best {
        Some((_, blocks, regions)) => Ok((blocks, regions)),
        None => Err(Error::WorkspaceTooSmall { given: limit, smallest }),
    }
}

/// Rows of the classifier that are converted to f32 at a time; 0 if they are f32.
pub(crate) fn panel_rows(problem: &Problem, most: usize) -> usize {
    match problem.dtype {
        DType::F32 => 0,
        _ => (PANEL_BYTES / (4 * problem.hidden)).clamp(1, most),
    }
}

/// `from`, half of it, a quarter, ..., 1.
fn halvings(from: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(from), |&size| (size > 1).then(|| size.div_ceil(2)))
}

/// Relative time: products, each slower the smaller its blocks.
fn cost(problem: &Problem, blocks: &Blocks, walks: bool) -> f64 {
    let products = match (walks, blocks.fused(problem.vocab)) {
        (false, _) => 1.0,
        (true, true) => 3.0,
        (true, false) => 4.0,
    };
    products * (1.0 + 24.0 / blocks.tokens as f64) * (1.0 + 128.0 / blocks.chunk as f64)
}

fn regions(
    problem: &Problem,
    blocks: &Blocks,
    forward: &ForwardCode,
    gradient: Option<&GradientCode>,
) -> Regions {
    let (n, d, v) = (problem.tokens, problem.hidden, problem.vocab);
    let in_f32 = |output: Option<cce_codegen::problem::GradientOutput>| {
        output.is_none_or(|output| output.dtype == DType::F32)
    };
    let mut planner = Planner::default();
    let records = planner.place(n * forward.record());
    let skips = gradient.is_some() && matches!(problem.filter, Filter::Blocks { .. });
    let strips = if skips { v.div_ceil(blocks.strip) } else { 0 };
    let live = planner.place(n.div_ceil(blocks.tokens) * strips);
    let held = if problem.wants_gradients() { planner.bytes() } else { 0 };
    let active = planner.place(n);
    let targets = planner.place(n);
    let maxima = planner.place(blocks.tokens * strips);
    let e = planner.place(blocks.tokens * d);
    let tile = planner.place(blocks.tokens * blocks.chunk);
    let coefficients = planner.place(gradient.map_or(0, |code| blocks.tokens * code.coefficients()));
    let values = planner.place(blocks.tokens * forward.outputs.roots());
    let panel = planner.place(blocks.panel * d);
    let de = planner.place(match (problem.hidden_gradient, blocks.order) {
        (None, _) => 0,
        (output, Order::VocabOuter) if !in_f32(output) => n * d,
        _ => blocks.tokens * d,
    });
    let dc = planner.place(match (problem.classifier_gradient, blocks.order) {
        (output, _) if in_f32(output) => 0,
        (_, Order::TokensOuter) => v * d,
        (_, Order::VocabOuter) => blocks.chunk * d,
    });
    let col_sums = planner.place(gradient.map_or(0, |code| v * code.cols.len()));
    let size = WorkspaceSize { peak: planner.bytes() as u64, held: held as u64 };
    Regions {
        records,
        live,
        active,
        targets,
        maxima,
        e,
        tile,
        coefficients,
        values,
        panel,
        de,
        dc,
        col_sums,
        size,
    }
}
