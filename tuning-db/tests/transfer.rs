//! Merging, export, import, profiles made from a database, and reading by device.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use cce_tuning_db::{Database, Device, Error, Record, Request, Status, Trial, Winners};
use common::{config, folder, generation, key, measured, provenance, record, tiles};

fn database(records: &[Record]) -> (tempfile::TempDir, Database) {
    let folder = folder();
    let mut database = Database::open(folder.path()).unwrap();
    database.append(records).unwrap();
    (folder, database)
}

fn from_host(host: &str, tile: u32, ms: f64) -> Record {
    let mut trial = measured(tile, ms);
    trial.provenance.host = host.to_owned();
    Record::new(key(), trial)
}

#[test]
fn a_merge_adds_what_is_new_and_the_better_record_wins_with_its_provenance() {
    let (_here, mut ours) = database(&[from_host("a", 1, 2.0), from_host("a", 2, 3.0)]);
    let (there, theirs) = database(&[from_host("b", 1, 1.0), from_host("a", 2, 3.0), from_host("b", 3, 9.0)]);
    drop(theirs);
    let merged = ours.merge(there.path()).unwrap();
    assert_eq!((merged.added, merged.known, merged.unreadable), (2, 1, 0));
    assert_eq!(tiles(&ours.records().unwrap()), [1, 1, 2, 3]);
    let best = Winners::open(ours.folder()).select(&Request::new(key(), generation())).candidates.remove(0);
    assert_eq!((best.winner.median, best.winner.provenance.host.as_str()), (1.0, "b"));
    let again = ours.merge(there.path()).unwrap();
    assert_eq!((again.added, again.known), (0, 3));
}

#[test]
fn a_merge_with_a_folder_without_a_log_is_an_error_and_changes_nothing() {
    let (_here, mut ours) = database(&[record(1, 1.0)]);
    let empty = folder();
    assert!(matches!(ours.merge(empty.path()), Err(Error::Io { .. })));
    assert_eq!(tiles(&ours.records().unwrap()), [1]);
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "the other folder is only read");
}

#[test]
fn an_export_imports_into_an_empty_database_as_the_same_records() {
    let wrong =
        Trial::dropped(config(3), common::shape(), Status::Wrong("dE".into()), generation(), provenance(1))
            .with_gradient_error(f64::INFINITY);
    let (_here, mut ours) = database(&[record(1, 1.0), record(2, 2.0), Record::new(key(), wrong)]);
    let mut text = Vec::new();
    assert_eq!(ours.export(&mut text).unwrap(), 3);
    let (_there, mut theirs) = database(&[]);
    let merged = theirs.import(&text[..]).unwrap();
    assert_eq!((merged.added, merged.known, merged.unreadable), (3, 0, 0));
    assert_eq!(theirs.records().unwrap(), ours.records().unwrap());
    // Laid out anew by some other tool, they are still the same records.
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let again = theirs.import(serde_json::to_string_pretty(&value).unwrap().as_bytes()).unwrap();
    assert_eq!((again.added, again.known), (0, 3));
}

#[test]
fn an_import_skips_records_it_cannot_read_and_refuses_what_is_no_export() {
    let (_here, mut ours) = database(&[]);
    let mut value = serde_json::json!({"kind": "cce trials", "schema": 1, "records": [record(1, 1.0)]});
    let mut later = value["records"][0].clone();
    later["schema"] = 7.into();
    value["records"].as_array_mut().unwrap().extend([later, 5.into()]);
    let merged = ours.import(value.to_string().as_bytes()).unwrap();
    assert_eq!((merged.added, merged.unreadable), (1, 2));
    value["schema"] = 2.into();
    for text in ["", "[]", r#"{"kind":"x","schema":1,"records":[]}"#, &value.to_string()] {
        assert!(matches!(ours.import(text.as_bytes()), Err(Error::Decode { .. })), "{text}");
    }
}

#[test]
fn records_are_found_by_key_and_by_device() {
    let cpu = Device::cpu("cpu", 2);
    let other = Record::new(key().with_device(cpu.clone()), measured(7, 1.0));
    let (_here, mut ours) = database(&[record(1, 1.0), record(2, 1.0), other.clone()]);
    assert_eq!(ours.records_of_device(&cpu).unwrap(), [other]);
    assert_eq!(tiles(&ours.records_of_device(&common::device()).unwrap()), [1, 2]);
    assert_eq!(ours.trials(&key()).unwrap().len(), 2);
    assert_eq!(ours.trials(&key().with_device(Device::cpu("cpu", 4))).unwrap(), []);
}

#[test]
fn a_profile_of_a_device_holds_its_winners_only() {
    let cpu = Device::cpu("cpu", 2);
    let other = Record::new(key().with_device(cpu.clone()), measured(7, 1.0));
    let (_here, mut ours) = database(&[record(1, 2.0), record(2, 1.0), other]);
    let profile = ours.profile("h100", provenance(0), Some(&common::device())).unwrap();
    assert_eq!(profile.entries.len(), 1);
    assert_eq!(profile.entries[0].winners[0].median, 1.0);
    assert_eq!(ours.profile("all", provenance(0), None).unwrap().entries.len(), 2);
}

#[test]
fn a_record_that_cannot_be_stored_faithfully_is_refused_before_anything_is_written() {
    let (_here, mut ours) = database(&[]);
    let mut trial = measured(1, 1.0);
    trial.median = Some(f64::NAN);
    assert!(matches!(ours.append(&[record(2, 1.0), Record::new(key(), trial)]), Err(Error::Invalid { .. })));
    let reason = Status::Compile("x".repeat(2 << 20));
    let long = Trial::dropped(config(1), common::shape(), reason, generation(), provenance(0));
    assert!(matches!(ours.append(&[record(2, 1.0), Record::new(key(), long)]), Err(Error::TooLarge { .. })));
    assert_eq!(ours.records().unwrap(), []);
}

#[test]
fn a_trial_that_was_appended_twice_is_one_trial() {
    let (_here, mut ours) = database(&[record(1, 1.0), record(1, 1.0)]);
    ours.append(&[record(1, 1.0)]).unwrap();
    assert_eq!(tiles(&ours.records().unwrap()), [1]);
}
