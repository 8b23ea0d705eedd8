//! The default schedule of a problem, and the candidates that a tuner tries.

use super::{Family, Gpu, GpuSchedule, ScheduleError, Tile};
use crate::diff::{Wanted, lower};
use crate::ir::{ExprId, Node, Program};
use crate::problem::{DType, Problem};

/// Bytes of gradient scratch that a default schedule asks for where no limit is given.
const DEFAULT_SCRATCH: u64 = 256 << 20;

const fn tile(m: u32, n: u32, k: u32, stages: u32, warps_m: u32, warps_n: u32) -> Tile {
    Tile { m, n, k, stages, warps_m, warps_n }
}

const SIMT: Tile = tile(128, 128, 16, 2, 8, 1);
const SIMT_SMALL: Tile = tile(64, 128, 16, 2, 8, 1);

/// Tiles of family `mma`, best first on an H100 (of 9 measured there: 128 x 256 for the walk over the vocabulary, two blocks of 128 x 128 an SM
/// for the single tiles of the backward pass); later ones need less shared memory or waste less on small problems.
const MMA: [Tile; 8] = [
    tile(128, 256, 64, 4, 2, 4),
    tile(128, 256, 64, 3, 2, 4),
    tile(128, 128, 64, 3, 2, 2),
    tile(256, 128, 64, 4, 4, 2),
    tile(128, 128, 64, 4, 2, 4),
    tile(128, 128, 32, 4, 2, 2),
    tile(64, 128, 64, 3, 1, 4),
    tile(64, 64, 64, 4, 2, 2),
];

impl GpuSchedule {
    /// The schedule used where nothing has been tuned.
    pub fn default_for(program: &Program, problem: &Problem, gpu: &Gpu) -> GpuSchedule {
        if problem.dtype == DType::F32 || !gpu.has_mma() {
            return GpuSchedule::simt(program, problem, gpu);
        }
        // Single tiles: two blocks of the smaller ring share a multiprocessor and hide each other's epilogues.
        let light = !is_heavy(program, problem);
        let sums = |t: &Tile| t.m * t.n / t.threads(Family::Mma);
        let walk = fitting(gpu, |t| t.m <= rounded(problem.tokens) && (light || sums(t) <= 64));
        let single = fitting(gpu, |t| t.n <= 128 && t.m <= rounded(problem.tokens));
        GpuSchedule {
            family: Family::Mma,
            logits: walk,
            splits: splits(problem, gpu, &walk, Family::Mma),
            logits_gradient: single,
            classifier_gradient: fitting(gpu, |t| t.n <= 128),
            hidden_gradient: single,
            chunk: chunk(problem),
            group: 16,
        }
    }

    /// The schedule of family `simt`: runs everything, in true fp32.
    pub fn simt(program: &Program, problem: &Problem, gpu: &Gpu) -> GpuSchedule {
        let logits = if is_heavy(program, problem) { SIMT_SMALL } else { SIMT };
        GpuSchedule {
            family: Family::Simt,
            logits,
            splits: splits(problem, gpu, &logits, Family::Simt),
            logits_gradient: SIMT,
            classifier_gradient: SIMT,
            hidden_gradient: SIMT,
            chunk: chunk(problem),
            group: 16,
        }
    }

    /// Every candidate for a problem, the default first, each with the constraint that it breaks, if any: what is left out is left out for a
    /// reason that can be shown.
    pub fn space(
        program: &Program,
        problem: &Problem,
        gpu: &Gpu,
    ) -> Vec<(GpuSchedule, Result<(), ScheduleError>)> {
        let base = GpuSchedule::default_for(program, problem, gpu);
        let mut candidates = vec![base];
        let mut add = |candidate: GpuSchedule| {
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        };
        let tiles: &[Tile] = if base.family == Family::Mma { &MMA } else { &[SIMT, SIMT_SMALL] };
        for &logits in tiles {
            let best = splits(problem, gpu, &logits, base.family);
            for splits in [best, best * 2, best.div_ceil(2)] {
                for group in [8, 16, 32] {
                    add(GpuSchedule { logits, splits, group, ..base });
                }
            }
        }
        if problem.wants_gradients() {
            for &t in tiles {
                add(GpuSchedule { logits_gradient: t, ..base });
                add(GpuSchedule { classifier_gradient: t, ..base });
                add(GpuSchedule { hidden_gradient: t, ..base });
                add(GpuSchedule { logits_gradient: t, classifier_gradient: t, hidden_gradient: t, ..base });
            }
            for factor in [1, 2, 4] {
                add(GpuSchedule { chunk: (base.chunk / 2 * factor).div_ceil(64).max(1) * 64, ..base });
            }
        }
        candidates.into_iter().map(|candidate| (candidate, candidate.check(problem, gpu))).collect()
    }
}

/// Whether the vocabulary loop keeps more than the normaliser and means: expectations and extrema, those that the wanted gradients of inputs add
/// included. They live in registers beside the sums, and the largest tile's kernels would spill.
fn is_heavy(program: &Program, problem: &Problem) -> bool {
    let wanted = Wanted { logit: false, inputs: problem.input_gradients.clone() };
    let lowered = lower(program, &wanted);
    let heavy = |stat: &ExprId| {
        matches!(lowered.graph.get(*stat), Node::Expect { .. } | Node::Max(_) | Node::Argmax(_))
    };
    lowered.stats.iter().any(heavy)
}

fn rounded(tokens: usize) -> u32 {
    u32::try_from(tokens.max(64).next_power_of_two()).unwrap_or(u32::MAX)
}

/// The first tile that fits the GPU and the condition; the smallest where none does.
fn fitting(gpu: &Gpu, condition: impl Fn(&Tile) -> bool) -> Tile {
    let fits = |t: &&Tile| t.shared_bytes(Family::Mma) <= gpu.shared_per_block && condition(t);
    MMA.iter().find(fits).copied().unwrap_or(MMA[MMA.len() - 1])
}

/// Parts of the vocabulary for which the blocks of a launch fill whole waves of the GPU best; fewer parts at ties.
fn splits(problem: &Problem, gpu: &Gpu, tile: &Tile, family: Family) -> u32 {
    let blocks = problem.tokens.div_ceil(tile.m as usize).max(1) as u64;
    let tiles = problem.vocab.div_ceil(tile.n as usize).max(1) as u64;
    let resident = (gpu.shared_per_block / tile.shared_bytes(family)).clamp(1, 2);
    let places = u64::from(gpu.multiprocessors * resident);
    let most = tiles.min(4 * places).clamp(1, 1024);
    let mut best = (1, f64::MAX);
    for parts in 1..=most {
        // Time of the launch in tiles: waves of blocks, each as long as the longest part and one tile's worth of start and end.
        let waves = (blocks * parts).div_ceil(places);
        let time = waves as f64 * (tiles.div_ceil(parts) as f64 + 1.0);
        if time < best.1 * 0.999 {
            best = (parts, time);
        }
    }
    best.0 as u32
}

/// Vocabulary entries whose gradients fit in the default scratch, as a multiple of 256.
fn chunk(problem: &Problem) -> u32 {
    let row = (problem.tokens.max(1) * problem.dtype.bytes()) as u64;
    let fits = (DEFAULT_SCRATCH / row / 256).max(1) * 256;
    let whole = problem.vocab.div_ceil(256).max(1) as u64 * 256;
    u32::try_from(fits.min(whole)).unwrap_or(u32::MAX - 255)
}
