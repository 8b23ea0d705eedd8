//! Plans on a device as the search's bench: inputs, poisoned outputs, the reference, the stopwatch.
//!
//! - The reference is computed once a problem, under the filter `Exact`, and its schedule is itself compared with
//!   the f64 oracle on a part of the problem ([`check_against_f64`]) before anything is measured.
//! - A sampled gradient is compared by whether it is biased: several seeds tell ([`sampled`]).
//! - Outputs are filled with NaN before every run that is compared: what was not written cannot look right.
//! - Timed runs rotate through several copies of the inputs, each with its tokens in another order, so that
//!   no cache holds what the next run reads: the level-2 cache holds what the run before left there, which is
//!   of another copy.

mod compare;
mod compile;
mod cuda;
mod device;
mod difference;
mod host;
mod plans;
mod reference;
mod sampled;
#[cfg(test)]
mod tests;

pub use compare::{Comparison, Tolerance};
pub use compile::DeviceCompiler;
pub use cuda::CudaMemory;
pub use device::DeviceBench;
pub use host::HostMemory;
pub(crate) use host::available_bytes;
pub use plans::{Built, PlanBench, Results, failure};
pub use reference::check_against_f64;

use crate::Error;
use cce_runtime::{Element, View, ViewMut};

/// The memory of a device, and its clock.
pub trait Memory: Send + Sync {
    /// Memory of elements of one type.
    type Buffer: Send + Sync;

    /// A copy of host data.
    ///
    /// # Errors
    /// When there is no room.
    fn upload(&self, values: HostData<'_>, what: &str) -> Result<Self::Buffer, Error>;

    /// A copy of a buffer.
    ///
    /// # Errors
    /// When there is no room.
    fn duplicate(&self, buffer: &Self::Buffer, what: &str) -> Result<Self::Buffer, Error>;

    /// A buffer of `len` elements, filled with NaN.
    ///
    /// # Errors
    /// When there is no room.
    fn poisoned(&self, element: Element, len: usize, what: &str) -> Result<Self::Buffer, Error>;

    /// Fills it with NaN again.
    ///
    /// # Errors
    /// What the device reports.
    fn poison(&self, buffer: &mut Self::Buffer) -> Result<(), Error>;

    /// For reading, by work that has finished before the buffer is written or dropped.
    fn view<'a>(&self, buffer: &'a Self::Buffer) -> View<'a>;

    /// For writing, by work that has finished before the buffer is used otherwise.
    fn view_mut<'a>(&self, buffer: &'a mut Self::Buffer) -> ViewMut<'a>;

    /// Its elements as f32, after all work.
    ///
    /// # Errors
    /// What the device reports.
    fn download(&self, buffer: &Self::Buffer) -> Result<Vec<f32>, Error>;

    /// How close its elements are to a reference of as many, of the same type, after all work.
    ///
    /// # Errors
    /// What the device reports.
    fn compare(&self, buffer: &Self::Buffer, reference: &Self::Buffer) -> Result<Comparison, Error>;

    /// Runs `work` to its end and returns its time on the device in ms.
    ///
    /// # Errors
    /// Those of `work`, and what the device reports.
    fn time(&self, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error>;

    /// Bytes that are free for further copies of the inputs.
    fn free_bytes(&self) -> u64;

    /// The device's clocks now, where they are known.
    fn clocks(&self) -> Option<cce_tuning_db::Clocks>;
}

/// Host data of any element type.
#[derive(Clone, Copy, Debug)]
pub enum HostData<'a> {
    /// IEEE single precision.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [half::f16]),
    /// bfloat16.
    Bf16(&'a [half::bf16]),
    /// 32-bit.
    I32(&'a [i32]),
    /// 64-bit.
    I64(&'a [i64]),
}

impl<'a> From<&'a crate::data::Elements> for HostData<'a> {
    fn from(elements: &'a crate::data::Elements) -> HostData<'a> {
        use crate::data::Elements;
        match elements {
            Elements::F32(values) => HostData::F32(values),
            Elements::F16(values) => HostData::F16(values),
            Elements::Bf16(values) => HostData::Bf16(values),
        }
    }
}
