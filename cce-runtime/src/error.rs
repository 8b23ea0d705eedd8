//! The one error type of this crate.
//!
//! Every message says what was expected, what was found and, where there is something to do about it, what
//! to do. An error is a value that a caller can match on; a message is for a person. Invariant: nothing in
//! this crate reports a failure in any other way, and nothing hides one.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::driver::DriverError;

/// Everything that can go wrong between a program and its results.
///
/// Its `Debug` is its message too: that is what a `main` which returns an error prints.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A buffer or slice holds another number of elements than the problem needs.
    #[error("{what} {} {found} elements, expected {expected}", number(what, "holds", "hold"))]
    WrongSize {
        /// Which input, output or workspace.
        what: String,
        /// Elements needed.
        expected: usize,
        /// Elements given.
        found: usize,
    },

    /// A tensor's dimensions or strides do not fit the problem.
    #[error("{what} {} {found}, expected {expected}", number(what, "holds", "hold"))]
    WrongShape {
        /// Which tensor.
        what: String,
        /// The shape needed, as a person writes it: `[N 8192, D 2304]`.
        expected: String,
        /// What was given: how many elements.
        found: String,
    },

    /// A tensor's element type is not the one that the plan was built for.
    #[error("{what} {} {found}, expected {expected}: {}", number(what, "is", "are"), conversion(what, found))]
    WrongDtype {
        /// Which tensor.
        what: String,
        /// The type the plan was built for.
        expected: String,
        /// The type given.
        found: String,
    },

    /// A pointer or a row stride is less aligned than the problem stated.
    #[error(
        "{what} {} at {address:#x}, which is not a multiple of the {required} bytes that the problem stated: \
         state a smaller alignment when the plan is built, or align {}",
        number(what, "is", "are"),
        number(what, "it", "them")
    )]
    Alignment {
        /// Which pointer or stride.
        what: String,
        /// The address, or the stride in bytes.
        address: u64,
        /// The alignment stated by the problem, in bytes.
        required: u64,
    },

    /// Something lives on another device than the call runs on.
    #[error(
        "{what} {} on {found}, but this call runs on {expected}: move {}, or use a plan of {} device",
        number(what, "lives", "live"),
        number(what, "it", "them"),
        number(what, "its", "their")
    )]
    DeviceMismatch {
        /// Which buffer, stream or plan.
        what: String,
        /// The device of the call.
        expected: String,
        /// The device that owns the thing.
        found: String,
    },

    /// There is no working CUDA driver on this machine.
    #[error("no CUDA driver: {reason}")]
    NoDriver {
        /// What was looked for, what was found, what to do.
        reason: String,
    },

    /// The CUDA driver is older than this crate can use.
    #[error("{}: install a newer NVIDIA driver", too_old(found, needed, missing.as_deref()))]
    DriverTooOld {
        /// The CUDA version that the driver supports, `12.2`.
        found: String,
        /// The smallest version that is enough.
        needed: String,
        /// The entry point that is missing, if that is how it was noticed.
        missing: Option<String>,
    },

    /// A device index beyond the devices that the driver shows.
    #[error(
        "there is no CUDA device {index}: the driver shows {count}{hint}",
        hint = if *count == 0 { " (is CUDA_VISIBLE_DEVICES empty?)".to_owned() }
               else { format!(", numbered from 0 to {}", count - 1) }
    )]
    NoSuchDevice {
        /// The index asked for.
        index: usize,
        /// How many devices there are.
        count: usize,
    },

    /// The device has no room for an allocation.
    #[error(
        "out of device memory: {what} needs {}, and {} of the device's {} are free: \
         give the plan a smaller workspace budget, or free memory", bytes(*asked), bytes(*free), bytes(*total)
    )]
    OutOfMemory {
        /// What the memory was for.
        what: String,
        /// Bytes asked for.
        asked: u64,
        /// Bytes free when the request failed.
        free: u64,
        /// Bytes the device has.
        total: u64,
    },

    /// The host has no room for an allocation.
    #[error("out of memory: {what} needs {}: give the plan a smaller workspace budget", bytes(*asked))]
    OutOfHostMemory {
        /// What the memory was for.
        what: String,
        /// Bytes asked for.
        asked: u64,
    },

    /// A name that the program or the plan does not have.
    #[error("there is no {what} `{name}`, expected {known}")]
    UnknownName {
        /// What the name was to stand for: `Row input`, `output`.
        what: String,
        /// The name given.
        name: String,
        /// The names that would do and whose they are, or that there are none; what is wrong if the name is known.
        known: String,
    },

    /// Something that every call needs was not given.
    #[error("{what} {} missing: the call needs {}", number(what, "is", "are"), number(what, "it", "them"))]
    MissingInput {
        /// Which input or buffer.
        what: String,
    },

    /// A problem that no plan can be built for.
    #[error("{reason}")]
    InvalidProblem {
        /// What was expected, what was found.
        reason: String,
    },

    /// A call that does not fit its plan or itself.
    #[error("{reason}")]
    InvalidCall {
        /// What was expected, what was found.
        reason: String,
    },

    /// What a forward saved does not belong to this backward.
    #[error("what the forward saved is not there any more: {reason}; run the forward again")]
    StaleSaved {
        /// Why not.
        reason: String,
    },

    /// A workspace or a budget that no plan of this problem fits in.
    #[error(
        "the workspace is too small: {given} bytes were given, and the smallest that can do is \
         {smallest} bytes"
    )]
    WorkspaceTooSmall {
        /// Bytes given or allowed.
        given: u64,
        /// The fewest bytes with which the problem can be computed.
        smallest: u64,
    },

    /// A target that names no vocabulary entry, found by a checked call.
    #[error(
        "target {target} of row {row} is out of range: expected 0 to {}, or the ignore index, which is -100 \
         unless the plan was built with another `.ignore_index`",
        vocab.saturating_sub(1)
    )]
    TargetOutOfRange {
        /// The first such row.
        row: usize,
        /// Its target.
        target: i64,
        /// Vocabulary entries.
        vocab: usize,
    },

    /// An explicit filter that the program, the family or the device does not allow.
    #[error("the filter {filter} is not allowed here: {reason}; use the filter exact")]
    FilterNotAllowed {
        /// The filter asked for.
        filter: String,
        /// Why not.
        reason: String,
    },

    /// Program, problem and schedule do not make a plan for the GPU.
    #[error(transparent)]
    Plan(#[from] cce_codegen::plan::PlanError),

    /// No usable NVRTC was found.
    #[error(
        "no usable NVRTC (libnvrtc) was found; tried:{}\ninstall the CUDA toolkit or \
         `pip install nvidia-cuda-nvrtc`, or set CCE_NVRTC_PATH to the library or its folder",
        list(tried)
    )]
    NvrtcNotFound {
        /// Each place that was tried and what came of it, in order.
        tried: Vec<String>,
    },

    /// `CCE_NVRTC_PATH` is set, and what it names does not work.
    #[error(
        "CCE_NVRTC_PATH is {}, which does not work; tried:{}\ncorrect it or unset it",
        path.display(), list(tried)
    )]
    NvrtcPathUnusable {
        /// The variable's value.
        path: PathBuf,
        /// Each file that was tried and what came of it, in order.
        tried: Vec<String>,
    },

    /// NVRTC itself failed, as opposed to the source that it was given.
    #[error("NVRTC {version}: {call}: {reason}")]
    Nvrtc {
        /// The entry point.
        call: &'static str,
        /// What came of it.
        reason: String,
        /// NVRTC's version.
        version: String,
    },

    /// NVRTC cannot compile for the GPU at hand.
    #[error(
        "NVRTC {version} cannot compile for {arch}, only for {supported}: \
         install another NVRTC (a newer one, `pip install -U nvidia-cuda-nvrtc`; an older one for an \
         architecture that it has dropped) or point CCE_NVRTC_PATH at one"
    )]
    ArchNotSupported {
        /// The architecture asked for, `sm_120`.
        arch: String,
        /// NVRTC's version.
        version: String,
        /// What it can compile for.
        supported: String,
    },

    /// NVRTC refused an emitted kernel. This is a defect of the emission, never of the user's numbers.
    #[error(
        "the kernel {kernel} of the loss `{loss}` does not compile for {arch}\n{excerpt}\n\
         compiler's log:\n{log}"
    )]
    Compile {
        /// The loss that the source was emitted for.
        loss: String,
        /// The emitted source's name.
        kernel: String,
        /// The architecture compiled for.
        arch: String,
        /// The emitted lines the compiler complains about, numbered.
        excerpt: String,
        /// The compiler's whole log.
        log: String,
    },

    /// A launch that cannot work, refused before it reached the device, or refused by the driver.
    #[error("kernel {kernel}: {reason}")]
    Launch {
        /// The kernel's name.
        kernel: String,
        /// What does not fit.
        reason: String,
    },

    /// A call of the CUDA driver failed.
    #[error(transparent)]
    Driver(#[from] DriverError),

    /// A GPU's clock and power cannot be read.
    #[error("no readings from NVML, the driver's management library: {reason}")]
    Nvml {
        /// What was looked for or asked, and what came of it.
        reason: String,
    },

    /// A file or a folder could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done: `read`, `write`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Io`] about `path`; `action` is a verb that fits after "cannot".
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// True when the device's context is beyond use: every later call on it in this process fails too.
    pub fn is_sticky(&self) -> bool {
        matches!(self, Self::Driver(error) if error.is_sticky())
    }
}

impl fmt::Debug for Error {
    /// The message, and the causes that it does not state already, each on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.to_string();
        f.write_str(&said)?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let message = error.to_string();
            if !said.contains(&message) {
                write!(f, "\n  caused by: {message}")?;
            }
            said.push_str(&message);
            cause = error.source();
        }
        Ok(())
    }
}

/// A byte count as a person reads it, exact below 1 KiB: `512 bytes`, `1.50 GiB`.
fn bytes(count: u64) -> impl fmt::Display {
    const UNITS: [(&str, u32); 3] = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    for (unit, shift) in UNITS {
        if count >> shift != 0 {
            return format!("{:.2} {unit}", count as f64 / (1u64 << shift) as f64);
        }
    }
    format!("{count} bytes")
}

/// The verb or pronoun for what a message is about, which is either one thing or one of two plurals.
fn number<'w>(what: &str, one: &'w str, many: &'w str) -> &'w str {
    if matches!(what, "the hidden states" | "the targets") { many } else { one }
}

/// What to do about a buffer of another type. Only hidden states, classifier and targets come in types that a
/// plan can be built for.
fn conversion(what: &str, found: &str) -> String {
    let them = number(what, "it", "them");
    let setting = match (what, found) {
        ("the targets", "i32") => "index(IndexType::I32)",
        ("the targets", "i64") => "index(IndexType::I64)",
        ("the hidden states" | "the classifier", "f32") => "dtype(DType::F32)",
        ("the hidden states" | "the classifier", "f16") => "dtype(DType::F16)",
        ("the hidden states" | "the classifier", "bf16") => "dtype(DType::Bf16)",
        _ => return format!("convert {them}"),
    };
    format!("convert {them}, or build the plan with `.{setting}`")
}

fn too_old(found: &str, needed: &str, missing: Option<&str>) -> String {
    match missing {
        None => format!("the CUDA driver is too old: it supports CUDA {found}, and CUDA {needed} is needed"),
        Some(name) => format!(
            "the CUDA driver, for CUDA {found}, lacks {name}, which every driver from CUDA {needed} on has"
        ),
    }
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  - {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_of_memory_names_the_sizes_asked_and_free() {
        let error = Error::OutOfMemory {
            what: "the workspace".into(),
            asked: 3 << 30,
            free: 1 << 20,
            total: 80 << 30,
        };
        let message = error.to_string();
        assert!(message.contains("3.00 GiB") && message.contains("1.00 MiB"), "{message}");
        assert!(message.contains("80.00 GiB"), "{message}");
    }

    #[test]
    fn a_main_function_that_fails_prints_the_message_and_each_cause_once() {
        let error = Error::MissingInput { what: "the targets".into() };
        assert_eq!(format!("{error:?}"), "the targets are missing: the call needs them");

        let system = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let error = Error::io("read", Path::new("/a/file"), system);
        assert_eq!(format!("{error:?}"), "cannot read /a/file: no such file");

        let tried = vec!["libnvrtc.so.13: not there".to_owned()];
        let error = Error::NvrtcNotFound { tried };
        assert_eq!(format!("{error:?}"), error.to_string());
    }

    #[test]
    fn small_byte_counts_stay_exact() {
        assert_eq!(bytes(1023).to_string(), "1023 bytes");
        assert_eq!(bytes(1536).to_string(), "1.50 KiB");
    }

    #[test]
    fn a_missing_device_says_how_many_there_are() {
        assert!(Error::NoSuchDevice { index: 3, count: 2 }.to_string().contains("from 0 to 1"));
        assert!(Error::NoSuchDevice { index: 0, count: 0 }.to_string().contains("CUDA_VISIBLE_DEVICES"));
    }
}
