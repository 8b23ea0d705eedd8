//! Streams, and copies and fills on them.

use std::fmt;

use cudarc::driver::sys;

use super::context::Context;
use super::event::Event;
use super::graph::Graph;
use super::memory::{Buffer, DevicePtr};
use super::plain::Plain;
use super::result::check;
use crate::error::{Error, Result};

/// A driver's stream handle (`CUstream`, the same as the runtime's `cudaStream_t`). Null is the legacy
/// default stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct RawStream(pub sys::CUstream);

// SAFETY: a handle; the driver's entry points may be called with it from any thread, at the same time too.
unsafe impl Send for RawStream {}
// SAFETY: as above.
unsafe impl Sync for RawStream {}

/// A queue of work on a device: our own, or a caller's that we only use.
pub struct Stream {
    context: Context,
    raw: RawStream,
    owned: bool,
}

impl Context {
    /// A stream of its own, which does not wait for the legacy default stream.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError).
    pub fn new_stream(&self) -> Result<Stream> {
        let _bound = self.bind()?;
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the pointer is to a live handle and the context is current.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut raw, flags) })?;
        Ok(Stream { context: self.clone(), raw: RawStream(raw), owned: true })
    }

    /// The legacy default stream, which waits for other blocking streams and cannot be captured.
    pub fn default_stream(&self) -> Stream {
        Stream { context: self.clone(), raw: RawStream(std::ptr::null_mut()), owned: false }
    }

    /// A caller's stream, used and never destroyed.
    ///
    /// # Safety
    /// `raw` must be null, one of the driver's special handles, or a live stream, and stay so for as long
    /// as the result is used.
    ///
    /// # Errors
    /// [`Error::DeviceMismatch`] when it is a stream of another device.
    pub unsafe fn stream_from_raw(&self, raw: RawStream) -> Result<Stream> {
        // Null, 1 and 2 are the default streams of whatever context is current.
        if raw.0 as usize > 2 {
            let _bound = self.bind()?;
            let mut owner = std::ptr::null_mut();
            // SAFETY: the caller promises a live stream, and the pointer is to a live handle.
            check("cuStreamGetCtx", unsafe { sys::cuStreamGetCtx(raw.0, &raw mut owner) })?;
            if !self.is_raw(owner) {
                return Err(Error::DeviceMismatch {
                    what: "the stream".to_owned(),
                    expected: format!("CUDA device {}", self.info().index),
                    found: "another device or context".to_owned(),
                });
            }
        }
        Ok(Stream { context: self.clone(), raw, owned: false })
    }
}

impl Stream {
    /// The context it belongs to.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The driver's handle.
    pub fn raw(&self) -> RawStream {
        self.raw
    }

    /// Waits until everything on the stream is done. Synchronises.
    ///
    /// # Errors
    /// What went wrong in any kernel on it.
    pub fn synchronize(&self) -> Result<()> {
        let _bound = self.context.bind()?;
        // SAFETY: the handle is live.
        Ok(check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.raw.0) })?)
    }

    /// Makes what follows on this stream wait for an event, without stopping the host.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError).
    pub fn wait(&self, event: &Event) -> Result<()> {
        let _bound = self.context.bind()?;
        // SAFETY: both handles are live.
        Ok(check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(self.raw.0, event.raw(), 0) })?)
    }

    /// Whether the stream is being captured into a graph: then nothing runs, and nothing may synchronise.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError).
    pub fn is_capturing(&self) -> Result<bool> {
        let _bound = self.context.bind()?;
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the handle is live and the pointer is to a live status.
        check("cuStreamIsCapturing", unsafe { sys::cuStreamIsCapturing(self.raw.0, &raw mut status) })?;
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    /// Captures what `work` puts on this stream into a graph, without running it.
    ///
    /// # Errors
    /// What `work` returns; a [`DriverError`](super::DriverError) when something in it cannot be captured.
    /// The stream is usable afterwards in either case.
    pub fn capture(&self, work: impl FnOnce(&Self) -> Result<()>) -> Result<Graph> {
        let _bound = self.context.bind()?;
        // Other threads of the process may go on allocating: only this thread is held to what a capture
        // allows.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the handle is live.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(self.raw.0, mode) })?;
        let mut capture = Capture { stream: self, open: true };
        let worked = work(self);
        let graph = capture.end();
        worked?;
        Graph::instantiate(&self.context, graph?)
    }

    /// Copies host values to `to` at an offset in bytes, and waits for the copy. Synchronises the stream.
    ///
    /// # Errors
    /// [`Error::WrongSize`] when they do not fit.
    pub fn upload<T: Plain>(&self, to: &Buffer, offset: usize, values: &[T]) -> Result<()> {
        let place = self.place(to, offset, size_of_val(values), "the buffer uploaded to")?;
        // SAFETY: the place lies within a live buffer, and `values` is borrowed until the copy is done,
        // just below.
        unsafe { self.upload_async(place, values) }?;
        self.synchronize()
    }

    /// Copies device values at an offset in bytes to `values`, and waits for them. Synchronises the stream.
    ///
    /// # Errors
    /// [`Error::WrongSize`] when there are not as many.
    pub fn download<T: Plain>(&self, from: &Buffer, offset: usize, values: &mut [T]) -> Result<()> {
        let place = self.place(from, offset, size_of_val(values), "the buffer downloaded from")?;
        // SAFETY: the place lies within a live buffer, and `values` is borrowed until the copy is done,
        // just below.
        unsafe { self.download_async(values, place) }?;
        self.synchronize()
    }

    /// Starts a copy from the host.
    ///
    /// # Safety
    /// `to` must have room for the values until the copy is done; the values must stay and not change until
    /// then.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError).
    pub unsafe fn upload_async<T: Plain>(&self, to: DevicePtr, values: &[T]) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let _bound = self.context.bind()?;
        // SAFETY: the caller's promise.
        let result = unsafe {
            sys::cuMemcpyHtoDAsync_v2(to.0, values.as_ptr().cast(), size_of_val(values), self.raw.0)
        };
        Ok(check("cuMemcpyHtoDAsync", result)?)
    }

    /// Starts a copy to the host.
    ///
    /// # Safety
    /// `from` must hold as many values until the copy is done; `values` must stay and not be touched until
    /// then.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError).
    pub unsafe fn download_async<T: Plain>(&self, values: &mut [T], from: DevicePtr) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let _bound = self.context.bind()?;
        // SAFETY: the caller's promise.
        let result = unsafe {
            sys::cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), from.0, size_of_val(values), self.raw.0)
        };
        Ok(check("cuMemcpyDtoHAsync", result)?)
    }

    /// Starts a copy of `bytes` within the device.
    ///
    /// # Safety
    /// Both places must hold as many bytes until the copy is done, and must not overlap.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError).
    pub unsafe fn copy_async(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let _bound = self.context.bind()?;
        // SAFETY: the caller's promise.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, self.raw.0) };
        Ok(check("cuMemcpyDtoDAsync", result)?)
    }

    /// Starts to fill `bytes` with one byte.
    ///
    /// # Safety
    /// The place must hold as many bytes until the fill is done.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError).
    pub unsafe fn fill_async(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let _bound = self.context.bind()?;
        // SAFETY: the caller's promise.
        let result = unsafe { sys::cuMemsetD8Async(to.0, value, bytes, self.raw.0) };
        Ok(check("cuMemsetD8Async", result)?)
    }

    /// Starts to fill `words` words of 32 bits with one pattern. `to` must be a multiple of 4.
    ///
    /// # Safety
    /// The place must hold as many words until the fill is done.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError), also for an address that is no multiple of 4.
    pub unsafe fn fill_words_async(&self, to: DevicePtr, pattern: u32, words: usize) -> Result<()> {
        if words == 0 {
            return Ok(());
        }
        let _bound = self.context.bind()?;
        // SAFETY: the caller's promise.
        let result = unsafe { sys::cuMemsetD32Async(to.0, pattern, words, self.raw.0) };
        Ok(check("cuMemsetD32Async", result)?)
    }

    /// Fills a whole buffer with a pattern of 32 bits, its last bytes with the pattern's first. Ordered on
    /// the stream; does not wait.
    ///
    /// # Errors
    /// [`Error::DeviceMismatch`] for a buffer of another device.
    pub fn poison(&self, buffer: &Buffer, pattern: u32) -> Result<()> {
        let place = self.place(buffer, 0, buffer.bytes(), "the buffer filled")?;
        let words = buffer.bytes() / 4;
        // SAFETY: within a live buffer; freeing one waits for the work that uses it. Buffers are aligned to
        // 256 bytes.
        unsafe { self.fill_words_async(place, pattern, words) }?;
        for (index, byte) in pattern.to_ne_bytes().into_iter().take(buffer.bytes() % 4).enumerate() {
            // SAFETY: as above.
            unsafe { self.fill_async(place.offset((words * 4 + index) as u64), byte, 1) }?;
        }
        Ok(())
    }

    /// The address at an offset of a buffer of this device, after checking that `bytes` lie within it.
    fn place(&self, buffer: &Buffer, offset: usize, bytes: usize, what: &str) -> Result<DevicePtr> {
        self.context.require_same(buffer.context(), what)?;
        let end = offset.saturating_add(bytes);
        if end > buffer.bytes() {
            return Err(Error::WrongSize {
                what: format!("{what} (in bytes)"),
                expected: end,
                found: buffer.bytes(),
            });
        }
        Ok(buffer.ptr().offset(offset as u64))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.owned
            && let Ok(_bound) = self.context.bind()
        {
            // SAFETY: created once, destroyed once; the driver lets pending work finish first.
            _ = unsafe { sys::cuStreamDestroy_v2(self.raw.0) };
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:?} on device {})", self.raw.0, self.context.info().index)
    }
}

/// An open capture. Ends even when the work inside unwinds: a stream left in capture would swallow
/// everything after.
struct Capture<'a> {
    stream: &'a Stream,
    open: bool,
}

impl Capture<'_> {
    fn end(&mut self) -> Result<super::graph::RawGraph> {
        self.open = false;
        let mut graph = std::ptr::null_mut();
        // SAFETY: the capture was begun on this stream by this thread, and the pointer is to a live handle.
        let result = unsafe { sys::cuStreamEndCapture(self.stream.raw.0, &raw mut graph) };
        let graph = super::graph::RawGraph::new(graph);
        check("cuStreamEndCapture", result)?;
        Ok(graph)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.open {
            _ = self.end();
        }
    }
}

/// While it lives, this thread may do what a capture of another thread would forbid it: creating streams and graphs.
///
/// A capture in the driver's global mode, which is PyTorch's default, forbids it to all threads of the process, for such a
/// call may depend on work that the capture holds back. Only for calls that do not.
#[must_use = "the mode is set only as long as this lives"]
pub struct RelaxedCapture {
    before: sys::CUstreamCaptureMode,
    /// The mode is the thread's.
    not_send: std::marker::PhantomData<*const ()>,
}

impl RelaxedCapture {
    /// Sets the mode.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError).
    pub fn begin() -> Result<Self> {
        let mode = exchange(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)?;
        Ok(Self { before: mode, not_send: std::marker::PhantomData })
    }
}

impl Drop for RelaxedCapture {
    fn drop(&mut self) {
        _ = exchange(self.before);
    }
}

/// Sets the thread's capture mode and gives back the one before.
fn exchange(mut mode: sys::CUstreamCaptureMode) -> Result<sys::CUstreamCaptureMode> {
    // SAFETY: the pointer is to a live mode.
    check("cuThreadExchangeStreamCaptureMode", unsafe {
        sys::cuThreadExchangeStreamCaptureMode(&raw mut mode)
    })?;
    Ok(mode)
}
