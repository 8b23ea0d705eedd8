//! Ctrl-C and kill in mid-run: what is done is kept, and the next run goes on from there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
#![cfg(unix)]

mod common;

use common::{Ran, Tuner};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A problem whose whole search takes some seconds, started.
fn start(tuner: &Tuner, args: &[&str]) -> Child {
    let mut command =
        tuner.command(&["--gpu", "cpu", "--tokens", "128", "--hidden", "128", "--vocab", "8192"]);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str, times: usize) {
    let to = vec![child.id().to_string(); times];
    let done = Command::new("kill").arg(format!("-{name}")).args(to).status().unwrap();
    assert!(done.success());
}

/// Waits until the log of the database has grown beyond its head: a batch has been stored.
fn wait_for_a_batch(tuner: &Tuner, child: &mut Child) {
    let log = std::path::Path::new(&tuner.database()).join("trials.log");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        if std::fs::metadata(&log).is_ok_and(|data| data.len() > 2000) {
            return;
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before a batch was stored");
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("no batch was stored within 30 s");
}

fn stored(tuner: &Tuner) -> usize {
    let trials = tuner.run(&["show", "--trials", "--json"]).ok().json();
    trials["trials"].as_array().unwrap().len()
}

#[test]
fn ctrl_c_keeps_what_is_done_and_the_next_run_resumes() {
    let tuner = Tuner::new();
    let mut child = start(&tuner, &["--json"]);
    wait_for_a_batch(&tuner, &mut child);
    // Twice, as `timeout -s INT` does: to the process, and to its group.
    signal(&child, "INT", 2);
    let ran = Ran::from(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(130), "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("what is done is kept"), "{}", ran.stderr);
    let value = ran.json();
    assert_eq!(value["devices"][0]["ended"], "stopped");
    let candidates = value["devices"][0]["candidates"].as_array().unwrap();
    let done = candidates.iter().filter(|c| c["status"] == "ok").count();
    assert!(done > 0, "{candidates:?}");
    assert!(stored(&tuner) >= done);

    let resumed = Ran::from(start(&tuner, &["--json"]).wait_with_output().unwrap()).ok().json();
    assert_eq!(resumed["devices"][0]["ended"], "complete");
    assert!(resumed["devices"][0]["reused"].as_u64().unwrap() as usize >= done);
}

#[test]
fn a_killed_run_has_lost_nothing_that_was_stored() {
    let tuner = Tuner::new();
    let mut child = start(&tuner, &[]);
    wait_for_a_batch(&tuner, &mut child);
    signal(&child, "KILL", 1);
    assert_eq!(child.wait().unwrap().code(), None);
    let kept = stored(&tuner);
    assert!(kept >= 8, "{kept}");
    let resumed = Ran::from(start(&tuner, &["--json"]).wait_with_output().unwrap()).ok().json();
    assert!(resumed["devices"][0]["reused"].as_u64().unwrap() >= 8);
}

#[test]
fn plain_lines_say_how_far_it_is_where_there_is_no_terminal() {
    let tuner = Tuner::new();
    let mut child = start(&tuner, &["--candidates", "1"]);
    let lines: Vec<String> =
        BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success());
    assert!(lines.iter().any(|line| line == "computing the reference"), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains('\u{1b}')), "{lines:?}");
}
