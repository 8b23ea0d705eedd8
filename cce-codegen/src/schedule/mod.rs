//! How a plan computes: plain data, the only thing that the tuner varies.

mod change;
mod defaults;
mod gpu;
mod resources;
#[cfg(test)]
pub(crate) mod sample;
mod space;
#[cfg(test)]
mod space_tests;

pub use change::Change;
pub(crate) use defaults::GROUP_OF_PRODUCTS;
pub use gpu::Gpu;
pub use resources::ScheduleError;
pub(crate) use resources::{BARRIER_BYTES, CLUSTER, STAGING_BYTES, WARPGROUP_ROWS};
pub use space::{GpuSpace, Knob, Part, Setting};

use serde::{Deserialize, Serialize};

/// A kernel family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// wgmma on Hopper's tensor cores, fed by TMA: sm_90, bf16 and f16, rows of 16-byte multiples.
    Wgmma,
    /// mma.sync on tensor cores: sm_80 and up, bf16 and f16, any shape.
    Mma,
    /// FFMA: every GPU, every type, true fp32.
    Simt,
}

impl Family {
    /// Every family, the fastest first.
    pub const ALL: [Family; 3] = [Family::Wgmma, Family::Mma, Family::Simt];

    /// The family of this name.
    pub fn named(name: &str) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.name() == name)
    }

    /// `wgmma`, `mma`, `simt`.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Wgmma => "wgmma",
            Family::Mma => "mma",
            Family::Simt => "simt",
        }
    }
}

/// A tile of a matrix product, and how a thread block computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tile {
    /// Rows of the tile.
    pub m: u32,
    /// Columns of the tile.
    pub n: u32,
    /// Depth of one stage, in elements.
    pub k: u32,
    /// Stages of the shared-memory ring.
    pub stages: u32,
    /// Warps along the rows that multiply.
    pub warps_m: u32,
    /// Warps along the columns that multiply.
    pub warps_n: u32,
}

/// A schedule for a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GpuSchedule {
    /// The kernel family.
    pub family: Family,
    /// Tile of the logits in the forward pass: tokens x vocabulary.
    pub logits: Tile,
    /// Parts of the vocabulary that the forward pass walks independently for one row block. Family `wgmma`
    /// divides its walk by the GPU's clusters: 1.
    pub splits: u32,
    /// Tile of the logits in the backward pass: tokens x vocabulary.
    pub logits_gradient: Tile,
    /// Tile of dC: vocabulary x hidden.
    pub classifier_gradient: Tile,
    /// Tile of dE: tokens x hidden.
    pub hidden_gradient: Tile,
    /// Vocabulary entries of one backward chunk, of which G is in the workspace. In family `wgmma`, where dC
    /// is overwritten, chunks may be wider while there is room for G in the part of dC that is not yet written.
    pub chunk: u32,
    /// The first columns, which a sampled plan treats densely and exactly: whole tiles of the logits.
    pub hot: u32,
    /// Row blocks (of a cluster in family `wgmma`: two tiles) that walk the same columns at the same time, so
    /// that both stay in L2. In the other families the backward products take as many together.
    pub group: u32,
}

/// A schedule for the CPU device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CpuSchedule {
    /// Tokens of one block, whose logits are in memory at once.
    pub token_block: u32,
    /// Columns that one pass over a token's logits takes at a time, for the first-level cache.
    pub strip: u32,
}

/// A schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// For a GPU.
    Gpu(GpuSchedule),
    /// For the CPU device.
    Cpu(CpuSchedule),
}
