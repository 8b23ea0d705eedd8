//! Emission: constants and generated device functions in front of a skeleton.
//!
//! A kernel's source is header-free CUDA C++ in this order: what it was made from, constants, `common.cuh`,
//! the family's tile (for matrix kernels), the program's device functions, the skeleton. The skeletons are
//! files under `kernels/`, readable on their own; the names that they leave open are constants (`TILE_M`,
//! `HIDDEN` ...) and the functions of [`forward`] and [`backward`].

mod backward;
mod expr;
mod forward;
mod values;

pub(crate) use backward::Backward;
pub(crate) use forward::Forward;

use crate::problem::{DType, IndexType, Problem};
use crate::schedule::{Family, Tile};
use std::fmt::Write;

const COMMON: &str = include_str!("../../kernels/common.cuh");
const MMA_TILE: &str = include_str!("../../kernels/mma_tile.cuh");
const SIMT_TILE: &str = include_str!("../../kernels/simt_tile.cuh");
const STORE: &str = include_str!("../../kernels/store.cuh");
const FORWARD: &str = include_str!("../../kernels/forward.cuh");
const LOGITS_GRADIENT: &str = include_str!("../../kernels/logits_gradient.cuh");
const CLASSIFIER_GRADIENT: &str = include_str!("../../kernels/classifier_gradient.cuh");
const HIDDEN_GRADIENT: &str = include_str!("../../kernels/hidden_gradient.cuh");
const TOKEN_SUMS: &str = include_str!("../../kernels/token_sums.cuh");
const ROWS_FORWARD: &str = include_str!("../../kernels/rows_forward.cuh");
const ROWS_BACKWARD: &str = include_str!("../../kernels/rows_backward.cuh");

/// What every kernel of a plan is specialised on.
pub(crate) struct Emitter<'a> {
    pub(crate) program: &'a str,
    pub(crate) problem: &'a Problem,
    /// Whether the tokens that count are packed (some may be ignored).
    pub(crate) packed: bool,
    pub(crate) family: Family,
    /// Elements between rows of the gradient scratch.
    pub(crate) pitch: usize,
    /// Whether G is scaled by a power of two (f16).
    pub(crate) scaled: bool,
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
        let mut text = String::new();
        let _ = writeln!(text, "#define HIDDEN_STRIDE {}", p.hidden_layout.row_stride);
        let _ = writeln!(text, "#define HIDDEN_ALIGN {}", alignment(p.hidden_layout, bytes));
        let _ = writeln!(text, "#define CLASSIFIER_STRIDE {}", p.classifier_layout.row_stride);
        let _ = writeln!(text, "#define CLASSIFIER_ALIGN {}", alignment(p.classifier_layout, bytes));
        let _ =
            writeln!(text, "#define TILE_M {}\n#define TILE_N {}\n#define TILE_K {}", tile.m, tile.n, tile.k);
        if self.family == Family::Mma {
            let _ = writeln!(
                text,
                "#define STAGES {}\n#define WARPS_M {}\n#define WARPS_N {}",
                tile.stages, tile.warps_m, tile.warps_n
            );
        }
        text
    }

    fn tile(&self) -> &'static str {
        match self.family {
            Family::Mma => MMA_TILE,
            Family::Simt => SIMT_TILE,
        }
    }

    fn assemble(&self, parts: &[&str]) -> String {
        let mut text = parts.concat();
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text
    }

    pub(crate) fn logits_forward(&self, tile: &Tile, holes: &Forward<'_>) -> String {
        self.assemble(&[
            &self.opening("Forward pass over the logits."),
            &self.matrix_constants(tile),
            "\n",
            COMMON,
            "\n",
            self.tile(),
            "\n// --- from the program ---\n",
            &holes.loop_functions(),
            "\n",
            FORWARD,
        ])
    }

    pub(crate) fn rows_forward(&self, outputs: usize, holes: &Forward<'_>) -> String {
        self.assemble(&[
            &self.opening("Kernels over tokens around the forward pass."),
            "\n",
            COMMON,
            "\n",
            TOKEN_SUMS,
            "\n// --- from the program ---\n",
            &holes.row_functions(outputs),
            "\n",
            ROWS_FORWARD,
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
        self.assemble(&[
            &self.opening("Backward pass: the gradient of a chunk's logits."),
            &self.matrix_constants(tile),
            &format!(
                "#define PITCH {}\n#define STORE_GRADIENT {}\n#define SCALED {}\n\n",
                self.pitch,
                i32::from(store),
                i32::from(self.scaled)
            ),
            COMMON,
            "\n",
            self.tile(),
            "\n// --- from the program ---\n",
            &holes.loop_functions(),
            "\n",
            LOGITS_GRADIENT,
        ])
    }

    pub(crate) fn classifier_gradient(&self, tile: &Tile, out: DType, accumulate: bool) -> String {
        let constants = self.output_constants(out, accumulate);
        self.product("Backward pass: dC of a chunk.", tile, &constants, CLASSIFIER_GRADIENT)
    }

    pub(crate) fn hidden_gradient(&self, tile: &Tile, out: DType, accumulate: bool) -> String {
        let constants = format!(
            "{}#define OUT_IS_SUM {}\n",
            self.output_constants(out, accumulate),
            i32::from(out == DType::F32)
        );
        self.product("Backward pass: dE, a chunk at a time.", tile, &constants, HIDDEN_GRADIENT)
    }

    fn product(&self, what: &str, tile: &Tile, constants: &str, skeleton: &str) -> String {
        self.assemble(&[
            &self.opening(what),
            &self.matrix_constants(tile),
            constants,
            "\n",
            COMMON,
            "\n",
            self.tile(),
            "\n",
            STORE,
            "\n",
            skeleton,
        ])
    }

    fn output_constants(&self, out: DType, accumulate: bool) -> String {
        let mut text = format!(
            "#define PITCH {}\n#define SCALED {}\n#define ACCUMULATE {}\n",
            self.pitch,
            i32::from(self.scaled),
            i32::from(accumulate)
        );
        if out == DType::F32 {
            text.push_str("#define OUT_F32\n");
        }
        text
    }
}

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
