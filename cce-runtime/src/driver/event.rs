//! Marks in a stream, with their times.

use cudarc::driver::sys;

use super::context::Context;
use super::result::check;
use super::stream::Stream;
use crate::error::Result;

/// A mark in a stream, with timing.
pub struct Event {
    context: Context,
    raw: sys::CUevent,
}

// SAFETY: a CUevent is a handle; the driver's entry points may be called with it from any thread, at the
// same time too.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Context {
    /// An event that takes the time. It counts as reached until it is recorded.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError).
    pub fn new_event(&self) -> Result<Event> {
        let _bound = self.bind()?;
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: the pointer is to a live handle and the context is current.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut raw, flags) })?;
        Ok(Event { context: self.clone(), raw })
    }
}

impl Event {
    /// Puts the mark behind everything started on the stream so far.
    ///
    /// # Errors
    /// [`Error::DeviceMismatch`](crate::error::Error::DeviceMismatch) for a stream of another device; a
    /// [`DriverError`](super::DriverError).
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.context.require_same(stream.context(), "the stream to record on")?;
        let _bound = self.context.bind()?;
        // SAFETY: both handles are live.
        Ok(check("cuEventRecord", unsafe { sys::cuEventRecord(self.raw, stream.raw().0) })?)
    }

    /// Whether the mark has been reached.
    ///
    /// # Errors
    /// What went wrong before the mark.
    pub fn is_reached(&self) -> Result<bool> {
        let _bound = self.context.bind()?;
        // SAFETY: the handle is live.
        match unsafe { sys::cuEventQuery(self.raw) } {
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => Ok(check("cuEventQuery", other).map(|()| true)?),
        }
    }

    /// Waits until the mark is reached. Synchronises.
    ///
    /// # Errors
    /// What went wrong before the mark.
    pub fn synchronize(&self) -> Result<()> {
        let _bound = self.context.bind()?;
        // SAFETY: the handle is live.
        Ok(check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.raw) })?)
    }

    /// Milliseconds from `start` to this mark; both must have been reached. Its resolution is about half a
    /// microsecond.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError), `CUDA_ERROR_NOT_READY` when one has not been reached.
    pub fn elapsed_ms_since(&self, start: &Self) -> Result<f32> {
        let _bound = self.context.bind()?;
        let mut milliseconds = 0.0;
        // SAFETY: the handles are live and the pointer is to a live float.
        check("cuEventElapsedTime", unsafe {
            sys::cuEventElapsedTime(&raw mut milliseconds, start.raw, self.raw)
        })?;
        Ok(milliseconds)
    }

    pub(super) fn raw(&self) -> sys::CUevent {
        self.raw
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Ok(_bound) = self.context.bind() {
            // SAFETY: created once, destroyed once; the driver keeps it until pending work has passed it.
            _ = unsafe { sys::cuEventDestroy_v2(self.raw) };
        }
    }
}
