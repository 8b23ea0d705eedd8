//! Finding the driver and making sure that it has all that is used.

use std::sync::OnceLock;

use cudarc::driver::sys;

use super::result::{DriverError, check};
use super::version::CudaVersion;
use crate::error::{Error, Result};

/// The oldest driver that loads cubins of NVRTC 12 and launches clusters.
pub const OLDEST_DRIVER: CudaVersion = CudaVersion::new(12, 0);

/// Every entry point that this crate calls. One that is missing is noticed when the driver is opened,
/// because the binding ends the process when it is asked to call one that is not there.
const NEEDED: [&str; 48] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetUuid",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuCtxSynchronize",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuMemsetD32Async",
    "cuPointerGetAttribute",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamIsCapturing",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuStreamGetCtx",
    "cuThreadExchangeStreamCaptureMode",
    "cuGraphInstantiateWithFlags",
    "cuGraphGetNodes",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuLaunchKernelEx",
    "cuTensorMapEncodeTiled",
    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
    "cuOccupancyMaxActiveClusters",
];

const NEEDED_EVENTS: [&str; 6] = [
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuEventElapsedTime",
];

/// The driver, found, new enough and initialised.
#[derive(Debug)]
pub struct Driver {
    version: CudaVersion,
    states_parameters: bool,
}

/// Why there is no driver: kept, so that every later question has the same answer.
#[derive(Debug, Clone)]
enum Refusal {
    Absent,
    Initialisation(DriverError),
    Old { found: CudaVersion, missing: Option<&'static str> },
}

impl Driver {
    /// The driver of this process, opened at the first call.
    ///
    /// # Errors
    /// [`Error::NoDriver`] when there is none or it does not start; [`Error::DriverTooOld`].
    pub fn get() -> Result<&'static Self> {
        static DRIVER: OnceLock<std::result::Result<Driver, Refusal>> = OnceLock::new();
        DRIVER.get_or_init(Self::open).as_ref().map_err(Refusal::to_error)
    }

    /// The newest CUDA that the driver supports.
    pub fn version(&self) -> CudaVersion {
        self.version
    }

    /// Whether the driver can tell the sizes of a kernel's parameters (since 12.4).
    pub(super) fn states_parameters(&self) -> bool {
        self.states_parameters
    }

    fn open() -> std::result::Result<Self, Refusal> {
        // SAFETY: opening libcuda runs its initialisers, which have no preconditions.
        if !unsafe { sys::is_culib_present() } {
            return Err(Refusal::Absent);
        }
        // SAFETY: the library was found just above, so this does not end the process.
        let library = unsafe { sys::culib() };
        // SAFETY: the symbol is only looked up, never called through this type.
        let has = |name: &str| unsafe { library.get::<*const ()>(name) }.is_ok();
        let missing = NEEDED.into_iter().chain(NEEDED_EVENTS).find(|name| !has(name));

        let mut code = 0;
        let mut version = None;
        if has("cuDriverGetVersion") {
            // SAFETY: the entry point is there and the pointer is to a live integer; it may be called
            // before cuInit.
            let result = unsafe { sys::cuDriverGetVersion(&raw mut code) };
            version =
                (result == sys::CUresult::CUDA_SUCCESS).then(|| CudaVersion::from_code(code.unsigned_abs()));
        }
        let version = version.unwrap_or(CudaVersion::new(0, 0));
        judge(version, missing)?;
        // SAFETY: the entry point is there.
        check("cuInit", unsafe { sys::cuInit(0) }).map_err(Refusal::Initialisation)?;
        Ok(Self { version, states_parameters: has("cuFuncGetParamInfo") })
    }
}

fn judge(found: CudaVersion, missing: Option<&'static str>) -> std::result::Result<(), Refusal> {
    if found < OLDEST_DRIVER || missing.is_some() {
        return Err(Refusal::Old { found, missing });
    }
    Ok(())
}

impl Refusal {
    fn to_error(&self) -> Error {
        match self {
            Self::Absent => Error::NoDriver {
                reason: "libcuda.so was not found; install NVIDIA's driver, or start the container with \
                         its GPUs (`--gpus all`)"
                    .to_owned(),
            },
            Self::Initialisation(error) => Error::NoDriver { reason: error.to_string() },
            Self::Old { found, missing } => Error::DriverTooOld {
                found: found.to_string(),
                needed: OLDEST_DRIVER.to_string(),
                missing: missing.map(str::to_owned),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_or_incomplete_driver_is_refused_with_versions_and_the_missing_entry_point() {
        assert!(judge(OLDEST_DRIVER, None).is_ok());
        let message = |found, missing| judge(found, missing).expect_err("too old").to_error().to_string();
        let old = message(CudaVersion::new(11, 8), None);
        assert!(old.contains("CUDA 11.8") && old.contains("12.0"), "{old}");
        let lacking = message(CudaVersion::new(12, 0), Some("cuLaunchKernelEx"));
        assert!(lacking.contains("lacks cuLaunchKernelEx"), "{lacking}");
    }

    #[test]
    fn every_entry_point_is_listed_once() {
        let all: std::collections::BTreeSet<_> = NEEDED.into_iter().chain(NEEDED_EVENTS).collect();
        assert_eq!(all.len(), NEEDED.len() + NEEDED_EVENTS.len());
    }

    /// The list above is only as good as it is complete: every `sys::cu...(` of this folder has to be in
    /// it.
    #[test]
    fn every_entry_point_that_is_called_is_listed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/driver");
        let mut calls = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for rest in text.split("sys::cu").skip(1) {
                let name: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let name = format!("cu{name}");
                if name == "culib" || name == "cuFuncGetParamInfo" || name == "cu" {
                    continue;
                }
                calls += 1;
                let listed = NEEDED.into_iter().chain(NEEDED_EVENTS).any(|known| known == name);
                assert!(listed, "{name} is called and not in NEEDED");
            }
        }
        assert!(calls >= NEEDED.len(), "only {calls} calls seen");
    }
}
