//! Where a trial comes from: what decides how far it is trusted ([`Generation`]) and what is only worth a
//! remark ([`Provenance`]).

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What generated the code that was timed. A winner of another generation is stale.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Generation {
    /// Version of the code generator, opaque.
    pub codegen: String,
    /// Hash of the search space, opaque.
    pub search_space: String,
}

impl Generation {
    /// A codegen version and a search-space hash.
    #[must_use]
    pub fn new(codegen: impl Into<String>, search_space: impl Into<String>) -> Self {
        Self { codegen: codegen.into(), search_space: search_space.into() }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "codegen {} with search space {}", self.codegen, self.search_space)
    }
}

/// Who measured, when, and with what.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Provenance {
    /// Name of the machine.
    pub host: String,
    /// When, in ms since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// Driver version, on a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// NVRTC version, on a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvrtc: Option<String>,
}

impl Provenance {
    /// A host and a time in ms since 1970-01-01 UTC.
    #[must_use]
    pub fn new(host: impl Into<String>, unix_ms: u64) -> Self {
        Self { host: host.into(), unix_ms, driver: None, nvrtc: None }
    }

    /// This moment on `host`.
    #[must_use]
    pub fn now(host: impl Into<String>) -> Self {
        Self::new(host, unix_ms())
    }

    /// Adds the driver's version.
    #[must_use]
    pub fn with_driver(mut self, version: impl Into<String>) -> Self {
        self.driver = Some(version.into());
        self
    }

    /// Adds NVRTC's version.
    #[must_use]
    pub fn with_nvrtc(mut self, version: impl Into<String>) -> Self {
        self.nvrtc = Some(version.into());
        self
    }

    /// In what the two differ that may move a timing, as words; empty when there is nothing to remark.
    /// What either side does not state is not compared.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let compare = |what: &str, then: &Option<String>, now: &Option<String>| match (then, now) {
            (Some(then), Some(now)) if then != now => Some(format!("{what} {then} then, {now} now")),
            _ => None,
        };
        [compare("driver", &self.driver, &now.driver), compare("NVRTC", &self.nvrtc, &now.nvrtc)]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// The wall clock; a clock before 1970 counts as 1970.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| u64::try_from(d.as_millis()).ok())
        .unwrap_or(0)
}
