//! Tuning: data, search, measurement, the database's keeping, and the command line over them.

pub mod data;
mod error;
pub mod progress;
pub mod search;
pub mod stop;

pub use error::Error;
