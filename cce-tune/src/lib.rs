//! Tuning: data, search, measurement, the database's keeping, and the command line over them.

pub mod data;
mod error;

pub use error::Error;
