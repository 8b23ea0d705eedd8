//! Program, problem and schedule become a plan.

use super::backward::{Backward, Scratch};
use super::forward::{Forward, ForwardScratch};
use super::sampled::Sampled;
use super::saved::SavedSlots;
use super::skipped::{Granule, Skipped};
use super::walk::{Division, Walk};
use super::{GpuPlan, Region, WorkspaceLayout};
use crate::cuda::{self, Sampling};
use crate::diff::{Lowered, Wanted, lower};
use crate::ir::{ExprId, InputId, InputKind, Node, Program};
use crate::problem::{DType, Filter, Ignored, Problem};
use crate::schedule::{CLUSTER, Family, Gpu, GpuSchedule, ScheduleError, Tile};
use thiserror::Error;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The schedule does not fit.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The filter is not offered.
    #[error("the filter {filter} is not possible here: {reason}; use the filter exact")]
    Filter {
        /// The filter asked for.
        filter: Filter,
        /// Why not.
        reason: String,
    },
    /// The workspace's limit cannot be met.
    #[error(
        "the workspace's limit is {limit} bytes, but the smallest workspace for this problem is {smallest} bytes; allow at least that"
    )]
    Workspace {
        /// The limit.
        limit: u64,
        /// The smallest that can be met.
        smallest: u64,
    },
    /// A size does not fit the kernels' 32-bit indices, or the room of their tiles.
    #[error("{what} is {found}; these kernels take up to {most}")]
    Size {
        /// Which.
        what: &'static str,
        /// The size.
        found: usize,
        /// The limit.
        most: usize,
    },
}

/// Why the CUDA kernels do not offer the problem's filter for a program, if they do not.
pub fn refuses(program: &Program, problem: &Problem) -> Option<String> {
    match problem.filter {
        Filter::Exact => None,
        Filter::Blocks { .. } => cannot_skip(program, problem),
        Filter::Sampled { max_entries, .. } => cannot_sample(program, problem, max_entries),
    }
}

fn cannot_sample(program: &Program, problem: &Problem, max_entries: u32) -> Option<String> {
    if let Some(mistake) = problem.filter.mistake() {
        return Some(mistake.to_owned());
    }
    let wanted = Wanted { logit: true, inputs: problem.input_gradients.clone() };
    let mut lowered = lower(program, &wanted);
    let entries = problem.tokens as u64 * (u64::from(max_entries) + 1);
    let reason = if max_entries > 1 << 20 {
        "on a GPU max_entries must be at most 1048576"
    } else if entries > u64::from(u32::MAX) {
        "tokens times max_entries are more than the kernels count in 32 bits: lower max_entries"
    } else if lowered.softmax.is_none() {
        "what is sampled is a softmax, and this loss has none"
    } else {
        return lowered.uniform_factors(true).err().map(|reason| reason.to_string());
    };
    Some(reason.to_owned())
}

/// Why a problem's tiles of the gradient cannot be skipped by probability, on any device, if they cannot.
pub fn cannot_skip(program: &Program, problem: &Problem) -> Option<String> {
    if let Some(mistake) = problem.filter.mistake() {
        return Some(mistake.to_owned());
    }
    let wanted = Wanted { logit: true, inputs: problem.input_gradients.clone() };
    let lowered = lower(program, &wanted);
    let cols = lowered.cols.iter().map(|(_, parts)| parts);
    let reason = if lowered.softmax.is_none() {
        "tiles are skipped where a softmax is small, and this loss has none"
    } else if cols.chain([&lowered.logit]).any(|parts| parts.uniform.is_some()) {
        "this loss has a mean over the vocabulary, whose gradient is small nowhere: no tile can be skipped"
    } else {
        return None;
    };
    Some(reason.to_owned())
}

/// Whether the vocabulary loop keeps nothing but the sum of exponentials of raw logits.
pub(crate) fn sums_raw_logits(lowered: &Lowered) -> bool {
    let raw = lowered.softmax.is_some_and(|z| matches!(lowered.graph.get(z), Node::Input(_)));
    let more = |stat: &ExprId| {
        matches!(
            lowered.graph.get(*stat),
            Node::Expect { .. } | Node::Mean(_) | Node::Max(_) | Node::Argmax(_)
        )
    };
    raw && !lowered.stats.iter().any(more)
}

const MOST_TOKENS: usize = 1 << 28;
const MOST_HIDDEN: usize = 1 << 20;
const MOST_VOCAB: usize = 1 << 28;

impl GpuPlan {
    /// Plans a program for a problem on a GPU. The chunk of the backward pass shrinks to meet the workspace's
    /// limit.
    ///
    /// # Errors
    /// A schedule that does not fit, a filter that is not offered, a workspace limit that cannot be met, a
    /// size beyond the kernels' indices.
    pub fn build(
        program: &Program,
        problem: &Problem,
        schedule: &GpuSchedule,
        gpu: &Gpu,
    ) -> Result<GpuPlan, PlanError> {
        if let Some(reason) = refuses(program, problem) {
            return Err(PlanError::Filter { filter: problem.filter, reason });
        }
        for (what, found, most) in [
            ("the number of tokens", problem.tokens, MOST_TOKENS),
            ("the hidden size", problem.hidden, MOST_HIDDEN),
            ("the vocabulary's size", problem.vocab, MOST_VOCAB),
        ] {
            if found > most {
                return Err(PlanError::Size { what, found, most });
            }
        }
        schedule.check(problem, gpu)?;
        planning(program, problem, gpu, |parts| {
            let widest = parts.widest(schedule);
            parts.check_exchanges(&widest)?;
            let limit = problem.workspace_limit.unwrap_or(u64::MAX);
            let chunk = parts
                .widest_chunk(&widest, limit)
                .map_err(|smallest| PlanError::Workspace { limit, smallest })?;
            Ok(parts.plan(GpuSchedule { chunk, ..widest }))
        })
    }
}

/// The widest chunk, up to the schedule's, with which the workspace's peak stays within `limit` bytes; where
/// there is none, the bytes of the smallest workspace.
pub(crate) fn widest_chunk(
    program: &Program,
    problem: &Problem,
    schedule: &GpuSchedule,
    gpu: &Gpu,
    limit: u64,
) -> Result<u32, u64> {
    planning(program, problem, gpu, |parts| parts.widest_chunk(&parts.widest(schedule), limit))
}

/// Does something with what a plan is made from.
fn planning<T>(program: &Program, problem: &Problem, gpu: &Gpu, then: impl FnOnce(&Parts<'_>) -> T) -> T {
    let wanted = Wanted {
        logit: problem.hidden_gradient.is_some() || problem.classifier_gradient.is_some(),
        inputs: problem.input_gradients.clone(),
    };
    let mut lowered = lower(program, &wanted);
    let slots = SavedSlots::new(&mut lowered);
    let sampled = matches!(problem.filter, Filter::Sampled { .. });
    then(&Parts {
        program,
        problem,
        clusters: gpu.clusters(),
        lowered: &lowered,
        slots: &slots,
        forward: cuda::Forward::new(&lowered, &slots),
        backward: problem.wants_gradients().then(|| cuda::Backward::new(&lowered, &slots, sampled)),
    })
}

/// What a plan is made from, whatever its schedule.
struct Parts<'a> {
    program: &'a Program,
    problem: &'a Problem,
    clusters: u32,
    lowered: &'a Lowered,
    slots: &'a SavedSlots,
    forward: cuda::Forward<'a>,
    backward: Option<cuda::Backward<'a>>,
}

/// Where everything of a plan is.
struct Places<'a> {
    common: Common<'a>,
    forward: ForwardScratch,
    backward: Option<Scratch>,
    sampled: Option<Sampled>,
    skipped: Option<Skipped>,
    workspace: WorkspaceLayout,
}

impl<'a> Parts<'a> {
    /// The schedule with a chunk no wider than the vocabulary, in whole steps. What covers the vocabulary at once
    /// still does.
    fn widest(&self, schedule: &GpuSchedule) -> GpuSchedule {
        let step = Granule::chunk_step(self.problem, schedule);
        let vocab = u32::try_from(self.problem.vocab).unwrap_or(u32::MAX);
        let whole = vocab.div_ceil(step).max(1);
        let steps = if schedule.chunk >= vocab { whole } else { whole.min((schedule.chunk / step).max(1)) };
        GpuSchedule { chunk: steps * step, ..*schedule }
    }

    /// The widest chunk up to the schedule's whose workspace has at most `limit` bytes, or the smallest
    /// workspace there is.
    fn widest_chunk(&self, schedule: &GpuSchedule, limit: u64) -> Result<u32, u64> {
        let peak = |chunk: u32| self.place(GpuSchedule { chunk, ..*schedule }).workspace.peak();
        let (widest, step) = (schedule.chunk, Granule::chunk_step(self.problem, schedule));
        let of_widest = peak(widest);
        if of_widest <= limit {
            return Ok(widest);
        }
        let of_narrowest = peak(step.min(widest));
        if of_narrowest > limit {
            // One chunk needs no sums between chunks: for a small vocabulary it is the smallest.
            return Err(of_narrowest.min(of_widest));
        }
        // The workspace grows with the chunk: the most steps that fit.
        let (mut fits, mut too_large) = (1, widest / step);
        while fits + 1 < too_large {
            let middle = u32::midpoint(fits, too_large);
            if peak(middle * step) <= limit { fits = middle } else { too_large = middle }
        }
        Ok(fits * step)
    }

    /// Whether what the warps of a block exchange fits in the room that the tiles leave: programs with very
    /// many reductions or Col gradients need smaller tiles, or fewer gradients.
    fn check_exchanges(&self, schedule: &GpuSchedule) -> Result<(), PlanError> {
        let GpuSchedule { family, logits, logits_gradient, .. } = schedule;
        let is_col = |id: &&InputId| self.program.inputs()[id.index()].kind == InputKind::Col;
        let columns = self.problem.input_gradients.iter().filter(is_col).count();
        for (what, found, most) in [
            ("the number of statistics a token", self.forward.stats(), logits.most_statistics(*family)),
            ("the number of Col inputs' gradients", columns, logits_gradient.most_column_sums(*family)),
        ] {
            if found > most {
                return Err(PlanError::Size { what, found, most });
            }
        }
        Ok(())
    }

    fn place(&self, schedule: GpuSchedule) -> Places<'a> {
        let problem = self.problem;
        let mut workspace = WorkspaceLayout::default();
        let tokens = problem.tokens as u64;
        let packing = (problem.ignored == Ignored::Possible && self.program.has_target())
            .then(|| (workspace.take(Region::Held, tokens * 4), workspace.take(Region::Held, 4)));
        // TMA cannot gather: family `wgmma` multiplies a copy of the rows that count.
        let packs = packing.is_some() && schedule.family == Family::Wgmma;
        let packed_hidden = packs.then(|| {
            let region = if problem.wants_gradients() { Region::Held } else { Region::Forward };
            workspace.take(region, tokens * problem.hidden as u64 * problem.dtype.bytes() as u64)
        });
        let common = Common {
            program: self.program,
            problem,
            schedule,
            clusters: self.clusters,
            packed_hidden,
            lowered: self.lowered,
            slots: self.slots,
            sampling: sampling(self.backward.as_ref(), problem, &schedule),
            granule: self.backward.as_ref().and_then(|_| Granule::of(problem, &schedule)),
            saved: workspace.take(Region::Held, self.slots.len() as u64 * tokens * 4),
            factor: workspace.take(Region::Held, 4),
            packing,
        };
        let statistics = self.forward.stats();
        let sampled =
            common.sampling.and_then(|sampling| Sampled::take(&common, sampling, statistics, &mut workspace));
        let skipped = Skipped::take(&common, &mut workspace);
        let forward = ForwardScratch::take(&common, &self.forward, sampled.as_ref(), &mut workspace);
        let backward = self.backward.as_ref().map(|holes| Scratch::take(&common, holes, &mut workspace));
        Places { common, forward, backward, sampled, skipped, workspace }
    }

    fn plan(&self, schedule: GpuSchedule) -> GpuPlan {
        let Places { common, forward, backward, sampled, skipped, workspace } = self.place(schedule);
        let (sampled, skipped) = (sampled.as_ref(), skipped.as_ref());
        let mut modules = Vec::new();
        let forward = Forward::plan(&common, &self.forward, &forward, (sampled, skipped), &mut modules);
        let backward = match (&self.backward, &backward) {
            (Some(holes), Some(scratch)) => {
                Backward::plan(&common, holes, scratch, (sampled, skipped), &mut modules)
            }
            _ => Backward::default(),
        };
        GpuPlan {
            program: self.program.clone(),
            problem: self.problem.clone(),
            schedule,
            modules,
            forward: forward.launches,
            backward: backward.launches,
            workspace,
            check_targets: forward.check_targets,
            bad_target: forward.bad_target,
            output_rows: forward.output_rows,
            kept: sampled.map(|sampled| sampled.kept_counts(&common)),
            live: skipped.map(|skipped| skipped.decisions(&common)),
            statistics: forward.statistics,
            row_gradients: self.lowered.rows.iter().map(|&(input, _)| input).collect(),
            scalar_gradients: backward.scalar_rows,
        }
    }
}

/// How a plan samples; `None`: all columns are treated exactly, because the filter says so, because no large
/// gradient is wanted, or because all columns are hot.
fn sampling(
    backward: Option<&cuda::Backward<'_>>,
    problem: &Problem,
    schedule: &GpuSchedule,
) -> Option<Sampling> {
    let Filter::Sampled { eps, max_entries } = problem.filter else { return None };
    let large = problem.hidden_gradient.is_some() || problem.classifier_gradient.is_some();
    let cold = u32::try_from(problem.vocab.saturating_sub(schedule.hot as usize)).unwrap_or(u32::MAX);
    // No token has more entries than there are columns to sample.
    let max_entries = max_entries.min(cold);
    let keeps_logits = backward.is_some_and(cuda::Backward::entries_read_logits);
    (large && cold > 0).then_some(Sampling { eps, max_entries, hot: schedule.hot, keeps_logits })
}

/// What forward and backward are planned from.
pub(super) struct Common<'a> {
    pub(super) program: &'a Program,
    pub(super) problem: &'a Problem,
    pub(super) schedule: GpuSchedule,
    /// Clusters of two blocks that the GPU runs at once.
    pub(super) clusters: u32,
    pub(super) lowered: &'a Lowered,
    pub(super) slots: &'a SavedSlots,
    /// The sampled filter, where columns are sampled.
    pub(super) sampling: Option<Sampling>,
    /// What is skipped together, where tiles of the gradient are.
    pub(super) granule: Option<Granule>,
    /// Saved values, `[slots][N]` f32.
    pub(super) saved: super::Buffer,
    /// What a reduced value's upstream gradient is multiplied with, one f32.
    pub(super) factor: super::Buffer,
    /// The order of tokens, `[N]` i32, and how many count, one i32; where tokens may be ignored.
    pub(super) packing: Option<(super::Buffer, super::Buffer)>,
    /// The rows of the hidden states that count, one after the other, [N, D].
    pub(super) packed_hidden: Option<super::Buffer>,
}

impl<'a> Common<'a> {
    pub(super) fn emitter(&self) -> cuda::Emitter<'a> {
        cuda::Emitter {
            program: self.program.name(),
            problem: self.problem,
            packed: self.packing.is_some(),
            family: self.schedule.family,
            pitch: (self.schedule.family != Family::Wgmma).then_some(self.pitch()),
            scaled: self.problem.dtype == DType::F16,
            sampling: self.sampling,
            granule: self.granule,
        }
    }

    pub(super) fn order(&self) -> super::Arg {
        self.packing.map_or(super::Arg::Null, |(order, _)| super::Arg::Workspace(order))
    }

    pub(super) fn count(&self) -> super::Arg {
        self.packing.map_or(super::Arg::Null, |(_, count)| super::Arg::Workspace(count))
    }

    /// The log-sum-exp of each token among the saved values, of a program with a softmax.
    pub(super) fn saved_lse(&self) -> Option<super::Buffer> {
        let slot = self.slots.slot_of(self.slots.lse()?)? as u64;
        let bytes = self.problem.tokens as u64 * 4;
        Some(super::Buffer { offset: self.saved.offset + slot * bytes, bytes, ..self.saved })
    }

    /// Columns of G that a row has in memory, in families `mma` and `simt`: those of the widest chunk.
    pub(super) fn pitch(&self) -> usize {
        self.sampling.map_or(self.schedule.chunk, |sampling| sampling.hot) as usize
    }

    /// A walk over some tiles, of which each row block's parts have so many bands.
    pub(super) fn walk(&self, tiles: usize, bands: u32) -> Walk {
        let GpuSchedule { family, logits, splits, group, .. } = self.schedule;
        let rows = u64::from(logits.walk_rows(family));
        Walk {
            rows,
            row_blocks: (self.problem.tokens as u64).div_ceil(rows),
            any_fewer: self.packing.is_some(),
            division: match family {
                Family::Wgmma => Division::Clusters {
                    group: u64::from(group),
                    tiles: tiles as u64,
                    clusters: u64::from(self.clusters),
                },
                Family::Mma | Family::Simt => Division::Parts(u64::from(splits * bands)),
            },
        }
    }

    /// What a walk's kernels are told of its division: clusters, or parts of so many bands.
    pub(super) fn clusters_or_parts(&self, bands: u32) -> super::Arg {
        super::Arg::Int(match self.schedule.family {
            Family::Wgmma => self.clusters,
            Family::Mma | Family::Simt => self.schedule.splits * bands,
        } as i32)
    }

    /// The arguments behind the number of tokens of a kernel that walks: how many parts a row block has where
    /// clusters do not count themselves, and the rows that walk together.
    pub(super) fn walk_args(&self) -> impl Iterator<Item = super::Arg> {
        let splits = (self.schedule.family != Family::Wgmma).then(|| self.clusters_or_parts(1));
        splits.into_iter().chain([self.group()])
    }

    pub(super) fn tokens(&self) -> super::Arg {
        super::Arg::Int(self.problem.tokens as i32)
    }

    pub(super) fn group(&self) -> super::Arg {
        super::Arg::Int(self.schedule.group as i32)
    }

    /// Row blocks whose tiles a backward product takes together, so that what runs at one time reads few rows
    /// of either operand.
    pub(super) fn group_of_products(&self) -> super::Arg {
        match self.schedule.family {
            Family::Wgmma => super::Arg::Int(crate::schedule::GROUP_OF_PRODUCTS),
            Family::Mma | Family::Simt => self.group(),
        }
    }

    /// Blocks of a matrix kernel over m x n: one a tile, or persistent clusters.
    pub(super) fn matrix_blocks(&self, tile: &Tile, m: usize, n: usize) -> u32 {
        let tiles = blocks(m, tile.m as usize) * blocks(n, tile.n as usize);
        if self.schedule.family == Family::Wgmma && tiles > 0 { CLUSTER * self.clusters } else { tiles }
    }
}

/// Blocks of `each` that cover `n`.
pub(super) fn blocks(n: usize, each: usize) -> u32 {
    n.div_ceil(each) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valid::{ProgramBuilder, Site};

    /// The normaliser of `x + bias0 + bias1 ...`.
    fn biased(columns: usize) -> Program {
        let here = Site(0);
        let mut b = ProgramBuilder::new(here, "biased");
        let mut z = b.input(here, "x", InputKind::Logit);
        for k in 0..columns {
            let bias = b.input(here, &format!("bias{k}"), InputKind::Col);
            z = b.add(here, z, bias);
        }
        let loss = b.lse(here, z);
        b.output(here, "loss", loss);
        b.finish().unwrap()
    }

    fn plan(columns: usize, problem: Problem) -> Result<GpuPlan, PlanError> {
        let (program, gpu) = (biased(columns), Gpu::h100());
        let input_gradients = (1..=columns).map(|k| InputId(k as u16)).collect();
        let problem = Problem { filter: Filter::Exact, input_gradients, ..problem };
        GpuPlan::build(&program, &problem, &GpuSchedule::simt(&program, &problem, &gpu), &gpu)
    }

    #[test]
    fn column_sums_that_do_not_fit_beside_a_tile_are_refused() {
        let problem = || Problem::new(300, 64, 1000, DType::F32);
        assert!(plan(17, problem()).is_ok());
        let error = plan(18, problem()).unwrap_err();
        assert!(matches!(error, PlanError::Size { found: 18, most: 17, .. }), "{error}");
    }

    #[test]
    fn the_smallest_workspace_that_an_error_names_is_enough_and_one_byte_less_is_not() {
        let (program, gpu) = (biased(0), Gpu::h100());
        // One chunk of a small vocabulary needs less than two, which sum a wide dE in between; a large
        // vocabulary needs chunks.
        for (family, vocab) in [Family::Wgmma, Family::Mma, Family::Simt]
            .into_iter()
            .flat_map(|family| [40, 128, 50_000].map(|vocab| (family, vocab)))
        {
            let what = format!("{family:?} {vocab}");
            let plan = |limit| {
                let base = Problem::new(300, 4096, vocab, DType::Bf16);
                let problem = Problem { workspace_limit: Some(limit), filter: Filter::Exact, ..base };
                let schedule = GpuSchedule::of_family(family, &program, &problem, &gpu);
                GpuPlan::build(&program, &problem, &schedule, &gpu)
            };
            let Err(PlanError::Workspace { smallest, .. }) = plan(1) else { panic!("{what}") };
            assert!(plan(smallest).unwrap().workspace.peak() <= smallest, "{what}");
            let less = plan(smallest - 1).unwrap_err();
            assert!(
                matches!(less, PlanError::Workspace { smallest: same, .. } if same == smallest),
                "{what}: {less}"
            );
        }
    }

    fn with_target() -> Program {
        let here = Site(0);
        let mut b = ProgramBuilder::new(here, "cross_entropy");
        let (x, y) = (b.input(here, "x", InputKind::Logit), b.input(here, "y", InputKind::Target));
        let (lse, at) = (b.lse(here, x), b.at(here, x, y));
        let loss = b.sub(here, lse, at);
        b.output(here, "loss", loss);
        b.finish().unwrap()
    }

    fn of_shape((tokens, hidden, vocab): (usize, usize, usize), ignored: Ignored) -> GpuPlan {
        let (program, gpu) = (with_target(), Gpu::h100());
        let base = Problem::new(tokens, hidden, vocab, DType::Bf16);
        let problem = Problem { filter: Filter::Exact, ignored, ..base };
        let schedule = GpuSchedule::of_family(Family::Wgmma, &program, &problem, &gpu);
        GpuPlan::build(&program, &problem, &schedule, &gpu).unwrap()
    }

    #[test]
    fn the_default_schedule_meets_every_limit_that_some_family_meets() {
        let (program, gpu) = (with_target(), Gpu::h100());
        let shapes = [(8192, 2304, 256_000), (4096, 4096, 1000), (300, 64, 507)];
        let mut chosen = std::collections::HashSet::new();
        for (dtype, (tokens, hidden, vocab)) in
            [DType::Bf16, DType::F32].into_iter().flat_map(|dtype| shapes.map(|shape| (dtype, shape)))
        {
            let problem =
                |limit| Problem { workspace_limit: limit, ..Problem::new(tokens, hidden, vocab, dtype) };
            let smallest_of = |schedule: &GpuSchedule| {
                let Err(PlanError::Workspace { smallest, .. }) =
                    GpuPlan::build(&program, &problem(Some(1)), schedule, &gpu)
                else {
                    panic!("a workspace of one byte")
                };
                smallest
            };
            let by_family: Vec<u64> = [Family::Wgmma, Family::Mma, Family::Simt]
                .into_iter()
                .filter(|family| family.refuses(&problem(None), &gpu).is_none())
                .map(|family| smallest_of(&GpuSchedule::of_family(family, &program, &problem(None), &gpu)))
                .collect();
            let least = *by_family.iter().min().unwrap();
            for limit in by_family.iter().flat_map(|&smallest| [smallest - 1, smallest]) {
                let problem = problem(Some(limit));
                let schedule = GpuSchedule::default_for(&program, &problem, &gpu);
                match GpuPlan::build(&program, &problem, &schedule, &gpu) {
                    Ok(plan) => {
                        assert!(plan.workspace.peak() <= limit, "{dtype:?} {vocab}");
                        chosen.insert(schedule.family);
                    }
                    Err(PlanError::Workspace { smallest, .. }) => {
                        assert!(limit < least && smallest == least, "{dtype:?} {vocab}: {limit} {least}");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
        assert!(chosen.len() > 1, "no limit made another family the default: {chosen:?}");
    }

    #[test]
    fn the_workspace_is_a_few_percent_of_the_gradients_where_dc_is_overwritten() {
        let percent = |shape: (usize, usize, usize), ignored| {
            let plan = of_shape(shape, ignored);
            100.0 * plan.workspace.peak() as f64 / ((shape.0 + shape.2) * shape.1 * 2) as f64
        };
        assert!(percent((8192, 2304, 256_000), Ignored::None) <= 6.0);
        assert!(percent((2048, 4096, 128_256), Ignored::None) <= 6.0);
        // The hidden states that count are packed: 3.1 % more.
        assert!(percent((8192, 2304, 256_000), Ignored::Possible) <= 8.0);
    }

    #[test]
    fn a_chunk_is_as_wide_as_the_workspaces_limit_allows() {
        let (program, gpu) = (biased(0), Gpu::h100());
        for family in [Family::Wgmma, Family::Mma] {
            let base = Problem { filter: Filter::Exact, ..Problem::new(2048, 512, 50_257, DType::Bf16) };
            let schedule =
                GpuSchedule { chunk: 65_536, ..GpuSchedule::of_family(family, &program, &base, &gpu) };
            for limit in [4 << 20, 16 << 20, 64 << 20] {
                let problem = Problem { workspace_limit: Some(limit), ..base.clone() };
                let chosen = GpuPlan::build(&program, &problem, &schedule, &gpu).unwrap();
                assert!(chosen.workspace.peak() <= limit, "{family:?} {limit}");
                let wider = GpuSchedule { chunk: chosen.schedule.chunk + 64, ..schedule };
                let wider = GpuPlan::build(&program, &base, &wider, &gpu).unwrap();
                assert!(wider.workspace.peak() > limit, "{family:?} {limit}");
            }
        }
    }
}
