//! What a launching process pays. Each figure is taken inside a new process, as the best of several, because
//! other work on the machine is no property of this crate.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cce_tuning_db::{Database, Grade, Indexing, Key, Problem, Record, Request, Shape, Winners};
use common::{folder, generation, key, measured, shape};

/// Not a test: opens, selects and says how long it took.
#[test]
#[ignore = "the role of a child process"]
fn child_that_selects() {
    let Ok(folder) = std::env::var("CCE_TEST_FOLDER") else { return };
    let begin = Instant::now();
    let winners = Winners::open(Path::new(&folder));
    let selection = winners.select(&Request::new(key(), generation()));
    let took = begin.elapsed();
    assert_eq!(selection.candidates[0].grade, Grade::Exact);
    assert_eq!(selection.warnings, []);
    println!("took {} us", took.as_micros());
}

fn best_of_new_processes(folder: &Path) -> Duration {
    let run = || {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child_that_selects", "--nocapture", "--test-threads=1"])
            .env("CCE_TEST_FOLDER", folder)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let (_, rest) =
            said.split_once("took ").unwrap_or_else(|| panic!("the child measured nothing: {said}"));
        Duration::from_micros(rest.split(' ').next().unwrap().parse().unwrap())
    };
    (0..7).map(|_| run()).min().unwrap()
}

fn fill(keys: &[Key], trials_a_key: u32) -> tempfile::TempDir {
    let folder = folder();
    let mut database = Database::open(folder.path()).unwrap();
    for keys in keys.chunks(1000) {
        let records: Vec<_> = keys
            .iter()
            .flat_map(|key| {
                (0..trials_a_key).map(|t| Record::new(key.clone(), measured(t, 1.0 + f64::from(t))))
            })
            .collect();
        database.append(&records).unwrap();
    }
    let begin = Instant::now();
    assert_eq!(database.index().unwrap(), Indexing::Done { repairs: vec![] });
    println!("indexed in {:?}", begin.elapsed());
    let begin = Instant::now();
    database.append(&[Record::new(key(), measured(9999, 9999.0))]).unwrap();
    assert_eq!(database.close().unwrap(), Indexing::Done { repairs: vec![] });
    println!("one more record in {:?}", begin.elapsed());
    folder
}

/// The key of the requests first, then others of the same program.
fn keys(count: u64) -> Vec<Key> {
    let other = |i| {
        let mut other = key();
        other.problem = Problem::new(Shape::new(8192, 2304 + i, 256_000));
        other
    };
    assert_eq!(other(0), key());
    assert_eq!(shape().hidden, 2304);
    (0..count).map(other).collect()
}

#[test]
fn a_selection_in_a_new_process_takes_less_than_two_ms() {
    let took = best_of_new_processes(fill(&keys(60), 50).path());
    println!("3000 records of 60 keys: {took:?}");
    assert!(took < Duration::from_millis(2), "{took:?}");
}

#[test]
fn with_100_000_records_opening_and_selecting_takes_less_than_50_ms() {
    let took = best_of_new_processes(fill(&keys(500), 200).path());
    println!("100000 records of 500 keys: {took:?}");
    assert!(took < Duration::from_millis(50), "{took:?}");
}

/// The worst case: nothing but winners. Only when `CCE_SLOW_TESTS` is 1.
#[test]
fn even_with_100_000_keys_opening_and_selecting_takes_less_than_50_ms() {
    if std::env::var("CCE_SLOW_TESTS").is_ok_and(|v| v == "1") {
        let took = best_of_new_processes(fill(&keys(100_000), 1).path());
        println!("100000 records of 100000 keys: {took:?}");
        assert!(took < Duration::from_millis(50), "{took:?}");
    }
}
