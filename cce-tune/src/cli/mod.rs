//! The command line: `cce-tune`, and the same for a user's own losses through [`run`].

mod check;
mod devices;
mod diff;
mod doctor;
mod emit;
mod fleet;
mod generated;
mod inputs;
mod measured;
mod output;
mod profile;
mod programs;
mod recorded;
mod regret;
mod replay;
mod report;
mod selected;
mod show;
mod transfer;
mod tune;
pub mod values;
mod verify;

pub use check::{Check, Checked};
pub use doctor::Diagnosis;

use crate::Error;
use crate::stop::Stop;
use cce_codegen::ir::Program;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use output::Output;
use programs::Programs;
use std::any::TypeId;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// It worked.
pub const EXIT_OK: u8 = 0;
/// Something failed; standard error says what, and what to do.
pub const EXIT_FAILED: u8 = 1;
/// The command line was not understood.
pub const EXIT_USAGE: u8 = 2;
/// Nothing won: no candidate could run, or none was right.
pub const EXIT_NO_WINNER: u8 = 3;
/// The results differ from the data file's references by more than rounding.
pub const EXIT_REFERENCES: u8 = 4;
/// A stored winner no longer holds: it does not run, is wrong, or its time has moved.
pub const EXIT_MOVED: u8 = 5;
/// Stopped by Ctrl-C; what was done is kept.
pub const EXIT_STOPPED: u8 = 130;

/// Finds the fastest schedule for a loss, a shape and a device, and remembers it.
///
/// Candidates are compiled in parallel, checked against a reference, timed in interleaved rounds, and stored
/// as they come; every plan built later on this machine, for the same loss and a similar shape, uses the
/// winner. Ctrl-C keeps what is done, running again resumes.
#[derive(Debug, Parser)]
#[command(
    name = "cce-tune",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 it worked; 1 something failed; 2 the command line was not understood; \
                  3 nothing won (no candidate could run, or none was right); 4 the results differ from the \
                  data file's references by more than rounding; 5 a stored winner no longer holds (verify); 130 stopped by \
                  Ctrl-C, what was done is kept.\n\n\
                  The database's folder: CCE_TUNING_DIR, else XDG_DATA_HOME/cce, else ~/.local/share/cce.\n\
                  Compiled kernels: CCE_CACHE_DIR, else XDG_CACHE_HOME/cce, else ~/.cache/cce."
)]
struct CommandLine {
    #[command(flatten)]
    tune: tune::TuneArgs,
    /// Print JSON on standard output instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what was found (driver, NVRTC, GPUs, folders, database) and what to do about what is missing.
    Doctor,
    /// List what is stored: winners, or with --trials every trial.
    Show(show::ShowArgs),
    /// Write all trials as JSON, or with --profile the winners as a profile that other machines can use.
    Export(transfer::ExportArgs),
    /// Add the trials of exports, or of other databases' folders; where several machines measured the same, the
    /// better record wins, and each keeps its provenance.
    Import(transfer::ImportArgs),
    /// Divide a tuning among machines: write shards, which `work` does in any order, anywhere.
    Plan(fleet::PlanArgs),
    /// Do one shard of a plan, or its run-off, on a device of this machine. Done again, it goes on, or does
    /// nothing.
    Work(fleet::WorkArgs),
    /// Take the results of a plan's shards into the database, of unfinished ones too.
    Merge(fleet::MergeArgs),
    /// Serve a tuner on the standard input and output.
    #[command(hide = true)]
    Worker,
    /// Compare the winners of two databases, exports or profiles: which differ, by how much, and which only one has.
    Diff(diff::DiffArgs),
    /// Write a page for people of each problem: ranked configurations, what each knob does, the floor, why
    /// candidates were dropped, how the search went.
    Report(report::ReportArgs),
    /// Tune many problems of one device, one after the other, and write their winners as one profile.
    Profile(profile::ProfileArgs),
    /// Measure stored winners again, those of a profile or all that plans here would find, and say what moved.
    Verify(verify::VerifyArgs),
    /// Run search strategies on recorded trials and say how many trials each takes to come near the best.
    Replay(replay::ReplayArgs),
    /// Hold out one recording at a time and say how much slower it is with the schedule that is selected for it from
    /// the others.
    Regret(regret::RegretArgs),
    /// Print a loss: as a program, its gradient, its plan, its CUDA, its PTX. Needs no GPU.
    Emit(emit::EmitArgs),
}

/// Runs the command line of this process, with these losses besides the shipped ones; the first of them is
/// the default of `--loss`. A user's own tuner is `fn main() -> ExitCode {
/// cce_tune::run([my_loss::program()]) }`.
pub fn run(programs: impl IntoIterator<Item = Program>) -> ExitCode {
    let programs = Programs::new(programs);
    // Prints help, version and mistakes itself, and ends with 0 or 2.
    let matches = command(&programs).get_matches();
    let line = match CommandLine::from_arg_matches(&matches) {
        Ok(line) => line,
        Err(error) => error.exit(),
    };
    let stop = Stop::new();
    if let Err(error) = stop_on_ctrl_c(&stop) {
        eprintln!("cce-tune: Ctrl-C will not be noticed: {error}");
    }
    let output = Output::new(line.json);
    let done = match line.command {
        None => tune::run(&line.tune, &programs, &output, &stop),
        Some(Command::Doctor) => doctor::run(&output),
        Some(Command::Show(args)) => show::run(&args, &programs, &output),
        Some(Command::Export(args)) => transfer::export(&args, &programs, &output),
        Some(Command::Import(args)) => transfer::import(&args, &output),
        Some(Command::Plan(args)) => fleet::plan(&args, &programs, &output),
        Some(Command::Work(args)) => fleet::work(&args, &output, &stop),
        Some(Command::Merge(args)) => fleet::merge(&args, &output),
        Some(Command::Worker) => crate::worker::own_streams()
            .map_err(|source| Error::Read { path: "the pipe".into(), source })
            .and_then(|(requests, replies)| crate::worker::serve(&crate::worker::Plans, requests, replies))
            .map(|()| EXIT_OK),
        Some(Command::Diff(args)) => diff::run(&args, &programs, &output),
        Some(Command::Report(args)) => report::run(&args, &programs, &output),
        Some(Command::Profile(args)) => profile::run(&args, &programs, &output, &stop),
        Some(Command::Verify(args)) => verify::run(&args, &programs, &output, &stop),
        Some(Command::Replay(args)) => replay::run(&args, &programs, &output),
        Some(Command::Regret(args)) => regret::run(&args, &programs, &output, &stop),
        Some(Command::Emit(args)) => emit::run(&args, &programs, &output),
    };
    ExitCode::from(match done {
        Ok(code) => code,
        // Whoever reads the output has gone: `cce-tune show | head` is no failure.
        Err(Error::Write { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => EXIT_OK,
        Err(error) => {
            output.failed(&error);
            match error {
                Error::Usage { .. } => EXIT_USAGE,
                _ => EXIT_FAILED,
            }
        }
    })
}

/// The command line, where `--loss` is the user's first loss if there is one.
fn command(programs: &Programs) -> clap::Command {
    let mut command = CommandLine::command().mut_subcommand("emit", emit::for_emission);
    if let Some(first) = programs.default_name() {
        let first: &'static str = first.to_owned().leak();
        let own = |command: clap::Command| command.mut_arg("loss", |arg| arg.default_value(first));
        command = own(command).mut_subcommand("emit", own).mut_subcommand("profile", own);
        command = command.mut_subcommand("plan", own);
    }
    counted_space(numbers_may_be_negative(command))
}

/// A space is of one schedule at least.
fn counted_space(command: clap::Command) -> clap::Command {
    let count = |text: &str| values::count(text).map(|count| count as u64);
    command.mut_arg("space", |arg| arg.value_parser(count))
}

/// A number that begins with a minus is a value, which its parser answers with what it expects, and no flag. Names and
/// files are not: there a forgotten value would take the next flag.
fn numbers_may_be_negative(command: clap::Command) -> clap::Command {
    let is_number = |arg: &clap::Arg| {
        let of = arg.get_value_parser().type_id();
        let numbers = [
            TypeId::of::<usize>(),
            TypeId::of::<u64>(),
            TypeId::of::<f64>(),
            TypeId::of::<values::Budget>(),
            TypeId::of::<values::Gpu>(),
        ];
        arg.get_action().takes_values() && numbers.iter().any(|number| of == *number)
    };
    let number = |arg: clap::Arg| if is_number(&arg) { arg.allow_hyphen_values(true) } else { arg };
    command.mut_args(number).mut_subcommands(numbers_may_be_negative)
}

/// A second signal this soon is the same wish: `timeout -s INT` signals the process, and then its group.
const SAME_WISH: Duration = Duration::from_millis(300);

/// The first Ctrl-C asks to stop where work can be left, the second ends the process: everything stored is in
/// the log.
fn stop_on_ctrl_c(stop: &Stop) -> Result<(), ctrlc::Error> {
    let (stop, mut asked) = (stop.clone(), None::<Instant>);
    ctrlc::set_handler(move || {
        if asked.is_some_and(|asked| asked.elapsed() < SAME_WISH) {
            return;
        }
        asked = Some(Instant::now());
        if stop.request() {
            std::process::exit(i32::from(EXIT_STOPPED));
        }
        eprintln!("\nstopping after the run at hand; what is done is kept (Ctrl-C again: now)");
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Programs {
        let program = cce::losses::named("focal").unwrap();
        Programs::new([program])
    }

    #[test]
    fn a_users_first_loss_is_the_default_of_tuning_and_of_emit() {
        let parsed = |programs: &Programs, args: &[&str]| {
            let matches = command(programs).try_get_matches_from(args).unwrap();
            CommandLine::from_arg_matches(&matches).unwrap()
        };
        let emitted = |line: CommandLine| match line.command {
            Some(Command::Emit(args)) => args.problem.loss,
            _ => panic!("no emit"),
        };
        assert_eq!(parsed(&own(), &["tuner"]).tune.input.problem.loss, "focal");
        assert_eq!(emitted(parsed(&own(), &["tuner", "emit"])), "focal");
        let none = Programs::new([]);
        assert_eq!(emitted(parsed(&none, &["tuner", "emit"])), "cross_entropy");
        assert_eq!(emitted(parsed(&own(), &["tuner", "emit", "--loss", "z_loss"])), "z_loss");
    }

    #[test]
    fn the_help_of_emit_speaks_of_emit() {
        let mut command = command(&own());
        let help = command.find_subcommand_mut("emit").unwrap().render_long_help().to_string();
        assert!(help.contains("[default: 8192]") && help.contains("[default: focal]"), "{help}");
        for foreign in ["minimised", "--data", "CPU device", "schedule may need", "Tune for"] {
            assert!(!help.contains(foreign), "{foreign}: {help}");
        }
    }
}
