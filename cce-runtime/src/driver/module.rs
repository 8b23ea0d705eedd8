//! Loaded cubins and their kernels.

use std::ffi::CString;
use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys;
use cudarc::driver::sys::CUfunction_attribute as Attribute;

use super::context::Context;
use super::launch::LaunchConfig;
use super::loader::Driver;
use super::result::check;
use crate::error::{Error, Result};

/// A cubin loaded on a device. Cheap to clone; unloaded when the last clone and the last of its functions
/// are gone.
#[derive(Clone)]
pub struct Module {
    shared: Arc<Shared>,
}

struct Shared {
    context: Context,
    raw: sys::CUmodule,
}

// SAFETY: a handle that may be used from any thread, at the same time too.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Ok(_bound) = self.context.bind() {
            // SAFETY: loaded once, unloaded once.
            _ = unsafe { sys::cuModuleUnload(self.raw) };
        }
    }
}

impl Context {
    /// Loads a cubin. May synchronise the device.
    ///
    /// # Errors
    /// [`Error::Launch`] when the bytes are no cubin; a [`DriverError`](super::DriverError) when the driver
    /// refuses it: another architecture, newer than the driver, no room.
    pub fn load_module(&self, cubin: &[u8]) -> Result<Module> {
        if !cubin.starts_with(b"\x7fELF") {
            return Err(Error::Launch {
                kernel: "a module".to_owned(),
                reason: format!("its {} bytes are no cubin (no ELF header)", cubin.len()),
            });
        }
        let _bound = self.bind()?;
        // The driver finds the end by the ELF header, whose tables NVRTC puts last; the copy is aligned as
        // ELF asks.
        let mut aligned = vec![0u64; cubin.len().div_ceil(8)];
        for (word, bytes) in aligned.iter_mut().zip(cubin.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        let mut raw = std::ptr::null_mut();
        // SAFETY: the image is a whole ELF file that outlives the call, and the pointer is to a live
        // handle.
        check("cuModuleLoadData", unsafe { sys::cuModuleLoadData(&raw mut raw, aligned.as_ptr().cast()) })?;
        Ok(Module { shared: Arc::new(Shared { context: self.clone(), raw }) })
    }
}

impl Module {
    /// The context it is loaded in.
    pub fn context(&self) -> &Context {
        &self.shared.context
    }

    /// One of its kernels.
    ///
    /// # Errors
    /// [`Error::Launch`] when there is none of this name.
    pub fn function(&self, name: &str) -> Result<Function> {
        let _bound = self.shared.context.bind()?;
        let none = || Error::Launch {
            kernel: name.to_owned(),
            reason: "the module has no kernel of this name".to_owned(),
        };
        let symbol = CString::new(name).map_err(|_| none())?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the module is live, the name ends in a zero byte, the pointer is to a live handle.
        match unsafe { sys::cuModuleGetFunction(&raw mut raw, self.shared.raw, symbol.as_ptr()) } {
            sys::CUresult::CUDA_ERROR_NOT_FOUND => return Err(none()),
            other => check("cuModuleGetFunction", other)?,
        }
        let get = |which: Attribute| -> Result<u32> {
            let mut value = 0;
            // SAFETY: the function is live and the pointer is to a live integer.
            check("cuFuncGetAttribute", unsafe { sys::cuFuncGetAttribute(&raw mut value, which, raw) })?;
            Ok(value.unsigned_abs())
        };
        let attributes = FunctionAttributes {
            registers: get(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            local_bytes: get(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            static_shared_bytes: get(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            max_threads: get(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        };
        Ok(Function {
            module: self.clone(),
            raw,
            name: name.to_owned(),
            attributes,
            parameters: parameters(raw)?,
            dynamic_shared: get(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)?,
        })
    }
}

/// The sizes of a kernel's parameters in bytes, in order, where the driver can tell.
fn parameters(raw: sys::CUfunction) -> Result<Option<Vec<usize>>> {
    if !Driver::get()?.states_parameters() {
        return Ok(None);
    }
    let mut sizes = Vec::new();
    loop {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the entry point is there, the function is live, both pointers are to live integers.
        match unsafe { sys::cuFuncGetParamInfo(raw, sizes.len(), &raw mut offset, &raw mut size) } {
            // An index past the last parameter.
            sys::CUresult::CUDA_ERROR_INVALID_VALUE => return Ok(Some(sizes)),
            other => check("cuFuncGetParamInfo", other)?,
        }
        sizes.push(size);
    }
}

/// What a kernel needs, by the driver's account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FunctionAttributes {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes of local memory a thread: stack and spills.
    pub local_bytes: u32,
    /// Bytes of static shared memory a block.
    pub static_shared_bytes: u32,
    /// Threads a block at most.
    pub max_threads: u32,
}

/// A kernel, ready to launch.
pub struct Function {
    module: Module,
    raw: sys::CUfunction,
    name: String,
    attributes: FunctionAttributes,
    parameters: Option<Vec<usize>>,
    dynamic_shared: u32,
}

// SAFETY: a handle that may be used from any thread; it lives as long as its module, which is kept. Setting
// attributes takes
// `&mut self`.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it needs.
    pub fn attributes(&self) -> FunctionAttributes {
        self.attributes
    }

    /// The sizes of its parameters in bytes; `None` from a driver that cannot tell (before 12.4).
    pub fn parameters(&self) -> Option<&[usize]> {
        self.parameters.as_deref()
    }

    /// The most dynamic shared memory that a launch may ask for, in bytes.
    pub fn max_dynamic_shared(&self) -> u32 {
        self.dynamic_shared
    }

    /// The context it is loaded in.
    pub fn context(&self) -> &Context {
        self.module.context()
    }

    /// Allows launches with up to `bytes` of dynamic shared memory; more than 48 KiB need this.
    ///
    /// # Errors
    /// [`Error::Launch`] when static and dynamic together are more than a block of this device may have.
    pub fn allow_dynamic_shared(&mut self, bytes: u32) -> Result<()> {
        let limit = self.context().info().shared_per_block;
        let whole = bytes.saturating_add(self.attributes.static_shared_bytes);
        if whole > limit {
            return Err(self.refused(format!(
                "it needs {whole} bytes of shared memory a block, and this device has {limit}"
            )));
        }
        self.set(Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes)?;
        self.dynamic_shared = bytes;
        Ok(())
    }

    fn set(&mut self, which: Attribute, value: u32) -> Result<()> {
        let _bound = self.module.shared.context.bind()?;
        let value = i32::try_from(value).unwrap_or(i32::MAX);
        // SAFETY: the function is live.
        Ok(check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(self.raw, which, value) })?)
    }

    /// Blocks of so many threads and so much dynamic shared memory that one multiprocessor holds at once.
    ///
    /// # Errors
    /// A [`DriverError`](super::DriverError).
    pub fn blocks_per_multiprocessor(&self, threads: u32, dynamic_shared: u32) -> Result<u32> {
        let _bound = self.context().bind()?;
        let mut blocks = 0;
        let threads = i32::try_from(threads).unwrap_or(i32::MAX);
        // SAFETY: the function is live and the pointer is to a live integer.
        check("cuOccupancyMaxActiveBlocksPerMultiprocessor", unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &raw mut blocks,
                self.raw,
                threads,
                dynamic_shared as usize,
            )
        })?;
        Ok(blocks.unsigned_abs())
    }

    /// Clusters of this shape that the whole device holds at once. Not the multiprocessors over the
    /// cluster's size: a cluster has to fit in one part of the chip.
    ///
    /// # Errors
    /// [`Error::Launch`] for a shape that cannot be launched; a [`DriverError`](super::DriverError).
    pub fn max_active_clusters(&self, config: &LaunchConfig) -> Result<u32> {
        config.check(self)?;
        let _bound = self.context().bind()?;
        let mut clusters = 0;
        config.with_raw(super::RawStream(std::ptr::null_mut()), |raw| {
            // SAFETY: the function and the configuration are live, and the pointer is to a live integer.
            check("cuOccupancyMaxActiveClusters", unsafe {
                sys::cuOccupancyMaxActiveClusters(&raw mut clusters, self.raw, raw)
            })
        })?;
        Ok(clusters.unsigned_abs())
    }

    pub(super) fn refused(&self, reason: String) -> Error {
        Error::Launch { kernel: self.name.clone(), reason }
    }

    pub(super) fn raw(&self) -> sys::CUfunction {
        self.raw
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Function({}, {:?})", self.name, self.attributes)
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module({:?})", self.shared.raw)
    }
}
