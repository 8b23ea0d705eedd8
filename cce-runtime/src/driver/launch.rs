//! Launching kernels.

use cudarc::driver::sys;

use super::memory::DevicePtr;
use super::module::Function;
use super::plain::{Plain, bytes_of};
use super::result::{DriverError, check};
use super::stream::{RawStream, Stream};
use crate::error::{Error, Result};

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads a block in x, y and z.
    pub block: [u32; 3],
    /// Blocks a cluster in x, y and z; `None` for a launch without clusters.
    pub cluster: Option<[u32; 3]>,
    /// Bytes of dynamic shared memory a block.
    pub dynamic_shared: u32,
}

impl LaunchConfig {
    /// `blocks` blocks of `threads` threads in a row, without clusters and dynamic shared memory.
    pub const fn linear(blocks: u32, threads: u32) -> Self {
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], cluster: None, dynamic_shared: 0 }
    }

    /// The same with dynamic shared memory.
    #[must_use]
    pub const fn with_dynamic_shared(self, bytes: u32) -> Self {
        Self { dynamic_shared: bytes, ..self }
    }

    /// The same in clusters of `blocks` blocks along x.
    #[must_use]
    pub const fn with_cluster(self, blocks: u32) -> Self {
        Self { cluster: Some([blocks, 1, 1]), ..self }
    }

    /// What cannot work is refused with its numbers: the driver would only say "invalid value".
    pub(super) fn check(&self, function: &Function) -> Result<()> {
        self.problem(function.attributes().max_threads, function.max_dynamic_shared())
            .map_or(Ok(()), |reason| Err(function.refused(reason)))
    }

    fn problem(&self, max_threads: u32, max_shared: u32) -> Option<String> {
        const GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
        let product = |sizes: [u32; 3]| sizes.into_iter().map(u64::from).product::<u64>();
        let Self { grid, block, cluster, dynamic_shared } = *self;
        if product(grid) == 0 || product(block) == 0 {
            return Some(format!("a grid of {grid:?} blocks of {block:?} threads is empty"));
        }
        if grid.iter().zip(GRID).any(|(size, limit)| *size > limit) {
            return Some(format!("a grid of {grid:?} blocks is larger than {GRID:?}"));
        }
        if product(block) > u64::from(max_threads) {
            return Some(format!(
                "blocks of {block:?} are {} threads, and the kernel allows {max_threads}",
                product(block)
            ));
        }
        if dynamic_shared > max_shared {
            return Some(format!(
                "{dynamic_shared} bytes of dynamic shared memory are asked for, and {max_shared} allowed: \
                 allow them first"
            ));
        }
        let cluster = cluster?;
        let uneven = grid.iter().zip(cluster).any(|(blocks, size)| size == 0 || !blocks.is_multiple_of(size));
        uneven.then(|| format!("a grid of {grid:?} blocks is no multiple of clusters of {cluster:?}"))
    }

    /// Calls `use_it` with the driver's form of this configuration.
    pub(super) fn with_raw<R>(
        &self,
        stream: RawStream,
        use_it: impl FnOnce(&sys::CUlaunchConfig) -> std::result::Result<R, DriverError>,
    ) -> std::result::Result<R, DriverError> {
        // SAFETY: plain data of numbers and unions of numbers and pointers, for which zeros are valid.
        let mut cluster: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
        if let Some([x, y, z]) = self.cluster {
            cluster.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            cluster.value.clusterDim = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x, y, z };
        }
        let config = sys::CUlaunchConfig {
            gridDimX: self.grid[0],
            gridDimY: self.grid[1],
            gridDimZ: self.grid[2],
            blockDimX: self.block[0],
            blockDimY: self.block[1],
            blockDimZ: self.block[2],
            sharedMemBytes: self.dynamic_shared,
            hStream: stream.0,
            attrs: &raw mut cluster,
            numAttrs: u32::from(self.cluster.is_some()),
        };
        use_it(&config)
    }
}

/// A kernel's arguments by value, in the order of its parameters.
///
/// ```
/// use cce_runtime::driver::{DevicePtr, LaunchArgs};
/// let mut args = LaunchArgs::new();
/// args.push(DevicePtr(0x1000)).push(8192u32).push(1.5f32).push([1u32, 2, 3]);
/// assert_eq!(args.sizes(), [8, 4, 4, 12]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct LaunchArgs {
    /// Each argument begins a line, so that every one is aligned as any type may ask (a tensor map asks for
    /// 64 bytes).
    lines: Vec<Line>,
    /// First line and length in bytes of each argument.
    places: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

impl LaunchArgs {
    /// No arguments yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next argument, by value: a number, a [`DevicePtr`], an array, a struct that is [`Plain`].
    pub fn push<T: Plain>(&mut self, value: T) -> &mut Self {
        self.push_bytes(bytes_of(&value))
    }

    /// The next argument as its bytes.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.places.push((self.lines.len(), bytes.len()));
        for part in bytes.chunks(64) {
            let mut line = Line([0; 64]);
            line.0[..part.len()].copy_from_slice(part);
            self.lines.push(line);
        }
        self
    }

    /// The arguments' sizes in bytes, in order.
    pub fn sizes(&self) -> Vec<usize> {
        self.places.iter().map(|(_, size)| *size).collect()
    }

    /// The bytes of one argument.
    pub fn bytes(&self, index: usize) -> Option<&[u8]> {
        let &(line, size) = self.places.get(index)?;
        // SAFETY: `push_bytes` put `size` bytes at this line; lines are 64 bytes long and contiguous,
        // without padding.
        Some(unsafe { std::slice::from_raw_parts(self.lines.as_ptr().add(line).cast(), size) })
    }

    /// Replaces an argument of the same size, for a launch that differs in one value.
    ///
    /// # Errors
    /// [`Error::WrongSize`] when there is no such argument or it has another size.
    pub fn replace<T: Plain>(&mut self, index: usize, value: T) -> Result<()> {
        let wrong =
            |found| Error::WrongSize { what: format!("argument {index}"), expected: size_of::<T>(), found };
        let &(line, size) = self.places.get(index).ok_or_else(|| wrong(0))?;
        if size != size_of::<T>() {
            return Err(wrong(size));
        }
        for (line, part) in self.lines[line..].iter_mut().zip(bytes_of(&value).chunks(64)) {
            line.0[..part.len()].copy_from_slice(part);
        }
        Ok(())
    }

    fn pointers(&self) -> Vec<*mut std::ffi::c_void> {
        let base = self.lines.as_ptr();
        // An argument without bytes may stand behind the last line; such a pointer is never read.
        self.places.iter().map(|(line, _)| base.wrapping_add(*line).cast_mut().cast()).collect()
    }
}

impl Function {
    /// Starts the kernel on a stream. Does not wait.
    ///
    /// # Safety
    /// The arguments must be what the kernel's parameters are, and every address among them must hold what
    /// the kernel reads and have room for what it writes until it is done.
    ///
    /// # Errors
    /// [`Error::Launch`] when the shape cannot work, or the number or sizes of the arguments are not the
    /// kernel's (a driver from 12.4 on tells); [`Error::DeviceMismatch`] for a stream of another device; a
    /// [`DriverError`].
    pub unsafe fn launch(&self, stream: &Stream, config: &LaunchConfig, args: &LaunchArgs) -> Result<()> {
        self.context().require_same(stream.context(), "the stream to launch on")?;
        config.check(self)?;
        if let Some(expected) = self.parameters()
            && let given = args.sizes()
            && expected != given
        {
            return Err(
                self.refused(format!("its parameters have {expected:?} bytes, the arguments {given:?}"))
            );
        }
        let _bound = self.context().bind()?;
        let mut pointers = args.pointers();
        config.with_raw(stream.raw(), |raw| {
            // SAFETY: function, stream and configuration are live; each pointer is to a whole argument,
            // which the driver copies before it returns; that the arguments are right is the caller's
            // promise.
            check("cuLaunchKernelEx", unsafe {
                sys::cuLaunchKernelEx(raw, self.raw(), pointers.as_mut_ptr(), std::ptr::null_mut())
            })
        })?;
        Ok(())
    }
}

impl From<DevicePtr> for u64 {
    fn from(pointer: DevicePtr) -> Self {
        pointer.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_keep_their_bytes_and_are_aligned_for_any_type() {
        let map: [u8; 128] = std::array::from_fn(|index| index as u8);
        let mut args = LaunchArgs::new();
        args.push(7u32).push(map).push(DevicePtr(0xabcd)).push(-1i64);
        assert_eq!(args.sizes(), [4, 128, 8, 8]);
        assert_eq!(args.bytes(0), Some(&7u32.to_ne_bytes()[..]));
        assert_eq!(args.bytes(1), Some(&map[..]));
        assert_eq!(args.bytes(2), Some(&0xabcdu64.to_ne_bytes()[..]));
        assert_eq!(args.bytes(4), None);
        for (index, pointer) in args.pointers().into_iter().enumerate() {
            assert_eq!(pointer as usize % 64, 0);
            assert_eq!(Some(pointer.cast_const().cast()), args.bytes(index).map(<[u8]>::as_ptr));
        }
    }

    #[test]
    fn an_argument_is_replaced_by_one_of_its_size_only() {
        let mut args = LaunchArgs::new();
        args.push(7u32).push(1.0f32);
        args.replace(1, 2.0f32).expect("the same size");
        assert_eq!(args.bytes(1), Some(&2.0f32.to_ne_bytes()[..]));
        assert!(args.replace(1, 2.0f64).is_err());
        assert!(args.replace(2, 2.0f32).is_err());
    }

    #[test]
    fn a_launch_that_cannot_work_is_refused_with_its_numbers() {
        let good = LaunchConfig::linear(132, 384).with_cluster(2).with_dynamic_shared(200_000);
        assert_eq!(good.problem(384, 200_000), None);
        let said = |config: LaunchConfig| config.problem(384, 200_000).expect("a problem");
        assert!(said(LaunchConfig::linear(0, 384)).contains("empty"));
        assert!(said(LaunchConfig::linear(1, 385)).contains("allows 384"));
        assert!(said(good.with_dynamic_shared(200_001)).contains("200001"));
        assert!(said(LaunchConfig::linear(133, 384).with_cluster(2)).contains("no multiple"));
        assert!(said(LaunchConfig { grid: [1, 70_000, 1], ..good }).contains("larger"));
        assert!(said(LaunchConfig { cluster: Some([0, 1, 1]), ..good }).contains("no multiple"));
    }
}
