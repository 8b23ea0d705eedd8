//! The default schedule of a problem: what a plan uses where nothing was tuned.

use super::{Family, Gpu, GpuSchedule, Tile};
use crate::diff::{Wanted, lower};
use crate::ir::{ExprId, Node, Program};
use crate::plan::{sums_raw_logits, widest_chunk};
use crate::problem::{Filter, Problem};

/// Bytes of gradient scratch that a default schedule asks for where no limit is given.
const DEFAULT_SCRATCH: u64 = 288 << 20;

/// Where the end of dC serves as scratch, the workspace that a default schedule asks for at most, in hundredths
/// of the bytes of dE and dC: what is left to it are the last chunks.
const DEFAULT_PERCENT: u64 = 6;

/// Workspace that a default schedule asks for all the same: where dE and dC are small, narrow chunks would cost
/// more time than they save memory.
const SMALL_WORKSPACE: u64 = 64 << 20;

/// Columns of a chunk that a default schedule keeps all the same: narrower ones leave most of the GPU idle.
const NARROWEST: u32 = 1024;

/// Columns of a chunk for which the tile of dC is chosen: about what chunks of a large head have.
const COMMON_CHUNK: usize = 16_384;

/// The part of L2 that the hidden states of a group of the walk may fill beside the classifier's tiles that
/// they share, in family `wgmma`: on an H100 8192 rows of 2304 are 1 % faster than 4096, and 8192 of 576 6 %.
const GROUP_OF_L2: f64 = 0.8;

/// Row blocks whose tiles a backward product of family `wgmma` takes together: as many as columns of tiles, for
/// the 66 clusters of an H100. 8 are 1 to 2 % faster there than 4, 16 or 32 (8192 tokens; 2304 x 256,000 and
/// 576 x 49,152).
pub(crate) const GROUP_OF_PRODUCTS: i32 = 8;

/// Rows of a group of the walk over the vocabulary in the other families: measured on an H100, where 2048 to
/// 4096 rows are best and 1024 cost a tenth more ([`FEW_ROWS_COST`]).
const FEWEST_ROWS: u32 = 2048;
const MOST_ROWS: u32 = 4096;
const FEW_ROWS_COST: f64 = 1.1;

/// What a tile of a product costs besides its columns, in columns: its start and end. Measured on an H100 in
/// family `wgmma`.
const COLUMNS_OF_A_START: f64 = 8.0;

/// The most columns that a default schedule of a sampled plan treats densely. On a real head (49152 columns in
/// order of frequency, 576 wide) the first 4096 hold 65 % of what a sampled filter keeps, and 2048 are 8 %
/// slower on an H100.
const MOST_HOT: usize = 4096;

/// The hidden size from which products are deep in family `mma`, and what the large tile may then waste on the
/// last columns, in hundredths. Deep products take it: 3 % of a step on an H100 at D 2304. In shallow ones two
/// blocks of a smaller ring share a multiprocessor and hide each other's epilogues: 3 % at D 576.
const DEEP: usize = 1024;
const DEEP_WASTE: usize = 5;

pub(super) const fn tile(m: u32, n: u32, k: u32, stages: u32, warps_m: u32, warps_n: u32) -> Tile {
    Tile { m, n, k, stages, warps_m, warps_n }
}

pub(super) const SIMT: Tile = tile(128, 128, 16, 2, 8, 1);
pub(super) const SIMT_SMALL: Tile = tile(64, 128, 16, 2, 8, 1);

/// Tiles of family `mma`, best first on an H100 (of 9 measured there: 128 x 256 for the walk over the
/// vocabulary, two blocks of 128 x 128 an SM for the single tiles of the backward pass); later ones need less
/// shared memory or waste less on small problems.
pub(super) const MMA: [Tile; 8] = [
    tile(128, 256, 64, 4, 2, 4),
    tile(128, 256, 64, 3, 2, 4),
    tile(128, 128, 64, 3, 2, 2),
    tile(256, 128, 64, 4, 4, 2),
    tile(128, 128, 64, 4, 2, 4),
    tile(128, 128, 32, 4, 2, 2),
    tile(64, 128, 64, 3, 1, 4),
    tile(64, 64, 64, 4, 2, 2),
];

/// The tile of family `wgmma` that leaves room for more than the sums in a thread's registers.
const WGMMA_HALF: Tile = tile(128, 128, 64, 6, 8, 1);

/// Tiles of family `wgmma`, best first.
const WGMMA: [Tile; 4] =
    [tile(128, 256, 64, 4, 8, 1), tile(128, 192, 64, 4, 8, 1), WGMMA_HALF, tile(128, 64, 64, 7, 8, 1)];

impl GpuSchedule {
    /// The schedule used where nothing has been tuned: of the fastest family that can run the problem and that
    /// the workspace's limit leaves room for. Where it leaves room for none, of the family that needs the least,
    /// so that the plan's error names the smallest workspace there is.
    pub fn default_for(program: &Program, problem: &Problem, gpu: &Gpu) -> GpuSchedule {
        let can = |family: &Family| family.refuses(problem, gpu).is_none();
        let mut least: Option<(u64, GpuSchedule)> = None;
        for family in Family::ALL.into_iter().filter(can) {
            let schedule = GpuSchedule::of_family(family, program, problem, gpu);
            let Some(limit) = problem.workspace_limit else { return schedule };
            match widest_chunk(program, problem, &schedule, gpu, limit) {
                Ok(_) => return schedule,
                Err(smallest) if least.is_none_or(|(bytes, _)| smallest < bytes) => {
                    least = Some((smallest, schedule));
                }
                Err(_) => {}
            }
        }
        least.map_or_else(|| GpuSchedule::simt(program, problem, gpu), |(_, schedule)| schedule)
    }

    /// The schedule that a family uses where nothing has been tuned. Whether the family can run the problem
    /// is for [`GpuSchedule::check`] to say.
    pub fn of_family(family: Family, program: &Program, problem: &Problem, gpu: &Gpu) -> GpuSchedule {
        match family {
            Family::Wgmma => GpuSchedule::wgmma(program, problem, gpu),
            Family::Mma => GpuSchedule::mma(program, problem, gpu),
            Family::Simt => GpuSchedule::simt(program, problem, gpu),
        }
    }

    fn wgmma(program: &Program, problem: &Problem, gpu: &Gpu) -> GpuSchedule {
        let clusters = |tile: &Tile, rows: usize, columns: usize| {
            (rows.div_ceil(tile.cluster_rows() as usize) * columns.div_ceil(tile.n as usize)) as f64
        };
        // The widest tile moves the fewest bytes for a product; a narrower one may divide the columns, and
        // the tiles among the clusters, with less left over.
        let for_product = |rows: usize| {
            let time = |tile: &&Tile| {
                let rounds = (clusters(tile, rows, problem.hidden) / f64::from(gpu.clusters())).ceil();
                rounds * (f64::from(tile.n) + COLUMNS_OF_A_START)
            };
            let best = WGMMA.iter().min_by(|a, b| time(a).total_cmp(&time(b)));
            best.copied().unwrap_or(WGMMA[0])
        };
        // Beside 128 sums a thread there are registers for one more reduction and its constants, if the logits
        // need no transform.
        let logits = if keeps_one_sum(program, problem) { WGMMA[0] } else { WGMMA_HALF };
        let hot = hot_columns(problem, gpu, &logits);
        let classifier_gradient = for_product(match problem.filter {
            Filter::Exact | Filter::Blocks { .. } => problem.vocab.min(COMMON_CHUNK),
            Filter::Sampled { .. } => hot as usize,
        });
        let schedule = GpuSchedule {
            family: Family::Wgmma,
            logits,
            splits: 1,
            logits_gradient: logits,
            classifier_gradient,
            hidden_gradient: for_product(problem.tokens),
            chunk: chunk(problem, gpu, &classifier_gradient, Family::Wgmma),
            hot,
            group: group(problem, gpu, &logits),
        };
        match small_chunk(program, problem, gpu, &schedule) {
            Some(chunk) => GpuSchedule { chunk, ..schedule },
            None => schedule,
        }
    }

    /// How many of up to `blocks` row blocks of tiles, `columns` of them beside each other, a chunk has so that
    /// it costs least for each: rounds of `places` tiles, and one for its beginning and end.
    pub(crate) fn cheapest_blocks(blocks: u64, columns: u64, places: u64) -> u64 {
        let rounds = |blocks: u64| (blocks * columns).div_ceil(places) + 1;
        // The larger chunk where two cost the same.
        (1..=blocks).rev().min_by_key(|&some| (rounds(some) << 32) / some).unwrap_or(blocks)
    }

    fn mma(program: &Program, problem: &Problem, gpu: &Gpu) -> GpuSchedule {
        let light = !is_heavy(program, problem);
        let sums = |t: &Tile| t.m * t.n / t.threads(Family::Mma);
        // What samples needs more registers beside the sums: up to compute capability 9 they suffice for the
        // normaliser of raw logits beside 128, later assemblers spill some.
        let large = match samples(problem) {
            true => gpu.capability < (10, 0) && keeps_one_sum(program, problem),
            false => light,
        };
        // A largest logit of each row beside all that would spill on sm_100a and sm_120.
        let most = if matches!(problem.filter, Filter::Blocks { .. }) { 32 } else { 64 };
        let logits = fitting(gpu, |t| t.m <= rounded(problem.tokens) && (large || sums(t) <= most));
        let most = problem.hidden * (100 + DEEP_WASTE);
        let deep = problem.hidden >= DEEP && problem.hidden.next_multiple_of(256) * 100 <= most;
        let widest = if deep { 256 } else { 128 };
        let product = |t: &Tile| t.n <= widest && (!deep || t.stages < 4 || t.m * t.n < 128 * 256);
        let few_rows = |t: &Tile| t.m <= rounded(problem.tokens);
        let hidden_gradient = fitting(gpu, |t| product(t) && few_rows(t));
        let classifier_gradient = fitting(gpu, |t| product(t));
        let (group, splits) = walk(problem, gpu, &logits, Family::Mma);
        GpuSchedule {
            family: Family::Mma,
            logits,
            splits,
            logits_gradient: fitting(gpu, |t| product(t) && few_rows(t) && (light || sums(t) <= 64)),
            classifier_gradient,
            hidden_gradient,
            chunk: chunk(problem, gpu, &classifier_gradient, Family::Mma),
            hot: hot_columns(problem, gpu, &logits),
            group,
        }
    }

    /// The schedule of family `simt`: runs everything, in true fp32.
    pub fn simt(program: &Program, problem: &Problem, gpu: &Gpu) -> GpuSchedule {
        // Compute capability 7.5 has too little shared memory for the larger tile.
        let largest = if SIMT.shared_bytes(Family::Simt) <= gpu.shared_per_block { SIMT } else { SIMT_SMALL };
        let logits = if is_heavy(program, problem) { SIMT_SMALL } else { largest };
        let (group, splits) = walk(problem, gpu, &logits, Family::Simt);
        GpuSchedule {
            family: Family::Simt,
            logits,
            splits,
            logits_gradient: largest,
            classifier_gradient: largest,
            hidden_gradient: largest,
            chunk: chunk(problem, gpu, &largest, Family::Simt),
            hot: hot_columns(problem, gpu, &logits),
            group,
        }
    }
}

/// How many of the first columns are hot: an eighth of a small vocabulary, all of a tiny one, and no more than
/// have their product dC done in one round of tiles on all multiprocessors. Where rows are wide, a hot column
/// costs more than what it keeps from being sampled: on an H100, of 256,000 columns of 2304, 1792 are 0.3 % faster
/// than 2048, and of 128,256 of 4096, 1024 0.6 %.
fn hot_columns(problem: &Problem, gpu: &Gpu, tile: &Tile) -> u32 {
    let (vocab, columns) = (problem.vocab, tile.n as usize);
    let round = gpu.multiprocessors as usize / problem.hidden.div_ceil(WGMMA[0].n as usize).max(1);
    let most = (round * tile.m as usize / columns * columns).clamp(columns, MOST_HOT);
    let hot = if vocab <= 2 * columns { vocab } else { (vocab / 8).clamp(columns, most) };
    u32::try_from(hot.next_multiple_of(columns)).unwrap_or(u32::MAX)
}

/// Row blocks of a cluster (two tiles) that form a group of the walk: as many as L2 keeps ([`GROUP_OF_L2`]),
/// in groups of about equal size, and no more row blocks than clusters.
fn group(problem: &Problem, gpu: &Gpu, tile: &Tile) -> u32 {
    let rows = tile.cluster_rows();
    let row_blocks = u32::try_from(problem.tokens.div_ceil(rows as usize).max(1)).unwrap_or(u32::MAX);
    let block_bytes = u64::from(rows) * (problem.hidden * problem.dtype.bytes()) as u64;
    let in_l2 =
        (GROUP_OF_L2 * gpu.l2_bytes as f64 / block_bytes as f64).clamp(1.0, f64::from(gpu.clusters()));
    let groups = row_blocks.div_ceil(in_l2 as u32);
    row_blocks.div_ceil(groups)
}

/// Whether the vocabulary loop keeps more than the normaliser and means: expectations and extrema, those that
/// the wanted gradients of inputs add included. They live in registers beside the sums, and the largest
/// tile's kernels would spill.
fn is_heavy(program: &Program, problem: &Problem) -> bool {
    let wanted = Wanted { logit: false, inputs: problem.input_gradients.clone() };
    let lowered = lower(program, &wanted);
    let heavy = |stat: &ExprId| {
        matches!(lowered.graph.get(*stat), Node::Expect { .. } | Node::Max(_) | Node::Argmax(_))
    };
    lowered.stats.iter().any(heavy)
}

pub(super) fn samples(problem: &Problem) -> bool {
    matches!(problem.filter, Filter::Sampled { .. })
}

/// Whether the vocabulary loop keeps nothing but the sum of exponentials of raw logits.
fn keeps_one_sum(program: &Program, problem: &Problem) -> bool {
    let large = problem.hidden_gradient.is_some() || problem.classifier_gradient.is_some();
    sums_raw_logits(&lower(program, &Wanted { logit: large, inputs: problem.input_gradients.clone() }))
}

pub(super) fn rounded(tokens: usize) -> u32 {
    u32::try_from(tokens.max(64).next_power_of_two()).unwrap_or(u32::MAX)
}

/// The first tile that fits the GPU and the condition; the smallest where none does.
fn fitting(gpu: &Gpu, condition: impl Fn(&Tile) -> bool) -> Tile {
    let fits = |t: &&Tile| t.shared_bytes(Family::Mma) <= gpu.shared_per_block && condition(t);
    MMA.iter().find(fits).copied().unwrap_or(MMA[MMA.len() - 1])
}

/// How the forward pass walks: row blocks that walk together, and parts of the vocabulary, so that one group
/// with all its parts fills the GPU once.
///
/// Rows that walk together share the classifier's tiles in L2 while their own hidden states stay there. Time is counted in tiles: groups one after
/// the other, each as long as its longest part and one tile's worth of start and end.
fn walk(problem: &Problem, gpu: &Gpu, tile: &Tile, family: Family) -> (u32, u32) {
    let blocks = u32::try_from(problem.tokens.div_ceil(tile.m as usize).max(1)).unwrap_or(u32::MAX);
    let tiles = u32::try_from(problem.vocab.div_ceil(tile.n as usize).max(1)).unwrap_or(u32::MAX);
    let places = places_of(gpu, tile, family);
    let mut best = (1, 1, f64::MAX);
    for group in 1..=blocks.min(MOST_ROWS / tile.m).min(places) {
        let splits = (places / group).clamp(1, tiles.min(1024));
        let full = f64::from(blocks / group);
        let rest = blocks % group;
        let part = f64::from(tiles.div_ceil(splits)) + 1.0;
        // A narrower last group leaves places empty unless the next launch fills them; it costs a whole round
        // all the same.
        let rounds = full + if rest > 0 { 1.0 } else { 0.0 };
        let narrow = if group * tile.m < FEWEST_ROWS && blocks > group { FEW_ROWS_COST } else { 1.0 };
        let time = rounds * part * narrow;
        if time < best.2 * 0.999 {
            best = (group, splits, time);
        }
    }
    (best.0, best.1)
}

/// Tiles that the GPU computes at once.
pub(super) fn places_of(gpu: &Gpu, tile: &Tile, family: Family) -> u32 {
    gpu.multiprocessors * (gpu.shared_per_block / tile.shared_bytes(family)).clamp(1, 2)
}

/// Parts of the vocabulary with which a group of the walk fills so many hundredths of the GPU.
pub(super) fn splits_of(problem: &Problem, gpu: &Gpu, schedule: &GpuSchedule, hundredths: u32) -> u32 {
    let GpuSchedule { family, logits, group, .. } = schedule;
    if *family == Family::Wgmma {
        return 1;
    }
    let tiles = u32::try_from(problem.vocab.div_ceil(logits.n as usize).max(1)).unwrap_or(u32::MAX);
    let filling = u64::from(places_of(gpu, logits, *family) / (*group).max(1)) * u64::from(hundredths) / 100;
    u32::try_from(filling).unwrap_or(u32::MAX).clamp(1, tiles.min(1024))
}

/// Vocabulary entries of one chunk in the workspace where the end of dC serves as scratch for the others.
fn small_chunk(program: &Program, problem: &Problem, gpu: &Gpu, schedule: &GpuSchedule) -> Option<u32> {
    let classifier = problem.classifier_gradient.filter(|out| !out.accumulate)?;
    let hidden = problem.hidden_gradient.map_or(0, |out| problem.tokens * out.dtype.bytes());
    let outputs = ((hidden + problem.vocab * classifier.dtype.bytes()) * problem.hidden) as u64;
    let whole = u32::try_from(problem.vocab.div_ceil(64).max(1) * 64).unwrap_or(u32::MAX - 63);
    let widest = GpuSchedule { chunk: whole, ..*schedule };
    let limit = (outputs * DEFAULT_PERCENT / 100).max(SMALL_WORKSPACE);
    let chunk = widest_chunk(program, problem, &widest, gpu, limit).unwrap_or(0);
    if chunk >= whole {
        return Some(whole);
    }
    let tile = &schedule.classifier_gradient;
    let columns = problem.hidden.div_ceil(tile.n as usize) as u64;
    let rows = tile.cluster_rows();
    let blocks = GpuSchedule::cheapest_blocks(u64::from(chunk / rows), columns, u64::from(gpu.clusters()));
    Some((blocks as u32 * rows).max(NARROWEST).min(whole))
}

/// Vocabulary entries of one chunk: what fits in the default scratch, cut so that each costs least.
fn chunk(problem: &Problem, gpu: &Gpu, tile: &Tile, family: Family) -> u32 {
    let row = (problem.tokens.max(1) * problem.dtype.bytes()) as u64;
    let each = u64::from(tile.m);
    let whole = (problem.vocab as u64).div_ceil(each).max(1);
    let fits = (DEFAULT_SCRATCH / row / each).clamp(1, whole);
    let columns = problem.hidden.div_ceil(tile.n as usize).max(1) as u64;
    let places = u64::from(places_of(gpu, tile, family));
    let blocks = if fits < whole { GpuSchedule::cheapest_blocks(fits, columns, places) } else { fits };
    u32::try_from(blocks * each).unwrap_or(u32::MAX - 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::DType;
    use crate::schedule::sample::normaliser as program;

    #[test]
    fn default_schedules_fit_every_compute_capability() {
        for (major, minor) in [(5, 2), (7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)] {
            let gpu = Gpu::of_capability(major, minor);
            let types = [DType::F32, DType::F16, DType::Bf16];
            // The second: one column of dC's tiles a wave is already too much for the scratch.
            let filters = [Filter::Exact, Filter::BLOCKS];
            for (dtype, (tokens, hidden), filter) in types
                .into_iter()
                .flat_map(|t| [(t, (300, 123)), (t, (2 << 20, 40_000))])
                .flat_map(|(t, size)| filters.map(|filter| (t, size, filter)))
            {
                let problem = Problem { filter, ..Problem::new(tokens, hidden, 50_007, dtype) };
                let schedules = [
                    GpuSchedule::default_for(&program(), &problem, &gpu),
                    GpuSchedule::simt(&program(), &problem, &gpu),
                ];
                for schedule in schedules {
                    assert_eq!(schedule.check(&problem, &gpu), Ok(()), "sm_{major}{minor} {dtype:?}");
                }
            }
        }
    }
}
