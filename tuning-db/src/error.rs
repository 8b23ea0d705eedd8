//! The one error type of the crate.
//!
//! Only writers see errors: selection ([`crate::Winners`]) turns everything that goes wrong into a
//! [`crate::Warning`] and continues with what it can read.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What can go wrong when trials are written, merged or exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed; nothing that was flushed before is lost.
    #[error("could not {action} {}: {source}{}", path.display(), remedy(action, source))]
    Io {
        /// What was being done, as a verb phrase ("append to the trial log").
        action: &'static str,
        /// The file or folder concerned.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process held the lock for longer than we were ready to wait.
    #[error(
        "{} is still locked by another process after {waited:?}; \
         wait for it to finish, or end it, and try again",
        path.display()
    )]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long we tried.
        waited: Duration,
    },
    /// A file was written by a later version of this crate.
    #[error(
        "{} has format {found}, this version reads up to {known}; use a newer cce, or another folder",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format that it states.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// The indexed store failed in a way that rebuilding it from the log did not cure.
    #[error(
        "the index in {} failed: {reason}; the trial log beside it still holds every record",
        path.display()
    )]
    Index {
        /// The folder of the index.
        path: PathBuf,
        /// What the store said.
        reason: String,
    },
    /// A record is larger than the log takes.
    #[error(
        "a trial takes {bytes} bytes, the log takes at most {limit}; store fewer samples or a shorter reason"
    )]
    TooLarge {
        /// Size of the encoded record.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A value that cannot be stored faithfully.
    #[error("{what}: expected {expected}, found {found}")]
    Invalid {
        /// The field.
        what: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        found: String,
    },
    /// A key, profile or export that cannot be decoded.
    #[error(
        "could not read {what}: {reason}; it is left as it is, make it again or use the version that wrote it"
    )]
    Decode {
        /// What was being read.
        what: String,
        /// Where it stopped making sense.
        reason: String,
    },
}

/// Shorthand of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Attaches the action and the path to an I/O error.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// True when the place itself cannot be written: full, read-only or not ours.
    #[must_use]
    pub fn is_unwritable_place(&self) -> bool {
        match self {
            Self::Io { source, .. } => unwritable(source),
            _ => false,
        }
    }
}

/// Conditions of the environment, as opposed to damage in a file. Damage is repaired by setting the file
/// aside; doing that to an intact file because the disk is full would only make things worse.
pub(crate) fn unwritable(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::StorageFull
            | K::QuotaExceeded
            | K::FileTooLarge
            | K::ReadOnlyFilesystem
            | K::PermissionDenied
            | K::OutOfMemory
    )
}

/// Whether trials are on their way when this is done.
fn writes_trials(action: &str) -> bool {
    ["append", "write the index", "repair", "sync"].iter().any(|verb| action.starts_with(verb))
}

/// What to do, or what is not lost.
fn remedy(action: &str, error: &io::Error) -> &'static str {
    use io::ErrorKind as K;
    match error.kind() {
        K::StorageFull | K::QuotaExceeded => "; free some space, or choose another folder",
        K::FileTooLarge => "; raise the file size limit, or choose another folder",
        K::ReadOnlyFilesystem | K::PermissionDenied => "; choose a folder that can be written",
        K::NotADirectory | K::AlreadyExists => {
            "; a folder is needed there: move the file away or choose another one"
        }
        _ if writes_trials(action) => "; records flushed earlier are safe in the trial log",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_writes_trials_says_that_earlier_ones_are_safe() {
        let failed = |action| Error::io(action, "/a")(io::Error::other("it broke")).to_string();
        assert_eq!(failed("read the profile"), "could not read the profile /a: it broke");
        assert!(
            failed("append to the trial log")
                .ends_with("; records flushed earlier are safe in the trial log")
        );
        let full = Error::io("write", "/a")(io::ErrorKind::StorageFull.into()).to_string();
        assert!(full.ends_with("; free some space, or choose another folder"), "{full}");
    }
}
