//! A configuration that was right here and wrong on another host wins nowhere, until that host finds it right.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use cce_tuning_db::Winners;
use common::Tuner;
use serde_json::{Value, json};

fn read(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn described(cpu: &Value) -> String {
    format!("token block {}, strip {}", cpu["token_block"], cpu["strip"])
}

/// An export that holds one trial of another host, this one with changes.
fn of_another_host(tuner: &Tuner, export: &Value, record: &Value, change: &[(&str, Value)]) -> String {
    let mut record = record.clone();
    record["trial"]["provenance"]["host"] = json!("there");
    for (field, value) in change {
        record["trial"][*field] = value.clone();
    }
    let path = tuner.path("there.json");
    let mut whole = export.clone();
    whole["records"] = json!([record]);
    std::fs::write(&path, whole.to_string()).unwrap();
    path
}

#[test]
fn a_wrong_result_of_another_host_disqualifies_in_the_table_in_reports_and_for_plans() {
    let tuner = Tuner::new();
    let winner_of = |value: &Value| value["devices"][0]["winner"]["description"].as_str().unwrap().to_owned();
    let winner = winner_of(&tuner.tiny(&["--exhaustive", "--json"]).ok().json());
    let file = tuner.path("here.json");
    tuner.run(&["export", &file]).ok();
    let export = read(&file);
    let records = export["records"].as_array().unwrap();
    let is_winner = |record: &&Value| described(&record["trial"]["config"]["cpu"]) == winner;
    let record = records.iter().find(is_winner).unwrap();
    let now = record["trial"]["provenance"]["unix_ms"].as_u64().unwrap();
    let at = |ms: u64| {
        let mut provenance = record["trial"]["provenance"].clone();
        (provenance["host"], provenance["unix_ms"]) = (json!("there"), json!(ms));
        ("provenance", provenance)
    };
    // Before it was measured here: no newer result of this host takes it back.
    let wrong = [
        ("status", json!({"is": "wrong", "reason": "dE differs from the reference"})),
        ("samples", json!([])),
        ("median", Value::Null),
        ("spread", Value::Null),
        ("settled", Value::Null),
        at(now - 1000),
    ];
    tuner.run(&["import", &of_another_host(&tuner, &export, record, &wrong)]).ok();

    let table = tuner.tiny(&["--exhaustive", "--json", "--all"]).ok().json();
    assert_ne!(winner_of(&table), winner);
    let line = |value: &Value| {
        let all = value["devices"][0]["candidates"].as_array().unwrap().clone();
        all.into_iter().find(|one| one["description"] == *winner).unwrap()
    };
    assert_eq!(line(&table)["status"], "wrong");
    assert!(line(&table)["reason"].as_str().unwrap().contains("dE differs"), "{}", line(&table));
    // The table's winner is the one that plans take.
    let stored = Winners::open(std::path::Path::new(&tuner.database())).all();
    let best = stored[0].1.winners[0].config.value()["cpu"].clone();
    assert_eq!(described(&best), winner_of(&table));
    let kernel_tuner = tuner.path("cache.json");
    tuner.run(&["export", "--format", "kernel-tuner", &kernel_tuner]).ok();
    let cache = read(&kernel_tuner);
    let best = cache["cache"].as_object().unwrap().values().filter(|one| one["time"].is_number());
    let best =
        best.min_by(|a, b| a["time"].as_f64().unwrap().total_cmp(&b["time"].as_f64().unwrap())).unwrap();
    assert_ne!(described(best), winner);
    // Measuring it again here changes nothing.
    assert_eq!(
        line(&tuner.tiny(&["--exhaustive", "--json", "--all", "--again"]).ok().json())["status"],
        "wrong"
    );

    // The other host finds it right, later than it found it wrong.
    tuner.run(&["import", &of_another_host(&tuner, &export, record, &[at(now - 500)])]).ok();
    assert_eq!(line(&tuner.tiny(&["--exhaustive", "--json", "--all"]).ok().json())["status"], "ok");
}
