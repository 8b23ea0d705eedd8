//! Builders shared by the tests of the crate.
#![allow(dead_code, reason = "every test file uses a part of them")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use cce_tuning_db::{
    Config, Device, Generation, Key, Problem, ProgramHash, Provenance, Record, Resources, Shape, Trial,
};

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub fn shape() -> Shape {
    Shape::new(8192, 2304, 256_000)
}

pub fn device() -> Device {
    Device::gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 232_448, 52_428_800)
}

pub fn key() -> Key {
    Key::new(ProgramHash::of(b"cross entropy"), Problem::new(shape()), device())
}

pub fn generation() -> Generation {
    Generation::new("1", "s1")
}

pub fn provenance(unix_ms: u64) -> Provenance {
    Provenance::new("here", unix_ms)
}

/// About as large as a real schedule.
pub fn config(tile: u32) -> Config {
    Config::new(serde_json::json!({
        "family": "mma", "tile": tile, "tile_tokens": 128, "tile_vocab": 256, "stages": 4, "cluster": [2, 1],
        "walk": "grouped", "hot_columns": 4096, "warps": 8, "swizzle": true,
    }))
}

pub fn measured(tile: u32, ms: f64) -> Trial {
    let samples = (0..7).map(|i| ms + 0.001 * f64::from(i - 3)).collect();
    Trial::measured(config(tile), shape(), samples, generation(), provenance(1_700_000_000_000))
        .unwrap()
        .with_resources(Resources::new(168, 0, 180_224))
        .with_gradient_error(2.5e-3)
}

pub fn record(tile: u32, ms: f64) -> Record {
    Record::new(key(), measured(tile, ms))
}

/// The tiles of all records, sorted: which trials are there.
pub fn tiles(records: &[Record]) -> Vec<u64> {
    let mut tiles: Vec<_> =
        records.iter().map(|r| r.trial.config.value()["tile"].as_u64().unwrap()).collect();
    tiles.sort_unstable();
    tiles
}
