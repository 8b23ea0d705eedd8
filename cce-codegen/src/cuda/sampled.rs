//! Emission of the kernels that sample.

use super::{
    Backward, COMMON, Emitter, Forward, PARTIAL, STATISTICS, TARGETS, TOKEN_SUMS, alignment, skeletons,
};
use crate::problem::{DType, Filter, GradientOutput};
use crate::schedule::{Family, Tile};
use std::fmt::Write;

const PHILOX: &str = include_str!("../../kernels/sampled/philox.cuh");
const STREAM: &str = include_str!("../../kernels/sampled/stream.cuh");
const WEIGHTS: &str = include_str!("../../kernels/sampled/weights.cuh");
const FOUND: &str = include_str!("../../kernels/sampled/found.cuh");
const SAMPLE: &str = include_str!("../../kernels/sampled/sample.cuh");
const EIGHTS: &str = include_str!("../../kernels/sampled/eights.cuh");
const BOUNDS: &str = include_str!("../../kernels/sampled/bounds.cuh");
const THIN: &str = include_str!("../../kernels/sampled/thin.cuh");
const LISTS: &str = include_str!("../../kernels/sampled/lists.cuh");
const ORDER: &str = include_str!("../../kernels/sampled/order.cuh");
const SUMS: &str = include_str!("../../kernels/sampled/sums.cuh");
const RANK_ONE: &str = include_str!("../../kernels/sampled/rank_one.cuh");
const COLUMNS: &str = include_str!("../../kernels/sampled/columns.cuh");
const GATHER: &str = include_str!("../../kernels/sampled/gather.cuh");

/// Rows that share a stream of entries.
pub(crate) const STREAM_ROWS: u64 = 16;

/// Room of a segment besides its tiles': the lanes' pending thresholds, and two against rounding.
const SEGMENT_ENTRIES: u64 = 66;

/// Demand that every tile may have, so that a spent quota still sees what comes.
const FLOOR: f64 = 1.5;

/// Columns that a gather keeps a sorted list of in shared memory.
const SORTED: u32 = 1024;

/// Columns that a block gathers dC of.
pub(crate) const GATHERED_COLUMNS: usize = 8;

/// Blocks that sum rows for the uniform part: a few for each multiprocessor of a large GPU.
pub(crate) const UNIFORM_BLOCKS: u32 = 528;

/// Threads of a multiprocessor that gather at once: what registers for eight loads in flight leave.
const GATHER_THREADS_AT_ONCE: u32 = 896;

/// Blocks that every GPU's multiprocessors can have at once.
const MOST_BLOCKS: u32 = 16;

/// The sampled filter of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// The step, relative to a token's normaliser.
    pub(crate) eps: f32,
    /// The most entries kept, as a mean over each group of 16 tokens.
    pub(crate) max_entries: u32,
    /// The first columns, which are treated densely and exactly; whole tiles.
    pub(crate) hot: u32,
    /// Whether the gradient of a logit depends on the logit besides its probability, so that entries keep it.
    pub(crate) keeps_logits: bool,
}

impl Sampling {
    pub(crate) fn hot_tiles(&self, tile: &Tile) -> usize {
        (self.hot / tile.n) as usize
    }

    pub(crate) fn cold_tiles(&self, tile: &Tile, vocab: usize) -> usize {
        vocab.div_ceil(tile.n as usize) - self.hot_tiles(tile)
    }

    /// Bytes of an entry, and of what thinning keeps of it.
    pub(crate) fn entry_bytes(&self) -> u64 {
        if self.keeps_logits { 12 } else { 8 }
    }

    /// Tiles of the sampler: a warp's columns of a tile of cold ones.
    fn sampled_tiles(&self, family: Family, tile: &Tile, vocab: usize) -> usize {
        self.cold_tiles(tile, vocab) * tile.bands(family) as usize
    }

    /// Entries that a walk may emit a tile of the sampler for the 16 rows of a stream.
    fn quota(&self, sampled_tiles: usize) -> f64 {
        Filter::EMITTED_PER_KEPT * STREAM_ROWS as f64 * f64::from(self.max_entries) / sampled_tiles as f64
    }

    /// Entries of such a tile, of so many columns, that a stream has room for: the bound of
    /// `sampled/stream.cuh`, or all there are.
    fn tile_entries(&self, columns: u32, sampled_tiles: usize) -> u64 {
        let bound = (9.0 / 8.0 * (self.quota(sampled_tiles) + FLOOR)).ceil() as u64;
        bound.min(STREAM_ROWS * u64::from(columns))
    }

    /// Entries of one stream, as `stream_entries` in `sampled/stream.cuh`.
    pub(crate) fn stream_entries(&self, family: Family, tile: &Tile, vocab: usize, parts: u64) -> u64 {
        let tiles = self.sampled_tiles(family, tile, vocab);
        self.tile_entries(tile.n / tile.bands(family), tiles) * tiles as u64 + SEGMENT_ENTRIES * parts
    }

    fn constants(&self, family: Family, tile: &Tile, vocab: usize) -> String {
        let (hot, cold) = (self.hot_tiles(tile), self.cold_tiles(tile, vocab));
        let (bands, tiles) = (tile.bands(family), self.sampled_tiles(family, tile, vocab));
        let columns = tile.n / bands;
        format!(
            "#define STREAM_ROWS {STREAM_ROWS}\n#define SEGMENT_ENTRIES {SEGMENT_ENTRIES}\n\
             #define FLOOR {FLOOR:e}f\n#define EPS {:e}f\n#define MAX_ENTRIES {}\n#define QUOTA {:e}f\n#define TILE_ENTRIES {}\n\
             #define HOT_TILES {hot}\n#define COLD_TILES {cold}\n#define HOT {}\n#define COLD (VOCAB - HOT)\n\
             #define BANDS {bands}\n#define SAMPLED_N {columns}\n#define WALK_BLOCK {}\n#define KEEPS_LOGITS {}\n",
            self.eps,
            self.max_entries,
            self.quota(tiles),
            self.tile_entries(columns, tiles),
            self.hot,
            tile.walk_rows(family),
            i32::from(self.keeps_logits),
        )
    }
}

/// Threads of a block that gathers rows: eight columns each.
pub(crate) fn gather_threads(hidden: usize) -> u32 {
    (hidden.div_ceil(8).next_multiple_of(32)).clamp(32, 1024) as u32
}

impl Emitter<'_> {
    /// Where rows of E and C are; copied ones lie one after the other.
    fn strides(&self) -> String {
        let (p, bytes) = (self.problem, self.problem.dtype.bytes());
        let copied = self.packed && self.family == Family::Wgmma;
        let (row, align) = match copied {
            true => (p.hidden, 16),
            false => (p.hidden_layout.row_stride, alignment(p.hidden_layout, bytes)),
        };
        format!(
            "#define ROW_STRIDE {row}\n#define ROW_ALIGN {align}\n#define ROWS_PACKED {}\n\
             #define CLASSIFIER_STRIDE {}\n#define CLASSIFIER_ALIGN {}\n",
            i32::from(copied),
            p.classifier_layout.row_stride,
            alignment(p.classifier_layout, bytes)
        )
    }

    pub(crate) fn sampled_forward(&self, sampling: &Sampling, tile: &Tile, holes: &Forward<'_>) -> String {
        let kernels = skeletons(self.family);
        self.assemble(&[
            &self.opening("Forward pass over the cold columns, sampled on the way."),
            &self.matrix_constants(tile),
            &sampling.constants(self.family, tile, self.problem.vocab),
            "\n",
            COMMON,
            "\n",
            &self.multiplication(tile),
            "\n// --- from the program ---\n",
            &holes.loop_functions(),
            "\n",
            TARGETS,
            "\n",
            STATISTICS,
            "\n",
            PARTIAL,
            "\n",
            kernels.walk,
            "\n",
            PHILOX,
            "\n",
            STREAM,
            "\n",
            WEIGHTS,
            "\n",
            FOUND,
            "\n",
            kernels.sampled[0],
            "\n",
            kernels.sampled[1],
            "\n",
            SAMPLE,
            "\n",
            kernels.sampled_forward,
        ])
    }

    pub(crate) fn sampled_rows(&self, sampling: &Sampling, tile: &Tile, holes: &Forward<'_>) -> String {
        self.assemble(&[
            &self.opening("Kernels over tokens around the sampled forward pass."),
            &self.strides(),
            &sampling.constants(self.family, tile, self.problem.vocab),
            "\n",
            COMMON,
            "\n// --- from the program ---\n",
            &holes.loop_functions(),
            "\n",
            TARGETS,
            "\n",
            skeletons(self.family).walk,
            "\n",
            PHILOX,
            "\n",
            STREAM,
            "\n",
            EIGHTS,
            "\n",
            BOUNDS,
            "\n",
            THIN,
        ])
    }

    pub(crate) fn sampled_gradients(&self, sampling: &Sampling, tile: &Tile, holes: &Backward<'_>) -> String {
        let mut outputs = String::new();
        for (name, output) in
            [("Hidden", self.problem.hidden_gradient), ("Classifier", self.problem.classifier_gradient)]
        {
            let GradientOutput { dtype, accumulate } =
                output.unwrap_or(GradientOutput { dtype: DType::F32, accumulate: false });
            let element = if dtype == DType::F32 { "float" } else { "Elem" };
            let _ = writeln!(outputs, "typedef {element} {name}Out;");
            let _ = writeln!(outputs, "#define {}_ACCUMULATE {}", name.to_uppercase(), i32::from(accumulate));
        }
        let threads = gather_threads(self.problem.hidden);
        self.assemble(&[
            &self.opening("Backward pass: the sampled softmax part, as lists by row and by column."),
            &self.strides(),
            &sampling.constants(self.family, tile, self.problem.vocab),
            &format!(
                "#define SCALED {}\n#define GATHER_THREADS {threads}\n#define GATHER_BLOCKS {}\n\
                 #define SORTED {SORTED}\n#define COLUMNS {GATHERED_COLUMNS}\n\n",
                i32::from(self.scaled),
                (GATHER_THREADS_AT_ONCE / threads).clamp(1, MOST_BLOCKS)
            ),
            COMMON,
            "\n",
            &outputs,
            "\n// --- from the program ---\n",
            &holes.loop_functions(),
            &holes.entry_gradients(),
            &holes.uniform_part(),
            "\n",
            TARGETS,
            "\n",
            STREAM,
            "\n",
            EIGHTS,
            "\n",
            LISTS,
            "\n",
            SUMS,
            "\n",
            if holes.has_uniform_part() { RANK_ONE } else { "" },
            "\n",
            ORDER,
            "\n",
            GATHER,
            "\n",
            if holes.has_uniform_cols() { TOKEN_SUMS } else { "" },
            "\n",
            if holes.has_cols() { COLUMNS } else { "" },
        ])
    }
}
