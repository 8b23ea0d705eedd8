//! How matrix kernels are given their operands: by pointer, or by a map from which TMA copies boxes.

use super::build::Common;
use super::chunks::{BLOCK, Chunk, Place};
use super::{Arg, Buffer, Matrix, MatrixForm, TensorMap};
use crate::schedule::{CLUSTER, Family, Tile};

/// The operand of a product: which matrix, and along what it is consecutive.
#[derive(Clone, Copy)]
pub(super) enum Operand {
    /// Left, consecutive in k.
    LeftByK,
    /// Left, consecutive along the tile's rows.
    LeftByRow,
    /// Right, consecutive in k.
    RightByK,
    /// Right, consecutive along the tile's columns.
    RightByColumn,
}

impl Operand {
    /// Rows of the boxes that one copy takes, as `clusters/wgmma_tile.cuh` lays a tile out: a block's whole
    /// left tile or its share of the cluster's right one; transposed, all k of a stage.
    fn box_rows(self, tile: &Tile) -> u32 {
        match self {
            Operand::LeftByK => tile.m,
            Operand::LeftByRow | Operand::RightByColumn => tile.k,
            Operand::RightByK => tile.n / CLUSTER,
        }
    }
}

impl Common<'_> {
    /// The hidden states that count.
    pub(super) fn hidden(&self, operand: Operand, tile: &Tile) -> Arg {
        if self.schedule.family != Family::Wgmma {
            return Arg::Hidden;
        }
        let packed = self.packed_hidden.map(|packed| (Matrix::Workspace(packed), self.problem.hidden));
        let (matrix, stride) = packed.unwrap_or((Matrix::Hidden, self.problem.hidden_layout.row_stride));
        Arg::TensorMap(TensorMap {
            matrix,
            rows: self.problem.tokens as u64,
            form: MatrixForm::Rows { columns: self.problem.hidden as u64, stride: stride as u64 },
            box_rows: operand.box_rows(tile),
        })
    }

    /// The classifier.
    pub(super) fn classifier(&self, operand: Operand, tile: &Tile) -> Arg {
        if self.schedule.family != Family::Wgmma {
            return Arg::Classifier;
        }
        Arg::TensorMap(TensorMap {
            matrix: Matrix::Classifier,
            rows: self.problem.vocab as u64,
            form: MatrixForm::Rows {
                columns: self.problem.hidden as u64,
                stride: self.problem.classifier_layout.row_stride as u64,
            },
            box_rows: operand.box_rows(tile),
        })
    }

    /// Where a chunk's G is; in the workspace: in `buffer`.
    pub(super) fn gradient_place(&self, buffer: Buffer, chunk: &Chunk) -> Arg {
        match chunk.place {
            Place::Workspace => Arg::Workspace(buffer),
            Place::ClassifierTail { gradient, .. } => Arg::ClassifierTail { back: gradient },
        }
    }

    /// G of a chunk, to be multiplied.
    pub(super) fn gradient(&self, buffer: Buffer, chunk: &Chunk, operand: Operand, tile: &Tile) -> Arg {
        if self.schedule.family != Family::Wgmma {
            return self.gradient_place(buffer, chunk);
        }
        Arg::TensorMap(TensorMap {
            matrix: match chunk.place {
                Place::Workspace => Matrix::Workspace(buffer),
                Place::ClassifierTail { gradient, .. } => Matrix::ClassifierTail { back: gradient },
            },
            rows: self.problem.tokens as u64,
            form: MatrixForm::Blocks { blocks: chunk.width.div_ceil(BLOCK) as u64 },
            box_rows: operand.box_rows(tile),
        })
    }
}
