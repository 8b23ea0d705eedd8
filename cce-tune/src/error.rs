//! What can go wrong while tuning, in words that say what to do.

use std::path::PathBuf;

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what was expected.
    #[error("cannot read {path}: {reason}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was expected, what was found, and what to do.
        reason: String,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or a folder is to be made where none can be.
    #[error("cannot write {path}: {reason}", path = path.display())]
    Place {
        /// The file, or the folder.
        path: PathBuf,
        /// What was expected there, what was found, and what to do.
        reason: String,
    },
    /// A data file is no safetensors file, or a damaged one.
    #[error(
        "{path} is no safetensors file or a damaged one: {reason}; write it again with safetensors' \
         `save_file`",
        path = path.display()
    )]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// A data file lacks a tensor.
    #[error("{path} has no tensor {name}; it has {}; {help}", present.join(", "), path = path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor, or the tensors one of which is needed.
        name: String,
        /// The tensors that are there.
        present: Vec<String>,
        /// What to do.
        help: &'static str,
    },
    /// A tensor has the wrong element type.
    #[error("tensor {name} of {path}: expected {expected}, found {found}; {help}", path = path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The types that are taken.
        expected: &'static str,
        /// The type found.
        found: String,
        /// What to do.
        help: &'static str,
    },
    /// A tensor has the wrong shape.
    #[error(
        "tensor {name} of {path}: expected shape {expected}, found {found:?}; {help}",
        path = path.display()
    )]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape needed, in the problem's letters and numbers.
        expected: String,
        /// The shape found.
        found: Vec<usize>,
        /// What to do.
        help: &'static str,
    },
    /// An index in a data file points outside.
    #[error(
        "tensor {name} of {path}: element {at} is {found}, expected {expected}; \
         check that the file's targets belong to its classifier",
        path = path.display()
    )]
    IndexOutside {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Which element.
        at: usize,
        /// Its value.
        found: i64,
        /// What it may be.
        expected: String,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] cce_tuning_db::Error),
    /// The device stopped working while a candidate ran.
    #[error(
        "the device failed for good while it ran \"{schedule}\": {reason}; the trial is stored, run the same \
         command again to go on behind it"
    )]
    DeviceLost {
        /// The schedule.
        schedule: String,
        /// What the device said.
        reason: String,
    },
    /// The process that runs the candidates could not do so, for no candidate's fault.
    #[error("{reason}; what is done is kept, run the same command again to go on")]
    Worker {
        /// What happened.
        reason: String,
    },
    /// What the candidates are compared with could not be made of the task and its inputs.
    #[error("{reason}")]
    Inputs {
        /// What is wrong with them, and what to do.
        reason: String,
    },
    /// Building or running a plan failed.
    #[error(transparent)]
    Runtime(#[from] cce_runtime::Error),
    /// The reference that every candidate is compared with is itself wrong.
    #[error(
        "the reference computation differs from the f64 oracle: {reason}; nothing was tuned, because nothing \
         could be checked: please report this"
    )]
    ReferenceWrong {
        /// In what.
        reason: String,
    },
    /// Data or scalars for which the loss is not a number.
    #[error(
        "the data or the scalars give no finite loss of {program}: not finite: {what} (scalars: {scalars}); \
         nothing was tuned, because nothing could be compared: correct them"
    )]
    NotFinite {
        /// The loss.
        program: String,
        /// What is not finite.
        what: String,
        /// The values of its Scalar inputs.
        scalars: String,
    },
    /// A scalar was given that the loss does not have.
    #[error("the loss {program} has no Scalar input {name}; its Scalar inputs: {known}")]
    UnknownScalar {
        /// The name given.
        name: String,
        /// The loss.
        program: String,
        /// The names there are.
        known: String,
    },
    /// There is nothing to tune.
    #[error("no schedule is known for this problem on this device")]
    NoCandidate,
    /// JSON could not be written or read.
    #[error("json: {0}")]
    Json(String),
    /// The command line asks for something that cannot be.
    #[error("{reason}")]
    Usage {
        /// What was expected, what was found.
        reason: String,
    },
    /// A file holds no valid loss.
    #[error("{path} holds no loss: {reason}", path = path.display())]
    Loss {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that is to be imported holds no trials.
    #[error("cannot import {path}: {reason}", path = path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// What it is instead, and what to do.
        reason: String,
    },
    /// A file that is to be replayed holds no recorded trials.
    #[error("{path} is no recording: {reason}", path = path.display())]
    Recording {
        /// The file.
        path: PathBuf,
        /// What it is instead, and what to do.
        reason: String,
    },
    /// A loss has no form at the level asked for.
    #[error("cannot print this loss: {reason}")]
    Emit {
        /// Why.
        reason: String,
    },
    /// There is nothing to work on.
    #[error("{reason}")]
    Nothing {
        /// What is missing, and how it comes about.
        reason: String,
    },
}

impl Error {
    /// Whether whoever stated the task and its inputs can mend it.
    pub(crate) fn is_mistake(&self) -> bool {
        matches!(
            self,
            Error::Usage { .. }
                | Error::UnknownScalar { .. }
                | Error::NotFinite { .. }
                | Error::Inputs { .. }
        )
    }
}
