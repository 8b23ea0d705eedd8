//! The real binary, with a database of its own, on tiny problems of the CPU device.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod common;

use common::{Ran, Tuner, candidates, tiny};
use serde_json::Value;

/// The candidates' schedules and times of the only device.
#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_work() {
    let tuner = Tuner::new();
    let file = tuner.path("file");
    std::fs::write(&file, "text").unwrap();
    let (page, below, folder) = (tuner.path("no/such/page.html"), tuner.path("file/plan"), tuner.path(""));
    let tiny = ["--gpu", "cpu", "--tokens", "48", "--hidden", "16", "--vocab", "1500"];
    let profile = ["profile", "--gpu", "cpu", "--heads", "16x1500", "--tokens", "48", "--out"];
    let (new, separated) = (tuner.path("new/"), format!("{file}/"));
    let cases: [(&[&str], &str, &str); 13] = [
        (&[&tiny[..], &["--report"]].concat(), &new, "found that of a folder; name a file in it"),
        (&[&tiny[..], &["--record"]].concat(), &new, "found that of a folder; name a file in it"),
        (&["report", "--out"], &new, "found that of a folder; name a file in it"),
        (&["export"], &separated, "found that of a folder; name a file in it"),
        (&["export", "--profile", "mine"], &new, "found that of a folder; name a file in it"),
        (&[&tiny[..], &["--report"]].concat(), &page, "expected a folder that is there, found no"),
        (&[&tiny[..], &["--record"]].concat(), &page, "mkdir -p"),
        (&[&tiny[..], &["--record"]].concat(), &folder, "expected the name of a file, found a folder"),
        (&profile, &page, "expected a folder that is there"),
        (&["report", "--out"], &page, "expected a folder that is there"),
        (&["export"], &page, "expected a folder that is there"),
        (&["export", "--format", "t4"], &below, "expected a folder, found a file at"),
        (&["plan", "--shards", "2", "--gpu", "cpu", "--out"], &below, "file"),
    ];
    for (args, path, expected) in cases {
        let ran = tuner.run(&[args, &[path]].concat());
        assert_eq!(ran.code, Some(1), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{args:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("computing the reference"), "{args:?}: {}", ran.stderr);
    }
    // Nothing was done, and nothing is left.
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
    let left = std::fs::read_dir(tuner.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name != "cache").collect();
    assert_eq!(left, ["file"]);
}

#[test]
#[cfg(unix)]
fn what_is_written_goes_where_a_link_leads() {
    use std::os::unix::fs::symlink;
    let tuner = Tuner::new();
    tuner.tiny(&["--budget", "1s"]).ok();
    std::fs::create_dir(tuner.path("below")).unwrap();
    std::fs::write(tuner.path("below/target"), "earlier").unwrap();
    for (target, link) in
        [("below/target", "link"), ("below/page.html", "dangling"), ("/proc/self/fd/1", "output")]
    {
        symlink(target, tuner.path(link)).unwrap();
    }
    let is_export = |name: &str| {
        let text = std::fs::read_to_string(tuner.path(name)).unwrap();
        assert!(text.starts_with("{\"kind\":\"cce trials\"") && text.ends_with("]}\n"), "{name}: {text}");
    };
    tuner.run(&["export", "link"]).ok();
    is_export("below/target");
    tuner.run(&["report", "--out", "dangling"]).ok();
    assert!(std::fs::read_to_string(tuner.path("below/page.html")).unwrap().contains("<html"));
    // As of /dev/stdout, which is such a link.
    let piped = tuner.run(&["export", "output"]);
    assert!(piped.code == Some(1) && piped.stderr.contains("found a device or a pipe"), "{}", piped.stderr);
    // Of several problems, the pages are where their index is.
    tuner.tiny(&["--budget", "1s", "--loss", "focal"]).ok();
    tuner.run(&["report", "--out", "dangling"]).ok();
    let names = std::fs::read_dir(tuner.path("below")).unwrap().map(|entry| entry.unwrap().file_name());
    let pages = names.filter(|name| name.to_string_lossy().starts_with("page-")).count();
    assert_eq!(pages, 2);
    let redirected = std::fs::File::create(tuner.path("out.json")).unwrap();
    assert!(tuner.command(&["export", "output"]).stdout(redirected).status().unwrap().success());
    is_export("out.json");
    for link in ["link", "dangling", "output"] {
        assert!(std::fs::symlink_metadata(tuner.path(link)).unwrap().is_symlink(), "{link} was replaced");
    }
}

#[test]
fn the_first_run_tunes_and_the_second_only_reads() {
    let tuner = Tuner::new();
    let first = tuner.tiny(&["--json"]).ok().json();
    let device = &first["devices"][0];
    assert_eq!(device["ended"], "complete");
    assert_eq!(device["reused"], 0);
    assert_eq!(device["grade"], "exact");
    assert_eq!(device["winner"]["reason"], "");
    let tried = candidates(&first);
    assert!(tried.len() >= 4, "{}", tried.len());
    assert!(tried.iter().all(|c| c["status"] == "ok" && c["ms"].as_f64().unwrap() > 0.0));
    assert!(tried.iter().all(|c| c["gradient_error"].as_f64().unwrap() < 0.3));
    let winner = device["winner"]["ms"].as_f64().unwrap();
    assert!(tried.iter().all(|c| c["ties"] == true || c["ms"].as_f64().unwrap() >= winner));

    let second = tuner.tiny(&["--json"]).ok();
    assert!(!second.stderr.contains("computing the reference"), "{}", second.stderr);
    let again = second.json();
    assert_eq!(again["devices"][0]["reused"], tried.len());
    assert_eq!(candidates(&again), tried, "the second run measured again");
    assert!(again["devices"][0]["seconds"].as_f64().unwrap() < 2.0);
}

#[test]
fn scalars_that_are_no_numbers_are_refused_and_data_without_a_finite_loss_is_not_tuned() {
    let tuner = Tuner::new();
    let ran = tuner.tiny(&["--loss", "softcapped", "--scalar", "cap=nan"]);
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("a finite number"), "{}", ran.stderr);
    let ran = tuner.tiny(&["--loss", "z_loss", "--scalar", "weight=3e38", "--candidates", "1"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("no finite loss of z_loss"), "{}", ran.stderr);
    assert!(ran.stderr.contains("scalars: weight = 3"), "{}", ran.stderr);
    // Nothing would come of it.
    assert!(!ran.stderr.contains("run the same command again"), "{}", ran.stderr);
}

#[test]
fn the_table_ranks_and_says_why_the_others_lost() {
    let tuner = Tuner::new();
    let ran = tuner.tiny(&["--all"]).ok();
    assert!(
        ran.stdout.contains("cross_entropy, 48 x 16 x 1500 f32, loss and both gradients"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("why it is not the best"), "{}", ran.stdout);
    assert!(ran.stdout.contains("slower") || ran.stdout.contains("times the best"), "{}", ran.stdout);
    assert!(ran.stdout.contains("plans for this problem now use it (grade exact)"), "{}", ran.stdout);
}

#[test]
fn without_a_gpu_auto_says_so_in_one_line_and_tunes_the_cpu_device() {
    let tuner = Tuner::new();
    // A machine of the project's tests may have a GPU; an empty list hides it.
    let mut ran = tuner.command(&["--gpu", "auto", "--tokens", "16", "--hidden", "8", "--vocab", "600"]);
    let ran = Ran::of(ran.env("CUDA_VISIBLE_DEVICES", "")).ok();
    let lines: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("no GPU here")).collect();
    assert_eq!(lines.len(), 1, "{}", ran.stderr);
    assert!(lines[0].contains("tuning the CPU device"), "{}", lines[0]);
    let profile = tuner.path("profile.json");
    tuner.run(&["export", "--profile", "p", &profile]).ok();
    let others: [(&[&str], &str); 2] = [
        (&["verify", &profile, "--rounds", "1"], "measuring winners on the CPU device"),
        (&["regret", &profile, "--measure"], "measuring on the CPU device"),
    ];
    for (args, expected) in others {
        let ran = Ran::of(tuner.command(args).env("CUDA_VISIBLE_DEVICES", ""));
        assert!(ran.stderr.contains(expected) && !ran.stderr.contains("tuning the"), "{}", ran.stderr);
    }
}

#[test]
fn a_gpu_that_is_not_there_is_a_failure() {
    let tuner = Tuner::new();
    let ran = Ran::of(tuner.command(&["--gpu", "77"]).env("CUDA_VISIBLE_DEVICES", ""));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("no CUDA"), "{}", ran.stderr);
}

#[test]
fn every_objective_filter_and_type_is_a_problem_of_its_own() {
    let tuner = Tuner::new();
    let variants: [&[&str]; 6] = [
        &["--objective", "loss"],
        &["--objective", "hidden", "--filter", "exact"],
        &["--filter", "sampled:2^-8,100"],
        &["--dtype", "bf16"],
        &["--memory-limit", "1G", "--no-ignored"],
        &["--loss", "gemma2", "--scalar", "cap=20", "--input-gradient", "bias"],
    ];
    for variant in variants {
        let flags = [variant, &["--json", "--candidates", "1"]].concat();
        let value = tuner.tiny(&flags).ok().json();
        assert_eq!(value["devices"][0]["reused"], 0, "{variant:?}");
        assert_eq!(candidates(&value)[0]["status"], "ok", "{variant:?}");
    }
    let stored = tuner.run(&["show", "--json"]).ok().json();
    let of_here = |entry: &&Value| entry["source"] == "the tuning database";
    assert_eq!(stored["stored"].as_array().unwrap().iter().filter(of_here).count(), variants.len());
}

#[test]
fn what_is_stored_is_shown_exported_and_imported() {
    let tuner = Tuner::new();
    tuner.tiny(&["--candidates", "2"]).ok();
    let shown = tuner.run(&["show"]).ok();
    assert!(shown.stdout.contains("cross_entropy") && shown.stdout.contains("exact"), "{}", shown.stdout);
    let trials = tuner.run(&["show", "--trials", "--json"]).ok().json();
    let count = trials["trials"].as_array().unwrap().len();
    assert!(count >= 2);
    let stages: Vec<&str> =
        trials["trials"].as_array().unwrap().iter().map(|t| t["stage"].as_str().unwrap()).collect();
    assert!(stages.contains(&"screening") && stages.contains(&"run-off"), "{stages:?}");
    // Of each configuration one trial counts: the run-off's where it was in one.
    let counting = trials["trials"].as_array().unwrap().iter().filter(|trial| trial["counts"] == true);
    let counting: Vec<String> = counting.map(|trial| trial["trial"]["config"].to_string()).collect();
    let distinct: std::collections::HashSet<&String> = counting.iter().collect();
    assert_eq!(distinct.len(), counting.len());
    assert!(stages.len() > counting.len(), "{stages:?}");
    let only = ["show", "--trials", "--only", "48 x", "--only", "64 x"];
    let words = "the only stored problem is not the one asked for";
    for choice in [&["show", "--trials", "--loss", "focal"][..], &only] {
        let none = tuner.run(choice);
        assert_eq!((none.code, none.stdout.as_str()), (Some(1), ""), "{choice:?}");
        assert!(none.stderr.contains(words), "{}", none.stderr);
    }
    for winners in [&["show", "--only", "zzz"][..], &["show", "--only", "zzz", "--all", "--json"]] {
        let none = tuner.run(winners);
        assert_eq!(none.code, Some(1), "{}", none.stdout);
        assert!(none.stderr.contains("stored problems is the one asked for"), "{}", none.stderr);
    }

    let file = tuner.path("trials.json");
    let exported = tuner.run(&["export", &file]).ok();
    assert!(exported.stdout.contains("trials written"), "{}", exported.stdout);
    let other = Tuner::new();
    let imported = other.run(&["import", &file, "--json"]).ok().json();
    assert_eq!(imported["imported"][0]["added"], count);
    let again = other.run(&["import", &file, "--json"]).ok().json();
    assert_eq!(
        (again["imported"][0]["added"].clone(), again["imported"][0]["known"].clone()),
        (0.into(), count.into())
    );
    assert_eq!(other.run(&["show"]).ok().stdout, shown.stdout);
    let profile = tuner.path("profile.json");
    tuner.run(&["export", "--profile", "p", &profile]).ok();
    let refused = other.run(&["import", &profile]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("profile.json: it is a profile"), "{}", refused.stderr);
    std::fs::write(&profile, "{}").unwrap();
    let refused = other.run(&["import", &profile]).stderr;
    assert!(refused.contains("profile.json: it is no export of trials"), "{refused}");
    // What was imported is not measured again here.
    let resumed = other.tiny(&["--candidates", "2", "--json"]).ok().json();
    assert_eq!(resumed["devices"][0]["reused"], 2);

    let third = Tuner::new();
    let merged = third.run(&["import", &tuner.database(), "--json"]).ok().json();
    assert_eq!(merged["imported"][0]["added"], count);
}

#[test]
fn winners_of_profiles_for_other_devices_are_a_line_each_unless_all_are_asked_for() {
    let tuner = Tuner::new();
    // Whatever GPUs the machine of the tests has.
    let show = |args: &[&str]| {
        let mut command = tuner.command(&[&["show"], args].concat());
        Ran::of(command.env("CUDA_VISIBLE_DEVICES", "")).ok().stdout
    };
    let empty = show(&[]);
    assert!(empty.starts_with("nothing is stored in") && empty.lines().count() < 10, "{empty}");
    tuner.tiny(&["--candidates", "1"]).ok();
    tuner.tiny(&["--candidates", "1", "--objective", "loss"]).ok();
    let shown = show(&[]);
    assert_eq!(shown.matches("the tuning database").count(), 2, "{shown}");
    let line = "shipped profile nvidia-h100-80gb-hbm3, for NVIDIA H100 80GB HBM3, not of this machine: winners for \
                36 problems (--all lists them)";
    assert!(shown.contains(line), "{shown}");
    assert_eq!(shown.matches("shipped profile nvidia-h100").count(), 1, "{shown}");
    let all = show(&["--all"]);
    assert_eq!(all.matches("shipped profile nvidia-h100").count(), 36, "{all}");
    assert!(!all.contains("not of this machine"), "{all}");

    let only = show(&["--only", "1500 f32", "--only", ", loss"]);
    assert_eq!(only.lines().count(), 2, "{only}");
    assert!(only.contains("1500 f32, loss"), "{only}");
    let of_h100 = show(&["--only", "H100", "--only", "8192 x", "--all"]);
    assert_eq!(of_h100.matches("\n").count(), 1 + 12, "{of_h100}");
    let trials = |args: &[&str]| {
        let value = tuner.run(&[&["show", "--trials", "--json"], args].concat()).ok().json();
        value["trials"].as_array().unwrap().len()
    };
    let of_loss = trials(&["--only", ", loss"]);
    assert!(of_loss > 0 && of_loss + trials(&["--only", ", gradients"]) == trials(&[]));
}

#[test]
fn a_profile_serves_a_machine_without_a_database() {
    let tuner = Tuner::new();
    tuner.tiny(&["--candidates", "2"]).ok();
    let file = tuner.path("profile.json");
    tuner.run(&["export", "--profile", "test machine", &file]).ok();
    let other = Tuner::new();
    let shown = Ran::of(other.command(&["show"]).env("CCE_PROFILE", &file)).ok();
    assert!(shown.stdout.contains("profile test machine"), "{}", shown.stdout);
    let doctor = Ran::of(other.command(&["doctor"]).env("CCE_PROFILE", &file)).ok();
    assert!(doctor.stdout.contains(", 1 problem\n"), "{}", doctor.stdout);
    let absent = other.path("absent.json");
    let broken = Ran::of(other.command(&["doctor"]).env("CCE_PROFILE", &absent));
    assert_eq!(broken.code, Some(1), "{}", broken.stdout);
    let tuned = Ran::of(tiny(other.command(&["--candidates", "2"])).env("CCE_PROFILE", &absent)).ok();
    assert_eq!(tuned.stderr.matches(&format!("{absent} could not be read")).count(), 1, "{}", tuned.stderr);
}

#[test]
fn the_doctor_says_what_is_missing_and_what_to_do() {
    let tuner = Tuner::new();
    let hidden = |args: &[&str]| Ran::of(tuner.command(args).env("CUDA_VISIBLE_DEVICES", ""));
    let before = hidden(&["doctor"]);
    assert!(before.stdout.contains("not there yet"), "{}", before.stdout);
    assert!(before.stdout.contains("-> run cce-tune"), "{}", before.stdout);
    assert!(!std::path::Path::new(&tuner.database()).exists(), "the doctor made a database");
    tuner.tiny(&["--candidates", "1"]).ok();
    let after = hidden(&["doctor", "--json"]).json();
    let finding = |what: &str| {
        let all = after["findings"].as_array().unwrap();
        all.iter().find(|f| f["what"] == what).cloned().unwrap()
    };
    assert_eq!(finding("tuning database")["state"], "ok");
    let database = finding("tuning database");
    let found = database["found"].as_str().unwrap();
    assert!(found.ends_with("winners for 1 problem"), "{found}");
    assert_eq!(after["environment"]["CCE_TUNING_DIR"], tuner.database());
    assert_eq!(finding("CPU device")["state"], "ok");
}

#[test]
fn a_loss_is_printed_at_every_level_without_a_gpu() {
    let tuner = Tuner::new();
    let emit = |level: &str| tuner.run(&["emit", "--loss", "softcapped", "--dump", level]).ok().stdout;
    assert!(emit("program").contains("tanh"));
    assert!(emit("gradient").contains("dL/dx = p * A"));
    assert!(emit("plan").contains("forward"));
    let cuda = emit("cuda");
    assert!(cuda.contains("__global__") && cuda.contains("mma"), "no kernel in {} bytes", cuda.len());
    let simt = tuner
        .run(&[
            "emit",
            "--dump",
            "cuda",
            "--family",
            "simt",
            "--arch",
            "sm_80",
            "--module",
            "logits_forward",
            "--json",
        ])
        .ok()
        .json();
    assert!(simt["text"].as_str().unwrap().contains("__global__"));
    assert_eq!(simt["arch"], "sm_80");
    let unknown = tuner.run(&["emit", "--dump", "cuda", "--module", "backwards"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("expected one of logits_forward"), "{}", unknown.stderr);
}

#[test]
fn ptx_is_printed_with_an_nvrtc_and_without_a_gpu() {
    let Some(nvrtc) = std::env::var_os("CCE_TEST_NVRTC_13") else {
        panic!("CCE_TEST_NVRTC_13 is not set: run the tests with `cargo xtask test`, which fetches NVRTC");
    };
    let tuner = Tuner::new();
    let emit = |variable: &std::ffi::OsStr, arch: &str| {
        let args = ["emit", "--dump", "ptx", "--arch", arch, "--module", "logits_forward", "--hidden", "64"];
        Ran::of(tuner.command(&args).env("CCE_NVRTC_PATH", variable))
    };
    assert!(emit(&nvrtc, "sm_90a").ok().stdout.contains(".target sm_90a"));
    assert!(emit(&nvrtc, "sm_80").ok().stdout.contains(".target sm_80"));
    let without = emit("/nowhere".as_ref(), "sm_80");
    assert_eq!(without.code, Some(1));
    assert!(without.stderr.contains("CCE_NVRTC_PATH is /nowhere"), "{}", without.stderr);
}

/// `zeal * (lse(x) - at(x, y))`, which does not ship.
fn my_own_loss() -> cce::Program {
    let site = cce::Site::default();
    let mut builder = cce::ProgramBuilder::new(site, "my_own_loss");
    let x = builder.input(site, "x", cce::InputKind::Logit);
    let y = builder.input(site, "y", cce::InputKind::Target);
    let zeal = builder.input(site, "zeal", cce::InputKind::Scalar);
    let (lse, at) = (builder.lse(site, x), builder.at(site, x, y));
    let nll = builder.sub(site, lse, at);
    let loss = builder.mul(site, zeal, nll);
    builder.output(site, "loss", loss);
    builder.finish().unwrap()
}

#[test]
fn a_saved_loss_is_tuned_under_its_own_name() {
    let tuner = Tuner::new();
    let file = tuner.path("own.json");
    std::fs::write(&file, cce::losses::named("label_smoothing").unwrap().save()).unwrap();
    let value = tuner.tiny(&["--loss", &file, "--candidates", "1", "--json"]).ok().json();
    assert_eq!(value["devices"][0]["loss"], "label_smoothing");
    std::fs::write(&file, my_own_loss().save()).unwrap();
    let ran = tuner.tiny(&["--loss", &file, "--candidates", "1", "--input-gradient", "zeal"]).ok();
    assert!(ran.stdout.starts_with("my_own_loss, 48 x 16"), "{}", ran.stdout);
    assert!(ran.stdout.contains("loss and both gradients, gradients of zeal"), "{}", ran.stdout);
    let shown = tuner.run(&["show", "--loss", &file]).ok().stdout;
    assert!(shown.contains("my_own_loss") && shown.contains("(of zeal too)"), "{shown}");
    let shown = tuner.run(&["show"]).ok().stdout;
    let own = |line: &&str| line.contains("label_smoothing") || line.contains("my_own_loss");
    assert_eq!(shown.lines().filter(own).count(), 2, "{shown}");
    std::fs::write(&file, "{\"schema\": 1}").unwrap();
    let broken = tuner.tiny(&["--loss", &file]);
    assert_eq!(broken.code, Some(1));
    assert!(broken.stderr.contains("holds no loss"), "{}", broken.stderr);
}

#[test]
fn a_dry_run_lists_the_space_and_measures_nothing() {
    let tuner = Tuner::new();
    let ran = tuner.tiny(&["--dry-run"]).ok();
    assert!(ran.stdout.contains("9 candidates to choose from, of 9 schedules"), "{}", ran.stdout);
    assert!(ran.stdout.contains("token block  3       64 16 32"), "{}", ran.stdout);
    let all = tuner.tiny(&["--dry-run", "--all"]).ok().stdout;
    assert!(all.contains("token block 16, strip 2048"), "{all}");
    let value = tuner.tiny(&["--dry-run", "--json"]).ok().json();
    assert_eq!(value["devices"][0]["size"], 9);
    assert_eq!(value["devices"][0]["knobs"][1]["name"], "strip");
    assert!(!std::path::Path::new(&tuner.database()).exists());
}

#[test]
fn a_recorded_search_is_replayed_by_every_strategy_and_its_regret_needs_another_shape() {
    let tuner = Tuner::new();
    let file = tuner.path("tiny.json");
    let ran = tuner.tiny(&["--exhaustive", "--record", &file]).ok();
    assert!(ran.stderr.contains("9 of 9 candidates recorded in"), "{}", ran.stderr);
    let value = tuner.run(&["replay", &file, "--seeds", "2", "--json"]).ok().json();
    let played = value["played"].as_array().unwrap();
    assert_eq!(played.len(), 4);
    assert!(played.iter().all(|line| line["schedules"] == 9 && line["runs"].as_array().unwrap().len() == 2));
    // The folder of the database holds the same trials.
    let text = tuner.run(&["replay", &tuner.database(), "--strategy", "exhaustive"]).ok().stdout;
    assert!(text.contains("exhaustive") && !text.contains("random"), "{text}");

    let alone = tuner.run(&["regret", &file]);
    assert_eq!(alone.code, Some(1), "{}", alone.stderr);
    assert!(alone.stderr.contains("give at least two"), "{}", alone.stderr);
    let other = tuner.path("other.json");
    let flags = ["--gpu", "cpu", "--tokens", "96", "--hidden", "16", "--vocab", "1500"];
    tuner.run(&[&flags[..], &["--exhaustive", "--record", &other]].concat()).ok();
    let regret = tuner.run(&["regret", &file, &other]).ok().stdout;
    assert!(regret.contains("selected from the others, of 2 problems"), "{regret}");

    // Each is called what `show` prints of it, and chosen by the same words.
    let problem = |tokens: usize| format!("{tokens} x 16 x 1500 f32, gradients, sampled:2^-10,");
    let shown = tuner.run(&["show", "--only", &problem(128)]).ok().stdout;
    assert!(shown.contains(&problem(128)) && !shown.contains(&problem(64)), "{shown}");
    let held_out = |only: &[&str]| -> Vec<String> {
        let value = tuner.run(&[&["regret", &file, &other, "--json"], only].concat()).ok().json();
        let lines = value["held_out"].as_array().unwrap();
        lines.iter().map(|line| line["recording"].as_str().unwrap().to_owned()).collect()
    };
    let all = held_out(&[]);
    assert!(all.iter().all(|name| name.starts_with("cross_entropy, ")), "{all:?}");
    for (tokens, name) in [64, 128].into_iter().zip(&all) {
        assert!(name.contains(&problem(tokens)), "{all:?}");
        for words in [&problem(tokens), name] {
            assert_eq!(held_out(&["--only", words]), [name.as_str()], "{words}");
        }
    }
    assert_eq!(held_out(&["--loss", "cross_entropy"]), all);
    let none = tuner.run(&["regret", &file, &other, "--loss", "gemma2"]);
    assert!(none.stderr.contains("--loss gemma2 chooses none of the 2 recordings"), "{}", none.stderr);

    let none = tuner.run(&["regret", &file, &other, "--only", "zzz"]);
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("--only zzz chooses none of the 2 recordings"), "{}", none.stderr);

    // What an export holds of one shape is told apart.
    let loss = tuner.path("loss.json");
    tuner.tiny(&["--objective", "loss", "--candidates", "2", "--record", &loss]).ok();
    let left_out = tuner.run(&["regret", &file, &other, &loss, "--json"]).ok().json()["left_out"].clone();
    assert_eq!(left_out.as_array().unwrap().len(), 1, "{left_out}");
    assert!(
        left_out[0].as_str().unwrap().ends_with("f32, loss, exact: no other recording says anything of it")
    );
    tuner.run(&[&flags[..], &["--objective", "loss", "--candidates", "2"]].concat()).ok();
    tuner.run(&[&flags[..], &["--filter", "exact", "--candidates", "2"]].concat()).ok();
    let trials = tuner.path("trials.json");
    tuner.run(&["export", &trials]).ok();
    let rows = tuner.run(&["regret", &trials]).ok().stdout;
    for tokens in [64, 128] {
        for expected in [format!("{tokens} x 16 x 1500 f32, loss, exact"), problem(tokens)] {
            assert!(rows.lines().any(|row| row.contains(&expected)), "{expected}: {rows}");
        }
    }
    let names = |trials: &[&str]| -> Vec<String> {
        let flags = ["--strategy", "random", "--seeds", "1", "--json"];
        let value = tuner.run(&[&["replay"], trials, &flags].concat()).ok().json();
        let lines = value["played"].as_array().unwrap();
        lines.iter().map(|line| line["recording"].as_str().unwrap().to_owned()).collect()
    };
    let stored = names(&[&trials]);
    assert_eq!(stored.len(), 5);
    assert_eq!(stored.iter().filter(|name| name.contains("128 x 16 x 1500 f32, gradients")).count(), 2);
    assert_eq!(stored.iter().filter(|name| name.ends_with("gradients, exact")).count(), 1, "{stored:?}");
    // One problem in two files is told apart by the files.
    assert_eq!(names(&[&file]).concat() + ", " + &file, names(&[&file, &tuner.database()])[0]);

    let refused = tuner.run(&["import", &file]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    assert!(
        refused.stderr.contains("tiny.json: it is a recording, for `cce-tune replay`"),
        "{}",
        refused.stderr
    );
    // A profile knows nothing of what lost, an export of trials has it all.
    let profile = tuner.path("profile.json");
    tuner.run(&["export", "--profile", "mine", &profile]).ok();
    let refused = tuner.run(&["replay", &file, &profile]);
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{}", refused.stderr);
    assert!(refused.stderr.contains("profile.json is no recording: it is a profile"), "{}", refused.stderr);
    let refused = tuner.run(&["verify", &trials]);
    assert_eq!(refused.code, Some(1), "{}", refused.stdout);
    let words = "trials.json: it is an export of trials, expected a profile; `cce-tune export --profile NAME";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);

    let nothing = tuner.run(&["replay", &tuner.path("missing.json")]);
    assert_eq!(nothing.code, Some(1));
    assert!(nothing.stderr.contains("cannot read"), "{}", nothing.stderr);
}

#[test]
fn a_number_of_candidates_limits_the_trials_and_a_larger_one_goes_on_from_them() {
    let tuner = Tuner::new();
    // Of the strategies, the one that never ends sooner because of what it measured.
    let tried = |count: &str| {
        let flags = ["--strategy", "random", "--candidates", count, "--json"];
        tuner.tiny(&flags).ok().json()
    };
    let first = tried("4");
    assert_eq!(candidates(&first).len(), 4);
    let second = tried("6");
    assert_eq!((candidates(&second).len(), second["devices"][0]["reused"].as_u64()), (6, Some(4)));
    let all = tuner.tiny(&["--exhaustive", "--json"]).ok().json();
    assert_eq!((candidates(&all).len(), all["devices"][0]["reused"].as_u64()), (9, Some(6)));
}

#[test]
fn mistakes_on_the_command_line_say_what_was_expected() {
    let tuner = Tuner::new();
    let cases: [(&[&str], &str); 20] = [
        (&["--strategy", "luck"], "expected model, descent, random or exhaustive"),
        (&["--gpu", "gpu"], "expected auto, cpu, all or the index of a GPU"),
        (&["--tokens", "0"], "expected a number from 1"),
        (&["--dtype", "fp8"], "expected f32, f16 or bf16"),
        (&["--filter", "sometimes"], "expected exact, sampled"),
        (&["--objective", "speed"], "expected loss"),
        (&["--memory-limit", "much"], "expected bytes such as 512M"),
        (&["--scalar", "cap"], "expected NAME=NUMBER"),
        (&["--loss", "no_such_loss"], "there is no loss and no file no_such_loss; expected"),
        (&["--colour", "red"], "unexpected argument"),
        (&["--tokens", "-5"], "expected a number from 1 to"),
        (&["--budget", "-1s"], "expected a time such as 60s"),
        (&["--gpu", "-1"], "expected auto, cpu, all or the index"),
        (&["verify", "--tolerance", "-3"], "expected a number of percent above 0"),
        (&["profile", "--tokens", "-5", "--out", "x.json"], "expected a number from 1 to"),
        (&["--data", "--json"], "a value is required for '--data"),
        (&["--space", "0"], "expected a number from 1 to"),
        (&["--filter", "sampled:2^-10,0"], "max_entries at least 2, found sampled:2^-10,0"),
        (&["export", "--profile", ""], "expected a name, found none"),
        (&["emit", "--dump", "assembly"], "expected a level of"),
    ];
    for (args, expected) in cases {
        let ran = tuner.run(args);
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{args:?}: {}", ran.stderr);
    }
    let scalar = tuner.tiny(&["--scalar", "cap=30"]);
    assert_eq!(scalar.code, Some(1));
    assert!(scalar.stderr.contains("cross_entropy has no Scalar input cap"), "{}", scalar.stderr);
    let dry = tuner.tiny(&["--scalar", "cap=30", "--dry-run"]);
    assert_eq!((dry.code, dry.stdout.as_str(), dry.stderr), (Some(1), "", scalar.stderr));
    let failed = tuner.tiny(&["--scalar", "cap=30", "--json"]);
    assert!(failed.json()["error"].as_str().unwrap().contains("no Scalar input cap"));
}

#[test]
fn help_explains_and_names_the_exit_codes() {
    let tuner = Tuner::new();
    let help = tuner.run(&["--help"]).ok();
    for expected in ["--gpu", "--data", "Exit codes", "130", "CCE_TUNING_DIR", "doctor"] {
        assert!(help.stdout.contains(expected), "{expected} is not in the help");
    }
    for command in ["doctor", "show", "export", "import", "emit"] {
        assert!(tuner.run(&[command, "--help"]).ok().stdout.contains("--json"));
    }
}

#[test]
fn a_database_that_cannot_be_written_is_a_failure_that_says_so() {
    let tuner = Tuner::new();
    let file = tuner.path("a file");
    std::fs::write(&file, "not a folder").unwrap();
    let ran = Ran::of(common::tiny(tuner.command(&["--candidates", "1"])).env("CCE_TUNING_DIR", &file));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("a file"), "{}", ran.stderr);
    for show in [&["show"][..], &["show", "--trials"]] {
        let shown = Ran::of(tuner.command(show).env("CCE_TUNING_DIR", &file));
        assert_eq!((shown.code, shown.stdout.as_str()), (Some(1), ""), "{}", shown.stderr);
        assert!(shown.stderr.contains("expected the folder of the database"), "{}", shown.stderr);
    }
    let off = Ran::of(common::tiny(tuner.command(&[])).env("CCE_TUNING_DIR", "none"));
    assert_eq!(off.code, Some(2), "{}", off.stderr);
    assert!(off.stderr.contains("there is no folder for the database"), "{}", off.stderr);
}
