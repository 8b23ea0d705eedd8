//! Emission: constants and generated device functions in front of a skeleton.
//!
//! A kernel's source is header-free CUDA C++ in this order: what it was made from, constants, `common.cuh`,
//! the family's tile (for matrix kernels), the program's device functions, the skeleton. The skeletons are
//! files under `kernels/`, readable on their own: matrix kernels of families `mma` and `simt` under
//! `kernels/blocks/`, those of family `wgmma` under `kernels/clusters/`, what samples under
//! `kernels/sampled/`, what decides which tiles are skipped under `kernels/skipped/`. The names that they leave
//! open are constants (`TILE_M`, `HIDDEN` ...) and the functions
//! of [`forward`] and [`backward`].

mod backward;
mod expr;
mod forward;
mod sampled;
mod values;
mod wgmma;

pub(crate) use backward::Backward;
pub(crate) use forward::Forward;
pub(crate) use sampled::{GATHERED_COLUMNS, STREAM_ROWS, Sampling, UNIFORM_BLOCKS, gather_threads};

use crate::plan::skipped::Granule;
use crate::problem::{DType, GradientOutput, IndexType, Problem};
use crate::schedule::{BARRIER_BYTES, CLUSTER, Family, STAGING_BYTES, Tile, WARPGROUP_ROWS};
use std::fmt::Write;

const STEPS: &str = include_str!("../../kernels/steps.cuh");
const MAXIMA: &str = include_str!("../../kernels/skipped/maxima.cuh");
const DECIDE: &str = include_str!("../../kernels/skipped/decide.cuh");
const COMMON: &str = include_str!("../../kernels/common.cuh");
const TARGETS: &str = include_str!("../../kernels/targets.cuh");
const STATISTICS: &str = include_str!("../../kernels/statistics.cuh");
const GRADIENT: &str = include_str!("../../kernels/gradient.cuh");
const STORE: &str = include_str!("../../kernels/store.cuh");
const CLASSIFIER_ROWS: &str = include_str!("../../kernels/classifier_rows.cuh");
const HIDDEN_ROWS: &str = include_str!("../../kernels/hidden_rows.cuh");
const PARTIAL: &str = include_str!("../../kernels/partial.cuh");
const CLUSTERS_STAGING: &str = include_str!("../../kernels/clusters/staging.cuh");
const TOKEN_SUMS: &str = include_str!("../../kernels/token_sums.cuh");
const ROWS_FORWARD: &str = include_str!("../../kernels/rows_forward.cuh");
const ROWS_BACKWARD: &str = include_str!("../../kernels/rows_backward.cuh");

/// The matrix kernels of a family: how a tile is multiplied, how it reaches memory, and what surrounds it.
struct Skeletons {
    tile: &'static str,
    staging: &'static str,
    /// Staging of G, where it is that of the sums.
    gradient_staging: &'static str,
    /// How the statistics' kernel divides its work.
    walk: &'static str,
    /// What stands in front of it, where a warp and not a block leaves the partials.
    partial: &'static str,
    /// The sampled walk: what its sampler hands groups to, or takes its sums from; the kernel.
    sampled: [&'static str; 2],
    sampled_forward: &'static str,
    /// What copies the rows that count, where matrix kernels cannot gather them.
    pack_hidden: &'static str,
    forward: &'static str,
    logits_gradient: &'static str,
    classifier_gradient: &'static str,
    hidden_gradient: &'static str,
}

/// One block a tile: families `mma` and `simt`.
const BLOCKS: Skeletons = Skeletons {
    tile: "",
    staging: include_str!("../../kernels/blocks/staging.cuh"),
    gradient_staging: "",
    walk: include_str!("../../kernels/blocks/walk.cuh"),
    partial: "",
    sampled: [""; 2],
    sampled_forward: include_str!("../../kernels/blocks/sampled_forward.cuh"),
    pack_hidden: "",
    forward: include_str!("../../kernels/blocks/forward.cuh"),
    logits_gradient: include_str!("../../kernels/blocks/logits_gradient.cuh"),
    classifier_gradient: include_str!("../../kernels/blocks/classifier_gradient.cuh"),
    hidden_gradient: include_str!("../../kernels/blocks/hidden_gradient.cuh"),
};

fn skeletons(family: Family) -> Skeletons {
    match family {
        Family::Wgmma => Skeletons {
            tile: include_str!("../../kernels/clusters/wgmma_tile.cuh"),
            staging: CLUSTERS_STAGING,
            gradient_staging: CLUSTERS_STAGING,
            walk: include_str!("../../kernels/walk.cuh"),
            partial: PARTIAL,
            sampled: [
                include_str!("../../kernels/clusters/queue.cuh"),
                include_str!("../../kernels/clusters/serve.cuh"),
            ],
            sampled_forward: include_str!("../../kernels/clusters/sampled_forward.cuh"),
            pack_hidden: include_str!("../../kernels/pack_hidden.cuh"),
            forward: include_str!("../../kernels/clusters/forward.cuh"),
            logits_gradient: include_str!("../../kernels/clusters/logits_gradient.cuh"),
            classifier_gradient: include_str!("../../kernels/clusters/classifier_gradient.cuh"),
            hidden_gradient: include_str!("../../kernels/clusters/hidden_gradient.cuh"),
        },
        Family::Mma => Skeletons {
            tile: include_str!("../../kernels/blocks/mma_tile.cuh"),
            sampled: [include_str!("../../kernels/blocks/mma_pieces.cuh"), ""],
            ..BLOCKS
        },
        Family::Simt => Skeletons {
            tile: include_str!("../../kernels/blocks/simt_tile.cuh"),
            sampled: [include_str!("../../kernels/blocks/simt_pieces.cuh"), ""],
            ..BLOCKS
        },
    }
}

/// What every kernel of a plan is specialised on.
pub(crate) struct Emitter<'a> {
    pub(crate) program: &'a str,
    pub(crate) problem: &'a Problem,
    /// Whether the tokens that count are packed (some may be ignored).
    pub(crate) packed: bool,
    pub(crate) family: Family,
    /// Elements between rows of the gradient scratch; in family `wgmma` it has no rows, but blocks of 64
    /// columns.
    pub(crate) pitch: Option<usize>,
    /// Whether G is scaled by a power of two (f16).
    pub(crate) scaled: bool,
    /// The sampled filter, where it is one.
    pub(crate) sampling: Option<Sampling>,
    /// What is skipped together, where tiles of the gradient are.
    pub(crate) granule: Option<Granule>,
}

impl Emitter<'_> {
    fn opening(&self, what: &str) -> String {
        let p = self.problem;
        let mut text = format!(
            "// {what}\n// loss `{}`, any number of tokens{}, hidden {}, vocabulary {}, {}\n\n",
            self.program,
            if self.packed { ", some ignored" } else { "" },
            p.hidden,
            p.vocab,
            p.dtype.name()
        );
        let _ = writeln!(text, "#define DTYPE_{}", p.dtype.name().to_uppercase());
        if p.index == IndexType::I64 {
            text.push_str("#define INDEX_I64\n");
        }
        let _ = writeln!(text, "#define HIDDEN {}\n#define VOCAB {}", p.hidden, p.vocab);
        let _ = writeln!(text, "#define PACKED {}", i32::from(self.packed));
        text
    }

    fn matrix_constants(&self, tile: &Tile) -> String {
        let p = self.problem;
        let bytes = p.dtype.bytes();
        let mut constants = Vec::new();
        if self.family != Family::Wgmma {
            constants.extend([
                ("HIDDEN_STRIDE", p.hidden_layout.row_stride),
                ("HIDDEN_ALIGN", alignment(p.hidden_layout, bytes)),
                ("CLASSIFIER_STRIDE", p.classifier_layout.row_stride),
                ("CLASSIFIER_ALIGN", alignment(p.classifier_layout, bytes)),
                ("TILE_BYTES", tile.tile_bytes(self.family) as usize),
            ]);
        }
        let mut add = |name, value: u32| constants.push((name, value as usize));
        add("TILE_M", tile.m);
        add("TILE_N", tile.n);
        add("TILE_K", tile.k);
        match self.family {
            Family::Wgmma => {
                add("STAGES", tile.stages);
                add("CLUSTER", CLUSTER);
                add("WARPGROUP_ROWS", WARPGROUP_ROWS);
                add("BARRIER_BYTES", BARRIER_BYTES);
                add("STAGING_BYTES", STAGING_BYTES);
            }
            Family::Mma => {
                add("STAGES", tile.stages);
                add("WARPS_M", tile.warps_m);
                add("WARPS_N", tile.warps_n);
            }
            Family::Simt => {}
        }
        let (rows, columns) = self.granule.map_or((0, 0), |granule| (granule.rows, granule.columns));
        add("GRANULE_M", rows);
        add("GRANULE_N", columns);
        constants.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "#define {name} {value}");
            text
        })
    }

    /// How a tile is multiplied, step by step.
    fn multiplication(&self, tile: &Tile) -> String {
        let skeleton = skeletons(self.family).tile;
        match skeleton.split_once(INSTRUCTION) {
            None => [STEPS, "\n", skeleton].concat(),
            Some((before, after)) => {
                [STEPS, "\n", before, &wgmma::instruction(tile.n, self.problem.dtype), after].concat()
            }
        }
    }

    fn assemble(&self, parts: &[&str]) -> String {
        let mut text = parts.concat();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }

    /// Tiles of columns that the statistics' walk takes in one go: those of the hot columns first where the
    /// rest is sampled.
    fn walk_tiles(&self, tile: &Tile) -> usize {
        self.sampling
            .map_or(self.problem.vocab.div_ceil(tile.n as usize), |sampling| sampling.hot_tiles(tile))
    }

    pub(crate) fn logits_forward(&self, tile: &Tile, holes: &Forward<'_>) -> String {
        let kernels = skeletons(self.family);
        let walk_tiles = format!("\n#define WALK_TILES {}\n\n", self.walk_tiles(tile));
        self.assemble(&[
            &self.opening("Forward pass over the logits."),
            &self.matrix_constants(tile),
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
            &self.granule.map_or_else(String::new, |_| format!("{MAXIMA}\n")),
            kernels.partial,
            &walk_tiles,
            kernels.walk,
            "\n",
            kernels.forward,
        ])
    }

    pub(crate) fn rows_forward(&self, tile: &Tile, outputs: usize, holes: &Forward<'_>) -> String {
        let kernels = skeletons(self.family);
        let tiles = match self.sampling {
            Some(sampling) => sampling.cold_tiles(tile, self.problem.vocab),
            None => self.walk_tiles(tile),
        };
        let walk_constants = format!(
            "#define WALK_BLOCK {}\n#define WALK_TILES {tiles}\n#define PARTS_BEFORE {}\n\n",
            tile.walk_rows(self.family),
            i32::from(self.sampling.is_some())
        );
        let pack = match kernels.pack_hidden {
            pack if self.packed && !pack.is_empty() => {
                format!("\n#define HIDDEN_STRIDE {}\n{pack}", self.problem.hidden_layout.row_stride)
            }
            _ => String::new(),
        };
        let decide = self.granule.map_or_else(String::new, |Granule { rows, columns, eps }| {
            format!(
                "\n#define MAXIMA_N {}\n#define GRANULE_M {rows}\n#define GRANULE_N {columns}\n\
                 #define LOG_EPS {:?}f\n\n{DECIDE}",
                tile.n,
                f64::from(eps).ln() as f32
            )
        });
        self.assemble(&[
            &self.opening("Kernels over tokens around the forward pass."),
            "\n",
            COMMON,
            "\n",
            TOKEN_SUMS,
            "\n",
            &walk_constants,
            kernels.walk,
            "\n// --- from the program ---\n",
            &holes.row_functions(outputs),
            "\n",
            ROWS_FORWARD,
            &pack,
            &decide,
        ])
    }

    pub(crate) fn rows_backward(&self, differentiable: &[bool], holes: &Backward<'_>) -> String {
        // The generated function stands between the structs that it takes and the kernel that calls it.
        let (structs, kernels) = ROWS_BACKWARD.split_once(SPLIT).unwrap_or((ROWS_BACKWARD, ""));
        self.assemble(&[
            &self.opening("Kernels over tokens around the backward pass."),
            "\n",
            COMMON,
            "\n",
            TOKEN_SUMS,
            "\n// --- from the program ---\n",
            &holes.row_functions(differentiable),
            "\n",
            structs,
            "// --- from the program ---\n",
            &holes.coefficients(differentiable),
            "\n",
            kernels,
        ])
    }

    pub(crate) fn logits_gradient(&self, tile: &Tile, store: bool, holes: &Backward<'_>) -> String {
        let kernels = skeletons(self.family);
        self.assemble(&[
            &self.opening("Backward pass: the gradient of a chunk's logits."),
            &self.matrix_constants(tile),
            &format!(
                "{}#define STORE_GRADIENT {}\n#define SCALED {}\n\n",
                self.pitch_constant(),
                i32::from(store),
                i32::from(self.scaled)
            ),
            COMMON,
            "\n",
            &self.multiplication(tile),
            "\n",
            kernels.gradient_staging,
            "\n// --- from the program ---\n",
            &holes.loop_functions(),
            "\n",
            TARGETS,
            "\n",
            GRADIENT,
            "\n",
            kernels.logits_gradient,
        ])
    }

    pub(crate) fn classifier_gradient(&self, tile: &Tile, out: DType, accumulate: bool) -> String {
        let constants = self.output_constants(out, accumulate);
        let skeleton = skeletons(self.family).classifier_gradient;
        self.product("Backward pass: dC of a chunk.", tile, &constants, CLASSIFIER_ROWS, skeleton)
    }

    pub(crate) fn hidden_gradient(&self, tile: &Tile, out: DType, accumulate: bool) -> String {
        let split = GradientOutput { dtype: out, accumulate }.holds_half_a_sum();
        self.hidden_product(tile, out, accumulate, (out == DType::F32, split))
    }

    /// The part of some columns in dE as fp32 sums, still scaled: for a chunk that is not the last.
    pub(crate) fn hidden_sums(&self, tile: &Tile) -> String {
        self.hidden_product(tile, self.problem.dtype, false, (false, false))
    }

    /// `is_sum`: the sums are where the output is; `split`: half of their bits are.
    fn hidden_product(
        &self,
        tile: &Tile,
        out: DType,
        accumulate: bool,
        (is_sum, split): (bool, bool),
    ) -> String {
        let constants = format!(
            "{}#define OUT_IS_SUM {}\n#define SPLIT_SUMS {}\n",
            self.output_constants(out, accumulate),
            i32::from(is_sum),
            i32::from(split)
        );
        let skeleton = skeletons(self.family).hidden_gradient;
        self.product("Backward pass: dE, a chunk at a time.", tile, &constants, HIDDEN_ROWS, skeleton)
    }

    fn product(&self, what: &str, tile: &Tile, constants: &str, rows: &str, skeleton: &str) -> String {
        self.assemble(&[
            &self.opening(what),
            &self.matrix_constants(tile),
            constants,
            "\n",
            COMMON,
            "\n",
            &self.multiplication(tile),
            "\n",
            skeletons(self.family).staging,
            "\n",
            STORE,
            "\n",
            rows,
            "\n",
            skeleton,
        ])
    }

    fn pitch_constant(&self) -> String {
        self.pitch.map_or_else(String::new, |pitch| format!("#define PITCH {pitch}\n"))
    }

    fn output_constants(&self, out: DType, accumulate: bool) -> String {
        let mut text = format!(
            "{}#define SCALED {}\n#define ACCUMULATE {}\n",
            self.pitch_constant(),
            i32::from(self.scaled),
            i32::from(accumulate)
        );
        if out == DType::F32 {
            text.push_str("#define OUT_F32\n");
        }
        text
    }
}

/// Where `clusters/wgmma_tile.cuh` has room for the tile's instruction.
const INSTRUCTION: &str = "// The tile's instruction stands here.\n\n";

/// Where `rows_backward.cuh` has room for the program's function.
const SPLIT: &str = "// The program's `coefficients` stands here.\n\n";

/// The largest power of two up to 16 that divides the address of every row, in bytes.
pub(crate) fn alignment(layout: crate::problem::Layout, element: usize) -> usize {
    let mut align = 16;
    while !layout.align.is_multiple_of(align) || !(layout.row_stride * element).is_multiple_of(align) {
        align /= 2;
    }
    align.max(element)
}
