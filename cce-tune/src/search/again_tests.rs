//! Searches that measure anew what is stored: stopped at any moment, what a table names is what plans take or says
//! so, and a later search goes on.

use super::tests::{Invented, blocks, candidates, none, store};
use super::{Effort, Ended, Ranking, Store, search};
use crate::progress::Silent;
use crate::stop::Stop;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const BLOCKS: [u32; 6] = [14, 13, 12, 11, 10, 99];

fn effort() -> Effort {
    Effort { batch: 4, screening: 3, finalists: 2, finals: 5, ..Effort::default() }
}

/// A search of a device on which small blocks are fast, or on which large ones are.
struct Device<'a> {
    folder: &'a Path,
    large: bool,
    effort: Effort,
}

impl Device<'_> {
    /// Returns how many things it did, its ranking, and its store.
    fn search(&self, again: bool, stop_after: usize) -> (Ended, usize, Ranking, Store) {
        let (events, stop) = (Mutex::new(Vec::new()), Stop::new());
        let mut store = store(self.folder);
        if again {
            store.measure_again();
        }
        let candidates = candidates(BLOCKS);
        let time: fn(u32, usize) -> f64 = match self.large {
            true => |block, _| f64::from(40 - block),
            false => |block, _| f64::from(block),
        };
        let bench =
            || Ok(Invented { time, fails: none, events: &events, stop_after: Some((&stop, stop_after)) });
        let ended = search(&candidates, &mut store, &self.effort, &Silent, &stop, bench).unwrap();
        let ranking = Ranking::new(&candidates, &store);
        store.publish().unwrap();
        (ended, events.into_inner().unwrap().len(), ranking, store)
    }
}

#[test]
fn a_measurement_anew_that_is_stopped_at_any_moment_is_gone_on_with() {
    for after in (1..60).step_by(3) {
        let folder = tempfile::tempdir().unwrap();
        let device = |large| Device { folder: folder.path(), large, effort: effort() };
        device(false).search(false, usize::MAX);
        let (_, _, stopped, _) = device(true).search(true, after);
        let has_begun = stopped.entries.iter().any(|entry| entry.trial.anew.is_some());
        let (ended, _, ranking, mut store) = device(true).search(false, usize::MAX);
        assert_eq!(ended, Ended::Complete);
        let expected = if has_begun { [14, 13, 12, 11, 10, 99] } else { [10, 11, 12, 13, 14, 99] };
        assert_eq!(blocks(&ranking), expected, "stopped after {after} events");
        let in_use = store.in_use().unwrap().unwrap();
        assert_eq!(in_use.config, ranking.entries[0].trial.config, "stopped after {after} events");
        assert_eq!(Some(in_use.median), ranking.entries[0].ms);
        let (_, done, again, _) = device(true).search(false, usize::MAX);
        assert_eq!((done, blocks(&again)), (0, expected.to_vec()), "stopped after {after} events");
    }
}

#[test]
fn until_a_measurement_anew_has_a_whole_run_off_plans_take_what_they_had() {
    let folder = tempfile::tempdir().unwrap();
    let device = |large, effort| Device { folder: folder.path(), large, effort };
    device(false, effort()).search(false, usize::MAX);
    let screening = Effort { finalists: 0, ..effort() };
    let late = Effort { until: Some(Instant::now()), grace: Some(Duration::ZERO), ..effort() };
    for (effort, again, expected) in [(screening, true, Ended::Complete), (late, false, Ended::Spent)] {
        let (ended, _, ranking, mut store) = device(true, effort).search(again, usize::MAX);
        assert_eq!((ended, blocks(&ranking)[0]), (expected, 14));
        assert_eq!(store.in_use().unwrap().unwrap().median, 10.0);
    }
    let (_, _, ranking, mut store) = device(true, effort()).search(false, usize::MAX);
    let now = store.in_use().unwrap().unwrap();
    assert_eq!((now.median, &now.config), (26.0, &ranking.entries[0].trial.config));
}
