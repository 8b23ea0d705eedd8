//! This project's errors as Python exceptions, with the same text.

use cce::Error;
use pyo3::PyErr;
use pyo3::exceptions::{PyIndexError, PyMemoryError, PyRuntimeError, PyTypeError, PyValueError};

/// What a caller can mend is a `ValueError` (a `TypeError` for a type, an `IndexError` for a target); what the
/// machine lacks is a `RuntimeError` or a `MemoryError`.
pub(crate) fn exception(error: &Error) -> PyErr {
    let text = error.to_string();
    match error {
        // In the words of Python's options.
        Error::FilterNotAllowed { filter, reason } => PyValueError::new_err(format!(
            "`filter='{}'` ({filter}) is not allowed here: {reason}; use `filter='exact'`",
            filter.split(':').next().unwrap_or_default()
        )),
        Error::WrongDtype { .. } => PyTypeError::new_err(text),
        Error::TargetOutOfRange { .. } => PyIndexError::new_err(text),
        Error::OutOfMemory { .. } | Error::OutOfHostMemory { .. } => PyMemoryError::new_err(text),
        Error::WrongShape { .. }
        | Error::WrongSize { .. }
        | Error::DeviceMismatch { .. }
        | Error::Alignment { .. }
        | Error::UnknownName { .. }
        | Error::MissingInput { .. }
        | Error::InvalidProblem { .. }
        | Error::InvalidCall { .. }
        | Error::WorkspaceTooSmall { .. } => PyValueError::new_err(text),
        _ => PyRuntimeError::new_err(text),
    }
}

/// The tuner's errors likewise.
pub(crate) fn tuning_exception(error: &cce_tune::Error) -> PyErr {
    use cce_tune::Error as Tuning;
    match error {
        Tuning::Runtime(error) => exception(error),
        Tuning::Usage { .. } | Tuning::UnknownScalar { .. } | Tuning::Inputs { .. } => {
            PyValueError::new_err(error.to_string())
        }
        _ => PyRuntimeError::new_err(error.to_string()),
    }
}

/// A `ValueError` about an argument of the native functions.
pub(crate) fn unexpected(what: &str, expected: &str, found: &str) -> PyErr {
    PyValueError::new_err(format!("expected {expected} for {what}, found {found}"))
}
