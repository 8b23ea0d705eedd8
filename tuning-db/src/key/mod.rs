//! What a winner is a winner *for*.
//!
//! Two calls with the same [`Key`] may share a tuned configuration. D and V are exact in the key, because a
//! kernel is specialised on them; only the number of tokens, which changes from batch to batch, is rounded
//! to a power of two. The exact shape of every measurement is kept in its [`crate::Trial`].
//!
//! Codegen version and search space are deliberately *not* here: they decide how far a stored winner is
//! trusted ([`crate::Grade::Exact`] or [`crate::Grade::Stale`]), not whether it is found.

mod bytes;
mod device;
mod filter;
mod problem;

pub(crate) use bytes::REST;
pub use device::{Cpu, Device, Gpu};
pub use filter::{Eps, Filter};
pub use problem::{Gradients, Problem, Shape};

use serde::{Deserialize, Serialize};

use crate::hash::ProgramHash;

/// The layout of [`Key`], in JSON and in bytes, that this version writes and reads.
pub const KEY_SCHEMA: u32 = 1;

/// Identity of a tuning problem on a device.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Key {
    /// Layout of this structure: [`KEY_SCHEMA`].
    pub schema: u32,
    /// Hash of the program (the loss).
    pub program: ProgramHash,
    /// Shape bucket and features.
    pub problem: Problem,
    /// What was timed.
    pub objective: Objective,
    /// The memory the configuration was allowed.
    pub memory: MemoryClass,
    /// Element type of E and C.
    pub dtype: Dtype,
    /// How the softmax part of the gradient is thinned.
    pub filter: Filter,
    /// Where it ran.
    pub device: Device,
}

impl Key {
    /// A key for the loss alone, without a memory limit, in bf16, with the exact filter; the `with_`
    /// methods change these.
    #[must_use]
    pub fn new(program: ProgramHash, problem: Problem, device: Device) -> Self {
        Self {
            schema: KEY_SCHEMA,
            program,
            problem,
            objective: Objective::Loss,
            memory: MemoryClass::Unlimited,
            dtype: Dtype::Bf16,
            filter: Filter::Exact,
            device,
        }
    }

    /// The same key for another objective.
    #[must_use]
    pub fn with_objective(mut self, objective: Objective) -> Self {
        self.objective = objective;
        self
    }

    /// The same key under another memory limit.
    #[must_use]
    pub fn with_memory(mut self, memory: MemoryClass) -> Self {
        self.memory = memory;
        self
    }

    /// The same key for another element type.
    #[must_use]
    pub fn with_dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// The same key for another filter.
    #[must_use]
    pub fn with_filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// The same key on another device.
    #[must_use]
    pub fn with_device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// True for everything that a configuration cannot be carried across: program, objective, dtype,
    /// filter and the gradients wanted. Shape, memory class, flags and device may differ.
    #[must_use]
    pub fn is_related_to(&self, other: &Self) -> bool {
        self.program == other.program
            && self.objective == other.objective
            && self.dtype == other.dtype
            && self.filter == other.filter
            && self.problem.gradients == other.problem.gradients
    }
}

/// What the tuner minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Objective {
    /// Time of the forward pass.
    Loss,
    /// Time of the forward pass and all wanted gradients.
    LossAndGradients,
}

/// Element type of the hidden states and the classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dtype {
    /// bfloat16
    Bf16,
    /// IEEE half
    F16,
    /// IEEE single
    F32,
}

/// A limit on workspace, in classes of powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MemoryClass {
    /// Up to 2^`log2_bytes` bytes.
    AtMost {
        /// log2 of the limit in bytes.
        log2_bytes: u8,
    },
    /// No limit was stated.
    Unlimited,
}

impl MemoryClass {
    /// The class of a limit in bytes, rounded *down*, so that what was tuned within the class fits every
    /// limit that falls into it. A limit of 0 is the class of 1 byte.
    #[must_use]
    pub fn of_limit(limit: Option<u64>) -> Self {
        match limit {
            None => Self::Unlimited,
            Some(bytes) => Self::AtMost {
                log2_bytes: bytes.checked_ilog2().and_then(|l| u8::try_from(l).ok()).unwrap_or(0),
            },
        }
    }
}
