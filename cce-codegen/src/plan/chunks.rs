//! The vocabulary in chunks: which columns of G exist at once, and where.
//!
//! Chunks cover the vocabulary in order, each column once; all begin at a multiple of 64 columns, or of what is
//! skipped together. While a chunk's rows of dC are written, the rows behind them hold nothing yet: where dC is overwritten, G and the
//! partials of Col inputs' gradients may live at its end, and only the last chunks, which would reach them,
//! need room of their own.

use super::backward::partials_of_an_input;
use super::skipped::Granule;
use crate::problem::Problem;
use crate::schedule::{Family, GpuSchedule};

/// Columns of a block of G.
pub(super) const BLOCK: usize = 64;

/// What the address of a matrix at the end of dC is a multiple of, in bytes.
pub(super) const ALIGN: u64 = 1024;

/// The most columns of a chunk at the end of dC: wider ones gain nothing.
const WIDEST: u64 = 65_536;

/// A chunk of the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The first column.
    pub(super) first: usize,
    /// How many; a multiple of 64 unless they are the last.
    pub(super) width: usize,
    /// Where its scratch lives.
    pub(super) place: Place,
}

/// Where a chunk's G and partials live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the workspace.
    Workspace,
    /// At the end of dC: each so many bytes, a multiple of 1024, before dC's last multiple of 1024.
    ClassifierTail {
        /// G.
        gradient: u64,
        /// Partials of Col inputs' gradients.
        partials: u64,
    },
}

/// The chunks of a problem under a schedule, in order.
pub(super) fn chunks(
    problem: &Problem,
    schedule: &GpuSchedule,
    col_gradients: usize,
    clusters: u32,
) -> Vec<Chunk> {
    let partials = |width: usize| col_gradients as u64 * partials_of_an_input(problem, schedule, width);
    let tail = Tail::new(problem, schedule, partials(1), clusters);
    let step = Granule::chunk_step(problem, schedule) as usize;
    let mut first = 0;
    std::iter::from_fn(|| {
        let left = problem.vocab - first;
        (left > 0).then(|| {
            let own = left.min(schedule.chunk as usize);
            let chunk = match tail.as_ref().map_or(0, |tail| tail.width(left, step)) {
                wider if wider > own => {
                    let partials = partials(wider).next_multiple_of(ALIGN);
                    let gradient = gradient_bytes(problem, wider).next_multiple_of(ALIGN) + partials;
                    Chunk { first, width: wider, place: Place::ClassifierTail { gradient, partials } }
                }
                _ => Chunk { first, width: own, place: Place::Workspace },
            };
            first += chunk.width;
            chunk
        })
    })
    .collect()
}

/// Bytes of G of `width` columns in family `wgmma`: whole blocks of 64 columns.
pub(super) fn gradient_bytes(problem: &Problem, width: usize) -> u64 {
    (width.div_ceil(BLOCK) * BLOCK * problem.dtype.bytes()) as u64 * problem.tokens as u64
}

/// Whether G may live at the end of dC: whole blocks of it need no pitch that every chunk shares, and what dC
/// held is of no interest.
fn uses_the_classifier_gradient(problem: &Problem, family: Family) -> bool {
    family == Family::Wgmma && problem.classifier_gradient.is_some_and(|out| !out.accumulate)
}

/// Room at the end of dC.
struct Tail {
    /// Bytes of a row of dC.
    row: u64,
    /// Bytes of a column of G and of its partials.
    column: u64,
    /// Rows of dC that a cluster takes, how many of its tiles are beside each other, and how many are computed
    /// at once.
    rows: u64,
    columns: u64,
    clusters: u64,
}

impl Tail {
    fn new(problem: &Problem, schedule: &GpuSchedule, partials: u64, clusters: u32) -> Option<Tail> {
        let out = problem.classifier_gradient?;
        let tile = &schedule.classifier_gradient;
        uses_the_classifier_gradient(problem, schedule.family).then(|| Tail {
            row: (problem.hidden * out.dtype.bytes()) as u64,
            column: (problem.tokens * problem.dtype.bytes()) as u64 + partials,
            rows: u64::from(tile.cluster_rows()),
            columns: problem.hidden.div_ceil(tile.n as usize) as u64,
            clusters: u64::from(clusters),
        })
    }

    /// The widest chunk whose scratch, aligned, does not reach the chunk's own rows of dC, of which `left` are not
    /// finished; cut so that a tile costs least, where there are whole ones, and into whole steps.
    fn width(&self, left: usize, step: usize) -> usize {
        // dC's end, G and the partials are each aligned.
        let room = (left as u64 * self.row).saturating_sub(3 * ALIGN);
        let fits = (room / (self.row + self.column)).min(WIDEST);
        let width = match fits / self.rows {
            0 => fits,
            blocks => GpuSchedule::cheapest_blocks(blocks, self.columns, self.clusters) * self.rows,
        };
        width as usize / step * step
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{DType, Filter, GradientOutput};
    use crate::schedule::Gpu;
    use crate::schedule::sample::normaliser as program;

    fn problem(tokens: usize, hidden: usize, vocab: usize) -> Problem {
        Problem { filter: Filter::Exact, ..Problem::new(tokens, hidden, vocab, DType::Bf16) }
    }

    fn of(problem: &Problem, family: Family, chunk: Option<u32>, col_gradients: usize) -> Vec<Chunk> {
        let gpu = Gpu::h100();
        let default = GpuSchedule::of_family(family, &program(), problem, &gpu);
        let schedule = GpuSchedule { chunk: chunk.unwrap_or(default.chunk), ..default };
        chunks(problem, &schedule, col_gradients, gpu.clusters())
    }

    const SHAPES: [(usize, usize, usize); 9] = [
        (8192, 2304, 256_000),
        (8192, 576, 49_152),
        (2048, 4096, 128_256),
        (32_768, 2304, 256_000),
        (1, 8, 1),
        (1, 8, 100_003),
        (300, 136, 507),
        (4096, 8, 1000),
        (77, 20_480, 50_257),
    ];

    #[test]
    fn chunks_cover_the_vocabulary_once_and_in_order() {
        for ((tokens, hidden, vocab), chunk) in
            SHAPES.into_iter().flat_map(|shape| [None, Some(64), Some(4096)].map(|chunk| (shape, chunk)))
        {
            for family in [Family::Wgmma, Family::Mma] {
                let mut at = 0;
                for chunk in of(&problem(tokens, hidden, vocab), family, chunk, 0) {
                    assert_eq!(chunk.first, at);
                    at += chunk.width;
                    assert!(at == vocab || chunk.width.is_multiple_of(64), "{chunk:?}");
                    assert!(chunk.width > 0);
                }
                assert_eq!(at, vocab);
            }
        }
    }

    #[test]
    fn scratch_at_the_end_of_dc_never_overlaps_rows_that_are_written_whatever_the_buffers_alignment() {
        let mut tails = 0;
        for ((tokens, hidden, vocab), col_gradients) in SHAPES.into_iter().flat_map(|s| [(s, 0), (s, 3)]) {
            for dtype in [DType::Bf16, DType::F32] {
                let mut problem = problem(tokens, hidden, vocab);
                problem.classifier_gradient = Some(GradientOutput { dtype, accumulate: false });
                let row = (hidden * dtype.bytes()) as u64;
                for chunk in of(&problem, Family::Wgmma, Some(64), col_gradients) {
                    let Place::ClassifierTail { gradient, partials } = chunk.place else { continue };
                    tails += 1;
                    assert_eq!((gradient % 1024, partials % 1024), (0, 0), "TMA's matrices are aligned");
                    assert!(gradient - partials >= (chunk.width * tokens * 2) as u64);
                    assert!(partials >= (col_gradients * chunk.width * tokens.div_ceil(64) * 4) as u64);
                    for base in [0, 2, 16, 1022, 1024, 4094] {
                        let end = base + vocab as u64 * row;
                        let begin = (end & !1023) - gradient;
                        let written = base + (chunk.first + chunk.width) as u64 * row;
                        assert!(begin >= written, "{chunk:?} of {vocab} at {base}");
                    }
                }
            }
        }
        assert!(tails > 100, "{tails}");
    }

    #[test]
    fn the_end_of_dc_is_used_where_it_is_overwritten_and_left_alone_elsewhere() {
        let tails = |problem: &Problem, family| {
            let chunks = of(problem, family, None, 0);
            chunks.iter().filter(|chunk| chunk.place != Place::Workspace).count()
        };
        let overwritten = problem(8192, 2304, 256_000);
        assert!(tails(&overwritten, Family::Wgmma) >= 8);
        assert_eq!(tails(&overwritten, Family::Mma), 0);
        let accumulate = Some(GradientOutput { dtype: DType::Bf16, accumulate: true });
        for classifier_gradient in [accumulate, None] {
            let problem = Problem { classifier_gradient, ..overwritten.clone() };
            let chunks = of(&problem, Family::Wgmma, None, 0);
            assert!(chunks.iter().all(|chunk| chunk.place == Place::Workspace));
            let whole = &chunks[..chunks.len() - 1];
            assert!(whole.iter().all(|chunk| chunk.width == chunks[0].width), "uniform");
        }
    }
}
