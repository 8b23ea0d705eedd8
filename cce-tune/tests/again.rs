//! Measuring anew what is stored.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use common::{Tuner, candidates};
use serde_json::Value;

#[test]
fn the_winner_of_a_table_is_what_plans_use_whatever_was_measured_before() {
    let tuner = Tuner::new();
    let flags: [&[&str]; 4] =
        [&["--candidates", "6"], &["--again", "--candidates", "2"], &["--candidates", "3"], &["--again"]];
    for flags in flags {
        let tuned = tuner.tiny(&[flags, &["--json"]].concat()).ok().json();
        let winner = &tuned["devices"][0]["winner"];
        let shown = tuner.run(&["show", "--json"]).ok().json();
        let stored = shown["stored"].as_array().unwrap();
        let [stored] =
            &stored.iter().filter(|of| of["source"] == "the tuning database").collect::<Vec<_>>()[..]
        else {
            panic!("not one problem: {shown}")
        };
        let first = &stored["winners"][0];
        assert_eq!(first["config"], winner["schedule"], "{flags:?}");
        assert_eq!(first["median"], winner["ms"], "{flags:?}");
        // What was not measured again is not there any more, and what was stored is in the table.
        let tried = candidates(&tuned);
        for winner in stored["winners"].as_array().unwrap() {
            assert!(tried.iter().any(|tried| tried["schedule"] == winner["config"]), "{flags:?}: {winner}");
        }
    }
}

#[test]
fn what_is_stored_is_measured_again_when_asked_for_and_the_summary_says_how() {
    let tuner = Tuner::new();
    let flags = ["--loss", "softcapped", "--candidates", "2"];
    let first = tuner.tiny(&flags).ok().stdout;
    assert!(!first.contains("--again measures anew"), "{first}");
    assert!(first.contains("with cap = 30 (--scalar NAME=VALUE states another)"), "{first}");
    let second = tuner.tiny(&flags).ok().stdout;
    assert!(second.contains("2 of 2 trials stored before (--again measures anew)"), "{second}");
    let other = tuner.tiny(&[&flags[..], &["--scalar", "cap=20"]].concat()).ok().stdout;
    assert!(other.contains("stored before, perhaps on other data or scalars than are given now"), "{other}");
    let times = |value: &Value| -> Vec<Value> { candidates(value).iter().map(|c| c["ms"].clone()).collect() };
    let before = tuner.tiny(&[&flags[..], &["--json"]].concat()).ok().json();
    let again = tuner.tiny(&[&flags[..], &["--again", "--scalar", "cap=20", "--json"]].concat()).ok().json();
    assert_eq!(again["devices"][0]["reused"], 0);
    assert_eq!(again["devices"][0]["scalars"]["cap"], 20.0);
    assert_ne!(times(&again), times(&before));
    // What was measured last is what counts.
    let after = tuner.tiny(&[&flags[..], &["--json"]].concat()).ok().json();
    assert_eq!(times(&after), times(&again));
}
