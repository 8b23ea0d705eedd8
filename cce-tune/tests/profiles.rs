//! `cce-tune profile` and `verify`, the real binary on the CPU device.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use common::{Ran, Tuner};
use serde_json::{Value, json};

const HEADS: &str = "16x1500,24x900";

fn profile(tuner: &Tuner, more: &[&str]) -> Ran {
    let out = tuner.path("tiny.json");
    let flags = ["profile", "--gpu", "cpu", "--heads", HEADS, "--tokens", "32,64", "--candidates", "3"];
    tuner.run(&[&flags[..], &["--out", &out], more].concat())
}

fn read(tuner: &Tuner) -> Value {
    serde_json::from_str(&std::fs::read_to_string(tuner.path("tiny.json")).unwrap()).unwrap()
}

fn write(tuner: &Tuner, value: &Value) {
    std::fs::write(tuner.path("tiny.json"), value.to_string()).unwrap();
}

fn states(ran: &Ran) -> Vec<String> {
    let problems = ran.json()["problems"].as_array().unwrap().clone();
    problems.iter().map(|problem| problem["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn one_command_makes_a_profile_of_heads_tokens_and_objectives_and_goes_on_where_it_was() {
    let tuner = Tuner::new();
    let first = profile(&tuner, &["--keep", "2"]).ok();
    assert!(
        first.stdout.contains("[1/8] 16 x 1500, 32 tokens, loss and both gradients: "),
        "{}",
        first.stdout
    );
    assert!(first.stdout.contains("[8/8] 24 x 900, 64 tokens, loss: "), "{}", first.stdout);
    assert!(first.stdout.contains(", by default "), "{}", first.stdout);
    let made = read(&tuner);
    assert_eq!((made["name"].clone(), made["schema"].clone()), (json!("tiny"), json!(1)));
    let entries = made["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 8);
    assert!(entries.iter().all(|entry| (1..=2).contains(&entry["winners"].as_array().unwrap().len())));

    // The file alone knows what is done, without the database.
    let elsewhere = Tuner::new();
    let mut partial = made.clone();
    partial["entries"].as_array_mut().unwrap().truncate(5);
    write(&elsewhere, &partial);
    let resumed = profile(&elsewhere, &["--json"]).ok();
    assert_eq!(states(&resumed).iter().filter(|state| *state == "known").count(), 5);
    assert_eq!(states(&resumed).iter().filter(|state| *state == "tuned").count(), 3);
    assert_eq!(read(&elsewhere)["entries"].as_array().unwrap().len(), 8);
    assert_eq!(states(&profile(&elsewhere, &["--json", "--again"]).ok()), ["tuned"; 8]);

    // Winners of other kernels are no reason to leave a problem alone.
    let mut older = made;
    for entry in older["entries"].as_array_mut().unwrap() {
        for winner in entry["winners"].as_array_mut().unwrap() {
            winner["generation"]["codegen"] = json!("0.0.1");
        }
    }
    write(&elsewhere, &older);
    assert_eq!(states(&profile(&elsewhere, &["--json"]).ok()), ["tuned"; 8]);
    assert!(!read(&elsewhere).to_string().contains("0.0.1"));
}

#[test]
fn a_file_that_would_be_lost_and_heads_that_are_none_are_refused() {
    let tuner = Tuner::new();
    write(
        &tuner,
        &json!({"schema": 1, "name": "x", "provenance": {"host": "h", "unix_ms": 1}, "entries": [{"a": 1}]}),
    );
    let refused = profile(&tuner, &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("cannot read and would lose"), "{}", refused.stderr);
    assert!(read(&tuner)["entries"].as_array().unwrap().len() == 1, "the file was touched");
    let refused = tuner.run(&["profile", "--heads", "gemma", "--out", "x.json"]);
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("gemma-2-2b"), "{}", refused.stderr);
}

#[test]
fn verify_measures_a_profile_again_and_says_what_moved() {
    let tuner = Tuner::new();
    profile(&tuner, &[]).ok();
    let out = tuner.path("tiny.json");
    let verify = |more: &[&str]| {
        let elsewhere = Tuner::new();
        elsewhere.run(&[&["verify", &out, "--gpu", "cpu", "--rounds", "5"], more].concat())
    };
    // Times this short vary by more than a tenth on a busy machine; nothing is a hundred times slower.
    let held = verify(&["--tolerance", "10000"]).ok();
    assert!(held.stdout.contains("8 problems verified, of 8 the winner holds"), "{}", held.stdout);
    assert!(held.stdout.contains("stored ms") && held.stdout.contains("ms now"), "{}", held.stdout);

    let mut made = read(&tuner);
    made["entries"].as_array_mut().unwrap().truncate(1);
    // However busy the machine, it is faster than that.
    made["entries"][0]["winners"][0]["median"] = json!(1e6);
    write(&tuner, &made);
    let moved = verify(&["--json", "--tolerance", "50"]);
    assert_eq!(moved.code, Some(5), "{}\n{}", moved.stdout, moved.stderr);
    let value = moved.json();
    assert_eq!((value["holding"].clone(), value["moved"].clone()), (json!(0), json!(1)));
    let said = value["problems"][0]["moved"][0].as_str().unwrap();
    assert!(said.contains("100 % faster than the 1000000.000 ms stored"), "{said}");
}

#[test]
fn what_is_selected_for_held_out_problems_of_a_profile_is_measured_beside_their_winners() {
    let tuner = Tuner::new();
    profile(&tuner, &["--keep", "1"]).ok();
    let out = tuner.path("tiny.json");
    let regret = |more: &[&str]| {
        let flags = ["regret", &out, "--measure", "--gpu", "cpu", "--rounds", "5"];
        Tuner::new().run(&[&flags[..], more].concat())
    };
    let text = regret(&["--only", "32 x"]).ok().stdout;
    assert!(text.contains("selected from the others, of 4 problems: median "), "{text}");
    let value = regret(&["--json"]).ok().json();
    let measured = value["measured"].as_array().unwrap();
    assert_eq!((measured.len(), value["left_out"].clone()), (8, json!([])));
    let stored = read(&tuner);
    for line in measured {
        let of = |what: &str| (line[what]["schedule"].clone(), line[what]["regret"].as_f64().unwrap());
        let ((selected, over), (default, default_over)) = (of("selected"), of("default"));
        assert!(over.is_finite() && over > -0.9, "{line}");
        // The winner against itself is no measurement; one schedule has one time.
        assert!(selected != line["winner"] || over == 0.0, "{line}");
        assert!(selected != default || over == default_over, "{line}");
        assert!(line["grade"].as_str().unwrap().starts_with("near shape (tuned at "), "{line}");
        assert!(line["winner_ms"].as_f64().unwrap() > 0.0);
    }
    // With one problem alone there is nothing to select from; another device measures nothing of this one's.
    let mut alone = stored.clone();
    alone["entries"].as_array_mut().unwrap().truncate(1);
    write(&tuner, &alone);
    let refused = regret(&[]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains("no other problem says anything of it"), "{}", refused.stderr);
    let mut elsewhere = stored;
    for entry in elsewhere["entries"].as_array_mut().unwrap() {
        entry["key"]["device"]["cpu"]["name"] = json!("another processor");
    }
    write(&tuner, &elsewhere);
    let refused = regret(&[]).stderr;
    assert!(
        refused.contains("nothing is stored for ") && refused.contains(", only for another"),
        "{refused}"
    );
    assert_eq!(refused.matches("another processor").count(), 1, "{refused}");
}

#[test]
fn verify_speaks_of_devices_that_are_not_here_and_checks_their_constraints() {
    let tuner = Tuner::new();
    profile(&tuner, &[]).ok();
    let mut made = read(&tuner);
    for entry in made["entries"].as_array_mut().unwrap() {
        entry["key"]["device"]["cpu"]["name"] = json!("another processor");
    }
    write(&tuner, &made);
    let out = tuner.path("tiny.json");
    let refused = tuner.run(&["verify", &out, "--gpu", "cpu"]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(refused.stderr.contains("only for another processor"), "{}", refused.stderr);
    let checked = tuner.run(&["verify", &out, "--dry-run"]).ok();
    assert!(
        checked.stdout.contains("8 problems looked at and not measured, of 8 the winners fit"),
        "{}",
        checked.stdout
    );
    made["entries"][3]["winners"][0]["config"] = json!({"tpu": 1});
    write(&tuner, &made);
    let broken = tuner.run(&["verify", &out, "--dry-run"]);
    assert_eq!(broken.code, Some(5), "{}", broken.stdout);
    assert!(broken.stdout.contains("not a schedule of this version"), "{}", broken.stdout);
    // Without a profile, what plans of this machine find.
    let here = tuner.run(&["verify", "--gpu", "cpu", "--rounds", "3", "--tolerance", "10000"]).ok();
    assert!(here.stdout.contains("8 problems verified"), "{}", here.stdout);
    let other_loss = tuner.run(&["verify", &out, "--loss", "gemma2"]);
    assert_eq!(other_loss.code, Some(1), "{}", other_loss.stdout);
    let words = "tiny.json holds winners for 8 problems, none of gemma2";
    assert!(other_loss.stderr.contains(words), "{}", other_loss.stderr);
    let other_loss = tuner.run(&["verify", "--loss", "focal", "--gpu", "cpu"]);
    assert_eq!(other_loss.code, Some(1), "{}", other_loss.stdout);
    assert!(other_loss.stderr.contains("winners are stored for "), "{}", other_loss.stderr);
    assert!(other_loss.stderr.contains(" problems, none of focal"), "{}", other_loss.stderr);
    let nothing = Tuner::new().run(&["verify", &tuner.path("absent.json")]);
    assert_eq!(nothing.code, Some(1));
}

#[test]
fn a_problem_whose_run_off_the_time_cut_short_is_said_to_be_open_and_gone_on_with() {
    let tuner = Tuner::new();
    let one = ["--heads", "16x1500", "--tokens", "32"];
    let profile = |tuner: &Tuner, more: &[&str]| {
        let out = tuner.path("tiny.json");
        let flags = ["profile", "--gpu", "cpu", "--candidates", "3", "--out", &out];
        tuner.run(&[&flags[..], &one, more].concat()).ok()
    };
    let short = profile(&tuner, &["--budget", "1ms"]).stdout;
    assert_eq!(short.matches(" near the best not compared, run again to go on\n").count(), 2, "{short}");
    let end =
        "holds winners for 2 problems; of 2 problems the time cut the run-off short, run again to go on\n";
    assert!(short.ends_with(end), "{short}");
    let cut = |entry: &Value| entry["winners"][0]["settled"]["cut_short"] == json!(true);
    let made = read(&tuner);
    assert!(made["entries"].as_array().unwrap().iter().all(cut), "{made}");

    // What plans find there is marked, and what a page shows.
    let out = tuner.path("tiny.json");
    let shown = Ran::of(Tuner::new().command(&["show"]).env("CCE_PROFILE", &out)).ok().stdout;
    assert_eq!(shown.matches("exact, run-off cut short").count(), 2, "{shown}");

    // The file alone says what is open, without the database.
    let elsewhere = Tuner::new();
    write(&elsewhere, &made);
    let again = profile(&elsewhere, &["--budget", "1ms", "--json"]);
    assert_eq!(states(&again), ["tuned"; 2]);
    assert_eq!(again.json()["undecided"], json!(2));
    assert!(again.json()["problems"][0]["undecided"].as_u64().unwrap() > 0, "{}", again.stdout);

    let page = tuner.path("page.html");
    let pages = |cut: bool| {
        let files = tuner.run(&["report", "--out", &page, "--json"]).ok().json();
        for file in &files["files"].as_array().unwrap()[1..] {
            let html = std::fs::read_to_string(file.as_str().unwrap()).unwrap();
            assert_eq!(html.contains("The time cut short the run-off that it won"), cut, "{file}");
        }
    };
    pages(true);
    let whole = profile(&tuner, &["--budget", "none", "--json"]);
    pages(false);
    assert_eq!(states(&whole), ["tuned"; 2]);
    assert_eq!(whole.json()["undecided"], json!(0));
    assert_eq!(whole.json()["problems"][0]["undecided"], json!(0));
    assert!(!read(&tuner)["entries"].as_array().unwrap().iter().any(cut));
    let done = profile(&tuner, &["--budget", "none"]).stdout;
    assert!(done.contains(", in ") && done.ends_with("holds winners for 2 problems\n"), "{done}");
    assert_eq!(states(&profile(&tuner, &["--json"])), ["known"; 2]);
}
