//! Several processes on one folder, and processes that die at any moment. The other processes are this test
//! binary again, in the role of `child`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use cce_tuning_db::{Database, Indexing, Record, Repair, Request, Warning, Winners};
use common::{folder, generation, key, measured, record, tiles};

/// Not a test: what the other processes run.
#[test]
#[ignore = "the role of a child process"]
fn child() {
    let Ok(folder) = std::env::var("CCE_TEST_FOLDER") else { return };
    let number = |name: &str| std::env::var(name).unwrap().parse::<u32>().unwrap();
    let (base, batches, patience) =
        (number("CCE_TEST_BASE"), number("CCE_TEST_BATCHES"), number("CCE_TEST_PATIENCE_MS"));
    let patience = Duration::from_millis(patience.into());
    let mut database = Database::open_with_patience(Path::new(&folder), patience).unwrap();
    let mut out = std::io::stdout();
    let mut deferred = 0;
    for batch in 0..batches {
        let batch_of = (0..3).map(|i| base + batch * 3 + i);
        let records: Vec<Record> = batch_of.clone().map(|tile| record(tile, 1.0 + f64::from(tile))).collect();
        database.append(&records).unwrap();
        for tile in batch_of {
            writeln!(out, "flushed {tile}").unwrap();
        }
        out.flush().unwrap();
        if batch % 3 == 2 && database.index().unwrap() == Indexing::Deferred {
            deferred += 1;
        }
    }
    writeln!(out, "deferred {deferred}").unwrap();
}

fn spawn(folder: &Path, base: u32, batches: u32, patience_ms: u32) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child", "--nocapture", "--test-threads=1"])
        .env("CCE_TEST_FOLDER", folder)
        .env("CCE_TEST_BASE", base.to_string())
        .env("CCE_TEST_BATCHES", batches.to_string())
        .env("CCE_TEST_PATIENCE_MS", patience_ms.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a child says, line by line.
struct Said(std::io::Split<BufReader<ChildStdout>>);

impl Said {
    fn by(child: &mut Child) -> Self {
        Self(BufReader::new(child.stdout.take().unwrap()).split(b'\n'))
    }

    /// The tiles that it said were flushed: the next ones, at most so many, or those up to where it died.
    fn flushed(&mut self, most: usize) -> BTreeSet<u64> {
        let lines = self.0.by_ref().map_while(Result::ok);
        lines
            .filter_map(|line| String::from_utf8(line).ok()?.trim().strip_prefix("flushed ")?.parse().ok())
            .take(most)
            .collect()
    }
}

#[test]
fn processes_that_write_at_once_lose_nothing_and_readers_meanwhile_see_only_whole_snapshots() {
    let folder = folder();
    let batches = 30;
    let mut children: Vec<_> = (0..4).map(|i| spawn(folder.path(), 1000 * i, batches, 2000)).collect();
    let request = Request::new(key(), generation());
    let mut selections = 0;
    while children.iter_mut().any(|c| c.try_wait().unwrap().is_none()) {
        let winners = Winners::open(folder.path());
        let selection = winners.select(&request);
        for warning in selection.warnings {
            assert!(
                matches!(&warning, Warning::ReadFromLog { reason, .. } if reason.contains("no snapshot")),
                "{warning}"
            );
        }
        selections += 1;
    }
    assert!(selections > 0);
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let mut database = Database::open(folder.path()).unwrap();
    assert_eq!(database.index().unwrap(), Indexing::Done { repairs: vec![] });
    let expected: Vec<u64> =
        (0..4).flat_map(|i| (0..3 * u64::from(batches)).map(move |t| 1000 * i + t)).collect();
    assert_eq!(tiles(&database.records().unwrap()), expected);
    let best = Winners::open(folder.path()).select(&request);
    assert_eq!(best.candidates[0].winner.config.value()["tile"], 0);
}

/// A small generator for moments to kill at.
struct Moments(u64);

impl Moments {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn repairs(indexing: Indexing) -> Vec<Repair> {
    match indexing {
        Indexing::Done { repairs } => repairs,
        other => panic!("{other:?}"),
    }
}

/// Databases that are killed at the same time, each its own: a killed process waits for the disk, as a rule, and not
/// for a processor.
const LANES: u32 = 8;
/// Kills after which a lane begins a new database.
const KILLS_A_DATABASE: u32 = 100;
/// Half of the children are killed at a moment of so many microseconds, at most, from their start on.
const LONGEST_LIFE: u64 = 60_000;
/// The others at a moment of so many microseconds, at most, after a number of flushed batches below this: however busy the
/// machine is, they die at work.
const BATCHES: (u64, u64) = (5_000, 10);

/// What a lane of kills came to.
#[derive(Default)]
struct Killed {
    /// Children that lived until they were killed.
    in_time: u32,
    /// Records that a child said were flushed.
    flushed: usize,
    /// Times that a database was opened and compared with what was promised.
    opened: u32,
    /// Repairs that were needed, by kind.
    healed: std::collections::BTreeMap<String, u32>,
}

/// Kills children at work on one database after another, and looks whether anything that was flushed is lost.
fn kill_children(kills: u32, seed: u64) -> Killed {
    let mut moments = Moments(seed);
    let mut here = folder();
    let mut promised = BTreeSet::new();
    let mut killed = Killed::default();
    for kill in 0..kills {
        if kill % KILLS_A_DATABASE == 0 {
            here = folder();
            promised.clear();
        }
        let mut child = spawn(here.path(), 10_000 * (kill % KILLS_A_DATABASE), 3000, 5000);
        let mut said = Said::by(&mut child);
        let (wait_for, longest) = match moments.below(2) {
            0 => (0, LONGEST_LIFE),
            _ => (3 * moments.below(BATCHES.1), BATCHES.0),
        };
        let mut flushed = said.flushed(wait_for as usize);
        std::thread::sleep(Duration::from_micros(moments.below(longest)));
        killed.in_time += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        flushed.extend(said.flushed(usize::MAX));
        killed.flushed += flushed.len();
        promised.extend(flushed);
        child.wait().unwrap();
        // Sometimes let damage pile up for the next child to live with.
        if moments.below(3) == 0 || kill == kills - 1 {
            killed.opened += 1;
            let mut database = Database::open(here.path()).unwrap();
            for repair in repairs(database.index().unwrap()) {
                let kind = match repair {
                    Repair::SetAside { reason, .. } => format!("set aside: {reason}"),
                    Repair::RemovedUnfinishedSnapshots { .. } => "removed unfinished snapshots".to_owned(),
                    other => format!("{other:?}"),
                };
                *killed.healed.entry(kind).or_default() += 1;
            }
            let found: BTreeSet<u64> = tiles(&database.records().unwrap()).into_iter().collect();
            let lost: Vec<_> = promised.difference(&found).collect();
            assert!(lost.is_empty(), "after kill {kill} of seed {seed}, lost {lost:?}");
            let (indexing, report) = database.verify().unwrap();
            assert_eq!(report.records, found.len() as u64);
            assert_eq!(repairs(indexing), [], "what one session put right, the next must find right");
            let best = Winners::open(here.path()).select(&Request::new(key(), generation()));
            assert_eq!(best.warnings, []);
            let best = best.candidates.first().map(|c| c.winner.config.value()["tile"].as_u64().unwrap());
            assert_eq!(best, found.first().copied());
        }
    }
    killed
}

/// 50 kills, or 10000 when `CCE_SLOW_TESTS` is 1.
#[test]
fn a_process_killed_at_any_moment_loses_no_flushed_record() {
    let slow = std::env::var("CCE_SLOW_TESTS").is_ok_and(|v| v == "1");
    let (kills, lanes) = if slow { (10_000, LANES) } else { (50, 2) };
    let seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    println!("seed {seed}");
    let begin = Instant::now();
    let lane = |lane: u32| kill_children(kills / lanes, seed.wrapping_add(2 * u64::from(lane)));
    let done: Vec<Killed> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..lanes).map(|number| scope.spawn(move || lane(number))).collect();
        running.into_iter().map(|lane| lane.join().unwrap()).collect()
    });
    let mut healed = std::collections::BTreeMap::<String, u32>::new();
    for (kind, count) in done.iter().flat_map(|lane| &lane.healed) {
        *healed.entry(kind.clone()).or_default() += count;
    }
    let in_time: u32 = done.iter().map(|lane| lane.in_time).sum();
    println!(
        "{kills} kills in {:.0} s, {in_time} of children at work; {} records were flushed, and none lost in {} openings; \
         repairs that were needed: {healed:?}",
        begin.elapsed().as_secs_f64(),
        done.iter().map(|lane| lane.flushed).sum::<usize>(),
        done.iter().map(|lane| lane.opened).sum::<u32>(),
    );
    assert!(in_time > kills / 2, "only {in_time} of {kills} children lived until they were killed");
    assert!(done.iter().all(|lane| lane.flushed > 0));
}

#[test]
fn while_another_process_indexes_a_writer_appends_to_the_log_and_reads_from_it() {
    let folder = folder();
    let mut database = Database::open_with_patience(folder.path(), Duration::from_millis(50)).unwrap();
    database.append(&[record(1, 2.0)]).unwrap();
    database.index().unwrap();
    let other = std::fs::File::options().write(true).open(folder.path().join("lock")).unwrap();
    other.lock().unwrap();
    database.append(&[record(2, 1.0)]).unwrap();
    assert_eq!(database.index().unwrap(), Indexing::Deferred);
    assert_eq!(database.trials(&key()).unwrap().len(), 2);
    let request = Request::new(key(), generation());
    assert_eq!(Winners::open(folder.path()).select(&request).candidates.len(), 1);
    drop(other);
    assert_eq!(database.index().unwrap(), Indexing::Done { repairs: vec![] });
    let selection = Winners::open(folder.path()).select(&request);
    assert_eq!(selection.candidates[0].winner.median, measured(2, 1.0).median.unwrap());
}

#[test]
fn a_store_that_somebody_opened_without_our_lock_is_left_alone() {
    let folder = folder();
    let mut database = Database::open(folder.path()).unwrap();
    database.append(&[record(1, 2.0)]).unwrap();
    database.index().unwrap();
    let stranger = sled::open(folder.path().join("index")).unwrap();
    database.append(&[record(2, 1.0)]).unwrap();
    // More often than a store that kills its owners would be given.
    for _ in 0..5 {
        assert_eq!(database.index().unwrap(), Indexing::Deferred);
    }
    assert_eq!(tiles(&database.records().unwrap()), [1, 2]);
    drop(stranger);
    assert!(matches!(database.index().unwrap(), Indexing::Done { .. }));
    let aside = std::fs::read_dir(folder.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("aside"));
    assert_eq!(aside.count(), 0);
}

#[test]
fn a_log_that_stays_locked_is_an_error_that_names_the_lock() {
    let folder = folder();
    let mut database = Database::open_with_patience(folder.path(), Duration::from_millis(50)).unwrap();
    let other = std::fs::File::options().write(true).open(folder.path().join("log.lock")).unwrap();
    other.lock().unwrap();
    let error = database.append(&[record(1, 1.0)]).unwrap_err();
    assert!(
        matches!(&error, cce_tuning_db::Error::Busy { path, .. } if path.ends_with("log.lock")),
        "{error}"
    );
}
