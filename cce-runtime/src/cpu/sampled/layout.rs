//! The workspace of a sampled plan.

use super::super::code::ForwardCode;
use super::super::memory::{Planner, Region};
use super::code::SampledCode;
use super::stream::{ROWS, TILE, capacity};
use crate::error::{Error, Result};
use crate::workspace::WorkspaceSize;
use cce_codegen::problem::Problem;
use cce_codegen::schedule::CpuSchedule;

/// Sizes of a sampled plan.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Columns treated densely and exactly.
    pub(crate) hot: usize,
    pub(crate) eps: f64,
    pub(crate) max_entries: u32,
    /// The most entries that a whole group emits, and keeps.
    pub(crate) emitted: usize,
    pub(crate) kept: usize,
}

impl Shape {
    pub(crate) fn new(vocab: usize, eps: f32, max_entries: u32) -> Shape {
        let hot = hot_columns(vocab);
        let emitted = capacity(ROWS, vocab - hot, max_entries);
        let kept = emitted.min(ROWS * max_entries as usize);
        Shape { hot, eps: f64::from(eps), max_entries, emitted, kept }
    }
}

/// The most columns that are hot. On a real head (49152 columns in order of frequency) the first 4096 hold 65
/// % of what a sampled filter keeps; their sum also makes the first steps of the walk right.
const MOST_HOT: usize = 4096;

/// How many of the first columns are hot: an eighth of a small vocabulary, whole tiles; all of a tiny one.
pub(crate) fn hot_columns(vocab: usize) -> usize {
    if vocab <= 2 * TILE { vocab } else { (vocab / 8).next_multiple_of(TILE).min(MOST_HOT) }
}

/// The regions of a workspace, in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SampledRegions {
    /// Held: records, and the kept entries of each group, by row: column, weight, raw logit if it is needed.
    pub(crate) records: Region<f64>,
    pub(crate) counts: Region<u32>,
    pub(crate) columns: Region<u32>,
    pub(crate) weights: Region<f32>,
    pub(crate) logits: Region<f32>,
    pub(crate) active: Region<u32>,
    pub(crate) targets: Region<u32>,
    pub(crate) e: Region<f32>,
    pub(crate) tile: Region<f32>,
    pub(crate) coefficients: Region<f32>,
    pub(crate) values: Region<f64>,
    pub(crate) panel: Region<f32>,
    /// Of the groups of one block: what their walks emit.
    pub(crate) emitted_keys: Region<u32>,
    pub(crate) emitted_weights: Region<f32>,
    pub(crate) de: Region<f32>,
    pub(crate) dc: Region<f32>,
    /// dL/dx of every kept entry, then of every target outside the hot columns.
    pub(crate) entry_gradients: Region<f32>,
    /// The same sorted by column: the token and the gradient.
    pub(crate) starts: Region<u32>,
    pub(crate) sorted_tokens: Region<u32>,
    pub(crate) sorted_gradients: Region<f32>,
    pub(crate) col_sums: Region<f64>,
    /// By part with a uniform part: V column factors.
    pub(crate) uniform_cols: Region<f32>,
    pub(crate) size: WorkspaceSize,
}

/// The largest block of at most the schedule's tokens that fits the limit.
pub(crate) fn choose(
    problem: &Problem,
    schedule: &CpuSchedule,
    shape: &Shape,
    forward: &ForwardCode,
    code: &SampledCode,
) -> Result<(usize, SampledRegions)> {
    let limit = problem.workspace_limit.unwrap_or(u64::MAX);
    let mut tokens = (schedule.token_block as usize).next_multiple_of(ROWS);
    tokens = tokens.min(problem.tokens.max(1).next_multiple_of(ROWS));
    loop {
        let regions = regions(problem, tokens, shape, forward, code);
        if regions.size.peak <= limit {
            return Ok((tokens, regions));
        }
        if tokens == ROWS {
            return Err(Error::WorkspaceTooSmall { given: limit, smallest: regions.size.peak });
        }
        tokens = (tokens / 2).next_multiple_of(ROWS);
    }
}

fn regions(
    problem: &Problem,
    tokens: usize,
    shape: &Shape,
    forward: &ForwardCode,
    code: &SampledCode,
) -> SampledRegions {
    let (n, d, v) = (problem.tokens, problem.hidden, problem.vocab);
    let groups = n.div_ceil(ROWS);
    let kept = groups * shape.kept;
    let mut planner = Planner::default();
    let records = planner.place(n * forward.record());
    let counts = planner.place(n);
    let columns = planner.place(kept);
    let weights = planner.place(kept);
    let logits = planner.place(if code.needs_logits() { kept } else { 0 });
    let held = planner.bytes() as u64;
    let active = planner.place(n);
    let targets = planner.place(n);
    let e = planner.place(tokens * d);
    let tile = planner.place(tokens * v);
    let coefficients = planner.place(tokens * code.hot.coefficients());
    let values = planner.place(tokens * forward.outputs.roots());
    let panel = planner.place(super::super::layout::panel_rows(problem, v) * d);
    let emitted_keys = planner.place(tokens / ROWS * shape.emitted);
    let emitted_weights = planner.place(tokens / ROWS * shape.emitted);
    let logit = code.hot.logit.is_some();
    let de = planner.place(if problem.hidden_gradient.is_some() { tokens * d } else { 0 });
    let has_dc = problem.classifier_gradient.is_some();
    let dc = planner.place(if has_dc { shape.hot * d } else { 0 });
    let all = kept + n;
    let entry_gradients = planner.place(if logit { all } else { 0 });
    let starts = planner.place(if has_dc { v + 1 } else { 0 });
    let sorted_tokens = planner.place(if has_dc { all } else { 0 });
    let sorted_gradients = planner.place(if has_dc { all } else { 0 });
    let col_sums = planner.place(v * code.hot.cols.len());
    let uniform_cols = planner.place(v * code.uniform.iter().flatten().count());
    let size = WorkspaceSize { peak: planner.bytes() as u64, held };
    SampledRegions {
        records,
        counts,
        columns,
        weights,
        logits,
        active,
        targets,
        e,
        tile,
        coefficients,
        values,
        panel,
        emitted_keys,
        emitted_weights,
        de,
        dc,
        entry_gradients,
        starts,
        sorted_tokens,
        sorted_gradients,
        col_sums,
        uniform_cols,
        size,
    }
}
