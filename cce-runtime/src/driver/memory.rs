//! Device memory.

use std::fmt;

use cudarc::driver::sys;

use super::context::Context;
use super::result::{DriverError, check};
use crate::error::{Error, Result};

/// An address in device memory, ours or a caller's. A number, not a promise that anything is there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// No address.
    pub const NULL: Self = Self(0);

    /// The address `bytes` further on.
    #[must_use]
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }

    /// Whether the address is a multiple of `bytes`.
    pub const fn is_aligned_to(self, bytes: u64) -> bool {
        self.0.is_multiple_of(bytes)
    }

    /// The device whose memory this is: its index among [`Devices`](super::Devices), or `None` if it is no
    /// device memory.
    ///
    /// # Errors
    /// Those of opening the driver.
    pub fn device(self) -> Result<Option<usize>> {
        super::Driver::get()?;
        let mut ordinal: i32 = 0;
        // SAFETY: the attribute's value is an int, the pointer is to one, and any number may be asked
        // about.
        let result = unsafe {
            sys::cuPointerGetAttribute(
                (&raw mut ordinal).cast(),
                sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
                self.0,
            )
        };
        match result {
            sys::CUresult::CUDA_ERROR_INVALID_VALUE => Ok(None),
            other => {
                check("cuPointerGetAttribute", other)?;
                Ok(usize::try_from(ordinal).ok())
            }
        }
    }
}

impl fmt::Debug for DevicePtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Device memory at one moment, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Free, for every process together.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// A piece of device memory, freed when dropped. Its content is whatever was there before.
pub struct Buffer {
    context: Context,
    pointer: DevicePtr,
    bytes: usize,
}

impl Context {
    /// Allocates `bytes` of device memory, aligned to 256 bytes. `what` names it in an error. Zero bytes
    /// need none.
    ///
    /// Allocating may synchronise the device; plans allocate before they run, not while.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with the sizes asked and free.
    pub fn alloc(&self, bytes: usize, what: &str) -> Result<Buffer> {
        let mut pointer = DevicePtr::NULL;
        if bytes != 0 {
            let _bound = self.bind()?;
            // SAFETY: the pointer is to a live address and the context is current.
            let result = unsafe { sys::cuMemAlloc_v2(&raw mut pointer.0, bytes) };
            check("cuMemAlloc", result).map_err(|error| self.explain(error, bytes, what))?;
        }
        Ok(Buffer { context: self.clone(), pointer, bytes })
    }

    fn explain(&self, error: DriverError, asked: usize, what: &str) -> Error {
        match self.memory_info() {
            Ok(memory) if error.is_out_of_memory() => Error::OutOfMemory {
                what: what.to_owned(),
                asked: asked as u64,
                free: memory.free,
                total: memory.total,
            },
            _ => error.into(),
        }
    }
}

impl Buffer {
    /// Where it begins; null when it is empty.
    pub fn ptr(&self) -> DevicePtr {
        self.pointer
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The context it belongs to.
    pub fn context(&self) -> &Context {
        &self.context
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.pointer != DevicePtr::NULL
            && let Ok(_bound) = self.context.bind()
        {
            // SAFETY: allocated once, freed once. The driver waits for work that uses it.
            _ = unsafe { sys::cuMemFree_v2(self.pointer.0) };
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Buffer({} bytes at {:?} on device {})",
            self.bytes,
            self.pointer,
            self.context.info().index
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_of_an_address_is_told() {
        let pointer = DevicePtr(0x1000).offset(16);
        assert!(pointer.is_aligned_to(16) && !pointer.is_aligned_to(32));
        assert_eq!(format!("{pointer:?}"), "0x1010");
    }
}
