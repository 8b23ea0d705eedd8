//! How matrix kernels are given their operands: by pointer, or by a map from which TMA copies boxes.

use super::build::Common;
use super::{Arg, Buffer, Matrix, TensorMap};
use crate::schedule::{Family, Tile};

/// The operand of a product: which matrix, and along what it is consecutive.
#[derive(Clone, Copy)]
pub(super) enum Operand {
    /// Left, consecutive in k.
    LeftKMajor,
    /// Left, consecutive along the tile's rows.
    LeftMnMajor,
    /// Right, consecutive in k.
    RightKMajor,
    /// Right, consecutive along the tile's columns.
    RightMnMajor,
}

impl Operand {
    /// Rows of the boxes that one copy takes, as `clusters/wgmma_tile.cuh` lays a tile out: a block's whole
    /// left tile or half of the cluster's right one; transposed, all k of a stage.
    fn box_rows(self, tile: &Tile) -> u32 {
        match self {
            Operand::LeftKMajor => tile.m,
            Operand::LeftMnMajor | Operand::RightMnMajor => tile.k,
            Operand::RightKMajor => tile.n / 2,
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
            columns: self.problem.hidden as u64,
            row_stride: stride as u64,
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
            columns: self.problem.hidden as u64,
            row_stride: self.problem.classifier_layout.row_stride as u64,
            box_rows: operand.box_rows(tile),
        })
    }

    /// G of a chunk of `width` columns.
    pub(super) fn gradient(&self, buffer: Buffer, width: usize, operand: Operand, tile: &Tile) -> Arg {
        if self.schedule.family != Family::Wgmma {
            return Arg::Workspace(buffer);
        }
        Arg::TensorMap(TensorMap {
            matrix: Matrix::Workspace(buffer),
            rows: self.problem.tokens as u64,
            columns: width as u64,
            row_stride: u64::from(self.chunk()),
            box_rows: operand.box_rows(tile),
        })
    }

    /// Blocks of a matrix kernel over m x n: one a tile, or persistent clusters of two.
    pub(super) fn matrix_blocks(&self, tile: &Tile, m: usize, n: usize) -> u32 {
        let tiles = super::build::blocks(m, tile.m as usize) * super::build::blocks(n, tile.n as usize);
        if self.schedule.family == Family::Wgmma && tiles > 0 { 2 * self.clusters } else { tiles }
    }
}
