//! Tuning: data, search, measurement, the database's keeping, and the command line over them.

pub mod arguments;
pub mod bench;
pub mod cli;
pub mod data;
mod error;
pub mod progress;
pub mod search;
pub mod space;
pub mod stop;
pub mod task;
pub mod tuning;

pub use cli::run;
pub use error::Error;
