//! Compiled kernels on disk, shared by every process of a user.
//!
//! Content-addressed: an entry's name is the BLAKE3 hash of the source, the flags, the architecture and the
//! NVRTC that compiled it, so an entry is never out of date and two processes that write one at the same
//! time write the same bytes. Invariants: an entry appears whole (written aside, then renamed); it is
//! believed only if its checksum holds, and is rebuilt otherwise; nothing that is wrong with the folder
//! makes a call fail: it makes it slower, and [`Cached::warning`] says why.
//!
//! The folder: `CCE_CACHE_DIR`, else `XDG_CACHE_HOME/cce`, else `~/.cache/cce`; entries lie in its
//! `cubins-1`. Above the size limit the entries unused for longest go first.

mod entry;
mod evict;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::nvrtc::{Arch, Compiled, Nvrtc, Options, Source};

/// Bytes that the cache keeps by default: some thousands of kernels.
pub const DEFAULT_LIMIT: u64 = 512 << 20;

/// How stale an entry's time of use may be. Writing it at every hit would cost a warm start a disk access a
/// kernel.
const USE_GRANULARITY: Duration = Duration::from_secs(24 * 3600);

/// The cache in one folder.
#[derive(Debug, Clone)]
pub struct CubinCache {
    folder: std::result::Result<PathBuf, &'static str>,
    limit: u64,
}

/// What a lookup gave.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Cached {
    /// The cubin and what its kernels use.
    pub compiled: Compiled,
    /// How it was come by.
    pub origin: Origin,
    /// What is wrong with the folder, if the entry could not be read or kept; the result is right
    /// nevertheless.
    pub warning: Option<String>,
}

/// How a cubin was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Read from the cache.
    Cache,
    /// Compiled now: there was no entry.
    Compiled,
    /// Compiled now: the entry was damaged.
    Rebuilt,
}

impl CubinCache {
    /// The cache that this process's environment names.
    pub fn from_env() -> Self {
        match default_folder(|name| std::env::var_os(name).filter(|value| !value.is_empty())) {
            Some(folder) => Self::at(folder),
            None => Self::disabled("none of CCE_CACHE_DIR, XDG_CACHE_HOME and HOME is set"),
        }
    }

    /// The cache in this folder, which is created when the first entry is written.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Ok(folder.into().join("cubins-1")), limit: DEFAULT_LIMIT }
    }

    /// No cache: everything is compiled, and `reason` is the warning.
    pub fn disabled(reason: &'static str) -> Self {
        Self { folder: Err(reason), limit: DEFAULT_LIMIT }
    }

    /// The same cache with another limit on its size, in bytes.
    #[must_use]
    pub fn with_limit(self, bytes: u64) -> Self {
        Self { limit: bytes, ..self }
    }

    /// Where the entries lie; `None` when there is no cache.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref().ok()
    }

    /// The cubin of a source: from the cache, or compiled and kept.
    ///
    /// # Errors
    /// Only those of [`Nvrtc::compile`].
    pub fn get_or_compile(
        &self,
        nvrtc: &Nvrtc,
        source: &Source<'_>,
        arch: Arch,
        options: &Options,
    ) -> Result<Cached> {
        let key = key(nvrtc.identity(), source, &options.key(arch));
        let folder = match &self.folder {
            Ok(folder) => folder,
            Err(reason) => {
                let compiled = nvrtc.compile(source, arch, options)?;
                let warning = Some(format!("compiled kernels are not kept: {reason}"));
                return Ok(Cached { compiled, origin: Origin::Compiled, warning });
            }
        };
        let path = folder.join(key.to_hex().as_str());
        let (origin, unreadable) = match fs::read(&path) {
            Ok(bytes) => match entry::decode(&bytes, &key) {
                Ok(compiled) => {
                    note_use(&path);
                    return Ok(Cached { compiled, origin: Origin::Cache, warning: None });
                }
                Err(damage) => {
                    (Origin::Rebuilt, Some(format!("{}: {damage}; compiled anew", path.display())))
                }
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (Origin::Compiled, None),
            Err(error) => (Origin::Compiled, Some(Error::io("read", &path, error).to_string())),
        };
        let compiled = nvrtc.compile(source, arch, options)?;
        let kept = entry::encode(&compiled, &key)
            .map_err(|error| error.to_string())
            .and_then(|bytes| write_unsynced(&path, &bytes).map_err(|error| error.to_string()));
        let warning = match kept {
            Ok(()) => {
                evict::shrink(folder, self.limit, &path);
                unreadable
            }
            Err(reason) => Some(format!("the compiled kernel is not kept: {reason}")),
        };
        Ok(Cached { compiled, origin, warning })
    }
}

fn default_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    variable("CCE_CACHE_DIR")
        .map(PathBuf::from)
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| Path::new(&folder).join("cce")))
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".cache/cce")))
}

/// The name of an entry. Every part is preceded by its length, so that no two lists of parts hash alike.
fn key(nvrtc: &str, source: &Source<'_>, flags: &[String]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    // The file name is in the cubin's line numbers and in the log.
    for part in [nvrtc, source.name, source.text].into_iter().chain(flags.iter().map(String::as_str)) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize()
}

/// Writes aside and renames. Not `cce_tuning_db::write_whole`, which waits for the disk: an entry that a crash loses or
/// tears fails its checksum and is rebuilt, and a first call is not to wait for the disk once a kernel.
fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let aside = path.with_extension(format!("{}-{number}.{}", std::process::id(), evict::ASIDE));
    let written = fs::write(&aside, bytes)
        .map_err(|error| Error::io("write", &aside, error))
        .and_then(|()| fs::rename(&aside, path).map_err(|error| Error::io("write", path, error)));
    if written.is_err() {
        // Best effort: what stays behind is swept by a later write.
        _ = fs::remove_file(&aside);
    }
    written
}

/// Moves an entry to the young end of the eviction order. A cache that may only be read from keeps its
/// order.
fn note_use(path: &Path) {
    let Ok(file) = fs::File::open(path) else {
        return;
    };
    let age = file.metadata().and_then(|data| data.modified()).map(|used| used.elapsed().unwrap_or_default());
    if age.is_ok_and(|age| age > USE_GRANULARITY) {
        _ = file.set_modified(SystemTime::now());
    }
}

#[cfg(test)]
mod tests;
