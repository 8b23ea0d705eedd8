//! What a plan adds that skips tiles of the gradient: the maxima that the forward pass keeps, and the kernel
//! that decides by them.
//!
//! A decision is about a granule of logits, into which the tiles of every kernel and the steps of every product
//! divide: whatever belongs to one that is skipped is neither computed nor written nor read. Chunks of the
//! vocabulary consist of whole granules.

use super::build::{Common, blocks};
use super::{Arg, Buffer, Launch, Region, WorkspaceLayout};
use crate::problem::{Filter, Problem};
use crate::schedule::{Family, GpuSchedule, Tile};

/// What every chunk's width is a multiple of.
pub(crate) const CHUNK_STEP: u32 = 64;

/// Rows and columns of logits that are skipped together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Granule {
    pub(crate) rows: u32,
    pub(crate) columns: u32,
    /// Below this every probability of what is skipped lies.
    pub(crate) eps: f32,
}

impl Granule {
    /// What the width of every chunk of the vocabulary but the last is a multiple of.
    pub(crate) fn chunk_step(problem: &Problem, schedule: &GpuSchedule) -> u32 {
        Granule::of(problem, schedule).map_or(CHUNK_STEP, |granule| granule.columns)
    }

    /// The granule of a schedule under the filter [`Filter::Blocks`]: the smallest into which everything
    /// divides.
    pub(crate) fn of(problem: &Problem, schedule: &GpuSchedule) -> Option<Granule> {
        let Filter::Blocks { eps } = problem.filter else { return None };
        let (rows, columns) = schedule.skipped_tile();
        Some(Granule { rows, columns, eps })
    }
}

impl GpuSchedule {
    /// Rows and columns of the tiles of logits that the filter [`Filter::Blocks`] skips or keeps: the smallest
    /// into which the tiles of every kernel divide, counted from the first token that counts and the first column.
    pub fn skipped_tile(&self) -> (u32, u32) {
        let GpuSchedule { logits, logits_gradient, classifier_gradient, hidden_gradient, .. } = self;
        let rows = |tile: &Tile| match self.family {
            Family::Wgmma => tile.cluster_rows(),
            Family::Mma | Family::Simt => tile.m,
        };
        let columns = [logits.n, logits_gradient.n, rows(classifier_gradient), hidden_gradient.k, CHUNK_STEP];
        (multiple([rows(logits_gradient), rows(hidden_gradient), classifier_gradient.k]), multiple(columns))
    }
}

/// The least common multiple.
fn multiple<const N: usize>(sizes: [u32; N]) -> u32 {
    let divisor = |a: u32, b: u32| {
        let (mut a, mut b) = (a, b);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a.max(1)
    };
    sizes.into_iter().fold(1, |all, size| all / divisor(all, size) * size)
}

/// Places of what decides.
#[derive(Clone, Copy)]
pub(super) struct Skipped {
    granule: Granule,
    /// The log of each token's normaliser.
    lse: Buffer,
    /// The largest logit by tile of the forward pass and token, f32.
    maxima: Buffer,
    /// By granules of columns and of rows: whether it is computed, one byte.
    live: Buffer,
}

impl Skipped {
    pub(super) fn take(common: &Common<'_>, workspace: &mut WorkspaceLayout) -> Option<Skipped> {
        let granule = common.granule?;
        let lse = common.saved_lse()?;
        let (tokens, vocab) = (common.problem.tokens, common.problem.vocab);
        let tiles = vocab.div_ceil(common.schedule.logits.n as usize);
        let granules = tokens.div_ceil(granule.rows as usize) * vocab.div_ceil(granule.columns as usize);
        Some(Skipped {
            granule,
            lse,
            maxima: workspace.take(Region::Forward, (tiles * tokens) as u64 * 4),
            live: workspace.take(Region::Held, granules as u64),
        })
    }

    pub(super) fn maxima(&self) -> Arg {
        Arg::Workspace(self.maxima)
    }

    pub(super) fn live(&self) -> Arg {
        Arg::Workspace(self.live)
    }

    /// Where the decisions are.
    pub(super) fn decisions(&self) -> Buffer {
        self.live
    }

    /// Decides, when every normaliser is known.
    pub(super) fn decision(&self, common: &Common<'_>, module: usize) -> Launch {
        let (tokens, vocab) = (common.problem.tokens, common.problem.vocab);
        Launch {
            module,
            entry: "decide",
            blocks: blocks(tokens, self.granule.rows as usize) * blocks(vocab, self.granule.columns as usize),
            threads: 256,
            shared_bytes: 0,
            args: vec![
                self.maxima(),
                Arg::Workspace(self.lse),
                Arg::Targets,
                common.order(),
                common.count(),
                self.live(),
                common.tokens(),
            ],
        }
    }
}
