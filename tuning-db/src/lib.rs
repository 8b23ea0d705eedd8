//! Every trial and every winner of the tuner.
//!
//! Two kinds of users:
//! - A **launching process** asks which configuration to use: [`Winners::open`], [`Winners::select`],
//!   [`Selection::choose`]. It only reads, in a few ms, takes no lock, and is never given an error: whatever
//!   is wrong becomes a [`Warning`] and a lower [`Grade`], down to [`Grade::Default`].
//! - A **tuner** writes: [`Database::open`], [`Database::append`], [`Database::index`].
//!
//! What is in the folder, and what is true of it:
//! ```text
//! trials.log       append-only, synced a batch: the durable record. A flushed record is never lost.
//! log.lock         held for one append
//! index/           sled 0.34.7, built from the log; opened for a moment, set aside when damaged
//! index.state      there while the index is open: left behind, it says that its owner died
//! winners.snap     the few best of every key, replaced atomically: all that readers load
//! lock             held by the owner of index/, index.state and winners.snap
//! *.aside-TIME-N   what was damaged or foreign; never deleted
//! ```
//! ```
//! use cce_tuning_db::*;
//! # fn main() -> Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
//! let shape = Shape::new(8192, 2304, 256_000);
//! let device = Device::gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 232_448, 52_428_800);
//! let key = Key::new(ProgramHash::of(b"cross entropy"), Problem::new(shape), device);
//! let generation = Generation::new("0.1.0", "space-7f3a");
//!
//! // The tuner measures, and writes down what it finds.
//! let config = Config::new(serde_json::json!({ "stages": 4 }));
//! let trial =
//!     Trial::measured(config, shape, vec![14.1, 14.0, 14.2], generation.clone(), Provenance::now("node7"))?;
//! let mut database = Database::open(folder)?;
//! database.append(&[Record::new(key.clone(), trial)])?; // durable from here on
//! database.close()?; // and visible to readers from here on
//!
//! // A launching process asks, and checks every answer against its call.
//! let selection = Winners::open(folder).select(&Request::new(key, generation));
//! let choice = selection.choose(|candidate| {
//!     candidate.winner.config.value()["stages"].as_u64().ok_or("it has no stages".to_owned())
//! });
//! assert_eq!(choice.grade, Grade::Exact);
//! assert_eq!(choice.chosen.map(|(_, stages)| stages), Some(4));
//! # Ok(())
//! # }
//! ```
//! The crate knows nothing of schedules: a [`Config`] is opaque JSON. It depends on no other crate of the
//! workspace.

mod config;
mod database;
mod error;
mod files;
mod hash;
mod index;
mod key;
mod lock;
mod log;
mod profile;
mod provenance;
#[cfg(test)]
mod sample;
mod select;
mod session;
mod shown;
mod snapshot;
mod trial;
mod warning;
mod winner;
mod winners;
mod wrong;

pub use config::Config;
pub use database::{Database, EXPORT_SCHEMA, Indexing, Merged, PATIENCE, exported};
pub use error::{Error, Result};
pub use files::{link_target, write_whole};
pub use hash::{ConfigHash, ProgramHash, RecordId};
pub use key::{
    Cpu, Device, Dtype, Eps, Filter, Gpu, Gradients, KEY_SCHEMA, Key, MemoryClass, Objective, Problem, Shape,
};
pub use log::ScanReport;
pub use profile::{PROFILE_SCHEMA, Profile};
pub use provenance::{Generation, Provenance};
pub use select::{Candidate, Choice, Grade, Rejection, Request, SNAP_LIMIT, Selection};
pub use session::Repair;
pub use shown::ShownTimes;
pub use trial::{Clocks, RECORD_SCHEMA, Record, Resources, Settled, Status, Trial};
pub use warning::{Source, Warning};
pub use winner::{GENERATIONS_KEPT, KeyWinners, WINNERS_KEPT, Winner, counting, newest};
pub use winners::Winners;
pub use wrong::{Wrong, disqualified};
