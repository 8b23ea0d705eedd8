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
mod snapshot;
mod trial;
mod warning;
mod winner;
mod winners;

pub use config::Config;
pub use database::{Database, EXPORT_SCHEMA, Indexing, Merged, PATIENCE};
pub use error::{Error, Result};
pub use hash::{ConfigHash, ProgramHash, RecordId};
pub use key::{
    Cpu, Device, Dtype, Eps, Filter, Gpu, Gradients, KEY_SCHEMA, Key, MemoryClass, Objective, Problem, Shape,
};
pub use log::ScanReport;
pub use profile::{PROFILE_SCHEMA, Profile};
pub use provenance::{Generation, Provenance};
pub use select::{Candidate, Choice, Grade, Rejection, Request, SNAP_LIMIT, Selection};
pub use session::Repair;
pub use trial::{Clocks, RECORD_SCHEMA, Record, Resources, Status, Trial};
pub use warning::{Source, Warning};
pub use winner::{GENERATIONS_KEPT, KeyWinners, WINNERS_KEPT, Winner};
pub use winners::Winners;
