//! The device part of a key: what a configuration's speed depends on, and nothing that merely names a
//! machine (that is provenance).

use serde::{Deserialize, Serialize};

/// A GPU, or the CPU device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Device {
    /// A CUDA device.
    Gpu(Gpu),
    /// The CPU device.
    Cpu(Cpu),
}

/// A CUDA device as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gpu {
    /// Marketing name.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u16, u16),
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Shared memory that a block may opt in to, in bytes.
    pub shared_memory_bytes: u64,
    /// L2 cache, in bytes.
    pub l2_bytes: u64,
}

/// The CPU device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cpu {
    /// Model name.
    pub name: String,
    /// Threads used.
    pub cores: u32,
}

impl Device {
    /// A CUDA device: name, compute capability, SM count, opt-in shared memory a block and L2 in bytes.
    #[must_use]
    pub fn gpu(
        name: impl Into<String>,
        compute_capability: (u16, u16),
        sms: u32,
        shared_memory_bytes: u64,
        l2_bytes: u64,
    ) -> Self {
        Self::Gpu(Gpu { name: name.into(), compute_capability, sms, shared_memory_bytes, l2_bytes })
    }

    /// The CPU device: model name and threads used.
    #[must_use]
    pub fn cpu(name: impl Into<String>, cores: u32) -> Self {
        Self::Cpu(Cpu { name: name.into(), cores })
    }

    /// The device's name, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Gpu(gpu) => &gpu.name,
            Self::Cpu(cpu) => &cpu.name,
        }
    }

    /// What tells it from others, for people: of the CPU device the threads too, without which two keys look alike.
    #[must_use]
    pub fn described(&self) -> String {
        match self {
            Self::Gpu(gpu) => gpu.name.clone(),
            Self::Cpu(Cpu { name, cores: 1, .. }) => format!("{name}, 1 thread"),
            Self::Cpu(Cpu { name, cores, .. }) => format!("{name}, {cores} threads"),
        }
    }

    /// How unlike two devices are, or `None` when a configuration of one means nothing on the other (a GPU
    /// and a CPU). Kernel families follow the compute capability, so another major counts more than any
    /// difference in size; within it, 1 is a factor of two in SMs (or cores), shared memory or L2.
    #[must_use]
    pub fn distance(&self, other: &Self) -> Option<f64> {
        let log = |a: u64, b: u64| ((a.max(1) as f64).log2() - (b.max(1) as f64).log2()).abs();
        match (self, other) {
            (Self::Gpu(a), Self::Gpu(b)) => {
                let (major, minor) = (
                    a.compute_capability.0.abs_diff(b.compute_capability.0),
                    a.compute_capability.1.abs_diff(b.compute_capability.1),
                );
                Some(
                    100.0 * f64::from(major)
                        + f64::from(minor)
                        + log(a.sms.into(), b.sms.into())
                        + log(a.shared_memory_bytes, b.shared_memory_bytes)
                        + log(a.l2_bytes, b.l2_bytes),
                )
            }
            (Self::Cpu(a), Self::Cpu(b)) => Some(log(a.cores.into(), b.cores.into())),
            _ => None,
        }
    }
}
