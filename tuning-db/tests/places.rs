//! Places that cannot be written: read-only, full, not a folder. Writers get a clear error and lose nothing
//! that was flushed, readers go on.
//!
//! Each condition is made so that it holds for root and for a normal user alike, and the tests check that it
//! holds before they rely on it. Those that need a process in a special state run this test binary again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use cce_tuning_db::{Config, Database, Error, Indexing, Record, Request, Winners};
use common::{folder, generation, key, record, tiles};

fn filled() -> tempfile::TempDir {
    let folder = folder();
    let mut database = Database::open(folder.path()).unwrap();
    database.append(&(0..10).map(|tile| record(tile, 1.0 + f64::from(tile))).collect::<Vec<_>>()).unwrap();
    database.close().unwrap();
    folder
}

fn best(folder: &Path) -> Option<u64> {
    let selection = Winners::open(folder).select(&Request::new(key(), generation()));
    selection.candidates.first().map(|c| c.winner.config.value()["tile"].as_u64().unwrap())
}

fn run_as_child(test: &str, folder: &Path, shell_prefix: &str) {
    let this = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("{shell_prefix} exec \"$0\" --ignored --exact {test} --nocapture --test-threads=1"))
        .arg(this)
        .env("CCE_TEST_FOLDER", folder)
        .output()
        .unwrap();
    let said =
        format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed") && said.contains("child is done"), "the child ran no test: {said}");
}

fn child_folder() -> Option<PathBuf> {
    std::env::var_os("CCE_TEST_FOLDER").map(PathBuf::from)
}

#[test]
fn in_a_read_only_folder_writers_are_told_and_readers_go_on_with_or_without_a_snapshot() {
    for with_snapshot in [true, false] {
        let folder = filled();
        if !with_snapshot {
            fs::remove_file(folder.path().join("winners.snap")).unwrap();
        }
        let set = |folder_mode, file_mode| {
            for entry in fs::read_dir(folder.path()).unwrap() {
                let entry = entry.unwrap();
                let mode = if entry.file_type().unwrap().is_dir() { folder_mode } else { file_mode };
                fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode)).unwrap();
            }
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(folder_mode)).unwrap();
        };
        set(0o555, 0o444);
        run_as_child("child_in_a_read_only_folder", folder.path(), "");
        set(0o755, 0o644);
        let mut database = Database::open(folder.path()).unwrap();
        assert_eq!(tiles(&database.records().unwrap()), (0..10).collect::<Vec<_>>());
    }
}

/// Permission bits bind root too once it has given up the capability to override them.
#[test]
#[ignore = "the role of a child process"]
fn child_in_a_read_only_folder() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let Some(folder) = child_folder() else { return };
    let mut held = capabilities(None).unwrap();
    held.effective
        .remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::FOWNER);
    set_capabilities(None, held).unwrap();
    let probe = fs::write(folder.join("probe"), b"x").unwrap_err();
    assert_eq!(
        probe.kind(),
        std::io::ErrorKind::PermissionDenied,
        "the folder is not read-only: no test possible"
    );

    let error = Database::open(&folder).unwrap_err();
    assert!(error.is_unwritable_place(), "{error}");
    assert!(error.to_string().contains("choose a folder that can be written"), "{error}");
    let error = Database::open(&folder.join("new")).unwrap_err();
    assert!(error.is_unwritable_place(), "{error}");
    let winners = Winners::open(&folder);
    let selection = winners.select(&Request::new(key(), generation()));
    let read_from_log = usize::from(!folder.join("winners.snap").exists());
    assert_eq!((selection.candidates.len(), selection.warnings.len()), (8, read_from_log));
    println!("child is done");
}

#[test]
fn when_the_disk_fills_up_an_append_fails_whole_and_flushed_records_stay() {
    let folder = filled();
    // Room for a batch of three, and for one record and a part of another of the next batch, in 512-byte
    // blocks. The signal must be ignored, or the process would be killed instead of told.
    let length = fs::metadata(folder.path().join("trials.log")).unwrap().len();
    let blocks = (length + length / 2) / 512;
    run_as_child("child_that_fills_the_log", folder.path(), &format!("trap '' XFSZ; ulimit -f {blocks};"));
    let mut database = Database::open(folder.path()).unwrap();
    let found = tiles(&database.records().unwrap());
    let promised: u64 = fs::read_to_string(folder.path().join("promised")).unwrap().parse().unwrap();
    assert_eq!(found, (0..promised).collect::<Vec<_>>());
    let (indexing, report) = database.verify().unwrap();
    assert_eq!(indexing, Indexing::Done { repairs: vec![] });
    assert_eq!((report.damaged_bytes, report.torn_bytes), (0, 0));
}

#[test]
#[ignore = "the role of a child process"]
fn child_that_fills_the_log() {
    let Some(folder) = child_folder() else { return };
    let mut database = Database::open(&folder).unwrap();
    let mut promised = 10;
    let error = loop {
        assert!(promised < 1000, "the file size limit does not bind: no test possible");
        let batch: Vec<Record> = (0..3).map(|i| record(promised + i, 100.0)).collect();
        match database.append(&batch) {
            Ok(()) => promised += 3,
            Err(error) => break error,
        }
    };
    assert!(promised > 10, "the limit left no room for a single batch");
    assert!(error.is_unwritable_place(), "{error}");
    // Still full: still told, still nothing half-written.
    assert!(database.append(&[record(7000, 1.0), record(7001, 1.0), record(7002, 1.0)]).is_err());
    assert_eq!(best(&folder), Some(0));
    fs::write(folder.join("promised"), promised.to_string()).unwrap();
    println!("child is done");
}

#[test]
fn when_the_disk_is_too_full_for_the_index_the_store_is_kept_and_the_log_still_takes_records() {
    let folder = filled();
    // sled grows its file by segments of 512 KiB; the log stays far below the limit.
    run_as_child("child_that_cannot_grow_the_index", folder.path(), "trap '' XFSZ; ulimit -f 1100;");
    let mut database = Database::open(folder.path()).unwrap();
    let promised: u64 = fs::read_to_string(folder.path().join("promised")).unwrap().parse().unwrap();
    assert_eq!(tiles(&database.records().unwrap()), (0..promised).collect::<Vec<_>>());
    let aside = fs::read_dir(folder.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".aside-"));
    assert_eq!(aside.count(), 0, "a full disk is no damage");
}

#[test]
#[ignore = "the role of a child process"]
fn child_that_cannot_grow_the_index() {
    let Some(folder) = child_folder() else { return };
    let mut database = Database::open(&folder).unwrap();
    let mut promised = 10;
    let error = loop {
        assert!(promised < 2000, "the file size limit does not bind: no test possible");
        let batch: Vec<Record> = (0..50).map(|i| record(promised + i, 100.0)).collect();
        if let Err(error) = database.append(&batch) {
            panic!("the log was full before the index: {error}");
        }
        promised += 50;
        fs::write(folder.join("promised"), promised.to_string()).unwrap();
        if let Err(error) = database.index() {
            break error;
        }
    };
    assert!(error.is_unwritable_place(), "{error}");
    assert!(database.index().is_err());
    assert_eq!(best(&folder), Some(0));
    println!("child is done");
}

#[test]
fn on_a_full_disk_what_is_written_whole_is_reported_as_such_and_the_earlier_files_stay() {
    let folder = filled();
    let names = |folder: &Path| -> Vec<_> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let (before, log) = (names(folder.path()), fs::read(folder.path().join("trials.log")).unwrap());
    let snapshot = fs::read(folder.path().join("winners.snap")).unwrap();
    // Not a byte.
    run_as_child("child_that_cannot_write_a_byte", folder.path(), "trap '' XFSZ; ulimit -f 0;");
    fs::remove_dir_all(folder.path().join("new")).unwrap();
    assert_eq!(names(folder.path()), before);
    assert_eq!(fs::read(folder.path().join("trials.log")).unwrap(), log);
    assert_eq!(fs::read(folder.path().join("winners.snap")).unwrap(), snapshot);
    let mut database = Database::open(folder.path()).unwrap();
    assert_eq!(database.index().unwrap(), Indexing::Done { repairs: vec![] });
    assert_eq!(tiles(&database.records().unwrap()), (0..10).collect::<Vec<_>>());
}

#[test]
#[ignore = "the role of a child process"]
fn child_that_cannot_write_a_byte() {
    let Some(folder) = child_folder() else { return };
    // The log of a new database, and the note that the index is being opened.
    let new = folder.join("new");
    told_that_it_is_too_large(&Database::open(&new).unwrap_err(), &new.join("trials.log"));
    assert!(!new.join("trials.log").exists(), "an empty log is a damaged one");
    let left = fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().ends_with(".new")));
    let mut database = Database::open(&folder).unwrap();
    told_that_it_is_too_large(&database.index().unwrap_err(), &folder.join("index.state"));
    assert_eq!(best(&folder), Some(0));
    println!("child is done");
}

#[test]
fn when_the_disk_is_too_full_for_the_snapshot_the_earlier_one_stays() {
    const LIMIT: u64 = 2 << 20;
    let folder = folder();
    let snapshot = folder.path().join("winners.snap");
    let mut database = Database::open(folder.path()).unwrap();
    database.append(&[record(1, 1.0)]).unwrap();
    database.index().unwrap();
    let earlier = fs::read(&snapshot).unwrap();
    // Each so large that sled gives it a file of its own, while the snapshot has all of them.
    for vocab in 0..12 {
        let mut large = record(0, 0.5);
        large.key.problem.vocab += vocab;
        large.trial.config = Config::new(serde_json::json!({"tile": 0, "text": "x".repeat(300_000)}));
        database.append(&[large]).unwrap();
    }
    database.index().unwrap();
    database.close().unwrap();
    assert!(fs::metadata(&snapshot).unwrap().len() > LIMIT, "the snapshot is too small: no test possible");
    fs::write(&snapshot, &earlier).unwrap();
    let blocks = LIMIT / 512;
    run_as_child(
        "child_that_cannot_write_the_snapshot",
        folder.path(),
        &format!("trap '' XFSZ; ulimit -f {blocks};"),
    );
    assert_eq!(fs::read(&snapshot).unwrap(), earlier);
    let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let is_whole = |name: std::ffi::OsString| {
        let name = name.to_string_lossy().into_owned();
        !name.ends_with(".new") && !name.contains(".aside-")
    };
    assert!(left.into_iter().all(is_whole), "a full disk is no damage, and nothing half-written stays");
    assert_eq!(best(folder.path()), Some(1));
    let mut database = Database::open(folder.path()).unwrap();
    assert_eq!(database.index().unwrap(), Indexing::Done { repairs: vec![] });
    assert_eq!(best(folder.path()), Some(0));
}

#[test]
#[ignore = "the role of a child process"]
fn child_that_cannot_write_the_snapshot() {
    let Some(folder) = child_folder() else { return };
    let error = Database::open(&folder).unwrap().index().unwrap_err();
    told_that_it_is_too_large(&error, &folder.join("winners.snap"));
    println!("child is done");
}

fn told_that_it_is_too_large(error: &Error, file: &Path) {
    let words = error.to_string();
    assert!(error.is_unwritable_place() && words.contains("raise the file size limit"), "{words}");
    assert!(words.starts_with(&format!("could not write {}: ", file.display())), "{words}");
}

#[test]
fn a_snapshot_that_cannot_be_replaced_costs_nothing_that_was_there() {
    let folder = folder();
    let mut database = Database::open(folder.path()).unwrap();
    database.append(&[record(1, 1.0)]).unwrap();
    database.index().unwrap();
    let (path, moved) = (folder.path().join("winners.snap"), folder.path().join("moved"));
    database.append(&[record(0, 0.5)]).unwrap();
    // A folder in its place, which no file can be renamed over.
    fs::rename(&path, &moved).unwrap();
    fs::create_dir(&path).unwrap();
    let error = database.index().unwrap_err();
    assert!(error.to_string().contains("winners.snap"), "{error}");
    let left = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().ends_with(".new")));
    fs::remove_dir(&path).unwrap();
    fs::rename(&moved, &path).unwrap();
    assert_eq!(best(folder.path()), Some(1));
    assert_eq!(database.index().unwrap(), Indexing::Done { repairs: vec![] });
    assert_eq!(best(folder.path()), Some(0));
}

#[test]
fn a_file_in_the_place_of_the_folder_is_an_error_for_writers_and_nothing_for_readers() {
    let folder = folder();
    let path = folder.path().join("file");
    fs::write(&path, b"x").unwrap();
    for place in [path.clone(), path.join("below"), PathBuf::from("/proc/cce-tuning")] {
        let error = Database::open(&place).unwrap_err();
        assert!(error.to_string().starts_with("could not create the folder"), "{error}");
        assert_eq!(best(&place), None);
    }
    assert_eq!(fs::read(&path).unwrap(), b"x");
}
