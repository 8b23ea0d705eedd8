//! The command line, whose workers misbehave: a profile holds nothing that failed, and `verify` says what fails.

use super::behaviours::*;
use cce_codegen::schedule::{CpuSchedule, Schedule};
use cce_runtime::selection;
use cce_tuning_db::{Database, Profile};
use std::path::Path;
use std::process::{Command, Output};

/// The command line, with workers that misbehave so.
fn command_line(folder: &Path, args: &[&str], misbehave: &[(CpuSchedule, u32)]) -> Output {
    let stated: Vec<String> =
        misbehave.iter().map(|(cpu, how)| format!("{}/{}={how}", cpu.token_block, cpu.strip)).collect();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(args).current_dir(folder).env(MISBEHAVE, stated.join(",")).env_remove("CCE_PROFILE");
    command.env("CCE_TUNING_DIR", folder.join("database")).output().unwrap()
}

const PROFILE: [&str; 16] = [
    "profile",
    "--gpu",
    "cpu",
    "--heads",
    "16x1500",
    "--tokens",
    "48",
    "--objective",
    "gradients",
    "--filter",
    "exact",
    "--budget",
    "none",
    "--keep",
    "8",
    "--json",
];

fn profile_of(folder: &Path, misbehave: &[(CpuSchedule, u32)]) -> Vec<CpuSchedule> {
    let ran = command_line(folder, &[&PROFILE[..], &["--out", "tiny.json"]].concat(), misbehave);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let (profile, skipped) = Profile::read(&folder.join("tiny.json")).unwrap();
    assert!(skipped.is_empty() && profile.entries.len() == 1);
    let of = |winner: &cce_tuning_db::Winner| match selection::schedule(&winner.config).unwrap() {
        Schedule::Cpu(cpu) => cpu,
        Schedule::Gpu(_) => panic!("a schedule of another device"),
    };
    profile.entries[0].winners.iter().map(of).collect()
}

const fn cpu(token_block: u32, strip: u32) -> CpuSchedule {
    CpuSchedule { token_block, strip }
}

pub(super) fn a_profile_is_made_whatever_candidates_do_and_holds_none_that_failed() {
    let folder = tempfile::tempdir().unwrap();
    // The first is timed before anything else is, and may take as long as anything may: a minute. That is no place for
    // one that hangs when it is timed.
    let bad = [
        (cpu(16, 512), HANGS, "timeout"),
        (cpu(16, 1024), HANGS_WHEN_TIMED, "timeout"),
        (cpu(16, 2048), EXITS, "crashed"),
        (cpu(32, 512), IS_WRONG, "wrong"),
        (cpu(32, 1024), OVERFLOWS_THE_STACK, "crashed"),
        (cpu(32, 2048), LEAVES_HOLES, "wrong"),
        (cpu(64, 512), ABORTS, "crashed"),
    ];
    let winners = profile_of(folder.path(), &bad.map(|(cpu, how, _)| (cpu, how)));
    assert!(!winners.is_empty());
    let records = Database::open(&folder.path().join("database")).unwrap().records().unwrap();
    let mut tried = 0;
    for (cpu, _, status) in bad {
        assert!(!winners.contains(&cpu), "{cpu:?}");
        // The strategy may do without some.
        let of = |record: &&cce_tuning_db::Record| {
            selection::schedule(&record.trial.config).unwrap() == Schedule::Cpu(cpu)
        };
        for record in records.iter().filter(of) {
            assert_eq!(record.trial.status.name(), status, "{cpu:?}");
            tried += 1;
        }
    }
    assert!(tried >= 3, "{tried} misbehaved");
}

pub(super) fn winners_that_hang_crash_or_are_wrong_are_what_verify_reports() {
    let folder = tempfile::tempdir().unwrap();
    let winners = profile_of(folder.path(), &[]);
    let rounds: [&[(u32, &str)]; 2] = [
        &[
            (HANGS, "timeout: the check took longer than 5.0 s"),
            (ABORTS, "crashed: the check: the worker ended"),
            (HANGS_WHEN_TIMED, "timeout: a timed run took longer than 2.0 s"),
        ],
        &[(IS_WRONG, "wrong: "), (IS_KILLED, "crashed: the check: the worker ended")],
    ];
    for hows in rounds {
        assert!(winners.len() > hows.len(), "{winners:?}");
        let misbehave: Vec<_> = winners.iter().zip(hows).map(|(cpu, (how, _))| (*cpu, *how)).collect();
        let flags = ["verify", "tiny.json", "--gpu", "cpu", "--best", "4", "--rounds", "3", "--json"];
        let ran = command_line(folder.path(), &flags, &misbehave);
        assert_eq!(ran.status.code(), Some(5), "{}", String::from_utf8_lossy(&ran.stderr));
        let value: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        let lines = value["problems"][0]["schedules"].as_array().unwrap();
        for (line, (_, expected)) in lines.iter().zip(hows) {
            assert!(line["failure"].as_str().unwrap_or_default().contains(expected), "{line}");
            assert!(line["ms"].is_null(), "{line}");
        }
        // Those that behave are measured beside them.
        assert!(lines[hows.len()]["ms"].as_f64().unwrap() > 0.0, "{}", lines[hows.len()]);
        let said = value["problems"][0]["moved"].to_string();
        assert!(said.contains("number 1 (") && said.contains("no longer runs"), "{said}");
    }
}
