//! Candidates run in processes of their own: one that hangs, crashes or breaks the device costs itself only.
//!
//! ```text
//! parent: decisions, database                  worker: one a device
//!   search ── RemoteBench ── Process ──pipe──▶ serve ── Host ── DeviceBench
//!              │ watchdog, restart   ◀──pipe──           inputs, reference, checks, clock
//!              └ RemoteCompiler ── Process ──▶ serve ── DeviceCompiler: several, NVRTC
//! ```
//!
//! Invariants:
//! - A request that is not answered in time, or that the worker does not survive, ends the worker and is its
//!   candidate's failure; the next request starts another worker, which makes inputs and reference again.
//! - A worker that cannot be prepared is nobody's failure: the search ends with an error.
//! - A worker is a program that is started anew, never a copy of its parent: it shares no context of a GPU with it.
//! - A worker works on the device that its parent means, or not at all.
//! - A worker ends when its standard input does: it does not outlive its parent, however that ends.

mod compiler;
mod frame;
mod job;
mod message;
mod process;
mod remote;
mod serve;
mod streams;

pub use compiler::RemoteCompiler;
pub use job::{JOB_SCHEMA, Job};
pub use process::WorkerCommand;
pub use remote::{Refusal, RemoteBench, RemoteBuilt};
pub use serve::{Host, Plans, serve};
pub use streams::own_streams;
