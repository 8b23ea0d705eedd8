//! Builders for the unit tests.

use serde_json::json;

use crate::config::Config;
use crate::hash::ProgramHash;
use crate::key::{Device, Key, Problem, Shape};
use crate::provenance::{Generation, Provenance};
use crate::trial::Trial;

pub(crate) fn shape() -> Shape {
    Shape::new(8192, 2304, 256_000)
}

pub(crate) fn device() -> Device {
    Device::gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 232_448, 52_428_800)
}

pub(crate) fn key() -> Key {
    Key::new(ProgramHash::of(b"cross entropy"), Problem::new(shape()), device())
}

pub(crate) fn trial(config: u32, ms: f64) -> Trial {
    Trial::measured(
        Config::new(json!({ "tile": config })),
        shape(),
        vec![ms],
        Generation::new("1", "s1"),
        Provenance::new("here", 1_700_000_000_000),
    )
    .unwrap()
}
