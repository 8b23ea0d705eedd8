//! Damaged, foreign and missing files. After each of them every flushed record must still be there.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use cce_tuning_db::{Database, Error, Indexing, Repair, Request, Warning, Winners};
use common::{folder, generation, key, record, tiles};

const RECORDS: u32 = 60;

fn everything() -> Vec<u64> {
    (0..u64::from(RECORDS)).collect()
}

/// A closed database of [`RECORDS`] records, in several sessions.
fn filled() -> tempfile::TempDir {
    let folder = folder();
    let mut database = Database::open(folder.path()).unwrap();
    for session in 0..3 {
        let third = RECORDS / 3;
        let tiles = session * third..(session + 1) * third;
        database.append(&tiles.map(|tile| record(tile, 1.0 + f64::from(tile))).collect::<Vec<_>>()).unwrap();
        database.index().unwrap();
    }
    database.close().unwrap();
    folder
}

fn repairs(database: &mut Database) -> Vec<Repair> {
    match database.index().unwrap() {
        Indexing::Done { repairs } => repairs,
        other => panic!("{other:?}"),
    }
}

fn best(folder: &Path) -> (Option<u64>, Vec<Warning>) {
    let selection = Winners::open(folder).select(&Request::new(key(), generation()));
    let tile = selection.candidates.first().map(|c| c.winner.config.value()["tile"].as_u64().unwrap());
    (tile, selection.warnings)
}

fn set_aside(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.to_string_lossy().contains(".aside-")).collect()
}

/// Checks that all is there, was set right, and stays right.
fn all_is_well(folder: &Path) -> Vec<Repair> {
    let mut database = Database::open(folder).unwrap();
    let repairs_made = repairs(&mut database);
    assert_eq!(tiles(&database.records().unwrap()), everything());
    let (indexing, report) = database.verify().unwrap();
    assert_eq!(indexing, Indexing::Done { repairs: vec![] });
    assert!(report.records >= RECORDS.into());
    assert_eq!(best(folder), (Some(0), vec![]));
    repairs_made
}

fn assert_set_aside(repairs: &[Repair]) {
    assert!(matches!(repairs, [.., Repair::SetAside { .. }]), "{repairs:?}");
}

/// 24 damaged stores, or 500 when `CCE_SLOW_TESTS` is 1.
#[test]
fn a_store_with_damaged_bytes_is_repaired_from_the_log() {
    let (mut noticed, mut seed) = (0, 0x9e37_79b9_7f4a_7c15_u64);
    let mut next = |limit: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % limit
    };
    let rounds = if std::env::var("CCE_SLOW_TESTS").is_ok_and(|v| v == "1") { 500 } else { 24 };
    for round in 0..rounds {
        let folder = filled();
        let path = folder.path().join("index/db");
        let mut bytes = fs::read(&path).unwrap();
        let used = bytes.iter().rposition(|b| *b != 0).unwrap();
        for _ in 0..1 << (round % 8) {
            let at = next(used);
            bytes[at] ^= 1 << next(8);
        }
        fs::write(&path, &bytes).unwrap();
        noticed += u32::from(!all_is_well(folder.path()).is_empty());
    }
    assert!(noticed > 0, "no damage was noticed: the test damages nothing");
}

#[test]
fn a_store_cut_short_is_repaired_from_the_log() {
    for keep in [0, 1, 100, 4096, 20_000] {
        let folder = filled();
        let path = folder.path().join("index/db");
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(keep);
        fs::write(&path, &bytes).unwrap();
        let repairs = all_is_well(folder.path());
        assert!(!repairs.is_empty(), "cut to {keep} bytes");
    }
}

/// What damage that sled takes for the end of its file looks like.
#[test]
fn records_that_vanished_from_the_store_without_an_error_are_noticed() {
    let folder = filled();
    let store = sled::open(folder.path().join("index")).unwrap();
    let (first, _) = store.first().unwrap().unwrap();
    store.remove(first).unwrap();
    drop(store);
    assert_eq!(all_is_well(folder.path()), [Repair::RestoredToIndex { count: 1 }]);
}

#[test]
fn after_an_owner_died_every_record_of_the_store_is_compared_with_the_log() {
    let folder = filled();
    let store = sled::open(folder.path().join("index")).unwrap();
    let (first, _) = store.first().unwrap().unwrap();
    store.insert(first, b"not what was stored").unwrap();
    drop(store);
    fs::write(folder.path().join("index.state"), "open").unwrap();
    assert_eq!(all_is_well(folder.path()), [Repair::RestoredToIndex { count: 1 }]);
}

#[test]
fn a_store_whose_snapshot_is_damaged_or_gone_is_repaired_from_the_log() {
    for damage in
        [|path: &Path| fs::write(path, b"no snapshot").unwrap(), |path: &Path| fs::remove_file(path).unwrap()]
    {
        let folder = filled();
        let snapshots = fs::read_dir(folder.path().join("index")).unwrap().map(|e| e.unwrap().path());
        let snapshots: Vec<_> = snapshots.filter(|p| p.to_string_lossy().contains("/snap.")).collect();
        assert!(!snapshots.is_empty());
        snapshots.iter().for_each(|path| damage(path));
        all_is_well(folder.path());
    }
}

#[test]
fn an_unfinished_snapshot_that_makes_sled_refuse_is_removed_and_nothing_else() {
    let folder = filled();
    let index = folder.path().join("index");
    fs::write(index.join("snap.FFFFFFFFFFFFFFFF.generating"), b"cut").unwrap();
    assert!(sled::open(&index).is_err(), "sled 0.34.7 is known to refuse this");
    assert_eq!(all_is_well(folder.path()), [Repair::RemovedUnfinishedSnapshots { count: 1 }]);
    assert_eq!(set_aside(folder.path()), [] as [PathBuf; 0]);
}

#[test]
fn a_folder_of_an_older_sled_is_set_aside_whole_and_rebuilt_from_the_log() {
    let folder = filled();
    let conf = folder.path().join("index/conf");
    let bytes = fs::read(&conf).unwrap();
    let at = bytes.windows(13).position(|w| w == b"version: 0.34").unwrap();
    let mut older = bytes.clone();
    older[at..at + 13].copy_from_slice(b"version: 0.33");
    fs::write(&conf, &older).unwrap();
    assert!(matches!(sled::open(folder.path().join("index")), Err(sled::Error::Unsupported(_))));
    assert_set_aside(&all_is_well(folder.path()));
    let aside = set_aside(folder.path());
    assert_eq!(fs::read(aside[0].join("conf")).unwrap(), older);
}

/// The files that sled 1.0.0-alpha creates, by name.
#[test]
fn a_folder_of_a_later_sled_is_set_aside_whole_and_not_mixed_with_ours() {
    let folder = filled();
    let index = folder.path().join("index");
    fs::remove_dir_all(&index).unwrap();
    fs::create_dir_all(index.join("slabs")).unwrap();
    fs::create_dir_all(index.join("metadata")).unwrap();
    fs::write(index.join("slabs/DO_NOT_PUT_YOUR_FILES_HERE"), b"").unwrap();
    fs::write(index.join("metadata/log_0"), [7; 64]).unwrap();
    fs::write(index.join("durability_cookie"), b"x").unwrap();
    assert_set_aside(&all_is_well(folder.path()));
    let aside = set_aside(folder.path());
    let mut names: Vec<_> = fs::read_dir(&aside[0]).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["durability_cookie", "metadata", "slabs"]);
}

#[test]
fn a_file_where_the_store_should_be_is_set_aside() {
    let folder = filled();
    let index = folder.path().join("index");
    fs::remove_dir_all(&index).unwrap();
    fs::write(&index, b"something of somebody's").unwrap();
    assert_set_aside(&all_is_well(folder.path()));
    assert_eq!(fs::read(&set_aside(folder.path())[0]).unwrap(), b"something of somebody's");
}

#[test]
fn a_store_that_several_owners_died_opening_is_set_aside_without_opening_it() {
    let folder = filled();
    fs::write(folder.path().join("index.state"), "opening 4").unwrap();
    assert_eq!(all_is_well(folder.path()), [], "four may be bad luck");
    fs::write(folder.path().join("index.state"), "opening 5").unwrap();
    assert_set_aside(&all_is_well(folder.path()));
}

#[test]
fn records_that_the_log_lost_come_back_from_the_store() {
    let folder = filled();
    let path = folder.path().join("trials.log");
    let whole = fs::read(&path).unwrap();
    let damages: [fn(&mut Vec<u8>); 3] = [
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle..middle + 3000].fill(0);
        },
        |bytes| bytes.truncate(bytes.len() / 3),
        |bytes| bytes.clear(),
    ];
    for damage in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        let (indexing, _) = database.verify().unwrap();
        let Indexing::Done { repairs } = &indexing else { panic!("{indexing:?}") };
        assert!(matches!(repairs[..], [Repair::RestoredToLog { .. }]), "{indexing:?}");
        // The log alone holds everything again.
        fs::remove_dir_all(folder.path().join("index")).unwrap();
        all_is_well(folder.path());
    }
}

#[test]
fn a_log_that_was_deleted_is_written_again_from_the_store() {
    let folder = filled();
    fs::remove_file(folder.path().join("trials.log")).unwrap();
    assert_eq!(all_is_well(folder.path()), [Repair::RestoredToLog { count: RECORDS as usize }]);
}

#[test]
fn a_store_that_was_deleted_is_built_again_from_the_log() {
    let folder = filled();
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    all_is_well(folder.path());
}

#[test]
fn log_and_store_damaged_in_different_places_complete_each_other() {
    let folder = filled();
    let log = folder.path().join("trials.log");
    let mut bytes = fs::read(&log).unwrap();
    let end = bytes.len();
    bytes[end - 5000..end - 3000].fill(0xff);
    fs::write(&log, &bytes).unwrap();
    // The store lacks what was appended after its last session.
    let mut database = Database::open(folder.path()).unwrap();
    database.append(&[record(RECORDS, 99.0)]).unwrap();
    drop(database);
    fs::write(folder.path().join("index.state"), "open").unwrap();
    let mut database = Database::open(folder.path()).unwrap();
    let all: Vec<_> = (0..=u64::from(RECORDS)).collect();
    assert_eq!(tiles(&database.records().unwrap()), all);
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    assert_eq!(tiles(&database.records().unwrap()), all, "the log alone holds everything again");
}

#[test]
fn readers_fall_back_to_the_log_when_the_snapshot_is_damaged_and_the_next_writer_renews_it() {
    let folder = filled();
    let path = folder.path().join("winners.snap");
    let whole = fs::read(&path).unwrap();
    let mut entry = whole.clone();
    *entry.last_mut().unwrap() ^= 1;
    let mut head = whole.clone();
    head[30] ^= 1;
    // Format 1, as an earlier version wrote it, is not misread.
    let mut earlier = whole.clone();
    earlier[12] = 1;
    for damaged in [entry, head, earlier, whole[..whole.len() / 2].to_vec(), b"junk".to_vec(), vec![]] {
        fs::write(&path, &damaged).unwrap();
        let (tile, warnings) = best(folder.path());
        assert_eq!(tile, Some(0));
        assert!(matches!(warnings.last(), Some(Warning::ReadFromLog { .. })), "{warnings:?}");
        assert_eq!(all_is_well(folder.path()), []);
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn readers_skip_damaged_records_of_the_log_they_fall_back_to() {
    let folder = filled();
    fs::remove_file(folder.path().join("winners.snap")).unwrap();
    let path = folder.path().join("trials.log");
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 0x10;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(best(folder.path()).0, Some(1), "the fastest is damaged, the second is read");
}

#[test]
fn a_snapshot_of_a_later_format_is_not_overwritten() {
    let folder = filled();
    let path = folder.path().join("winners.snap");
    let mut later = fs::read(&path).unwrap();
    later[12] = 4;
    fs::write(&path, &later).unwrap();
    let mut database = Database::open(folder.path()).unwrap();
    assert!(matches!(database.index(), Err(Error::Newer { found: 4, .. })));
    assert_eq!(fs::read(&path).unwrap(), later);
    assert_eq!(best(folder.path()).0, Some(0), "readers take the log");
    database.append(&[record(RECORDS, 99.0)]).unwrap();
}

#[test]
fn records_of_a_later_schema_are_kept_in_the_log_and_not_misread() {
    let folder = filled();
    let path = folder.path().join("trials.log");
    let later = r#"{"schema":2,"key":{},"trial":{}}"#;
    // Framed as the log frames every record.
    let mut hasher = blake3::Hasher::new();
    let length = u32::try_from(later.len()).unwrap().to_le_bytes();
    hasher.update(&length).update(later.as_bytes());
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend(b"\xffC\xfeE");
    bytes.extend(length);
    bytes.extend(&hasher.finalize().as_bytes()[..8]);
    bytes.extend(later.as_bytes());
    fs::write(&path, &bytes).unwrap();
    assert_eq!(all_is_well(folder.path()), []);
    assert!(fs::read(&path).unwrap().ends_with(later.as_bytes()));
}
