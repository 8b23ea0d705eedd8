//! `cargo xtask test`: everything that needs no GPU, on a fresh machine.
//!
//! Every step runs even if an earlier one failed, so that one run shows all there is to mend; the task
//! fails if any step did. Only fetching comes first and alone: without it no test can run.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::cargo::{cargo, root, run as run_command};
use crate::error::{Error, Result};
use crate::{python, toolchain};

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Run the long tests too (the database is killed 10000 times instead of 50, and so on)
    #[arg(long)]
    slow: bool,
    /// Run this step only
    #[arg(long, value_name = "STEP")]
    only: Option<Step>,
}

/// The steps in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// NVRTC 13.0 and 12.9 and nvdisasm, from PyPI into target/toolchain
    Fetch,
    /// cargo fmt --check
    Format,
    /// cargo clippy, warnings are errors
    Lint,
    /// Unit, property, golden, NVRTC, database and command-line tests
    Test,
    /// Documentation tests
    Doc,
    /// The PyTorch package: its wheel in a virtual environment under target/python, pytest on the CPU device
    Python,
    /// What cce-tune exports, read by Kernel Tuner in a virtual environment under target/kernel-tuner
    KernelTuner,
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Format => "format",
            Self::Lint => "lint",
            Self::Test => "test",
            Self::Doc => "doc",
            Self::Python => "python",
            Self::KernelTuner => "kernel-tuner",
        }
    }

    const fn needs_toolchain(self) -> bool {
        matches!(self, Self::Fetch | Self::Test | Self::Doc)
    }
}

/// Runs the steps and prints what each took.
pub fn run(options: &Options) -> Result<()> {
    let mut times: Vec<(Step, Duration, bool)> = Vec::new();
    let wanted = |step: Step| options.only.is_none_or(|only| only == step);

    let mut environment: Vec<(&'static str, PathBuf)> = Vec::new();
    let needs = options.only.is_none_or(Step::needs_toolchain);
    if needs {
        let start = Instant::now();
        environment = toolchain::provide()?;
        times.push((Step::Fetch, start.elapsed(), true));
    }
    // The tests leave the user's own caches alone.
    environment.push(("CCE_CACHE_DIR", root().join("target").join("test-cache")));
    environment.push(("CCE_TUNING_DIR", "none".into()));
    if options.slow {
        environment.push(("CCE_SLOW_TESTS", "1".into()));
    }

    for step in [Step::Format, Step::Lint, Step::Test, Step::Doc, Step::Python, Step::KernelTuner] {
        if !wanted(step) {
            continue;
        }
        println!("\n== {}", step.name());
        let start = Instant::now();
        let done = match command(step) {
            Some(mut command) => run_command(command.envs(environment.iter().cloned())),
            None if step == Step::KernelTuner => python::test_kernel_tuner(&environment),
            None => python::test(&environment),
        };
        if let Err(error) = &done {
            eprintln!("xtask: {}: {error}", step.name());
        }
        times.push((step, start.elapsed(), done.is_ok()));
    }

    println!();
    for (step, time, good) in &times {
        println!("{:12} {:7.1} s  {}", step.name(), time.as_secs_f64(), if *good { "ok" } else { "FAILED" });
    }
    let failed: Vec<_> = times.iter().filter(|(_, _, good)| !good).map(|(step, _, _)| step.name()).collect();
    if failed.is_empty() { Ok(()) } else { Err(Error::Steps(failed)) }
}

/// The command of a step that is one.
fn command(step: Step) -> Option<std::process::Command> {
    Some(match step {
        Step::Python | Step::KernelTuner => return None,
        Step::Format | Step::Fetch => cargo(&["fmt", "--all", "--check"]),
        Step::Lint => cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        Step::Test if has_nextest() => cargo(&["nextest", "run", "--workspace", "--no-fail-fast"]),
        // Not --all-targets, which would run the benchmarks.
        Step::Test => {
            cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests", "--examples"])
        }
        Step::Doc => cargo(&["test", "--workspace", "--no-fail-fast", "--doc"]),
    })
}

/// Whether `cargo nextest` is installed. It runs tests in parallel across binaries; without it everything
/// runs as well.
fn has_nextest() -> bool {
    let asked = cargo(&["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_named_as_on_the_command_line() {
        for step in Step::value_variants() {
            let value = step.to_possible_value().expect("no step is hidden");
            assert_eq!(value.get_name(), step.name());
        }
    }

    #[test]
    fn only_the_steps_that_run_tests_need_the_toolchain() {
        assert!(Step::Test.needs_toolchain() && Step::Doc.needs_toolchain());
        assert!(!Step::Format.needs_toolchain() && !Step::Lint.needs_toolchain());
    }
}
