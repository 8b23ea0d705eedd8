//! `cce-tune export --format`, `import`, `diff` and `report`, the real binary on the CPU device.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use common::Tuner;
use serde_json::{Value, json};
use std::path::Path;

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn listed(folder: &str) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn trials_are_exported_for_other_tools_one_problem_a_file() {
    let tuner = Tuner::new();
    tuner.tiny(&["--exhaustive"]).ok();
    let trials = tuner.tiny(&["--dry-run", "--json"]).ok().json();
    let candidates = trials["devices"][0]["candidates"].as_array().unwrap().len();
    let file = tuner.path("cache.json");
    tuner.run(&["export", "--format", "kernel-tuner", &file]).ok();
    let cache: Value = serde_json::from_str(&read(&file)).unwrap();
    assert_eq!(cache["kernel_name"], "cross_entropy");
    assert_eq!(cache["problem_size"], json!([48, 16, 1500]));
    assert_eq!(cache["tune_params_keys"], json!(["strip", "token_block"]));
    assert_eq!(cache["cache"].as_object().unwrap().len(), candidates);
    let printed = tuner.run(&["export", "--format", "t4"]).ok().json();
    assert_eq!(printed["results"].as_array().unwrap().len(), candidates);

    // A second problem: a folder, or a choice.
    tuner.tiny(&["--objective", "loss", "--candidates", "2"]).ok();
    let refused = tuner.run(&["export", "--format", "t4", &file]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("there are 2; name a folder"), "{}", refused.stderr);
    let folder = tuner.path("results/of/t4");
    tuner.run(&["export", "--format", "t4", &folder]).ok();
    let names = listed(&folder);
    assert!(
        names.len() == 2 && names[0].starts_with("cross-entropy-64-x-16-x-1500-f32-gradients"),
        "{names:?}"
    );
    let only = tuner.path("loss.json");
    tuner.run(&["export", "--format", "t4", "--only", "f32, loss", &only]).ok();
    assert_eq!(read(&only), read(Path::new(&folder).join(&names[1])));
    let none = tuner.run(&["export", "--format", "t4", "--only", "bf16", &only]);
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("none of the 2 stored problems"), "{}", none.stderr);

    for path in [&file, &only] {
        let refused = tuner.run(&["import", path]);
        assert!(refused.stderr.contains("written for another tool"), "{}", refused.stderr);
    }
}

#[test]
fn databases_of_many_machines_are_merged_and_their_winners_compared() {
    let here = Tuner::new();
    here.tiny(&["--candidates", "3"]).ok();
    let there = Tuner::new();
    there.tiny(&["--candidates", "3"]).ok();
    there.tiny(&["--objective", "loss", "--candidates", "2"]).ok();
    let export = there.path("there.json");
    there.run(&["export", &export]).ok();
    let profile = there.path("profile.json");
    there.run(&["export", "--profile", "there", &profile]).ok();

    // A folder, an export and a profile of the same database say the same.
    for theirs in [&there.database(), &export, &profile] {
        let value = here.run(&["diff", &here.database(), theirs, "--json"]).ok().json();
        assert_eq!((value["differing"].clone(), value["only_b"].clone()), (json!(1), json!(1)), "{theirs}");
        assert_eq!((value["same"].clone(), value["only_a"].clone()), (json!(0), json!(0)), "{theirs}");
        let differs = &value["problems"][0];
        let ms = |side: &str| differs[side]["median"].as_f64();
        let ratio = ms("b").unwrap() / ms("a").unwrap();
        assert!((differs["b_over_a"].as_f64().unwrap() - ratio).abs() < 1e-12);
        let same = here.run(&["diff", &there.database(), theirs]).ok().stdout;
        assert_eq!(same.lines().count(), 1, "{same}");
        assert!(same.starts_with("0 winners differ, 2 are the same, 0 only in A"), "{same}");
    }
    let text = here.run(&["diff", &here.database(), &export]).ok().stdout;
    assert!((text.contains("% slower") || text.contains("% faster")) && text.contains("new"), "{text}");
    let only = here.run(&["diff", &here.database(), &export, "--only", "f32, loss"]).ok().stdout;
    assert!(only.contains("0 winners differ, 0 are the same, 0 only in A"), "{only}");
    assert!(text.contains("1 winner differs, 0 are the same"), "{text}");
    let none = here.run(&["diff", &here.database(), &export, "--only", "zzz"]);
    assert_eq!((none.code, none.stdout.as_str()), (Some(1), ""), "{}", none.stderr);
    assert!(none.stderr.contains("none of the 2 stored problems is the one asked for"), "{}", none.stderr);

    let merged = here.run(&["import", &there.database()]).ok().stdout;
    assert!(merged.contains("and of 1 that had none"), "{merged}");
    let again = here.run(&["import", &export, "--json"]).ok().json();
    assert_eq!((again["imported"][0]["added"].clone(), again["changed"].clone()), (json!(0), json!(0)));
    assert_eq!(again["new"], json!(0));

    let neither = here.run(&["diff", &here.database(), "Cargo.toml"]);
    assert_eq!(neither.code, Some(1));
    std::fs::write(here.path("x.json"), "{}").unwrap();
    let neither = here.run(&["diff", &here.database(), &here.path("x.json")]);
    assert!(neither.stderr.contains("neither a profile nor an export"), "{}", neither.stderr);
    assert!(neither.stderr.contains("cannot read "), "{}", neither.stderr);
    let empty = here.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let refused = here.run(&["import", &empty]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains(&format!("there is no database in {empty}")), "{}", refused.stderr);
    assert_eq!(listed(&empty), [""; 0]);
    let empty = here.run(&["diff", &here.database(), &here.path("")]);
    assert!(empty.stderr.contains("there is no database in"), "{}", empty.stderr);
    assert!(!Path::new(&here.path("log")).exists(), "a folder that is compared is only read");
}

#[test]
fn a_report_is_a_page_for_one_problem_and_an_index_for_several() {
    let tuner = Tuner::new();
    let page = tuner.path("one.html");
    let ran = tuner.tiny(&["--report", &page, "--peak", "0.5", "--bandwidth", "20"]).ok();
    assert!(ran.stderr.contains("a page of it was written to"), "{}", ran.stderr);
    let html = read(&page);
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    roxmltree::Document::parse_with_options(&html, options).unwrap();
    for expected in ["cross_entropy, 64 x 16 x 1500 f32", "token_block", "Above the floor", "(the default)"] {
        assert!(html.contains(expected), "{expected}");
    }
    let same = tuner.path("same.html");
    tuner.run(&["report", "--out", &same]).ok();
    assert!(read(&same).contains("no peak is known"));

    tuner.tiny(&["--objective", "loss", "--candidates", "2"]).ok();
    let index = tuner.path("all.html");
    let files = tuner.run(&["report", "--out", &index, "--json"]).ok().json();
    assert_eq!(files["files"].as_array().unwrap().len(), 3);
    let html = read(&index);
    for name in listed(Path::new(&index).parent().unwrap().to_str().unwrap()) {
        if name.starts_with("all-") {
            assert!(html.contains(&format!("./{name}")), "{name}");
        }
    }
    let refused = tuner.run(&["report", "--out", &tuner.path("no/such/page.html"), "--only", "loss"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert_eq!(Tuner::new().run(&["report"]).code, Some(1));
}
