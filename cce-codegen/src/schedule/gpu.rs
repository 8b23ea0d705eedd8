//! What a schedule must know of a GPU.

use super::CLUSTER;
use serde::{Deserialize, Serialize};

/// The properties of a GPU that schedules depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gpu {
    /// The product's name.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may use, in bytes.
    pub shared_per_block: u32,
    /// Second-level cache, in bytes.
    pub l2_bytes: u64,
}

impl Gpu {
    /// An H100 SXM: for emitting and compiling without the card.
    pub fn h100() -> Gpu {
        Gpu {
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            capability: (9, 0),
            multiprocessors: 132,
            shared_per_block: 232_448,
            l2_bytes: 50 << 20,
        }
    }

    /// A GPU of this compute capability with the shared memory that such have (CUDA programming guide,
    /// "Technical Specifications per Compute Capability"): for emitting and compiling without the card.
    pub fn of_capability(major: u32, minor: u32) -> Gpu {
        let shared_per_block = match (major, minor) {
            (8, 0) | (8, 7) => 163 << 10,
            (8, _) | (12, _) => 99 << 10,
            (9..=11, _) => 227 << 10,
            (7, 5) => 64 << 10,
            (7, _) => 96 << 10,
            _ => 48 << 10,
        };
        Gpu {
            name: format!("sm_{major}{minor}"),
            capability: (major, minor),
            multiprocessors: 108,
            shared_per_block,
            l2_bytes: 40 << 20,
        }
    }

    /// Whether it has wgmma: compute capability 9.0 alone.
    pub fn has_wgmma(&self) -> bool {
        self.capability == (9, 0)
    }

    /// Clusters of family `wgmma`, one block a multiprocessor, that run at once.
    pub fn clusters(&self) -> u32 {
        (self.multiprocessors / CLUSTER).max(1)
    }

    /// Whether it has mma.sync with bf16.
    pub fn has_mma(&self) -> bool {
        self.capability >= (8, 0)
    }
}
