//! The host's memory, for the CPU device.

use super::{Comparison, HostData, Memory};
use crate::Error;
use cce_runtime::{Element, View, ViewMut};
use cce_tuning_db::Clocks;
use half::{bf16, f16};
use std::time::Instant;

/// The host.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostMemory;

/// Elements of one type.
#[derive(Clone, Debug)]
pub enum HostBuffer {
    /// IEEE single precision.
    F32(Vec<f32>),
    /// IEEE half precision.
    F16(Vec<f16>),
    /// bfloat16.
    Bf16(Vec<bf16>),
    /// 32-bit.
    I32(Vec<i32>),
    /// 64-bit.
    I64(Vec<i64>),
}

impl Memory for HostMemory {
    type Buffer = HostBuffer;

    fn upload(&self, values: HostData<'_>, _: &str) -> Result<HostBuffer, Error> {
        Ok(match values {
            HostData::F32(v) => HostBuffer::F32(v.to_vec()),
            HostData::F16(v) => HostBuffer::F16(v.to_vec()),
            HostData::Bf16(v) => HostBuffer::Bf16(v.to_vec()),
            HostData::I32(v) => HostBuffer::I32(v.to_vec()),
            HostData::I64(v) => HostBuffer::I64(v.to_vec()),
        })
    }

    fn duplicate(&self, buffer: &HostBuffer, _: &str) -> Result<HostBuffer, Error> {
        Ok(buffer.clone())
    }

    fn poisoned(&self, element: Element, len: usize, _: &str) -> Result<HostBuffer, Error> {
        Ok(match element {
            Element::F32 => HostBuffer::F32(vec![f32::NAN; len]),
            Element::F16 => HostBuffer::F16(vec![f16::NAN; len]),
            Element::Bf16 => HostBuffer::Bf16(vec![bf16::NAN; len]),
            Element::I32 => HostBuffer::I32(vec![i32::MIN; len]),
            Element::I64 => HostBuffer::I64(vec![i64::MIN; len]),
        })
    }

    fn poison(&self, buffer: &mut HostBuffer) -> Result<(), Error> {
        match buffer {
            HostBuffer::F32(v) => v.fill(f32::NAN),
            HostBuffer::F16(v) => v.fill(f16::NAN),
            HostBuffer::Bf16(v) => v.fill(bf16::NAN),
            HostBuffer::I32(v) => v.fill(i32::MIN),
            HostBuffer::I64(v) => v.fill(i64::MIN),
        }
        Ok(())
    }

    fn view<'a>(&self, buffer: &'a HostBuffer) -> View<'a> {
        match buffer {
            HostBuffer::F32(v) => View::host(v),
            HostBuffer::F16(v) => View::host(v),
            HostBuffer::Bf16(v) => View::host(v),
            HostBuffer::I32(v) => View::host(v),
            HostBuffer::I64(v) => View::host(v),
        }
    }

    fn view_mut<'a>(&self, buffer: &'a mut HostBuffer) -> ViewMut<'a> {
        match buffer {
            HostBuffer::F32(v) => ViewMut::host(v),
            HostBuffer::F16(v) => ViewMut::host(v),
            HostBuffer::Bf16(v) => ViewMut::host(v),
            HostBuffer::I32(v) => ViewMut::host(v),
            HostBuffer::I64(v) => ViewMut::host(v),
        }
    }

    fn download(&self, buffer: &HostBuffer) -> Result<Vec<f32>, Error> {
        Ok(match buffer {
            HostBuffer::F32(v) => v.clone(),
            HostBuffer::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            HostBuffer::Bf16(v) => v.iter().map(|x| x.to_f32()).collect(),
            HostBuffer::I32(v) => v.iter().map(|&x| x as f32).collect(),
            HostBuffer::I64(v) => v.iter().map(|&x| x as f32).collect(),
        })
    }

    fn compare(&self, buffer: &HostBuffer, reference: &HostBuffer) -> Result<Comparison, Error> {
        Ok(Comparison::of(&self.download(buffer)?, &self.download(reference)?))
    }

    fn time(&self, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
        let started = Instant::now();
        work()?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    }

    fn free_bytes(&self) -> u64 {
        // Where the system does not say, one more copy of a small problem.
        available_bytes().unwrap_or(256 << 20)
    }

    fn clocks(&self) -> Option<Clocks> {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
        let mhz: f64 = line.split_once(':')?.1.trim().parse().ok()?;
        Some(Clocks::new(Some(mhz as u32), None))
    }
}

/// What the system says can be had without swapping.
pub(crate) fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}
