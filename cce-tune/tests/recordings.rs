//! The default strategy on trials that were recorded on an H100, by `cce-tune --exhaustive --record FILE`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use cce_tune::recording::Recording;
use cce_tune::strategy::replay::{BATCH, play};
use cce_tune::strategy::{Experience, Kind};
use std::path::Path;

fn recordings() -> Vec<Recording> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    let found: Vec<Recording> = files.iter().flat_map(|path| Recording::read(path).unwrap()).collect();
    assert!(found.len() >= 4, "{} recordings", found.len());
    found
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn a_quarter_of_the_exhaustive_trials_finds_a_winner_within_two_percent_of_its_best() {
    for recording in recordings() {
        let all = recording.trials.len() as f64;
        let played: Vec<_> = (0..5)
            .map(|seed| play(&recording, Kind::default(), seed, BATCH, &Experience::default()).unwrap())
            .collect();
        let within = played.iter().map(|p| p.within[1].map_or(all, |trials| trials as f64)).collect();
        assert!(median(within) <= 0.25 * all, "{}: {played:?}", recording.name);
        assert!(played.iter().all(|p| p.winner <= 1.05), "{}: {played:?}", recording.name);
    }
}
