//! The main function of test programs that need a GPU: without one they say so in one line and pass, or fail
//! under `CCE_REQUIRE_GPU=1`.
//!
//! The tests run one after the other, each parallel in itself, in the order in which they are listed. It
//! takes the options of Rust's own test programs that cargo, nextest and people use: names to choose by,
//! `--exact`, `--skip`, `--list`.

use super::compare::Report;
use super::device::{Bench, Gpu};
use super::numbers::run_seed;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// A test: its name, and what it finds on a GPU.
pub type Test = (&'static str, fn(&Bench) -> Report);

/// What was asked for on the command line.
#[derive(Debug, Default)]
struct Options {
    names: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
    ignored: bool,
}

impl Options {
    fn read() -> Options {
        let mut options = Options::default();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--exact" => options.exact = true,
                "--list" => options.list = true,
                "--ignored" => options.ignored = true,
                "--skip" => options.skipped.extend(arguments.next()),
                // Of no consequence here, with the values that follow them.
                "--format" | "--color" | "--test-threads" | "-Z" => drop(arguments.next()),
                other if other.starts_with('-') => {}
                name => options.names.push(name.to_owned()),
            }
        }
        options
    }

    fn wants(&self, name: &str) -> bool {
        let fits = |given: &String| if self.exact { name == given } else { name.contains(given.as_str()) };
        // No test here is ignored.
        !self.ignored
            && (self.names.is_empty() || self.names.iter().any(fits))
            && !self.skipped.iter().any(fits)
    }
}

/// Gives compiled kernels a folder that the next run finds, and leaves the user's tuning database alone.
#[expect(unsafe_code, reason = "sets environment variables before there is a second thread")]
fn set_environment() {
    let cache = std::env::temp_dir().join("cce-gpu-tests").into_os_string();
    for (variable, value) in [("CCE_CACHE_DIR", cache), ("CCE_TUNING_DIR", "none".into())] {
        if std::env::var_os(variable).is_none() {
            // SAFETY: the first thing that `main` does: there is no other thread.
            unsafe { std::env::set_var(variable, value) };
        }
    }
}

/// Runs the tests that the command line asks for.
pub fn main(tests: &[Test]) -> ExitCode {
    set_environment();
    let options = Options::read();
    let chosen: Vec<&Test> = tests.iter().filter(|(name, _)| options.wants(name)).collect();
    if options.list {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if chosen.is_empty() {
        println!("no test of that name");
        return ExitCode::SUCCESS;
    }
    let Some(gpu) = Gpu::find() else {
        println!("no CUDA device: {} GPU tests not run", chosen.len());
        return match std::env::var_os("CCE_REQUIRE_GPU").is_some_and(|value| value != "0") {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        };
    };
    println!("{} GPU tests on {}, seed {}", chosen.len(), gpu.facts.name, run_seed());
    run(&Bench::Gpu(gpu), &chosen)
}

fn run(bench: &Bench, chosen: &[&Test]) -> ExitCode {
    let start = Instant::now();
    let (mut all, mut failed) = (Report::default(), Vec::new());
    for (at, (name, test)) in chosen.iter().enumerate() {
        let begun = Instant::now();
        let mut report = catch_unwind(AssertUnwindSafe(|| test(bench))).unwrap_or_else(|panic| {
            let mut report = Report::default();
            let words = panic.downcast_ref::<String>().map(String::as_str);
            report.fail(name, words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("panicked"));
            report
        });
        let lost = bench.gpu().and_then(|gpu| gpu.context.synchronize().err());
        if let Some(error) = &lost {
            report.fail(name, format!("the GPU is beyond use afterwards: {error}"));
        }
        let verdict = if report.failures.is_empty() { "ok" } else { "FAILED" };
        println!("{name} ... {verdict} ({} cases, {:.1} s)", report.cases, begun.elapsed().as_secs_f64());
        if let Some(complaint) = report.complaint() {
            println!("{complaint}");
            failed.push(*name);
        }
        all.add(report);
        if lost.is_some() {
            println!("{} tests not run", chosen.len() - at - 1);
            break;
        }
    }
    println!("\nworst cases\n{}", all.worst());
    println!("{} cases, {:.1} s", all.cases, start.elapsed().as_secs_f64());
    if failed.is_empty() {
        println!("all {} GPU tests passed", chosen.len());
        return ExitCode::SUCCESS;
    }
    println!("FAILED: {}", failed.join(", "));
    ExitCode::FAILURE
}
