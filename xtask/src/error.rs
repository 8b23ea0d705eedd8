//! What can go wrong in a task.

use std::path::{Path, PathBuf};

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be started.
    #[error("{program} cannot be started ({source}): {advice}")]
    Start {
        /// The program.
        program: String,
        /// The system's reason.
        source: std::io::Error,
        /// What to do.
        advice: &'static str,
    },

    /// A program ran and failed.
    #[error("`{command}` failed ({status})")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },

    /// Fetching needs Python and pip, for PyPI.
    #[error(
        "python3 with pip is needed to fetch {package} from PyPI ({reason}): install python3 and pip, or set \
         {variable} to where it is"
    )]
    NoPip {
        /// The package.
        package: String,
        /// What happened.
        reason: String,
        /// The variable that makes fetching unnecessary.
        variable: &'static str,
    },

    /// The PyTorch package needs an interpreter.
    #[error(
        "CPython 3.10 or newer is needed to test the PyTorch package, found {found}: install it as python3 or \
         under its versioned name, with its modules venv and pip"
    )]
    NoPython {
        /// Which ones were found.
        found: String,
    },

    /// Steps of `test` that failed.
    #[error("failed: {}", .0.join(", "))]
    Steps(Vec<&'static str>),

    /// A bundle above its limit.
    #[error("the bundle has {found} bytes, and {limit} are allowed: {largest}")]
    TooLarge {
        /// Bytes it has.
        found: u64,
        /// Bytes it may have.
        limit: u64,
        /// Its largest files.
        largest: String,
    },

    /// A program's output was not what it should be.
    #[error("{what} cannot be read: {reason}")]
    Output {
        /// Whose output.
        what: &'static str,
        /// Why.
        reason: String,
    },

    /// A file or folder could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// The result of everything in a task.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// For `map_err` on a file operation.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}
