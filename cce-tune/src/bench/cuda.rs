//! A GPU's memory and its clock: buffers and events on the default stream, which is where the plans' calls go
//! too.

use super::difference::Difference;
use super::{Comparison, HostData, Memory};
use crate::Error;
use cce_runtime::driver::{Buffer, Context, Event, Stream};
use cce_runtime::nvml::Sensors;
use cce_runtime::{Device, Element, View, ViewMut};
use cce_tuning_db::Clocks;
use half::{bf16, f16};
use std::sync::{Arc, OnceLock};

/// Halves that are NaN in bf16 and f16, and together NaN in f32.
const POISON: u32 = 0x7fff_7fff;

/// A GPU's memory.
#[derive(Clone)]
pub struct CudaMemory {
    shared: Arc<Shared>,
}

struct Shared {
    context: Context,
    stream: Stream,
    start: Event,
    end: Event,
    /// Made when it is first needed.
    difference: OnceLock<Difference>,
    /// `None`: NVML is not there, or does not know the GPU.
    sensors: Option<Sensors>,
}

/// Elements of one type in a GPU's memory.
#[derive(Debug)]
pub struct CudaBuffer {
    buffer: Buffer,
    element: Element,
    len: usize,
}

impl CudaMemory {
    /// The memory of a CUDA device.
    ///
    /// # Errors
    /// What the driver reports; [`Error::NoCandidate`] for the CPU device.
    pub fn new(device: &Device) -> Result<CudaMemory, Error> {
        let info = device.properties().cuda.ok_or(Error::NoCandidate)?;
        let context = Context::new(info.index)?;
        let stream = context.default_stream();
        let (start, end) = (context.new_event()?, context.new_event()?);
        // Without NVML, times are taken all the same, and nothing is known of the clocks.
        let sensors = Sensors::of(info.uuid).ok();
        let shared = Shared { context, stream, start, end, difference: OnceLock::new(), sensors };
        Ok(CudaMemory { shared: Arc::new(shared) })
    }

    fn difference(&self) -> Result<&Difference, Error> {
        if self.shared.difference.get().is_none() {
            // Another thread's may be there first; either will do.
            let _ = self.shared.difference.set(Difference::new(&self.shared.context)?);
        }
        self.shared.difference.get().ok_or(Error::NoCandidate)
    }

    fn allocate(&self, element: Element, len: usize, what: &str) -> Result<CudaBuffer, Error> {
        let buffer = self.shared.context.alloc(len * element.bytes(), what)?;
        Ok(CudaBuffer { buffer, element, len })
    }
}

impl Memory for CudaMemory {
    type Buffer = CudaBuffer;

    fn upload(&self, values: HostData<'_>, what: &str) -> Result<CudaBuffer, Error> {
        let (element, len) = match values {
            HostData::F32(v) => (Element::F32, v.len()),
            HostData::F16(v) => (Element::F16, v.len()),
            HostData::Bf16(v) => (Element::Bf16, v.len()),
            HostData::I32(v) => (Element::I32, v.len()),
            HostData::I64(v) => (Element::I64, v.len()),
        };
        let made = self.allocate(element, len, what)?;
        let stream = &self.shared.stream;
        match values {
            HostData::F32(v) => stream.upload(&made.buffer, 0, v),
            HostData::F16(v) => stream.upload(&made.buffer, 0, v),
            HostData::Bf16(v) => stream.upload(&made.buffer, 0, v),
            HostData::I32(v) => stream.upload(&made.buffer, 0, v),
            HostData::I64(v) => stream.upload(&made.buffer, 0, v),
        }?;
        Ok(made)
    }

    #[expect(unsafe_code, reason = "a copy within the device is put on the stream")]
    fn duplicate(&self, buffer: &CudaBuffer, what: &str) -> Result<CudaBuffer, Error> {
        let made = self.allocate(buffer.element, buffer.len, what)?;
        let bytes = buffer.len * buffer.element.bytes();
        // SAFETY: both buffers hold as many bytes, and freeing one waits for the stream's work.
        unsafe { self.shared.stream.copy_async(made.buffer.ptr(), buffer.buffer.ptr(), bytes) }?;
        Ok(made)
    }

    fn poisoned(&self, element: Element, len: usize, what: &str) -> Result<CudaBuffer, Error> {
        let mut made = self.allocate(element, len, what)?;
        self.poison(&mut made)?;
        Ok(made)
    }

    fn poison(&self, buffer: &mut CudaBuffer) -> Result<(), Error> {
        Ok(self.shared.stream.poison(&buffer.buffer, POISON)?)
    }

    #[expect(unsafe_code, reason = "the device pointer of a live buffer is handed to a plan")]
    fn view<'a>(&self, buffer: &'a CudaBuffer) -> View<'a> {
        let ordinal = self.shared.context.info().index;
        // SAFETY: the buffer holds `len` elements and is borrowed while the view lives. `time` and `download`
        // wait for the stream's work, and freeing a buffer does too.
        unsafe { View::device(buffer.buffer.ptr().0, buffer.len, buffer.element, ordinal) }
    }

    #[expect(unsafe_code, reason = "the device pointer of a live buffer is handed to a plan")]
    fn view_mut<'a>(&self, buffer: &'a mut CudaBuffer) -> ViewMut<'a> {
        let ordinal = self.shared.context.info().index;
        // SAFETY: as in `view`; borrowed exclusively.
        unsafe { ViewMut::device(buffer.buffer.ptr().0, buffer.len, buffer.element, ordinal) }
    }

    fn download(&self, buffer: &CudaBuffer) -> Result<Vec<f32>, Error> {
        let stream = &self.shared.stream;
        Ok(match buffer.element {
            Element::F32 => {
                let mut values = vec![0f32; buffer.len];
                stream.download(&buffer.buffer, 0, &mut values)?;
                values
            }
            Element::F16 => {
                let mut values = vec![f16::ZERO; buffer.len];
                stream.download(&buffer.buffer, 0, &mut values)?;
                crate::data::Elements::F16(values).to_f32()
            }
            Element::Bf16 => {
                let mut values = vec![bf16::ZERO; buffer.len];
                stream.download(&buffer.buffer, 0, &mut values)?;
                crate::data::Elements::Bf16(values).to_f32()
            }
            Element::I32 => {
                let mut values = vec![0i32; buffer.len];
                stream.download(&buffer.buffer, 0, &mut values)?;
                values.into_iter().map(|x| x as f32).collect()
            }
            Element::I64 => {
                let mut values = vec![0i64; buffer.len];
                stream.download(&buffer.buffer, 0, &mut values)?;
                values.into_iter().map(|x| x as f32).collect()
            }
        })
    }

    fn compare(&self, buffer: &CudaBuffer, reference: &CudaBuffer) -> Result<Comparison, Error> {
        if buffer.len != reference.len || buffer.element != reference.element {
            return Ok(Comparison::of_other_lengths());
        }
        let result = (&buffer.buffer, buffer.element);
        self.difference()?.compare(&self.shared.stream, result, &reference.buffer, buffer.len)
    }

    fn time(&self, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
        let Shared { stream, start, end, .. } = &*self.shared;
        start.record(stream)?;
        work()?;
        end.record(stream)?;
        end.synchronize()?;
        Ok(f64::from(end.elapsed_ms_since(start)?))
    }

    fn free_bytes(&self) -> u64 {
        self.shared.context.memory_info().map_or(0, |memory| memory.free)
    }

    fn clocks(&self) -> Option<Clocks> {
        let reading = self.shared.sensors?.read().ok()?;
        let milliwatts = reading.watts.map(|watts| (watts * 1e3) as u32);
        let limits = reading.limits.map(|limits| limits.0);
        Some(Clocks::new(reading.sm_mhz, None).with_state(milliwatts, None, limits))
    }
}
