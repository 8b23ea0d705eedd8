//! The command line: `cce-tune`, and the same for a user's own losses through [`run`].

mod check;
mod devices;
mod diff;
mod doctor;
mod emit;
mod fleet;
mod inputs;
mod output;
mod profile;
mod programs;
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
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use output::Output;
use programs::Programs;
use std::path::Path;
use std::process::ExitCode;

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
    tune: TuneArgs,
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
    Show(ShowArgs),
    /// Write all trials as JSON, or with --profile the winners as a profile that other machines can use.
    Export(ExportArgs),
    /// Add the trials of exports, or of other databases' folders; where several machines measured the same, the
    /// better record wins, and each keeps its provenance.
    Import(ImportArgs),
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
    Diff(DiffArgs),
    /// Write a page for people of each problem: ranked configurations, what each knob does, the floor, why
    /// candidates were dropped, how the search went.
    Report(ReportArgs),
    /// Tune many problems of one device, one after the other, and write their winners as one profile.
    Profile(ProfileArgs),
    /// Measure stored winners again, those of a profile or all that plans here would find, and say what moved.
    Verify(VerifyArgs),
    /// Run search strategies on recorded trials and say how many trials each takes to come near the best.
    Replay(ReplayArgs),
    /// Hold out one recording at a time and say how much slower it is with the schedule that is selected for it from
    /// the others.
    Regret(RegretArgs),
    /// Print a loss: as a program, its gradient, its plan, its CUDA, its PTX. Needs no GPU.
    Emit(EmitArgs),
}

/// What is tuned.
#[derive(Debug, Args)]
struct TuneArgs {
    /// The device: auto (the first GPU, else the CPU device), cpu, the index of a GPU, or all GPUs.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|INDEX|all")]
    gpu: values::Gpu,
    #[command(flatten)]
    input: InputArgs,
    /// Try at most so many candidates [default: as many as the strategy thinks worth it].
    #[arg(long, value_name = "COUNT", value_parser = values::count)]
    candidates: Option<usize>,
    /// Who chooses the candidates: see docs/tuning.md.
    #[arg(long, default_value_t, value_name = "STRATEGY")]
    strategy: crate::strategy::Kind,
    /// Try every candidate: the same as --strategy exhaustive.
    #[arg(long, conflicts_with = "strategy")]
    exhaustive: bool,
    /// The candidates that there are to choose from, at most.
    #[arg(long, default_value_t = crate::space::SEARCHED, value_name = "COUNT")]
    space: u64,
    /// Write the problem's trials as a recording, for `cce-tune replay`; takes one device.
    #[arg(long, value_name = "FILE")]
    record: Option<std::path::PathBuf>,
    /// How long tuning one kind of device may take, inputs and reference included: 90s, 5m, or none to try
    /// every candidate.
    #[arg(long, default_value = "60s", value_name = "TIME|none", value_parser = values::budget)]
    budget: values::Budget,
    /// The same as --budget 10s.
    #[arg(long, conflicts_with = "budget")]
    quick: bool,
    /// Measure again what is stored already: on other data (--data, --seed, --untrained, --scalar), say.
    #[arg(long)]
    again: bool,
    /// List the candidates and the constraints that they break, without running any.
    #[arg(long)]
    dry_run: bool,
    /// Print every candidate, not only the best.
    #[arg(long)]
    all: bool,
    /// Write a page for people when it is done: see `cce-tune report`.
    #[arg(long, value_name = "FILE.html", conflicts_with = "dry_run")]
    report: Option<std::path::PathBuf>,
    /// Print where the time went; --json always does.
    #[arg(long, conflicts_with = "dry_run")]
    phases: bool,
    #[command(flatten)]
    peak: PeakArgs,
}

/// What is tuned, on which inputs.
#[derive(Debug, Args)]
struct InputArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// Hidden states, classifier and targets of your own: a safetensors file with e [N, D], c [V, D] and
    /// targets [N]. References in it (lse, loss, de_rows, dc_rows) are checked.
    #[arg(long, value_name = "FILE")]
    data: Option<std::path::PathBuf>,
    /// A value for a Scalar input of the loss; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::scalar)]
    scalar: Vec<(String, f32)>,
    /// Generate a head before its training (uniform softmax) instead of one shaped like a trained model's.
    #[arg(long, conflicts_with = "data")]
    untrained: bool,
    /// The seed of the generated head.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    seed: u64,
}

impl InputArgs {
    /// Whether a flag says something of the inputs that are measured on: what no key has a place for.
    fn states_inputs(&self) -> bool {
        self.data.is_some() || self.untrained || self.seed != 0 || !self.scalar.is_empty()
    }
}

/// The problem.
#[derive(Debug, Args)]
struct ProblemArgs {
    /// A shipped loss by its name, or a file saved with Program::save.
    #[arg(long, default_value = "cross_entropy", value_name = "NAME|FILE")]
    loss: String,
    /// N, the number of tokens [default: 8192 on a GPU, 256 on the CPU device; with --data, all].
    #[arg(long, value_name = "N", value_parser = values::count)]
    tokens: Option<usize>,
    /// D, the hidden size [default: 2304 on a GPU, 576 on the CPU device].
    #[arg(long, value_name = "D", value_parser = values::count)]
    hidden: Option<usize>,
    /// V, the vocabulary's size [default: 256000 on a GPU, 8192 on the CPU device].
    #[arg(long, value_name = "V", value_parser = values::count)]
    vocab: Option<usize>,
    /// Type of hidden states and classifier: f32, f16, bf16 [default: bf16 on a GPU, f32 on the CPU device;
    /// with --data, the file's].
    #[arg(long, value_name = "TYPE", value_parser = values::dtype)]
    dtype: Option<cce_codegen::problem::DType>,
    /// The filter: exact, sampled, sampled:EPS, sampled:EPS,MAX_ENTRIES or blocks:EPS [default: sampled where
    /// loss and device allow it].
    #[arg(long, value_name = "FILTER", value_parser = values::filter)]
    filter: Option<cce_codegen::problem::Filter>,
    /// What is minimised: the time of the loss alone (loss), or with gradients (gradients, hidden,
    /// classifier).
    #[arg(long, default_value = "gradients", value_name = "OBJECTIVE", value_parser = values::objective)]
    objective: cce_runtime::Gradients,
    /// The gradient of a Row, Col or Scalar input of the loss is computed too; may be given several times.
    #[arg(long, value_name = "NAME")]
    input_gradient: Vec<String>,
    /// The most workspace that a schedule may need, such as 512M.
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    memory_limit: Option<u64>,
    /// Tune for calls in which every token counts: none is ignored.
    #[arg(long)]
    no_ignored: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// Every trial, not only the winners.
    #[arg(long)]
    trials: bool,
    /// Only those of this loss: a name, or a file.
    #[arg(long, value_name = "NAME|FILE")]
    loss: Option<String>,
}

/// Which of the stored problems.
#[derive(Debug, Args)]
struct SelectedArgs {
    /// Only those of this loss: a name, or a file.
    #[arg(long, value_name = "NAME|FILE")]
    loss: Option<String>,
    /// Only problems whose description, as `cce-tune show` prints it, contains this; may be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// Where to; standard output if left out. With a format of another tool, which holds one problem a file, a
    /// folder where there are several.
    file: Option<std::path::PathBuf>,
    /// Write a profile of this name: the winners alone, for CCE_PROFILE on other machines.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// The format: cce (all trials, what import reads), kernel-tuner (a cache file for Kernel Tuner's dashboard and
    /// simulation mode), or t4 (the results format that several tuners share).
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", conflicts_with = "profile")]
    format: transfer::Format,
    #[command(flatten)]
    selected: SelectedArgs,
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// Exports, or folders of other databases.
    #[arg(required = true)]
    from: Vec<std::path::PathBuf>,
}

#[derive(Debug, Args)]
struct DiffArgs {
    /// A database's folder, an export of trials, or a profile.
    a: std::path::PathBuf,
    /// What it is compared with: a folder, an export or a profile.
    b: std::path::PathBuf,
    /// Print problems too whose winners are the same.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    selected: SelectedArgs,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// The page. Where there are several problems, an index, with a page of each beside it.
    #[arg(long, value_name = "FILE.html", default_value = "cce-tune-report.html")]
    out: std::path::PathBuf,
    #[command(flatten)]
    selected: SelectedArgs,
    #[command(flatten)]
    peak: PeakArgs,
}

/// What the device can do at most, where no data sheet is known or another limit holds.
#[derive(Clone, Copy, Debug, Args)]
struct PeakArgs {
    /// The device's peak in 10^12 operations a second in the problem's type, from which follows the least time that a
    /// schedule can take [default: at the highest clock, where the architecture is known].
    #[arg(long, value_name = "TFLOPS", value_parser = values::positive, requires = "bandwidth")]
    peak: Option<f64>,
    /// The device's memory bandwidth in 10^9 bytes a second.
    #[arg(long, value_name = "GB/S", value_parser = values::positive, requires = "peak")]
    bandwidth: Option<f64>,
}

impl PeakArgs {
    /// The peak, if one is stated.
    fn stated(self) -> Option<crate::floor::Peak> {
        let (tera, giga) = (self.peak?, self.bandwidth?);
        Some(crate::floor::Peak { flops: tera * 1e12, bandwidth: Some(giga * 1e9) })
    }
}

#[derive(Debug, Args)]
struct ProfileArgs {
    /// The device: auto (the first GPU, else the CPU device), cpu, or the index of a GPU.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|INDEX")]
    gpu: values::Gpu,
    /// Heads: all of the models below, some of them by name, or any as HIDDENxVOCAB, separated by commas. The models:
    /// gpt-2, smollm2-135m, llama-3-8b, qwen-2.5-7b, gemma-2-2b, gemma-3-27b.
    #[arg(long, default_value = "all", value_name = "HEADS", value_delimiter = ',', value_parser = profile::heads)]
    heads: Vec<Vec<profile::HeadShape>>,
    /// Numbers of tokens, separated by commas; a plan finds the nearest power of two.
    #[arg(long, default_value = "2048,8192,32768", value_name = "N,...", value_delimiter = ',',
          value_parser = values::count)]
    tokens: Vec<usize>,
    /// What is minimised, separated by commas: the time of the loss alone (loss), or with gradients (gradients,
    /// hidden, classifier).
    #[arg(long, default_value = "gradients,loss", value_name = "OBJECTIVE,...", value_delimiter = ',',
          value_parser = values::objective)]
    objective: Vec<cce_runtime::Gradients>,
    /// A shipped loss by its name, or a file saved with Program::save.
    #[arg(long, default_value = "cross_entropy", value_name = "NAME|FILE")]
    loss: String,
    /// Type of hidden states and classifier: f32, f16, bf16 [default: bf16 on a GPU, f32 on the CPU device].
    #[arg(long, value_name = "TYPE", value_parser = values::dtype)]
    dtype: Option<cce_codegen::problem::DType>,
    /// The filter, as for tuning [default: that of a plan].
    #[arg(long, value_name = "FILTER", value_parser = values::filter)]
    filter: Option<cce_codegen::problem::Filter>,
    /// A value for a Scalar input of the loss; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::scalar)]
    scalar: Vec<(String, f32)>,
    /// The seed of the generated heads.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    seed: u64,
    /// Try only the first candidates of each problem, at most so many.
    #[arg(long, value_name = "COUNT", value_parser = values::count)]
    candidates: Option<usize>,
    /// How long one problem may take: 20s, 2m, 1h; or none.
    #[arg(long, default_value = "60s", value_name = "TIME|none", value_parser = values::budget)]
    budget: values::Budget,
    /// Measure again what the file or the database holds already.
    #[arg(long)]
    again: bool,
    /// Winners kept a problem: the next is taken where the best does not fit a call.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = values::count)]
    keep: usize,
    /// The profile's name [default: the file's].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The profile. What it holds already for other problems stays.
    #[arg(long, value_name = "FILE")]
    out: std::path::PathBuf,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// A profile; without it, the database, the profiles of CCE_PROFILE, and those that ship.
    profile: Option<std::path::PathBuf>,
    /// The device: auto (the first GPU, else the CPU device), cpu, the index of a GPU, or all GPUs.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|INDEX|all")]
    gpu: values::Gpu,
    /// Only winners for this loss: a name, or a file.
    #[arg(long, value_name = "NAME|FILE")]
    loss: Option<String>,
    /// Only check constraints, for every device that there are winners of. Runs nothing, needs no GPU.
    #[arg(long)]
    dry_run: bool,
    /// Winners measured a problem, the best first; the default schedule is measured besides.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = values::count)]
    best: usize,
    /// Timed runs of each.
    #[arg(long, default_value_t = 11, value_name = "COUNT", value_parser = values::count)]
    rounds: usize,
    /// By how many percent a time may differ before it has moved.
    #[arg(long, default_value_t = 10.0, value_name = "PERCENT", value_parser = values::percent)]
    tolerance: f64,
    /// A value for a Scalar input of the loss; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::scalar)]
    scalar: Vec<(String, f32)>,
    /// The seed of the generated heads.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    seed: u64,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// Recordings (cce-tune --record FILE), exports of trials, or folders of databases.
    #[arg(required = true)]
    trials: Vec<std::path::PathBuf>,
    /// Only this strategy; may be given several times.
    #[arg(long, value_name = "STRATEGY")]
    strategy: Vec<crate::strategy::Kind>,
    /// Runs of each, with another seed.
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = values::count)]
    seeds: usize,
    /// Schedules that are chosen at a time.
    #[arg(long, default_value_t = crate::strategy::replay::BATCH, value_name = "COUNT", value_parser = values::count)]
    batch: usize,
    /// Let each recording's search learn from the others of its loss, as a database's trials do.
    #[arg(long)]
    learn: bool,
}

#[derive(Debug, Args)]
struct RegretArgs {
    /// Recordings of several shapes (cce-tune --record FILE), exports of trials, or folders of databases.
    #[arg(required = true)]
    trials: Vec<std::path::PathBuf>,
    /// Near shapes whose winners are judged together: 1 takes the nearest's [default: that of a plan].
    #[arg(long, default_value_t = cce_tuning_db::CONSULTED, hide_default_value = true, value_name = "COUNT", value_parser = values::count)]
    consulted: usize,
}

#[derive(Debug, Args)]
struct EmitArgs {
    #[command(flatten)]
    problem: ProblemArgs,
    /// What to print: program, gradient, plan, cuda or ptx.
    #[arg(long, default_value = "program", value_name = "LEVEL", value_parser = emit::level)]
    dump: cce_codegen::ir::Level,
    /// The architecture that CUDA and PTX are for: sm_80, sm_90a ...
    #[arg(long, default_value = "sm_90a", value_name = "ARCH", value_parser = emit::arch)]
    arch: cce_runtime::nvrtc::Arch,
    /// The kernel family: auto (the fastest that can run the problem), wgmma, mma or simt.
    #[arg(long, default_value = "auto", value_name = "FAMILY", value_parser = ["auto", "wgmma", "mma", "simt"])]
    family: String,
    /// Print only this module, such as logits_forward.
    #[arg(long, value_name = "NAME")]
    module: Option<String>,
}

/// Saves a loss that does not ship beside its trials in the database's folder, so that its trials can be named later.
///
/// # Errors
/// When the folder cannot be written.
pub fn remember(folder: &Path, program: &Program) -> Result<(), Error> {
    Programs::remember(folder, program)
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
        Some(Command::Worker) => {
            crate::worker::serve(&crate::worker::Plans, std::io::stdin(), std::io::stdout()).map(|()| EXIT_OK)
        }
        Some(Command::Diff(args)) => diff::run(&args, &programs, &output),
        Some(Command::Report(args)) => report::run(&args, &programs, &output),
        Some(Command::Profile(args)) => profile::run(&args, &programs, &output, &stop),
        Some(Command::Verify(args)) => verify::run(&args, &programs, &output, &stop),
        Some(Command::Replay(args)) => replay::run(&args, &output),
        Some(Command::Regret(args)) => regret::run(&args, &output),
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
    let mut command = CommandLine::command().mut_subcommand("emit", for_emission);
    if let Some(first) = programs.default_name() {
        let first: &'static str = first.to_owned().leak();
        let own = |command: clap::Command| command.mut_arg("loss", |arg| arg.default_value(first));
        command = own(command).mut_subcommand("emit", own).mut_subcommand("profile", own);
        command = command.mut_subcommand("plan", own);
    }
    command
}

/// `emit` takes the flags of a problem too. It measures nothing and runs nothing: what they say is what the
/// kernels are printed for.
fn for_emission(emit: clap::Command) -> clap::Command {
    let helps = [
        ("tokens", "N, the number of tokens [default: 8192]"),
        ("hidden", "D, the hidden size [default: 2304]"),
        ("vocab", "V, the vocabulary's size [default: 256000]"),
        ("dtype", "Type of hidden states and classifier: f32, f16, bf16 [default: bf16]"),
        (
            "filter",
            "The filter: exact, sampled, sampled:EPS, sampled:EPS,MAX_ENTRIES or blocks:EPS [default: that of a plan on such a GPU]",
        ),
        (
            "objective",
            "What the kernels compute: the loss alone (loss), or with gradients (gradients, hidden, classifier)",
        ),
        ("memory_limit", "The most workspace that the plan may need, such as 512M"),
        ("no_ignored", "Print kernels for calls in which every token counts: none is ignored"),
    ];
    helps.into_iter().fold(emit, |emit, (flag, help)| emit.mut_arg(flag, |arg| arg.help(help)))
}

/// The first Ctrl-C asks to stop where work can be left, the second ends the process: everything stored is in
/// the log.
fn stop_on_ctrl_c(stop: &Stop) -> Result<(), ctrlc::Error> {
    let stop = stop.clone();
    ctrlc::set_handler(move || {
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
