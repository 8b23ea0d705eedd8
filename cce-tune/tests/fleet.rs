//! A tuning that is divided among machines: shards in any order, killed and repeated, come to one result.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use common::{Ran, Tuner};
use std::process::Stdio;
use std::time::{Duration, Instant};

const SHAPE: [&str; 6] = ["--tokens", "48", "--hidden", "16", "--vocab", "1500"];

fn plan(tuner: &Tuner, shards: &str) -> Ran {
    let flags = ["plan", "--out", "plan", "--shards", shards, "--gpu", "cpu", "--json"];
    tuner.run(&[&flags[..], &SHAPE[..]].concat())
}

fn work(tuner: &Tuner, shard: &str) -> Ran {
    tuner.run(&["work", &format!("plan/{shard}"), "--gpu", "cpu", "--json"])
}

#[test]
fn shards_share_the_candidates_and_the_merged_result_is_found_by_a_plan_of_the_same_problem() {
    let tuner = Tuner::new();
    plan(&tuner, "3").ok();
    let tried: Vec<u64> = ["shard-2", "shard-0", "shard-1"]
        .iter()
        .map(|shard| work(&tuner, shard).ok().json()["done"]["tried"].as_u64().unwrap())
        .collect();
    let whole = work(&tuner, "run-off").ok().json();
    assert_eq!(whole["done"]["tried"].as_u64().unwrap(), tried.iter().sum::<u64>());
    assert!(whole["done"]["winner"].is_string(), "{whole}");
    // Nothing was in the database until now.
    let merged = tuner.run(&["merge", "plan", "--json"]).ok().json();
    let added = |value: &serde_json::Value| -> u64 {
        value["merged"].as_array().unwrap().iter().map(|shard| shard["added"].as_u64().unwrap()).sum()
    };
    assert!(added(&merged) >= whole["done"]["tried"].as_u64().unwrap(), "{merged}");
    assert_eq!(added(&tuner.run(&["merge", "plan", "--json"]).ok().json()), 0);
    let tuned = tuner.tiny(&["--json"]).ok().json();
    assert_eq!(tuned["devices"][0]["reused"], whole["done"]["tried"]);
    assert_eq!(tuned["devices"][0]["winner"]["description"], whole["done"]["winner"]);
    // Done again, a shard does nothing.
    assert_eq!(work(&tuner, "shard-1").ok().json()["again"], true);
}

#[test]
fn a_shard_that_was_killed_goes_on_and_the_run_off_does_what_no_shard_did() {
    let tuner = Tuner::new();
    let flags = ["plan", "--out", "plan", "--shards", "2", "--gpu", "cpu"];
    tuner.run(&[&flags[..], &["--tokens", "128", "--hidden", "128", "--vocab", "8192"]].concat()).ok();
    let mut command = tuner.command(&["work", "plan/shard-0", "--gpu", "cpu"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let log = std::path::PathBuf::from(tuner.path("plan/shard-0/database/trials.log"));
    let started = Instant::now();
    while !std::fs::metadata(&log).is_ok_and(|data| data.len() > 2000) {
        assert!(started.elapsed() < Duration::from_secs(60), "no batch was stored within 60 s");
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let merged = tuner.run(&["merge", "plan", "--json"]).ok().json();
    assert!(merged["merged"][0]["added"].as_u64().unwrap() > 0, "{merged}");
    assert_eq!(merged["merged"][1]["added"], 0);
    let of_shard = work(&tuner, "shard-0").ok().json()["done"]["tried"].as_u64().unwrap();
    let ran = work(&tuner, "run-off").ok();
    assert!(ran.stderr.contains("shard-1 is not done"), "{}", ran.stderr);
    let done = &ran.json()["done"];
    // Of 5 token blocks and 5 strips, one of which covers this vocabulary.
    let tried = done["tried"].as_u64().unwrap();
    assert!(of_shard < tried && tried <= done["candidates"].as_u64().unwrap(), "{of_shard}: {done}");
}

#[test]
fn what_is_no_plan_and_no_shard_and_a_folder_in_use_are_refused_in_words() {
    let tuner = Tuner::new();
    plan(&tuner, "1").ok();
    let again = plan(&tuner, "1");
    assert_eq!(again.code, Some(2));
    assert!(again.stderr.contains("found a plan in"), "{}", again.stderr);
    let nothing = tuner.run(&["work", "plan"]);
    assert_eq!(nothing.code, Some(2));
    assert!(nothing.stderr.contains("is no shard"), "{}", nothing.stderr);
    let shard = tuner.run(&["merge", "plan/shard-0"]);
    assert!(shard.code == Some(2) && shard.stderr.contains("is no plan"), "{}", shard.stderr);
    let plan = tuner.run(&["import", "plan"]);
    assert!(plan.code == Some(1) && plan.stderr.contains("cce-tune merge"), "{}", plan.stderr);
    let all = tuner.run(&["work", "plan/shard-0", "--gpu", "all"]);
    assert!(all.code == Some(2) && all.stderr.contains("one device's work"), "{}", all.stderr);
    std::fs::write(tuner.path("plan/shard-0/shard.json"), "{\"schema\": 1}").unwrap();
    let damaged = work(&tuner, "shard-0");
    assert!(damaged.code == Some(2) && damaged.stderr.contains("is damaged"), "{}", damaged.stderr);
}

/// What is beside the plan, hidden.
fn unfinished(tuner: &Tuner) -> Vec<String> {
    let entries = std::fs::read_dir(tuner.path("")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".plan.") && name.ends_with(".unfinished")).collect()
}

#[test]
fn a_plan_that_was_killed_while_it_was_made_is_not_there_and_is_made_again() {
    let tuner = Tuner::new();
    let many = ["plan", "--out", "plan", "--shards", "100000", "--gpu", "cpu"];
    let mut command = tuner.command(&[&many[..], &SHAPE[..]].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    let half = |name: &String| std::path::Path::new(&tuner.path(name)).join("shard-20").exists();
    while !unfinished(&tuner).iter().any(half) {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing was written within 60 s");
        std::thread::sleep(Duration::from_millis(2));
    }
    // It is being made: another one does not touch it.
    let other = ["plan", "--out", "plan.other", "--shards", "1", "--gpu", "cpu"];
    tuner.run(&[&other[..], &SHAPE[..]].concat()).ok();
    assert!(unfinished(&tuner).iter().any(half));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!std::path::Path::new(&tuner.path("plan")).exists());
    let nothing = tuner.run(&["merge", "plan"]);
    assert!(nothing.stderr.contains("is no plan"), "{}", nothing.stderr);
    plan(&tuner, "2").ok();
    assert_eq!(unfinished(&tuner), Vec::<String>::new());
    work(&tuner, "shard-1").ok();
}

#[test]
fn what_a_killed_plan_of_an_earlier_version_left_is_made_again_unless_somebody_worked_on_it() {
    let tuner = Tuner::new();
    plan(&tuner, "3").ok();
    std::fs::remove_dir_all(tuner.path("plan/run-off")).unwrap();
    plan(&tuner, "2").ok();
    assert!(
        !std::path::Path::new(&tuner.path("plan/shard-2")).exists(),
        "what was left is mixed with the new"
    );
    work(&tuner, "shard-0").ok();
    std::fs::remove_dir_all(tuner.path("plan/run-off")).unwrap();
    let refused = plan(&tuner, "2");
    assert!(refused.code == Some(2) && refused.stderr.contains("found other files in"), "{}", refused.stderr);
    assert!(std::path::Path::new(&tuner.path("plan/shard-0/done.json")).exists());
    // An empty folder is as good as none.
    std::fs::remove_dir_all(tuner.path("plan")).unwrap();
    std::fs::create_dir(tuner.path("plan")).unwrap();
    plan(&tuner, "1").ok();
}

#[test]
fn files_of_another_version_are_told_from_damaged_ones() {
    let tuner = Tuner::new();
    plan(&tuner, "1").ok();
    let done = tuner.path("plan/shard-0/done.json");
    std::fs::write(&done, "{\"schema\": 2, \"by\": \"somebody\"}").unwrap();
    for args in [&["work", "plan/shard-0"][..], &["work", "plan/run-off", "--gpu", "cpu"], &["merge", "plan"]]
    {
        let refused = tuner.run(args);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        for expected in ["done.json has schema 2, expected 1", "use that one, or remove this file"] {
            assert!(refused.stderr.contains(expected), "{}", refused.stderr);
        }
    }
    std::fs::write(&done, "{\"schema\": 1}").unwrap();
    let damaged = work(&tuner, "shard-0");
    assert!(damaged.stderr.contains("is damaged: missing field"), "{}", damaged.stderr);
    assert!(damaged.stderr.contains("do the shard again"), "{}", damaged.stderr);
    std::fs::remove_file(&done).unwrap();
    work(&tuner, "shard-0").ok();
}
