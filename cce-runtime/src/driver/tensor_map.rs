//! Descriptions of matrices for TMA, the copy engine of Hopper and later.

use cudarc::driver::sys;

use super::context::Context;
use super::memory::DevicePtr;
use super::result::check;
use crate::error::Result;

/// Elements of a box along a row: 128 bytes of 16 bits each, the width of the swizzle.
const BOX_COLUMNS: u32 = 64;

/// A matrix of 16-bit elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatrixShape {
    /// Row by row: coordinates of a box are (column, row).
    Rows {
        /// Rows; at least one.
        rows: u64,
        /// Elements of a row; at least one.
        columns: u64,
        /// Bytes between rows; a multiple of 16.
        row_bytes: u64,
    },
    /// Blocks of 64 columns one after the other, each row by row, without gaps: coordinates of a box are
    /// (column in the block, row, block), and it is of one block.
    Blocks {
        /// Rows; at least one.
        rows: u64,
        /// Blocks; at least one.
        blocks: u64,
    },
}

impl Context {
    /// The bytes of a `CUtensorMap` of the matrix at `base` (a multiple of 16), for boxes of `box_rows` (up to
    /// 256) times 64 elements, 128-byte swizzle, zeros where a box lies outside.
    ///
    /// # Errors
    /// The driver's, where an argument is not as said; with the matrix's shape and place.
    pub fn tensor_map(&self, base: DevicePtr, shape: &MatrixShape, box_rows: u32) -> Result<[u8; 128]> {
        let _bound = self.bind()?;
        // Sizes from the innermost dimension outwards, and bytes between elements of all but that one.
        let (rank, sizes, strides) = match *shape {
            MatrixShape::Rows { rows, columns, row_bytes } => (2, [columns, rows, 1], [row_bytes, 0]),
            MatrixShape::Blocks { rows, blocks } => {
                let row_bytes = u64::from(BOX_COLUMNS) * 2;
                (3, [u64::from(BOX_COLUMNS), rows, blocks], [row_bytes, rows * row_bytes])
            }
        };
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        // SAFETY: all pointers are to locals at least as long as a rank of up to 3 asks for; the driver only
        // writes the map, and does not read the matrix.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
                rank,
                std::ptr::without_provenance_mut(base.0 as usize),
                sizes.as_ptr(),
                strides.as_ptr(),
                [BOX_COLUMNS, box_rows, 1].as_ptr(),
                [1, 1, 1].as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check("cuTensorMapEncodeTiled", result).map_err(|mut error| {
            error.description +=
                &format!(" (boxes of {box_rows} x {BOX_COLUMNS} of {shape:?} at {:#x})", base.0);
            error
        })?;
        let mut bytes = [0; 128];
        for (to, word) in bytes.chunks_exact_mut(8).zip(map.opaque) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        Ok(bytes)
    }
}
