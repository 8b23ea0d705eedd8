//! The worker that misbehaves, and the tests of its parent: which of them this program is.

mod behaviours;
mod case;
mod command_line;
mod spoilers;
mod workers;

use case::note_start;
use cce_tune::worker::{own_streams, serve};
use spoilers::{Misbehaving, Refuses};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

pub fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("worker") => {
            note_start();
            serve(&Misbehaving, std::io::stdin(), std::io::stdout()).unwrap();
        }
        Some("protected") => {
            let (requests, replies) = own_streams().unwrap();
            serve(&Misbehaving, requests, replies).unwrap();
        }
        Some("refuses") => serve(&Refuses, std::io::stdin(), std::io::stdout()).unwrap(),
        Some("dies") => std::process::abort(),
        Some("never ready") => {
            note_start();
            std::thread::sleep(std::time::Duration::from_secs(3600));
        }
        Some("parent") => workers::parent(),
        // The command line, whose workers are this program.
        Some("profile" | "verify") => return cce_tune::run([]),
        _ => return run_tests(),
    }
    ExitCode::SUCCESS
}

/// What cargo and nextest expect of a test program: `--list`, a name or a part of one, `--exact`.
fn run_tests() -> ExitCode {
    let flags: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| flags.iter().any(|given| given == flag);
    let wanted = flags.iter().find(|given| !given.starts_with('-') && *given != "terse");
    let is_wanted = |name: &str| match wanted {
        Some(wanted) if has("--exact") => name == wanted,
        Some(wanted) => name.contains(wanted.as_str()),
        None => true,
    };
    if has("--list") || has("--ignored") {
        if !has("--ignored") {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let mut failed = false;
    for (name, test) in TESTS.iter().filter(|(name, _)| is_wanted(name)) {
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed |= !passed;
    }
    ExitCode::from(u8::from(failed))
}

const TESTS: &[(&str, fn())] = &[
    (
        "whatever_a_candidate_does_it_costs_that_candidate_only",
        workers::whatever_a_candidate_does_it_costs_that_candidate_only,
    ),
    (
        "a_worker_that_is_killed_from_outside_is_started_again",
        workers::a_worker_that_is_killed_from_outside_is_started_again,
    ),
    (
        "a_worker_that_cannot_be_prepared_ends_the_search_and_blames_nobody",
        workers::a_worker_that_cannot_be_prepared_ends_the_search_and_blames_nobody,
    ),
    (
        "a_search_is_stopped_while_a_worker_makes_inputs_and_reference",
        workers::a_search_is_stopped_while_a_worker_makes_inputs_and_reference,
    ),
    (
        "a_compiler_that_crashes_costs_its_candidate_and_one_that_hangs_ends_when_nobody_waits",
        workers::a_compiler_that_crashes_costs_its_candidate_and_one_that_hangs_ends_when_nobody_waits,
    ),
    (
        "two_workers_share_the_candidates_and_each_one_is_tried_once",
        workers::two_workers_share_the_candidates_and_each_one_is_tried_once,
    ),
    (
        "a_worker_does_not_outlive_its_parent_even_while_it_hangs",
        workers::a_worker_does_not_outlive_its_parent_even_while_it_hangs,
    ),
    ("a_remote_bench_measures_what_a_bench_measures", workers::a_remote_bench_measures_what_a_bench_measures),
    ("what_a_library_prints_is_no_message", workers::what_a_library_prints_is_no_message),
    (
        "a_worker_that_finds_another_device_refuses_and_says_why",
        workers::a_worker_that_finds_another_device_refuses_and_says_why,
    ),
    (
        "a_profile_is_made_whatever_candidates_do_and_holds_none_that_failed",
        command_line::a_profile_is_made_whatever_candidates_do_and_holds_none_that_failed,
    ),
    (
        "winners_that_hang_crash_or_are_wrong_are_what_verify_reports",
        command_line::winners_that_hang_crash_or_are_wrong_are_what_verify_reports,
    ),
];
