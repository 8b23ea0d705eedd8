//! What a worker does costs its candidate only, and nobody outlives anybody.

use super::behaviours::*;
use super::case::{Case, candidates, is_running, schedule, started};
use cce_tune::Error;
use cce_tune::progress::Silent;
use cce_tune::search::{Bench, Compile, Effort, Ended, Ranking, search_on};
use cce_tune::stop::Stop;
use cce_tune::worker::{Host, Plans, RemoteBench, RemoteCompiler, WorkerCommand};
use cce_tuning_db::{Resources, Status};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(super) fn whatever_a_candidate_does_it_costs_that_candidate_only() {
    let case = Case::new();
    let good = [8, 12, 16, 24, 32];
    let bad = [
        (HANGS, "timeout", "the check took longer than"),
        (ABORTS, "crashed", "SIGABRT"),
        (IS_KILLED, "crashed", "SIGKILL"),
        (EXITS, "crashed", "exit status: 7"),
        (WRITES_GARBAGE, "crashed", "no message: \"the resu\""),
        (IS_WRONG, "wrong", "differs"),
        (LEAVES_HOLES, "wrong", "not written"),
        (HANGS_WHEN_TIMED, "timeout", "a timed run took longer than"),
        (BREAKS_THE_DEVICE, "launch", "an illegal address"),
        (OVERFLOWS_THE_STACK, "crashed", "signal"),
    ];
    let mut all: Vec<u32> = bad.iter().map(|(block, ..)| *block).collect();
    for (at, block) in good.into_iter().enumerate() {
        all.insert(2 * at + 1, block);
    }
    let (ended, ranking) = case.search(&all, "worker").unwrap();
    assert_eq!(ended, Ended::Complete);
    let entry = |block: u32| ranking.entries.iter().find(|entry| entry.schedule == schedule(block)).unwrap();
    for (block, status, reason) in bad {
        let trial = &entry(block).trial;
        assert_eq!(trial.status.name(), status, "{block}: {:?}", trial.status);
        assert!(trial.status.reason().contains(reason), "{block}: {:?}", trial.status);
    }
    for block in good {
        let trial = &entry(block).trial;
        assert_eq!(trial.status, Status::Ok, "{block}");
        assert!(trial.gradient_error.unwrap() < 1e-4);
    }
    assert!(ranking.winner().is_some());
    // One start for each that its worker did not survive, and the first.
    let died = bad.iter().filter(|(_, status, _)| *status != "wrong").count();
    let starts = started(&case.starts());
    assert_eq!(starts.len(), died + 1);
    assert!(starts.iter().all(|pid| !is_running(*pid)), "a worker was left behind");
    // All of it is stored: a second search starts no worker.
    let (ended, again) = case.search(&all, "worker").unwrap();
    assert_eq!(ended, Ended::Complete);
    assert_eq!(again.counts(), ranking.counts());
    assert_eq!(started(&case.starts()).len(), starts.len());
}

pub(super) fn a_worker_that_is_killed_from_outside_is_started_again() {
    let case = Case::new();
    let mut bench = case.bench("worker");
    let mut built = bench.build(&schedule(16)).unwrap();
    bench.check(&mut built).unwrap();
    let first = started(&case.starts())[0];
    kill_process(first, Signal::KILL).unwrap();
    let failure = bench.time(&mut built, 0).unwrap_err();
    assert!(matches!(&failure.status, Status::Crashed(how) if how.contains("SIGKILL")), "{failure:?}");
    assert!(!failure.fatal && !failure.blameless);
    // The schedule is built again in the next worker, without a word to the caller.
    assert!(bench.time(&mut built, 1).unwrap() > 0.0);
    assert_eq!(started(&case.starts()).len(), 2);
}

pub(super) fn a_worker_that_cannot_be_prepared_ends_the_search_and_blames_nobody() {
    for (role, expected) in [("refuses", "the inputs are gone"), ("dies", "SIGABRT")] {
        let case = Case::new();
        let error = case.search(&[8, 16], role).unwrap_err();
        assert!(matches!(error, Error::Worker { .. }) && error.to_string().contains(expected), "{error}");
        let ranking = Ranking::new(&candidates(&[8, 16]), &case.store());
        assert!(ranking.entries.is_empty());
    }
    let case = Case::new();
    let nothing = WorkerCommand::new("/no/such/program", []);
    let mut bench = RemoteBench::start(nothing, case.job.clone());
    let mut built = bench.build(&schedule(16)).unwrap();
    let failure = bench.check(&mut built).unwrap_err();
    assert!(failure.blameless && failure.status.reason().contains("/no/such/program"), "{failure:?}");
}

pub(super) fn a_search_is_stopped_while_a_worker_makes_inputs_and_reference() {
    let (case, stop) = (Case::new(), Stop::new());
    let begun = Instant::now();
    let (ended, ranking) = std::thread::scope(|scope| {
        let (case, stop) = (&case, &stop);
        let searched = scope.spawn(move || case.search_until(stop, &[8, 16], "never ready").unwrap());
        while started(&case.starts()).is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.request();
        searched.join().unwrap()
    });
    assert_eq!((ended, ranking.entries.len()), (Ended::Stopped, 0));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(!is_running(started(&case.starts())[0]), "its worker goes on");
}

/// A parent whose worker hangs: says so, and waits.
pub(super) fn parent() {
    let case = Case::new();
    let mut bench = case.bench("worker").check_limit(Duration::from_secs(600));
    let mut built = bench.build(&schedule(16)).unwrap();
    bench.check(&mut built).unwrap();
    println!("{}", started(&case.starts())[0].as_raw_pid());
    let mut hanging = bench.build(&schedule(HANGS)).unwrap();
    let _ = bench.check(&mut hanging);
}

pub(super) fn a_worker_does_not_outlive_its_parent_even_while_it_hangs() {
    let this = std::env::current_exe().unwrap();
    let mut parent = Command::new(this).arg("parent").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let worker = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(is_running(worker));
    parent.kill().unwrap();
    parent.wait().unwrap();
    let killed = Instant::now();
    while is_running(worker) {
        assert!(killed.elapsed() < Duration::from_secs(10), "the worker outlives its parent");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn a_compiler_that_crashes_costs_its_candidate_and_one_that_hangs_ends_when_nobody_waits() {
    let case = Case::new();
    let compiler = RemoteCompiler::new(case.command("worker"), case.job.clone());
    assert_eq!(compiler.compile(&schedule(16)), Ok(Some(Resources::new(16, 0, 1024))));
    let spilled = compiler.compile(&schedule(IS_WRONG)).unwrap_err();
    assert_eq!(spilled.status, Status::Resources("spilled 80 bytes".to_owned()));
    let crashed = compiler.compile(&schedule(ABORTS)).unwrap_err();
    assert!(matches!(&crashed.status, Status::Crashed(how) if how.contains("SIGABRT")), "{crashed:?}");
    assert_eq!(compiler.compile(&schedule(24)), Ok(Some(Resources::new(24, 0, 1024))));
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| compiler.compile(&schedule(HANGS)));
        std::thread::sleep(Duration::from_millis(200));
        compiler.cancel();
        assert!(hanging.join().unwrap().unwrap_err().blameless);
    });
    compiler.resume();
    assert_eq!(compiler.compile(&schedule(32)), Ok(Some(Resources::new(32, 0, 1024))));
    assert_eq!(compiler.compile(&schedule(40)), Ok(Some(Resources::new(40, 0, 1024))));
    drop(compiler);
    let starts = started(&case.starts());
    // One until it aborted, the next until it was cancelled, the last for all that came after.
    assert_eq!(starts.len(), 3);
    assert!(starts.iter().all(|pid| !is_running(*pid)), "a compiler was left behind");
}

pub(super) fn two_workers_share_the_candidates_and_each_one_is_tried_once() {
    let case = Case::new();
    let blocks: Vec<u32> = (8..24).chain([ABORTS, IS_WRONG]).collect();
    let candidates = candidates(&blocks);
    let mut store = case.store();
    let effort = Effort { batch: 3, ..Effort::default() };
    let benches = || Ok(vec![case.bench("worker"), case.bench("worker")]);
    let ended = search_on(&candidates, &mut store, &effort, &Silent, &Stop::new(), benches).unwrap();
    assert_eq!(ended, Ended::Complete);
    let ranking = Ranking::new(&candidates, &store);
    assert_eq!(ranking.counts(), [("ok", 16), ("wrong", 1), ("crashed", 1)]);
    // Two, and one for the one that aborted.
    assert_eq!(started(&case.starts()).len(), 3);
}

pub(super) fn a_remote_bench_measures_what_a_bench_measures() {
    let case = Case::new();
    let mut here = Plans.bench(&case.job).unwrap();
    let mut there = case.bench("worker");
    for block in [8, 24] {
        let (mut mine, mut its) =
            (here.build(&schedule(block)).unwrap(), there.build(&schedule(block)).unwrap());
        // The same inputs, to the bit: the same error against the same reference, up to its schedule.
        let (mine_error, its_error) = (here.check(&mut mine).unwrap(), there.check(&mut its).unwrap());
        assert!((mine_error - its_error).abs() < 1e-6, "{mine_error} {its_error}");
        assert!(there.time(&mut its, 0).unwrap() > 0.0);
    }
}

pub(super) fn what_a_library_prints_is_no_message() {
    let case = Case::new();
    let mut bench = case.bench("protected");
    let mut built = bench.build(&schedule(PRINTS)).unwrap();
    assert!(bench.check(&mut built).unwrap() < 1e-4);
    assert!(bench.time(&mut built, 0).unwrap() > 0.0);
}

pub(super) fn a_worker_that_finds_another_device_refuses_and_says_why() {
    let case = Case::new();
    let another = case.command("worker").variable("RAYON_NUM_THREADS", "97");
    let mut bench = RemoteBench::start(another, case.job.clone());
    let mut built = bench.build(&schedule(16)).unwrap();
    let failure = bench.check(&mut built).unwrap_err();
    let reason = failure.status.reason();
    assert!(failure.blameless && reason.contains("with 97 threads, expected "), "{reason}");
    let error = Error::Worker { reason: reason.to_owned() };
    assert!(matches!(bench.refusal().instead_of(error), Error::Inputs { .. }));
}
