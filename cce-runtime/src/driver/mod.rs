//! The CUDA driver, as types that clean up after themselves.
//!
//! The driver's library is opened at run time: a program built with this crate starts on a machine without
//! one, and [`Devices::list`] then says what is missing. Invariants:
//! - nothing here calls an entry point before [`Driver::get`] has found the library and every entry point
//!   that this crate uses, because calling one that is missing would end the process;
//! - every call runs with its own device's primary context current and leaves the caller's context as it
//!   was, so that this crate and others (PyTorch) share a thread and a device;
//! - nothing synchronises that does not say so in its documentation;
//! - an object keeps what it needs alive: a function its module, everything its context.
//!
//! ```text
//! Driver --list--> DeviceInfo
//!    |--Context::new(index)--> Context --> Stream, Event, Buffer, Module --> Function --launch--> Stream
//! ```

mod context;
mod device;
mod event;
mod graph;
mod launch;
mod loader;
mod memory;
mod module;
mod plain;
mod result;
mod stream;
mod tensor_map;
mod version;

pub use self::context::{Bound, Context};
pub use self::device::{DeviceInfo, Devices, Uuid};
pub use self::event::Event;
pub use self::graph::Graph;
pub use self::launch::{LaunchArgs, LaunchConfig};
pub use self::loader::{Driver, OLDEST_DRIVER};
pub use self::memory::{Buffer, DevicePtr, MemoryInfo};
pub use self::module::{Function, FunctionAttributes, Module};
pub use self::plain::Plain;
pub use self::result::DriverError;
pub use self::stream::{RawStream, RelaxedCapture, Stream};
pub use self::tensor_map::MatrixShape;
pub use self::version::CudaVersion;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_shared_between_threads_is() {
        fn shared<T: Send + Sync>() {}
        fn sent<T: Send>() {}
        shared::<Context>();
        shared::<Stream>();
        shared::<Buffer>();
        shared::<Event>();
        shared::<Module>();
        shared::<Function>();
        shared::<LaunchArgs>();
        shared::<crate::nvrtc::Nvrtc>();
        shared::<crate::error::Error>();
        // One thread at a time may launch a graph.
        sent::<Graph>();
    }
}
