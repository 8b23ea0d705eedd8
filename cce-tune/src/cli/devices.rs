//! The devices that `--gpu` means.

use super::output::counted;
use super::values::Gpu;
use crate::Error;
use crate::tuning::tuning_device;
use cce_runtime::driver::Devices;
use cce_runtime::{Device, DeviceKind};

/// The devices. Says in one line when `auto` falls to the CPU device, and what is `done` to it, such as "tuning".
/// And that times are not those of programs that are optimised, where this one is not.
pub(super) fn devices(gpu: Gpu, done: &str) -> Result<Vec<Device>, Error> {
    let devices = meant(gpu, done)?;
    if cfg!(debug_assertions) && devices.iter().any(|device| device.kind() == DeviceKind::Cpu) {
        eprintln!(
            "this program was built without optimisation: what it stores of the CPU device are not the times, nor perhaps the \
             winners, of a release build; build it with --release"
        );
    }
    Ok(devices)
}

fn meant(gpu: Gpu, done: &str) -> Result<Vec<Device>, Error> {
    Ok(match gpu {
        Gpu::Cpu => vec![Device::cpu()],
        Gpu::Index(index) => vec![Device::cuda(index)?],
        Gpu::All => {
            let count = Devices::count()?;
            if count == 0 {
                // The driver's own words for a device that is not there.
                return Ok(vec![Device::cuda(0)?]);
            }
            (0..count).map(Device::cuda).collect::<Result<_, _>>()?
        }
        Gpu::Auto => {
            let why = match Devices::count() {
                Ok(0) => "the CUDA driver shows no GPU".to_owned(),
                Ok(_) => return Ok(vec![Device::cuda(0)?]),
                Err(error @ cce_runtime::Error::NoDriver { .. }) => {
                    error.to_string().split([';', '\n']).next().unwrap_or_default().to_owned()
                }
                // A GPU that does not work is not hidden behind a slower device.
                Err(error) => return Err(error.into()),
            };
            eprintln!("no GPU here, {done} the CPU device ({why}; `cce-tune doctor` says more)");
            vec![Device::cpu()]
        }
    })
}

/// Devices of one kind together, in the order of the first of each: they have one key and share its
/// candidates.
pub(super) fn kinds(devices: Vec<Device>) -> Result<Vec<Vec<Device>>, Error> {
    let mut kinds: Vec<(cce_tuning_db::Device, Vec<Device>)> = Vec::new();
    for device in devices {
        let keyed = tuning_device(&device)?;
        match kinds.iter_mut().find(|(known, _)| *known == keyed) {
            Some((_, alike)) => alike.push(device),
            None => kinds.push((keyed, vec![device])),
        }
    }
    Ok(kinds.into_iter().map(|(_, alike)| alike).collect())
}

/// Problems of devices that are not here.
#[derive(Debug, Default)]
pub(super) struct Elsewhere<'a> {
    /// Of each problem the device's name.
    devices: Vec<&'a str>,
}

impl<'a> Elsewhere<'a> {
    /// One more.
    pub(super) fn add(&mut self, device: &'a cce_tuning_db::Device) {
        self.devices.push(device.name());
    }

    /// The line that says what was left out; `None` where nothing was.
    pub(super) fn left_out(&self) -> Option<String> {
        let count = self.devices.len() as u64;
        (count > 0)
            .then(|| format!("{} of other devices left out: {}", counted(count, "problem"), self.names()))
    }

    /// The words for nothing but these, where the devices named in `here` are.
    pub(super) fn only(&self, here: &[&str]) -> String {
        format!("nothing is stored for {}, only for {}", here.join(", "), self.names())
    }

    fn names(&self) -> String {
        let mut names = self.devices.clone();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }
}
