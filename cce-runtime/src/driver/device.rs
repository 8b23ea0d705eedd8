//! The GPUs of this machine and what they are.

use std::fmt;

use cudarc::driver::sys;
use cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::loader::Driver;
use super::result::check;
use super::version::CudaVersion;
use crate::error::{Error, Result};
use crate::nvrtc::Arch;

/// A device's identity across processes, reboots and orders of enumeration.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    /// As `nvidia-smi -L` writes it: `GPU-8-4-4-4-12`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GPU")?;
        for (index, byte) in self.0.iter().enumerate() {
            if [0, 4, 6, 8, 10].contains(&index) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a kernel's choice of tiles and a tuning record need to know of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The index that [`Context::new`](super::Context::new) takes; it follows CUDA_VISIBLE_DEVICES.
    pub index: usize,
    /// The product's name, `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that a block may have after opting in.
    pub shared_per_block: u32,
    /// Bytes of shared memory that a multiprocessor has for its blocks.
    pub shared_per_multiprocessor: u32,
    /// Registers that a multiprocessor has.
    pub registers_per_multiprocessor: u32,
    /// Threads that a multiprocessor holds at once.
    pub threads_per_multiprocessor: u32,
    /// Bytes of level-2 cache.
    pub l2_bytes: u64,
    /// Bytes of device memory.
    pub memory_bytes: u64,
    /// Peak clock of the multiprocessors in kHz.
    pub clock_khz: u32,
    /// Peak clock of the memory in kHz; 0 where the driver does not tell.
    pub memory_clock_khz: u32,
    /// Width of the bus to the memory in bits; 0 where the driver does not tell.
    pub memory_bus_bits: u32,
    /// The CUDA version of the driver.
    pub driver: CudaVersion,
    /// The device's identity.
    pub uuid: Uuid,
}

impl DeviceInfo {
    /// The architecture to compile for on this device.
    pub fn arch(&self) -> Arch {
        let (major, minor) = self.compute_capability;
        Arch::of_compute_capability(major, minor)
    }

    fn read(driver: &Driver, index: usize) -> Result<Self> {
        let device = handle(index)?;
        let mut name = [0u8; 256];
        // SAFETY: the buffer has the length that is passed; the driver writes a string that ends in a zero
        // byte.
        check("cuDeviceGetName", unsafe {
            sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device)
        })?;
        let mut memory = 0;
        // SAFETY: the pointer is to a live integer and the device exists.
        check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&raw mut memory, device) })?;
        let mut uuid = sys::CUuuid { bytes: [0; 16] };
        // SAFETY: the pointer is to a live identifier and the device exists.
        check("cuDeviceGetUuid", unsafe { sys::cuDeviceGetUuid(&raw mut uuid, device) })?;
        let get = |which: Attribute| -> Result<u32> {
            let mut value = 0;
            // SAFETY: the pointer is to a live integer and the device exists.
            check("cuDeviceGetAttribute", unsafe {
                sys::cuDeviceGetAttribute(&raw mut value, which, device)
            })?;
            Ok(value.unsigned_abs())
        };
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Ok(Self {
            index,
            name: String::from_utf8_lossy(&name[..length]).into_owned(),
            compute_capability: (
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_per_block: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            shared_per_multiprocessor: get(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
            )?,
            registers_per_multiprocessor: get(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR,
            )?,
            threads_per_multiprocessor: get(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
            l2_bytes: get(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
            memory_bytes: memory as u64,
            clock_khz: get(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            memory_clock_khz: get(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            memory_bus_bits: get(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
            driver: driver.version(),
            uuid: Uuid(uuid.bytes.map(|byte| byte as u8)),
        })
    }
}

/// The machine's CUDA devices.
#[derive(Debug)]
pub struct Devices;

impl Devices {
    /// Every device the driver shows, in its order; empty when it shows none.
    ///
    /// # Errors
    /// [`Error::NoDriver`] and [`Error::DriverTooOld`] say why there is no CUDA here.
    pub fn list() -> Result<Vec<DeviceInfo>> {
        let driver = Driver::get()?;
        (0..Self::count()?).map(|index| DeviceInfo::read(driver, index)).collect()
    }

    /// One device by its index.
    ///
    /// # Errors
    /// As [`Devices::list`]; [`Error::NoSuchDevice`].
    pub fn get(index: usize) -> Result<DeviceInfo> {
        let driver = Driver::get()?;
        let count = Self::count()?;
        if index >= count {
            return Err(Error::NoSuchDevice { index, count });
        }
        DeviceInfo::read(driver, index)
    }

    /// How many devices the driver shows.
    ///
    /// # Errors
    /// As [`Devices::list`].
    pub fn count() -> Result<usize> {
        Driver::get()?;
        let mut count = 0;
        // SAFETY: the driver is initialised and the pointer is to a live integer.
        check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) })?;
        Ok(usize::try_from(count).unwrap_or(0))
    }
}

/// The driver's handle of a device; [`Driver::get`] must have succeeded.
pub(super) fn handle(index: usize) -> Result<sys::CUdevice> {
    let mut device = 0;
    let ordinal = i32::try_from(index).unwrap_or(i32::MAX);
    // SAFETY: the driver is initialised and the pointer is to a live handle.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut device, ordinal) })?;
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_nvidia_smi_does() {
        let uuid = Uuid([
            0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0,
        ]);
        assert_eq!(uuid.to_string(), "GPU-11223344-5566-7788-99aa-bbccddeeff00");
    }

    /// Holds with and without a GPU: the list works, or says what is missing; it never panics.
    #[test]
    fn the_list_of_devices_is_there_or_says_why_not() {
        match Devices::list() {
            Ok(devices) => {
                let count = devices.len();
                assert!(matches!(Devices::get(count), Err(Error::NoSuchDevice { .. })));
            }
            Err(error @ (Error::NoDriver { .. } | Error::DriverTooOld { .. })) => {
                let message = error.to_string();
                assert!(message.contains("CUDA driver"), "{message}");
                assert_eq!(message, Devices::get(0).expect_err("still none").to_string());
            }
            Err(other) => panic!("{other}"),
        }
    }
}
