//! The default strategy, and selection, on trials that were recorded on an H100, by `cce-tune --exhaustive --record FILE`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use cce_runtime::selection::{CONSULTED, SHIPPED, Shipped};
use cce_tune::recording::Recording;
use cce_tune::regret::regrets;
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

#[test]
fn a_shape_that_is_held_out_is_within_three_percent_of_its_best_in_the_median_and_ten_at_worst() {
    let recorded = recordings();
    let folder = tempfile::tempdir().unwrap();
    let shipped = SHIPPED.iter().flat_map(|Shipped { file, text, .. }| {
        let path = folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        Recording::read(&path).unwrap()
    });
    // As if one version of the kernels had made all: what winners change of their defaults is what counts.
    let all: Vec<Recording> = recorded
        .iter()
        .cloned()
        .chain(shipped)
        .map(|mut known| {
            known.generation = recorded[0].generation.clone();
            known
        })
        .collect();
    let asked: Vec<&Recording> = recorded.iter().collect();
    let program = cce::losses::cross_entropy::program();
    let is_it = |hash: &[u8; 32]| *hash == program.hash();
    let held_out =
        regrets(&asked, &all, CONSULTED, |key| is_it(key.program.as_bytes()).then(|| program.clone()))
            .unwrap();
    assert_eq!(held_out.len(), recorded.len(), "{held_out:?}");
    let over: Vec<f64> = held_out.iter().map(|regret| regret.selected.over_best.unwrap()).collect();
    let default: f64 = held_out.iter().map(|regret| regret.default.over_best.unwrap()).sum();
    assert!(over.iter().sum::<f64>() <= default, "the defaults are better: {held_out:?}");
    let worst = over.iter().copied().fold(0.0, f64::max);
    assert!(median(over) <= 0.03 && worst <= 0.1, "{held_out:?}");
}
