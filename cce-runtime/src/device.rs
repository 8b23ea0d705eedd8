//! Devices: where a plan runs.

use crate::driver::{Context, DeviceInfo, Devices};
use crate::error::{Error, Result};
use crate::views::Place;
use std::sync::Arc;

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// The host's processors.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// A device. Cheap to clone; may be used from any thread.
#[derive(Clone, Debug)]
pub struct Device {
    inner: Arc<Inner>,
}

/// The devices there are.
#[derive(Debug)]
pub(crate) enum Inner {
    /// The host, computing in the rayon pool that a call is made from.
    Cpu,
    /// A GPU through its primary context.
    Cuda(Context),
}

/// What is known of a device without running anything on it.
#[derive(Clone, Debug)]
pub struct DeviceProperties {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: DeviceKind,
    /// Processors: threads of the rayon pool, or streaming multiprocessors.
    pub processors: usize,
    /// What the driver says of a GPU.
    pub cuda: Option<DeviceInfo>,
}

impl Device {
    /// The first CUDA device, or the CPU where there is no driver or no device.
    ///
    /// # Errors
    /// Where there is a device that does not work (a driver that is too old, say): that is not hidden behind
    /// a slower one.
    pub fn auto() -> Result<Device> {
        match Devices::count() {
            Ok(0) | Err(Error::NoDriver { .. }) => Ok(Device::cpu()),
            Ok(_) => Device::cuda(0),
            Err(error) => Err(error),
        }
    }

    /// The CUDA device with this ordinal, as `CUDA_VISIBLE_DEVICES` numbers them.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::DriverTooOld`], [`Error::NoSuchDevice`], or what the driver reports.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        Ok(Device { inner: Arc::new(Inner::Cuda(Context::new(ordinal)?)) })
    }

    /// The CPU.
    pub fn cpu() -> Device {
        Device { inner: Arc::new(Inner::Cpu) }
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.properties().name
    }

    /// What it is.
    pub fn kind(&self) -> DeviceKind {
        match &*self.inner {
            Inner::Cpu => DeviceKind::Cpu,
            Inner::Cuda(_) => DeviceKind::Cuda,
        }
    }

    /// Where its buffers live.
    pub fn place(&self) -> Place {
        match &*self.inner {
            Inner::Cpu => Place::Host,
            Inner::Cuda(context) => Place::Cuda(context.info().index),
        }
    }

    /// What is known of it.
    pub fn properties(&self) -> DeviceProperties {
        match &*self.inner {
            Inner::Cpu => DeviceProperties {
                name: "cpu".to_owned(),
                kind: DeviceKind::Cpu,
                processors: rayon::current_num_threads(),
                cuda: None,
            },
            Inner::Cuda(context) => {
                let info = context.info();
                DeviceProperties {
                    name: info.name.clone(),
                    kind: DeviceKind::Cuda,
                    processors: info.multiprocessors as usize,
                    cuda: Some(info.clone()),
                }
            }
        }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }
}
