//! The tuner: which schedule is the fastest for a loss, a shape and a device. As a command line (`cce-tune`,
//! or [`run`] with a user's own losses), and as a library.
//!
//! ```text
//! Task ──▶ Space ──▶ search ─────────────▶ Ranking ──▶ a table
//! (what)   (what     │  build, check, time      ▲
//!           to try)  │  by a Bench              │
//!                    └──▶ Store (tuning-db) ────┘
//! ```
//!
//! - [`data`]: inputs, a file's or generated with a realistic softmax; tests and benchmarks use them too.
//! - [`task`], [`space`], [`arguments`]: what is tuned, which schedules there are, values for a loss's own
//!   inputs.
//! - [`strategy`]: which of the schedules are tried next; [`recording`]: trials to judge strategies
//!   by, and [`regret`] what is selected for shapes that were not tuned.
//! - [`mod@bench`]: plans on a device, with a reference that every result is compared with.
//! - [`worker`]: the same in processes of their own, which may hang or crash.
//! - [`search`]: the order of things, and what is stored when; it knows nothing of devices.
//! - [`floor`]: what no schedule can be faster than.
//! - [`tuning`]: all of it for one task on one device.
//! - [`exchange`]: trials in the formats of other tools.
//! - [`report`]: the trials of a problem as a page for people.
//! - [`losses`]: losses that do not ship, beside their trials.
//! - [`stored`]: keys and winners of the database, back as tasks and schedules.
//! - [`verify`]: stored winners, measured again.
//! - [`cli`]: the command line.
//!
//! Invariant: a result that differs from the reference is never timed and never stored as good; what has been
//! stored stays true whenever the process ends.
//!
//! ```no_run
//! # fn main() -> Result<(), cce_tune::Error> {
//! use cce_codegen::problem::DType;
//! use cce_tune::{data::Head, progress::Silent, stop::Stop, task::Task, tuning::Tuner};
//!
//! let stop = Stop::new();
//! let mut tuner = Tuner::new(std::path::Path::new("tuning"), &Silent, &stop);
//! tuner.scalars = vec![("cap".to_owned(), 50.0)];
//! let task = Task::new(cce::losses::softcapped::program(), 1024, 576, 49152, DType::F32);
//! let head = || Ok(Head::generated(1024, 576, 49152, 0, DType::F32));
//! let report = tuner.tune(&task, &cce_runtime::Device::cpu(), (head, 1024))?;
//! println!("{:?}", report.ranking.winner().map(|winner| &winner.description));
//! # Ok(())
//! # }
//! ```

pub mod arguments;
pub mod bench;
pub mod cli;
pub mod data;
mod error;
pub mod exchange;
mod files;
pub mod floor;
pub mod interleaved;
pub mod knobs;
pub mod losses;
pub mod phases;
pub mod progress;
pub mod recording;
pub mod regret;
pub mod report;
mod room;
pub mod search;
mod share;
pub mod space;
pub mod stop;
pub mod stored;
pub mod strategy;
pub mod task;
pub mod tuning;
pub mod verify;
pub mod worker;

pub use cli::{Diagnosis, run};
pub use error::Error;
