//! One loaded NVRTC: its entry points, as safe functions.
//!
//! Invariants: a library that was loaded stays loaded until the process ends (NVRTC keeps thread-local
//! state whose destructors must not outlive it), so its entry points are always valid; and every entry
//! point is resolved before the library counts as loaded. NVRTC's entry points may be called from several
//! threads at once on different programs.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use crate::driver::CudaVersion;
use crate::error::{Error, Result};

/// An `nvrtcProgram`, opaque.
type Raw = *mut std::ffi::c_void;
type Status = c_int;
type SizeOf = unsafe extern "C" fn(Raw, *mut usize) -> Status;
type Fetch = unsafe extern "C" fn(Raw, *mut c_char) -> Status;

/// `NVRTC_ERROR_COMPILATION`: the source is at fault.
const ERROR_COMPILATION: Status = 6;

pub(super) struct Library {
    pub(super) version: CudaVersion,
    /// Where the library's file is; a bare name only if the system does not tell.
    pub(super) path: PathBuf,
    /// Compute capabilities it compiles for, `major * 10 + minor`, ascending.
    pub(super) supported: Vec<u32>,
    create: unsafe extern "C" fn(
        *mut Raw,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Status,
    destroy: unsafe extern "C" fn(*mut Raw) -> Status,
    compile: unsafe extern "C" fn(Raw, c_int, *const *const c_char) -> Status,
    log: (SizeOf, Fetch),
    cubin: (SizeOf, Fetch),
    ptx: (SizeOf, Fetch),
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
    _handles: ManuallyDrop<Vec<libloading::Library>>,
}

/// A library that could not be used: a sentence for the list of what was tried.
type Refusal = String;

impl Library {
    /// Loads the library at `path`, a file, or a bare name that the system's loader looks up.
    pub(super) fn load(path: &Path) -> std::result::Result<Self, Refusal> {
        // SAFETY: loading runs the library's initialisers. The name is libnvrtc's, found where NVIDIA's
        // packages put it or named by the user, and NVRTC's initialisers have no preconditions.
        let nvrtc = unsafe { libloading::Library::new(path) }.map_err(|error| why(&error))?;
        // Never unloaded, on failure either.
        let mut handles = ManuallyDrop::new(vec![nvrtc]);
        let symbols = Symbols(&handles[0]);

        let version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status = symbols.get("nvrtcVersion")?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the signature is nvrtc.h's, both pointers are to live integers.
        let status = unsafe { version(&raw mut major, &raw mut minor) };
        if status != 0 {
            return Err(format!("nvrtcVersion failed with {status}"));
        }
        let version = CudaVersion::new(major.unsigned_abs(), minor.unsigned_abs());
        if version < super::OLDEST {
            return Err(format!("is version {version}, and {} or newer is needed", super::OLDEST));
        }

        let path = if path.is_absolute() {
            path.to_owned()
        } else {
            symbols.file().unwrap_or_else(|| path.to_owned())
        };
        let library = Self {
            version,
            supported: symbols.supported()?,
            create: symbols.get("nvrtcCreateProgram")?,
            destroy: symbols.get("nvrtcDestroyProgram")?,
            compile: symbols.get("nvrtcCompileProgram")?,
            log: symbols.pair("nvrtcGetProgramLog")?,
            cubin: symbols.pair("nvrtcGetCUBIN")?,
            ptx: symbols.pair("nvrtcGetPTX")?,
            error_string: symbols.get("nvrtcGetErrorString")?,
            _handles: ManuallyDrop::new(Vec::new()),
            path,
        };
        // A Python wheel's NVRTC has no RPATH, so it would not find the builtins beside it when it first
        // compiles; once they are loaded by path, its own request by name is answered with them. Elsewhere
        // the loader finds them by name.
        let builtins = library.path.with_file_name(format!("libnvrtc-builtins.so.{version}"));
        if builtins.is_file() {
            // SAFETY: as for NVRTC itself; the builtins are a data library.
            let loaded = unsafe { libloading::Library::new(&builtins) };
            handles.push(
                loaded
                    .map_err(|error| format!("its {} does not load: {}", builtins.display(), why(&error)))?,
            );
        }
        Ok(Self { _handles: handles, ..library })
    }

    fn check(&self, call: &'static str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: nvrtcGetErrorString takes any status and returns a string constant of the library, which
        // stays loaded.
        let name = unsafe { CStr::from_ptr((self.error_string)(status)) }.to_string_lossy();
        Err(self.failure(call, format!("failed with {status} ({name})")))
    }

    pub(super) fn failure(&self, call: &'static str, reason: String) -> Error {
        Error::Nvrtc { call, reason, version: self.version.to_string() }
    }

    fn text(&self, call: &'static str, what: &str, text: &str) -> Result<CString> {
        CString::new(text)
            .map_err(|_| self.failure(call, format!("a {what} holds a zero byte, which it cannot read")))
    }

    /// A program of `source`, under the file name that diagnostics will show.
    pub(super) fn program(&self, source: &str, name: &str) -> Result<Program<'_>> {
        let call = "nvrtcCreateProgram";
        let (source, name) = (self.text(call, "source", source)?, self.text(call, "name", name)?);
        let mut raw = std::ptr::null_mut();
        // SAFETY: both strings end in a zero byte and NVRTC copies them; no headers, so the two lists may
        // be null.
        let status = unsafe {
            (self.create)(&raw mut raw, source.as_ptr(), name.as_ptr(), 0, std::ptr::null(), std::ptr::null())
        };
        self.check(call, status)?;
        Ok(Program { library: self, raw })
    }
}

/// One compilation, used by one thread.
pub(super) struct Program<'a> {
    library: &'a Library,
    raw: Raw,
}

impl Program<'_> {
    /// Compiles with these flags; false when the source is at fault.
    pub(super) fn compile(&self, flags: &[String]) -> Result<bool> {
        let call = "nvrtcCompileProgram";
        let flags =
            flags.iter().map(|flag| self.library.text(call, "flag", flag)).collect::<Result<Vec<_>>>()?;
        let pointers: Vec<*const c_char> = flags.iter().map(|flag| flag.as_ptr()).collect();
        // SAFETY: `raw` is a live program and the list holds `len` strings that end in a zero byte and
        // outlive the call.
        let status = unsafe { (self.library.compile)(self.raw, pointers.len() as c_int, pointers.as_ptr()) };
        if status == ERROR_COMPILATION {
            return Ok(false);
        }
        self.library.check(call, status).map(|()| true)
    }

    pub(super) fn log(&self) -> Result<String> {
        self.text("nvrtcGetProgramLog", self.library.log)
    }

    pub(super) fn ptx(&self) -> Result<String> {
        self.text("nvrtcGetPTX", self.library.ptx)
    }

    pub(super) fn cubin(&self) -> Result<Vec<u8>> {
        self.bytes("nvrtcGetCUBIN", self.library.cubin)
    }

    fn text(&self, call: &'static str, pair: (SizeOf, Fetch)) -> Result<String> {
        let mut bytes = self.bytes(call, pair)?;
        // The size counts the final zero byte.
        bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn bytes(&self, call: &'static str, (size_of, fetch): (SizeOf, Fetch)) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: `raw` is a live program, the pointer is to a live integer.
        let status = unsafe { size_of(self.raw, &raw mut size) };
        self.library.check(call, status)?;
        let mut bytes = vec![0u8; size];
        if size != 0 {
            // SAFETY: NVRTC writes exactly the size that it stated, and the buffer has it.
            let status = unsafe { fetch(self.raw, bytes.as_mut_ptr().cast()) };
            self.library.check(call, status)?;
        }
        Ok(bytes)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: `raw` is a live program, destroyed once. The status is of no use here: the handle is gone
        // either way.
        unsafe { (self.library.destroy)(&raw mut self.raw) };
    }
}

/// The loader's own words, which `libloading` keeps as the source of its error.
pub(crate) fn why(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

struct Symbols<'a>(&'a libloading::Library);

impl Symbols<'_> {
    /// The entry point `name`; `F` is its type in nvrtc.h.
    fn get<F: Copy>(&self, name: &str) -> std::result::Result<F, Refusal> {
        // SAFETY: each use in this file gives the signature that nvrtc.h declares, unchanged from CUDA 12.0
        // to 13.x.
        unsafe { self.0.get::<F>(name) }.map(|symbol| *symbol).map_err(|_| format!("has no {name}"))
    }

    fn pair(&self, name: &str) -> std::result::Result<(SizeOf, Fetch), Refusal> {
        Ok((self.get(&format!("{name}Size"))?, self.get(name)?))
    }

    fn supported(&self) -> std::result::Result<Vec<u32>, Refusal> {
        let count: unsafe extern "C" fn(*mut c_int) -> Status = self.get("nvrtcGetNumSupportedArchs")?;
        let list: unsafe extern "C" fn(*mut c_int) -> Status = self.get("nvrtcGetSupportedArchs")?;
        let mut length: c_int = 0;
        // SAFETY: the pointer is to a live integer.
        let status = unsafe { count(&raw mut length) };
        let mut archs: Vec<c_int> = vec![0; usize::try_from(length).unwrap_or(0)];
        // SAFETY: the list has the length that NVRTC stated.
        if status != 0 || unsafe { list(archs.as_mut_ptr()) } != 0 {
            return Err("does not tell what it compiles for".to_owned());
        }
        let mut archs: Vec<u32> = archs.into_iter().map(c_int::unsigned_abs).collect();
        archs.sort_unstable();
        Ok(archs)
    }

    /// The file that this library was mapped from, where the system tells.
    fn file(&self) -> Option<PathBuf> {
        let address = self.get::<*const ()>("nvrtcVersion").ok()? as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let inside = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
            let path = &rest[rest.find('/')?..];
            inside.contains(&address).then(|| PathBuf::from(path))
        })
    }
}
