//! The driver's error codes, as an error that says what to do.

use std::ffi::CStr;

use cudarc::driver::sys;

/// A call of the CUDA driver that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed: {name} ({code}), {description}{advice}", advice = advice_sentence(*code))]
#[non_exhaustive]
pub struct DriverError {
    /// The entry point.
    pub call: &'static str,
    /// CUDA's number of the error.
    pub code: u32,
    /// CUDA's name of it, `CUDA_ERROR_ILLEGAL_ADDRESS`.
    pub name: String,
    /// CUDA's own description.
    pub description: String,
}

impl DriverError {
    pub(super) fn new(call: &'static str, result: sys::CUresult) -> Self {
        type Get = unsafe fn(sys::CUresult, *mut *const std::ffi::c_char) -> sys::CUresult;
        let text = |get: Get| {
            let mut pointer = std::ptr::null();
            // SAFETY: both entry points write a pointer to a string constant of the driver, or null.
            let known = unsafe { get(result, &raw mut pointer) } == sys::CUresult::CUDA_SUCCESS;
            if !known || pointer.is_null() {
                return None;
            }
            // SAFETY: no null, and a constant that ends in a zero byte of a driver that stays loaded.
            let text = unsafe { CStr::from_ptr(pointer) };
            Some(text.to_string_lossy().into_owned())
        };
        Self {
            call,
            code: result as u32,
            name: text(sys::cuGetErrorName).unwrap_or_else(|| format!("{result:?}")),
            description: text(sys::cuGetErrorString).unwrap_or_else(|| "no description".to_owned()),
        }
    }

    /// True for errors after which the device's context is beyond use and every later call on it fails.
    pub fn is_sticky(&self) -> bool {
        use sys::CUresult as R;
        const STICKY: [R; 12] = [
            R::CUDA_ERROR_ECC_UNCORRECTABLE,
            R::CUDA_ERROR_NVLINK_UNCORRECTABLE,
            R::CUDA_ERROR_ILLEGAL_ADDRESS,
            R::CUDA_ERROR_LAUNCH_TIMEOUT,
            R::CUDA_ERROR_ASSERT,
            R::CUDA_ERROR_HARDWARE_STACK_ERROR,
            R::CUDA_ERROR_ILLEGAL_INSTRUCTION,
            R::CUDA_ERROR_MISALIGNED_ADDRESS,
            R::CUDA_ERROR_INVALID_ADDRESS_SPACE,
            R::CUDA_ERROR_INVALID_PC,
            R::CUDA_ERROR_LAUNCH_FAILED,
            R::CUDA_ERROR_CONTEXT_IS_DESTROYED,
        ];
        STICKY.iter().any(|code| *code as u32 == self.code)
    }

    /// True when the device had no room for an allocation.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32
    }

    /// What to do about it, where there is something to do.
    pub fn advice(&self) -> Option<&'static str> {
        advice(self.code)
    }
}

fn advice_sentence(code: u32) -> String {
    advice(code).map(|text| format!(": {text}")).unwrap_or_default()
}

fn advice(code: u32) -> Option<&'static str> {
    use sys::CUresult as R;
    const TABLE: &[(R, &str)] = &[
        (R::CUDA_ERROR_NO_DEVICE, "no GPU is visible; look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES"),
        (
            R::CUDA_ERROR_STUB_LIBRARY,
            "libcuda is the toolkit's stub; take the stubs folder out of LD_LIBRARY_PATH",
        ),
        (
            R::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH,
            "libcuda and the kernel module differ in version; restart the machine",
        ),
        (
            R::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE,
            "the forward-compatibility libcuda does not serve this GPU; unset it",
        ),
        (R::CUDA_ERROR_SYSTEM_NOT_READY, "the fabric manager is not running; start nvidia-fabricmanager"),
        (R::CUDA_ERROR_DEVICE_UNAVAILABLE, "another process holds the GPU exclusively"),
        (R::CUDA_ERROR_NO_BINARY_FOR_GPU, "the kernel was compiled for another architecture"),
        (
            R::CUDA_ERROR_INVALID_IMAGE,
            "the cubin is damaged or newer than the driver; use an NVRTC that is not newer",
        ),
        (R::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "the NVRTC is newer than the driver; use an older one"),
        (R::CUDA_ERROR_OUT_OF_MEMORY, "free device memory or give the plan a smaller workspace budget"),
        (
            R::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            "the kernel needs more registers or threads than a multiprocessor has",
        ),
        (R::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "this call cannot be captured in a graph"),
        (R::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "an earlier call in the capture was not capturable"),
        (
            R::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
            "the legacy default stream takes part; capture a stream of its own",
        ),
        (R::CUDA_ERROR_ILLEGAL_ADDRESS, "a kernel read or wrote outside its buffers; restart the process"),
        (R::CUDA_ERROR_MISALIGNED_ADDRESS, "a kernel was given a misaligned pointer; restart the process"),
        (R::CUDA_ERROR_ILLEGAL_INSTRUCTION, "a kernel went astray; restart the process"),
        (R::CUDA_ERROR_LAUNCH_FAILED, "a kernel crashed; restart the process"),
        (R::CUDA_ERROR_LAUNCH_TIMEOUT, "a kernel ran past the display's time limit; restart the process"),
        (R::CUDA_ERROR_ECC_UNCORRECTABLE, "the GPU's memory failed; reset the GPU"),
        (R::CUDA_ERROR_UNKNOWN, "the driver gives no reason; look at `dmesg` for lines with NVRM"),
    ];
    TABLE.iter().find(|(known, _)| *known as u32 == code).map(|(_, text)| *text)
}

/// Turns a driver's result into ours; `call` is the entry point's name.
pub(super) fn check(call: &'static str, result: sys::CUresult) -> Result<(), DriverError> {
    match result {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        other => Err(DriverError::new(call, other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: sys::CUresult) -> DriverError {
        let (name, description) = (format!("{code:?}"), "text".to_owned());
        DriverError { call: "cuLaunchKernelEx", code: code as u32, name, description }
    }

    #[test]
    fn a_message_names_the_call_the_error_and_what_to_do() {
        let message = error(sys::CUresult::CUDA_ERROR_NO_DEVICE).to_string();
        for part in ["cuLaunchKernelEx", "CUDA_ERROR_NO_DEVICE (100)", "CUDA_VISIBLE_DEVICES"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn errors_that_end_the_context_are_told_from_those_that_do_not() {
        assert!(error(sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS).is_sticky());
        assert!(error(sys::CUresult::CUDA_ERROR_LAUNCH_FAILED).is_sticky());
        assert!(!error(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY).is_sticky());
        assert!(!error(sys::CUresult::CUDA_ERROR_INVALID_VALUE).is_sticky());
    }
}
