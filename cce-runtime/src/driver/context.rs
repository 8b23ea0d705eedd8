//! A device's primary context, shared with everything else in the process that uses the device.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::sys;

use super::device::{DeviceInfo, Devices, handle};
use super::memory::MemoryInfo;
use super::result::check;
use crate::error::{Error, Result};

/// A device in use. Cheap to clone; the primary context is kept until the last clone and everything made
/// from it are gone.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
}

struct Shared {
    raw: sys::CUcontext,
    device: sys::CUdevice,
    info: DeviceInfo,
}

// SAFETY: a CUcontext is a handle; the driver's entry points may be called with it from any thread.
unsafe impl Send for Shared {}
// SAFETY: as above, also at the same time.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: retained once, released once. The status is of no use: the driver may be shutting down
        // already.
        _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

impl Context {
    /// The primary context of a device, retained.
    ///
    /// # Errors
    /// Those of [`Devices::get`]; a [`DriverError`](super::DriverError) when the device cannot be used.
    pub fn new(index: usize) -> Result<Self> {
        let info = Devices::get(index)?;
        let device = handle(index)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the device exists and the pointer is to a live handle.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut raw, device) })?;
        Ok(Self { shared: Arc::new(Shared { raw, device, info }) })
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        &self.shared.info
    }

    /// True when both are of one device.
    pub fn is_same(&self, other: &Self) -> bool {
        self.shared.raw == other.shared.raw
    }

    /// An error unless `other` is of this device; `what` is the thing of the other.
    pub(super) fn require_same(&self, other: &Self, what: &str) -> Result<()> {
        if self.is_same(other) {
            return Ok(());
        }
        let name = |context: &Self| format!("CUDA device {}", context.info().index);
        Err(Error::DeviceMismatch { what: what.to_owned(), expected: name(self), found: name(other) })
    }

    pub(super) fn is_raw(&self, raw: sys::CUcontext) -> bool {
        self.shared.raw == raw
    }

    /// Makes the context current for the calling thread until the result is dropped, and then restores what
    /// was current.
    ///
    /// Everything in this module does so by itself; it is for calls of other libraries.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError) when the context is beyond use.
    pub fn bind(&self) -> Result<Bound<'_>> {
        let mut current = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle.
        check("cuCtxGetCurrent", unsafe { sys::cuCtxGetCurrent(&raw mut current) })?;
        let pushed = current != self.shared.raw;
        if pushed {
            // SAFETY: the context is retained for as long as `self` lives.
            check("cuCtxPushCurrent", unsafe { sys::cuCtxPushCurrent_v2(self.shared.raw) })?;
        }
        Ok(Bound { pushed, context: PhantomData, not_send: PhantomData })
    }

    /// Free and total device memory now.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError) when the context is beyond use.
    pub fn memory_info(&self) -> Result<MemoryInfo> {
        let _bound = self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both pointers are to live integers and the context is current.
        check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
        Ok(MemoryInfo { free: free as u64, total: total as u64 })
    }

    /// Waits until everything that was started on the device is done. Synchronises all streams.
    ///
    /// # Errors
    /// What went wrong in any kernel since the last time somebody asked.
    pub fn synchronize(&self) -> Result<()> {
        let _bound = self.bind()?;
        // SAFETY: the context is current.
        Ok(check("cuCtxSynchronize", unsafe { sys::cuCtxSynchronize() })?)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({}: {})", self.info().index, self.info().name)
    }
}

/// A context that is current on this thread; dropping it restores what was current before.
#[must_use = "the context stays current only as long as this lives"]
pub struct Bound<'a> {
    pushed: bool,
    context: PhantomData<&'a Context>,
    /// The stack of contexts is the thread's.
    not_send: PhantomData<*const ()>,
}

impl Drop for Bound<'_> {
    fn drop(&mut self) {
        if self.pushed {
            let mut popped = std::ptr::null_mut();
            // SAFETY: pushed on this thread by `bind`; guards are dropped in reverse order of creation, so
            // it is on top.
            _ = unsafe { sys::cuCtxPopCurrent_v2(&raw mut popped) };
        }
    }
}
