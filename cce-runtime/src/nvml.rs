//! A GPU's clock, its power, and what holds its clock down: read through NVML, NVIDIA's management library.
//!
//! A time without the clock that it was taken at cannot be compared with another. The library
//! (`libnvidia-ml.so.1`, part of the driver) is opened at run time. Invariants: everything here only reads;
//! the library stays loaded and initialised until the process ends, so its entry points and handles stay
//! valid; they may be called from several threads at once.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

use crate::driver::Uuid;
use crate::error::{Error, Result};
use crate::nvrtc::why;

/// An `nvmlDevice_t`, opaque.
type Raw = *mut c_void;
type Status = c_int;

/// `NVML_CLOCK_SM`.
const CLOCK_SM: c_int = 1;
/// `NVML_ERROR_NOT_SUPPORTED`: this GPU has no such sensor.
const NOT_SUPPORTED: Status = 3;
/// What the driver installs.
const NAME: &str = "libnvidia-ml.so.1";

/// The sensors of one GPU.
#[derive(Clone, Copy)]
pub struct Sensors {
    library: &'static Library,
    device: Raw,
}

// SAFETY: a handle of a library that stays loaded; NVML's entry points may be called from any thread.
unsafe impl Send for Sensors {}
// SAFETY: as above, at the same time too.
unsafe impl Sync for Sensors {}

impl fmt::Debug for Sensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sensors({:?})", self.device)
    }
}

/// What the sensors said at one moment; `None`: the GPU does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Reading {
    /// Clock of the multiprocessors in MHz.
    pub sm_mhz: Option<u32>,
    /// Power of the whole board in watts. From Ampere on (but for GA100) it is the mean over the last second,
    /// so it lags behind work that has just begun.
    pub watts: Option<f32>,
    /// Why the clock was not higher.
    pub limits: Option<ClockLimits>,
}

/// Why a clock is not higher: a set of NVML's reasons.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockLimits(pub u64);

impl ClockLimits {
    /// Bits and names of `nvmlClocksEventReason*`, once `nvmlClocksThrottleReason*`.
    const NAMES: [(u64, &str); 9] = [
        (0x1, "idle"),
        (0x2, "set clocks"),
        (0x4, "power cap"),
        (0x8, "hardware slowdown"),
        (0x10, "sync boost"),
        (0x20, "temperature"),
        (0x40, "hardware temperature"),
        (0x80, "power brake"),
        (0x100, "display"),
    ];

    /// The reasons of either.
    #[must_use]
    pub fn with(self, other: ClockLimits) -> ClockLimits {
        ClockLimits(self.0 | other.0)
    }
}

impl fmt::Display for ClockLimits {
    /// The reasons' names with commas between them, bits without a name in hexadecimal; `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut names = Vec::new();
        for (bit, name) in Self::NAMES {
            if rest & bit != 0 {
                names.push(name.to_owned());
            }
            rest &= !bit;
        }
        if rest != 0 {
            names.push(format!("{rest:#x}"));
        }
        f.pad(&if names.is_empty() { "none".to_owned() } else { names.join(", ") })
    }
}

impl fmt::Debug for ClockLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Sensors {
    /// The sensors of the GPU with this identity ([`DeviceInfo::uuid`](crate::driver::DeviceInfo::uuid)):
    /// unlike an index, it does not depend on CUDA_VISIBLE_DEVICES, which NVML does not know.
    ///
    /// # Errors
    /// [`Error::Nvml`] without the library, or when it does not know the GPU.
    pub fn of(gpu: Uuid) -> Result<Sensors> {
        static LIBRARY: OnceLock<std::result::Result<Library, String>> = OnceLock::new();
        let library = LIBRARY
            .get_or_init(|| Library::load(NAME))
            .as_ref()
            .map_err(|reason| Error::Nvml { reason: reason.clone() })?;
        let name =
            CString::new(gpu.to_string()).map_err(|error| Error::Nvml { reason: error.to_string() })?;
        let mut device = std::ptr::null_mut();
        // SAFETY: the signature is nvml.h's, the name ends in a zero byte, the pointer is to a live handle.
        let status = unsafe { (library.by_uuid)(name.as_ptr(), &raw mut device) };
        library.known(&format!("nvmlDeviceGetHandleByUUID({gpu})"), status)?;
        Ok(Sensors { library, device })
    }

    /// What the sensors say now. Takes tens of microseconds or more; does not wait for the GPU's work.
    ///
    /// # Errors
    /// [`Error::Nvml`] when NVML fails in any other way than to say that the GPU has no such sensor.
    pub fn read(&self) -> Result<Reading> {
        let Sensors { library, device } = *self;
        let (mut mhz, mut milliwatts, mut limits): (c_uint, c_uint, c_ulonglong) = (0, 0, 0);
        // SAFETY: the signature is nvml.h's, the handle is live, the pointer is to a live integer.
        let clock = unsafe { (library.clock)(device, CLOCK_SM, &raw mut mhz) };
        // SAFETY: as above.
        let power = unsafe { (library.power)(device, &raw mut milliwatts) };
        // SAFETY: as above.
        let reasons = unsafe { (library.limits)(device, &raw mut limits) };
        Ok(Reading {
            sm_mhz: library.known("nvmlDeviceGetClockInfo", clock)?.then_some(mhz),
            watts: library.known("nvmlDeviceGetPowerUsage", power)?.then_some(milliwatts as f32 / 1e3),
            limits: library
                .known("nvmlDeviceGetCurrentClocksEventReasons", reasons)?
                .then_some(ClockLimits(limits)),
        })
    }
}

struct Library {
    by_uuid: unsafe extern "C" fn(*const c_char, *mut Raw) -> Status,
    clock: unsafe extern "C" fn(Raw, c_int, *mut c_uint) -> Status,
    power: unsafe extern "C" fn(Raw, *mut c_uint) -> Status,
    limits: unsafe extern "C" fn(Raw, *mut c_ulonglong) -> Status,
    error_string: unsafe extern "C" fn(Status) -> *const c_char,
}

impl Library {
    /// Loads and initialises the library of this name.
    fn load(name: &str) -> std::result::Result<Library, String> {
        // SAFETY: loading runs the library's initialisers; the driver's library has no preconditions.
        let handle = unsafe { libloading::Library::new(name) }.map_err(|error| why(&error))?;
        // Never unloaded, on failure either: the entry points below must stay.
        let handle = ManuallyDrop::new(handle);
        let symbols = Symbols(&handle);
        let initialise: unsafe extern "C" fn() -> Status = symbols.get("nvmlInit_v2")?;
        let library = Library {
            by_uuid: symbols.get("nvmlDeviceGetHandleByUUID")?,
            clock: symbols.get("nvmlDeviceGetClockInfo")?,
            power: symbols.get("nvmlDeviceGetPowerUsage")?,
            // Renamed in driver 535; the older name is still there in newer ones.
            limits: symbols
                .get("nvmlDeviceGetCurrentClocksEventReasons")
                .or_else(|_| symbols.get("nvmlDeviceGetCurrentClocksThrottleReasons"))?,
            error_string: symbols.get("nvmlErrorString")?,
        };
        // SAFETY: the signature is nvml.h's; it may be called at any time and any number of times.
        let status = unsafe { initialise() };
        if status != 0 {
            return Err(library.failure("nvmlInit_v2", status));
        }
        Ok(library)
    }

    /// Whether a call had an answer; false when the GPU has no such sensor.
    fn known(&self, call: &str, status: Status) -> Result<bool> {
        match status {
            0 => Ok(true),
            NOT_SUPPORTED => Ok(false),
            _ => Err(Error::Nvml { reason: self.failure(call, status) }),
        }
    }

    fn failure(&self, call: &str, status: Status) -> String {
        // SAFETY: nvmlErrorString takes any status and returns a string constant of the library, which stays
        // loaded.
        let text = unsafe { CStr::from_ptr((self.error_string)(status)) }.to_string_lossy();
        format!("{call} failed with {status} ({text})")
    }
}

struct Symbols<'a>(&'a libloading::Library);

impl Symbols<'_> {
    /// The entry point `name`; `F` is its type in nvml.h.
    fn get<F: Copy>(&self, name: &str) -> std::result::Result<F, String> {
        // SAFETY: each use in this file gives the signature that nvml.h declares, unchanged since CUDA 11.
        unsafe { self.0.get::<F>(name) }.map(|symbol| *symbol).map_err(|_| format!("it has no {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_or_is_another_is_an_error_that_names_what_is_missing() {
        let absent = Library::load("libno-such-library.so.1").err().unwrap();
        assert!(absent.contains("libno-such-library.so.1"), "{absent}");
        let other = Library::load("libc.so.6").err().unwrap();
        assert!(other.contains("nvmlInit_v2"), "{other}");
    }

    /// Holds with and without NVML: no GPU has this identity.
    #[test]
    fn sensors_of_no_gpu_are_an_error_with_a_reason_each_time() {
        for _ in 0..2 {
            let error = Sensors::of(Uuid([0; 16])).unwrap_err();
            assert!(matches!(error, Error::Nvml { .. }), "{error}");
            assert!(error.to_string().contains("NVML"), "{error}");
        }
    }

    #[test]
    fn limits_are_named_and_unknown_ones_are_kept() {
        let text = |bits| ClockLimits(bits).to_string();
        assert_eq!(text(0), "none");
        assert_eq!(ClockLimits(0x4).with(ClockLimits(0x40)).to_string(), "power cap, hardware temperature");
        assert_eq!(text(0x1000_0001), "idle, 0x10000000");
    }
}
