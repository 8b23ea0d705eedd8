//! What a plan adds that skips tiles of the gradient: the maxima that the forward pass keeps, and the kernel
//! that decides by them.
//!
//! A decision is about a granule of logits, into which the tiles of every kernel and the steps of every product
//! divide: whatever belongs to one that is skipped is neither computed nor written nor read. Chunks of the
//! vocabulary consist of whole granules.

use super::build::{Common, blocks};
use super::{Arg, Buffer, Launch, LiveTiles, Region, WorkspaceLayout};
use crate::problem::{Filter, Problem};
use crate::schedule::{GpuSchedule, Tile};

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
        let rows = |tile: &Tile| tile.walk_rows(self.family);
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
    pub(super) fn decisions(&self, common: &Common<'_>) -> LiveTiles {
        LiveTiles {
            decisions: self.live,
            rows: self.granule.rows,
            columns: self.granule.columns,
            counted: common.packing.map(|(_, count)| count),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{InputKind, Program};
    use crate::plan::{GpuPlan, Matrix, MatrixForm, refuses};
    use crate::problem::DType;
    use crate::schedule::{Family, Gpu};
    use crate::valid::{ProgramBuilder, Site};

    const HERE: Site = Site(0);

    fn cross_entropy() -> Program {
        let mut b = ProgramBuilder::new(HERE, "cross_entropy");
        let (x, y) = (b.input(HERE, "x", InputKind::Logit), b.input(HERE, "y", InputKind::Target));
        let (lse, at) = (b.lse(HERE, x), b.at(HERE, x, y));
        let loss = b.sub(HERE, lse, at);
        b.output(HERE, "loss", loss);
        b.finish().unwrap()
    }

    fn problem(tokens: usize, hidden: usize, vocab: usize) -> Problem {
        Problem { filter: Filter::BLOCKS, ..Problem::new(tokens, hidden, vocab, DType::Bf16) }
    }

    #[test]
    fn every_tile_and_every_chunk_lies_within_whole_granules() {
        let (program, gpu) = (cross_entropy(), Gpu::h100());
        let mut seen = 0;
        for family in Family::ALL {
            let problem = problem(3000, 576, 50_257);
            let base = GpuSchedule::of_family(family, &program, &problem, &gpu);
            for (schedule, fits) in GpuSchedule::space(&program, &problem, &gpu)
                .into_iter()
                .chain([(base, Ok(())), (GpuSchedule { chunk: 64, ..base }, Ok(()))])
            {
                if fits.is_err() {
                    continue;
                }
                let (rows, columns) = schedule.skipped_tile();
                let plan = GpuPlan::build(&program, &problem, &schedule, &gpu).unwrap();
                let of = |tile: &Tile| tile.walk_rows(schedule.family);
                for (granule, part) in [
                    (rows, of(&schedule.logits_gradient)),
                    (rows, of(&schedule.hidden_gradient)),
                    (rows, schedule.classifier_gradient.k),
                    (columns, schedule.logits.n),
                    (columns, schedule.logits_gradient.n),
                    (columns, of(&schedule.classifier_gradient)),
                    (columns, schedule.hidden_gradient.k),
                    (plan.schedule.chunk, columns),
                ] {
                    assert!(granule.is_multiple_of(part), "{granule} of {part}: {schedule:?}");
                }
                // The chunks' first columns, as the launches have them.
                for launch in plan.backward.iter().filter(|launch| launch.entry == "logits_gradient") {
                    let Arg::Int(first) = launch.args[11] else { panic!("the first column") };
                    assert!((first as u32).is_multiple_of(columns), "{first}: {schedule:?}");
                    seen += 1;
                }
                assert_eq!(plan.live.map(|live| (live.rows, live.columns)), Some((rows, columns)));
            }
        }
        assert!(seen > 100, "{seen}");
    }

    #[test]
    fn a_chunk_that_covers_the_vocabulary_still_does_in_whole_granules() {
        let (program, gpu) = (cross_entropy(), Gpu::h100());
        let skipping = problem(600, 72, 2100);
        for family in Family::ALL.into_iter().filter(|family| family.refuses(&skipping, &gpu).is_none()) {
            let schedule = GpuSchedule::of_family(family, &program, &skipping, &gpu);
            for filter in [skipping.filter, Filter::Exact] {
                let problem = Problem { filter, ..skipping.clone() };
                let plan = GpuPlan::build(&program, &problem, &schedule, &gpu).unwrap();
                let chunks = plan.backward.iter().filter(|launch| launch.entry == "logits_gradient").count();
                assert_eq!(chunks, 1, "{family:?} {filter:?}: {schedule:?}");
            }
        }
    }

    #[test]
    fn what_decides_costs_a_number_a_token_and_tile_while_the_forward_runs_and_a_byte_a_granule_after() {
        let (program, gpu) = (cross_entropy(), Gpu::h100());
        let skipping = problem(8192, 2304, 256_000);
        let exact = Problem { filter: Filter::Exact, ..skipping.clone() };
        let schedule = GpuSchedule::of_family(Family::Wgmma, &program, &skipping, &gpu);
        assert_eq!(schedule.skipped_tile(), (256, 256));
        let [with, without] = [&skipping, &exact]
            .map(|problem| GpuPlan::build(&program, problem, &schedule, &gpu).unwrap().workspace);
        assert_eq!(with.forward - without.forward, 8192 * 1000 * 4);
        assert_eq!(with.held - without.held, 32 * 1000);
        assert_eq!(with.peak() - without.peak(), 32 * 1000, "the backward pass reuses the room");
    }

    #[test]
    fn kept_logits_are_those_of_live_tiles_within_rows_that_count_and_the_vocabulary() {
        let problem = problem(300, 8, 700);
        let buffer = Buffer { region: Region::Held, offset: 0, bytes: 9 };
        let tiles = LiveTiles { decisions: buffer, rows: 128, columns: 256, counted: None };
        // Three tiles of columns by three of rows: 128, 128 and 44 rows, 256, 256 and 188 columns.
        assert_eq!(tiles.kept_logits(&problem, 300, &[1; 9]), 300 * 700);
        assert_eq!(tiles.kept_logits(&problem, 300, &[0, 0, 1, 0, 0, 0, 0, 1, 0]), 44 * 256 + 128 * 188);
        assert_eq!(tiles.kept_logits(&problem, 130, &[1; 9]), 130 * 700);
        assert_eq!(tiles.kept_logits(&problem, 0, &[1; 9]), 0);
    }

    #[test]
    fn losses_without_a_softmax_or_with_a_mean_are_refused_and_so_are_thresholds_that_are_none() {
        let mean = |with_softmax: bool| {
            let mut b = ProgramBuilder::new(HERE, "mean");
            let x = b.input(HERE, "x", InputKind::Logit);
            let mean = b.mean(HERE, x);
            let loss = if with_softmax { (b.lse(HERE, x), mean) } else { (mean, mean) };
            let loss = b.sub(HERE, loss.0, loss.1);
            b.output(HERE, "loss", loss);
            b.finish().unwrap()
        };
        let refused = |program: &Program, filter: Filter| {
            refuses(program, &Problem { filter, ..problem(300, 64, 1000) })
        };
        assert_eq!(refused(&cross_entropy(), Filter::BLOCKS), None);
        assert!(refused(&mean(true), Filter::BLOCKS).unwrap().contains("mean over the vocabulary"));
        assert!(refused(&mean(false), Filter::BLOCKS).unwrap().contains("softmax"));
        for eps in [0.0, -1.0, 1.5, f32::NAN] {
            assert!(refused(&cross_entropy(), Filter::Blocks { eps }).unwrap().contains("eps"), "{eps}");
        }
    }

    #[test]
    fn g_at_the_end_of_dc_has_whole_granules_too() {
        let (program, gpu) = (cross_entropy(), Gpu::h100());
        let problem = problem(8192, 2304, 256_000);
        let schedule = GpuSchedule::of_family(Family::Wgmma, &program, &problem, &gpu);
        let narrow = Tile { n: 192, ..schedule.logits };
        let schedule = GpuSchedule { logits: narrow, logits_gradient: narrow, hot: 0, chunk: 64, ..schedule };
        let (_, columns) = schedule.skipped_tile();
        assert_eq!(columns, 768);
        let plan = GpuPlan::build(&program, &problem, &schedule, &gpu).unwrap();
        let widths = plan.backward.iter().filter(|launch| launch.entry == "classifier_gradient").filter_map(
            |launch| match launch.args[0] {
                Arg::TensorMap(map) => match (map.matrix, map.form) {
                    (Matrix::ClassifierTail { .. }, MatrixForm::Blocks { blocks }) => Some(blocks * 64),
                    _ => None,
                },
                _ => None,
            },
        );
        let widths: Vec<u64> = widths.collect();
        assert!(!widths.is_empty() && widths.iter().all(|width| width.is_multiple_of(768)), "{widths:?}");
    }
}
