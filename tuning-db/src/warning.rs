//! What selection has to say. Each warning is given out once by one [`crate::Winners`].

use std::fmt;
use std::path::PathBuf;

use crate::provenance::Generation;

/// Where a candidate comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The database of this machine.
    Database,
    /// A profile, by its name.
    Profile(String),
    /// A profile that ships with the program, by its name.
    Shipped(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database => f.write_str("the tuning database"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::Shipped(name) => write!(f, "shipped profile {name}"),
        }
    }
}

/// Something that a user may want to know; none of these stops a launch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Warning {
    /// The best candidate was made by another code generator or in another search space.
    Stale {
        /// Where it is stored.
        source: Source,
        /// What made it.
        made_by: Generation,
        /// What this process is.
        now: Generation,
    },
    /// The best candidate was measured with another driver or NVRTC.
    OtherProvenance {
        /// Where it is stored.
        source: Source,
        /// In words.
        differences: Vec<String>,
    },
    /// A file could not be read, wholly or in part; selection goes on without it.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The snapshot of winners is missing or damaged: winners are taken from the log, which is slow.
    ReadFromLog {
        /// The log.
        path: PathBuf,
        /// Records read.
        records: u64,
        /// Why.
        reason: String,
    },
}

impl Warning {
    /// Whether who was told `earlier` knows this already. Winners of one source may be stale in several ways:
    /// one remark on the source is enough.
    pub(crate) fn is_repeated(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::Stale { source, now, .. }, Self::Stale { source: known, now: then, .. }) => {
                source == known && now == then
            }
            _ => self == earlier,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { source, made_by, now } => write!(
                f,
                "the winner in {source} was made by {made_by}, this is {now}; \
                 it is used, but tuning again may find better"
            ),
            Self::OtherProvenance { source, differences } => {
                write!(
                    f,
                    "the winner in {source} was measured with another setup: {}",
                    differences.join("; ")
                )
            }
            Self::Unreadable { path, reason } => {
                write!(f, "{} could not be read and is left out: {reason}", path.display())
            }
            Self::ReadFromLog { path, records, reason } => write!(
                f,
                "winners were taken from {records} records of {} because {reason}; \
                 run cce-tune once to write the snapshot again",
                path.display()
            ),
        }
    }
}
