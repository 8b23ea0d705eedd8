//! NVRTC, NVIDIA's compiler as a library: found on this machine, loaded, and turned on emitted sources.
//!
//! It is loaded at run time, so building and running this crate needs no CUDA; compiling needs no GPU.
//! Several NVRTCs can be loaded in one process. Invariants: compiling is a pure function of (source,
//! options, architecture, NVRTC), which is what makes the [cubin cache](crate::cubin_cache) sound; and a
//! [`Compiled`] always states every kernel's registers and spills.
//!
//! ```no_run
//! use cce_runtime::nvrtc::{Arch, Nvrtc, Options, Source};
//! # fn main() -> Result<(), cce_runtime::error::Error> {
//! let nvrtc = Nvrtc::find(None, Some(Arch::SM_90A))?;
//! let source = Source { text: "extern \"C\" __global__ void k() {}", name: "k.cu", loss: "cross_entropy"
//! }; let compiled = nvrtc.compile(&source, Arch::SM_90A, &Options::default())?;
//! assert!(!compiled.kernel("k")?.spills());
//! # Ok(())
//! # }
//! ```

mod arch;
mod excerpt;
mod find;
mod library;
mod resources;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

pub use self::arch::{Arch, ParseArchError};
pub use self::find::Search;
pub use self::resources::Resources;

use self::library::Library;
pub(crate) use self::library::why;
use crate::driver::CudaVersion;
use crate::error::{Error, Result};

/// The oldest NVRTC that knows everything the emitted sources use (sm_90a came with 12.0).
pub const OLDEST: CudaVersion = CudaVersion::new(12, 0);

/// The oldest NVRTC known to keep a cache of its own, and the flag that leaves it alone.
const FIRST_WITH_CACHE: CudaVersion = CudaVersion::new(12, 9);

/// A loaded NVRTC. Cheap to share; every method may be called from several threads at once, and they
/// compile in parallel.
pub struct Nvrtc {
    library: Library,
    identity: String,
}

/// An emitted source and what it is called in messages.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// CUDA C++ without includes; kernels are `extern "C"`.
    pub text: &'a str,
    /// The file name that the compiler's messages show.
    pub name: &'a str,
    /// The loss it was emitted for.
    pub loss: &'a str,
}

/// How to compile, beyond the architecture.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Options {
    /// Registers a thread at most; `None` leaves it to the kernels' launch bounds.
    pub max_registers: Option<u32>,
    /// Line numbers in the cubin, for profilers.
    pub line_info: bool,
    /// Further flags, verbatim, after all others.
    pub flags: Vec<String>,
}

impl Options {
    /// The flags given to NVRTC for an architecture's name, in order.
    fn to_flags(&self, architecture: &str) -> Vec<String> {
        let mut flags = vec![
            format!("--gpu-architecture={architecture}"),
            "--std=c++17".to_owned(),
            // The only source of spill bytes; it changes the log, never the code.
            "--ptxas-options=-v".to_owned(),
        ];
        flags.extend(self.max_registers.map(|count| format!("--maxrregcount={count}")));
        flags.extend(self.line_info.then(|| "--generate-line-info".to_owned()));
        flags.extend(self.flags.iter().cloned());
        flags
    }

    /// What a cubin depends on besides source and NVRTC.
    pub(crate) fn key(&self, arch: Arch) -> Vec<String> {
        self.to_flags(&arch.to_string())
    }
}

/// A cubin and what the compiler said about it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Compiled {
    /// The cubin, ready for the driver.
    #[serde(skip)]
    pub cubin: Vec<u8>,
    /// The compiler's log: warnings, and the assembler's account of resources; without its times, which
    /// differ from run to run.
    pub log: String,
    /// What each kernel uses, sorted by name.
    pub kernels: Vec<Resources>,
}

impl Compiled {
    /// What the kernel of this name uses; an error that lists the kernels there are if it is not among
    /// them.
    pub fn kernel(&self, name: &str) -> Result<&Resources> {
        self.kernels.iter().find(|one| one.kernel == name).ok_or_else(|| Error::Launch {
            kernel: name.to_owned(),
            reason: format!(
                "the compiled source has no such kernel, only: {}",
                self.kernels.iter().map(|one| one.kernel.as_str()).collect::<Vec<_>>().join(", ")
            ),
        })
    }
}

impl Nvrtc {
    /// Finds and loads the NVRTC to use: the newest that is not newer than `driver` and compiles for
    /// `arch`.
    ///
    /// With `driver` `None` (no GPU here) the newest is taken. `CCE_NVRTC_PATH`, when set, decides alone.
    ///
    /// # Errors
    /// [`Error::NvrtcNotFound`], [`Error::NvrtcPathUnusable`] with all that was tried;
    /// [`Error::ArchNotSupported`] when what was found is too old for `arch`.
    pub fn find(driver: Option<CudaVersion>, arch: Option<Arch>) -> Result<Arc<Self>> {
        Self::find_in(&Search::from_env(), driver, arch)
    }

    /// [`Nvrtc::find`] in the places that `search` names.
    pub fn find_in(search: &Search, driver: Option<CudaVersion>, arch: Option<Arch>) -> Result<Arc<Self>> {
        let mut tried = Vec::new();
        let mut ranked: Vec<(CudaVersion, PathBuf)> = Vec::new();
        let attempt = |path: &Path, tried: &mut Vec<String>| match Self::load(path) {
            Ok(nvrtc) => Some(nvrtc),
            Err(reason) => {
                tried.push(reason);
                None
            }
        };
        for name in search.loader_names() {
            let Some(nvrtc) = attempt(name, &mut tried) else { continue };
            ranked.push((nvrtc.version(), name.to_owned()));
            // Newest first: another name can only give an older one, and loading it costs milliseconds.
            let suits_driver = driver.is_none_or(|driver| nvrtc.version() <= driver);
            if suits_driver && arch.is_none_or(|arch| nvrtc.supports(arch)) {
                break;
            }
        }
        for candidate in search.candidates() {
            let version =
                candidate.version.or_else(|| attempt(&candidate.path, &mut tried).map(|one| one.version()));
            ranked.extend(version.map(|version| (version, candidate.path)));
        }
        // Stable: among equal versions the first found stays first.
        ranked.sort_by_key(|(version, _)| find::preference(*version, driver));

        let mut too_old: Option<Arc<Self>> = None;
        for (_, path) in ranked {
            let Some(nvrtc) = attempt(&path, &mut tried) else {
                continue;
            };
            match arch {
                Some(arch) if !nvrtc.supports(arch) => too_old = too_old.or(Some(nvrtc)),
                _ => return Ok(nvrtc),
            }
        }
        if let (Some(nvrtc), Some(arch)) = (too_old, arch) {
            return Err(nvrtc.unsupported(arch));
        }
        match &search.explicit {
            Some(path) => {
                if tried.is_empty() {
                    tried.push(format!(
                        "{}: a folder without libnvrtc.so*, as are its lib64 and lib",
                        path.display()
                    ));
                }
                Err(Error::NvrtcPathUnusable { path: path.clone(), tried })
            }
            None => {
                tried.extend(search.folders.iter().map(|folder| match folder.is_dir() {
                    true => format!("{}: holds no usable libnvrtc", folder.display()),
                    false => format!("{}: no such folder", folder.display()),
                }));
                Err(Error::NvrtcNotFound { tried })
            }
        }
    }

    /// Loads one library by its path or by a name for the system's loader, once a process.
    fn load(path: &Path) -> std::result::Result<Arc<Self>, String> {
        static LOADED: Mutex<Option<HashMap<PathBuf, Arc<Nvrtc>>>> = Mutex::new(None);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = loaded.get_or_insert_default();
        if let Some(nvrtc) = loaded.get(path) {
            return Ok(Arc::clone(nvrtc));
        }
        let library = Library::load(path).map_err(|reason| format!("{}: {reason}", path.display()))?;
        // The version call leaves out the patch level, which changes code too: the file's size tells most
        // of them apart.
        let size = std::fs::metadata(&library.path).map(|data| data.len()).unwrap_or_default();
        let identity = format!("nvrtc {} of {size} bytes", library.version);
        let nvrtc = Arc::new(Self { library, identity });
        loaded.insert(path.to_owned(), Arc::clone(&nvrtc));
        Ok(nvrtc)
    }

    /// The CUDA version it belongs to.
    pub fn version(&self) -> CudaVersion {
        self.library.version
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.library.path
    }

    /// What tells this NVRTC from others in a cache's key.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether it compiles for this architecture.
    pub fn supports(&self, arch: Arch) -> bool {
        self.library.supported.contains(&arch.number())
    }

    fn unsupported(&self, arch: Arch) -> Error {
        let supported = self.library.supported.iter().map(|number| format!("sm_{number}"));
        Error::ArchNotSupported {
            arch: arch.to_string(),
            version: self.version().to_string(),
            supported: supported.collect::<Vec<_>>().join(", "),
        }
    }

    /// Compiles a source to a cubin for `arch`.
    ///
    /// # Errors
    /// [`Error::Compile`] shows the emitted lines at fault and the loss they came from;
    /// [`Error::ArchNotSupported`]; [`Error::Nvrtc`] when NVRTC itself fails or its log does not state a
    /// kernel's resources.
    pub fn compile(&self, source: &Source<'_>, arch: Arch, options: &Options) -> Result<Compiled> {
        let mut flags = options.to_flags(&arch.to_string());
        // A cubin from NVRTC's own cache comes without the assembler's account of resources.
        flags.extend((self.version() >= FIRST_WITH_CACHE).then(|| "--no-cache".to_owned()));
        let program = self.run(source, arch, &flags)?;
        let cubin = program.cubin()?;
        let log = without_times(&program.log()?);
        let kernels =
            resources::parse(&log).map_err(|reason| self.library.failure("nvrtcGetProgramLog", reason))?;
        if cubin.is_empty() {
            return Err(self.library.failure("nvrtcGetCUBIN", "it gave an empty cubin".to_owned()));
        }
        Ok(Compiled { cubin, log, kernels })
    }

    /// Compiles a source to PTX for the virtual architecture of `arch`: for reading, not for loading.
    ///
    /// # Errors
    /// As [`Nvrtc::compile`].
    pub fn ptx(&self, source: &Source<'_>, arch: Arch, options: &Options) -> Result<String> {
        self.run(source, arch, &options.to_flags(&arch.virtual_name()))?.ptx()
    }

    fn run(&self, source: &Source<'_>, arch: Arch, flags: &[String]) -> Result<library::Program<'_>> {
        if !self.supports(arch) {
            return Err(self.unsupported(arch));
        }
        let program = self.library.program(source.text, source.name)?;
        if program.compile(flags)? {
            return Ok(program);
        }
        let log = program.log()?;
        // The assembler's complaints are about PTX, which NVRTC still hands out after such a failure.
        let ptx = program.ptx().ok();
        Err(Error::Compile {
            loss: source.loss.to_owned(),
            kernel: source.name.to_owned(),
            arch: arch.to_string(),
            excerpt: excerpt::excerpt(&log, source.name, source.text, ptx.as_deref()),
            log,
        })
    }
}

/// The log without the assembler's "Compile time" lines: the same source must compile to the same entry of
/// a cache.
fn without_times(log: &str) -> String {
    log.split_inclusive('\n').filter(|line| !line.contains("Compile time = ")).collect()
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cubin = format_args!("{} bytes", self.cubin.len()).to_string();
        f.debug_struct("Compiled")
            .field("cubin", &cubin)
            .field("kernels", &self.kernels)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Nvrtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvrtc").field("version", &self.version()).field("path", &self.path()).finish()
    }
}

#[cfg(test)]
mod tests;
