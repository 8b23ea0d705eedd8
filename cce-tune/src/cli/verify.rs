//! `cce-tune verify`: stored winners, measured again on this machine.

use super::devices::{Elsewhere, devices};
use super::generated::Generated;
use super::output::{Output, counted, table};
use super::programs::Programs;
use super::selected::distinct;
use super::show::Names;
use super::transfer::read_profile;
use super::tune::worker;
use super::{EXIT_MOVED, EXIT_OK, EXIT_STOPPED};
use crate::Error;
use crate::progress::{Console, Progress};
use crate::stop::Stop;
use crate::stored;
use crate::task::Task;
use crate::tuning::{gpu_of, tuning_device};
use crate::verify::{Line, Measuring, Verified, foremost, measure};
use cce_codegen::ir::Program;
use cce_codegen::schedule::{GpuSchedule, Schedule};
use cce_runtime::{Device, DeviceKind, selection};
use cce_tuning_db::{KeyWinners, ProgramHash, Source, Winner, Winners};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A profile; without it, the database, the profiles of CCE_PROFILE, and those that ship.
    pub(super) profile: Option<std::path::PathBuf>,
    /// The device: auto (the first GPU, else the CPU device), cpu, the index of a GPU, or all GPUs.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|INDEX|all")]
    pub(super) gpu: super::values::Gpu,
    /// Only winners for this loss: a name, or a file.
    #[arg(long, value_name = "NAME|FILE")]
    pub(super) loss: Option<String>,
    /// Only check constraints, for every device that there are winners of. Runs nothing, needs no GPU.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Winners measured a problem, the best first; the default schedule is measured besides.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = super::values::count)]
    pub(super) best: usize,
    /// Timed runs of each.
    #[arg(long, default_value_t = 11, value_name = "COUNT", value_parser = super::values::count)]
    pub(super) rounds: usize,
    /// By how many percent a time may differ before it has moved.
    #[arg(long, default_value_t = 10.0, value_name = "PERCENT", value_parser = super::values::percent)]
    pub(super) tolerance: f64,
    /// A value for a Scalar input of the loss; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::values::scalar)]
    pub(super) scalar: Vec<(String, f32)>,
    /// The seed of the generated heads.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub(super) seed: u64,
}

/// What is to be verified.
struct Stored {
    folder: Option<PathBuf>,
    all: Vec<(Source, KeyWinners)>,
}

impl Stored {
    fn read(args: &VerifyArgs, programs: &Programs) -> Result<Stored, Error> {
        let folder = selection::folder();
        let winners = match &args.profile {
            Some(path) => {
                let (profile, skipped) = read_profile(path)?;
                for reason in skipped {
                    eprintln!("{}: left out: {reason}", path.display());
                }
                Winners::empty().with_profile(profile)
            }
            None => selection::open(folder.as_deref(), &selection::profiles()),
        };
        let mut all = winners.all();
        for warning in winners.take_warnings() {
            eprintln!("{warning}");
        }
        let stored = distinct(all.iter().map(|(_, entry)| &entry.key)) as u64;
        let mut of = String::new();
        if let Some(name) = &args.loss {
            let only = programs.find(name)?;
            let hash = ProgramHash::from_bytes(only.hash());
            all.retain(|(_, entry)| entry.key.program == hash);
            of = format!(", none of {}", only.name());
        }
        if all.is_empty() {
            let reason = match &args.profile {
                Some(path) if stored > 0 => {
                    format!("{} holds winners for {}{of}", path.display(), counted(stored, "problem"))
                }
                None if stored > 0 => {
                    format!("winners are stored for {}{of}", counted(stored, "problem"))
                }
                Some(path) => format!("{} holds no winners to verify", path.display()),
                None => "no winners are stored, in no profile either; run cce-tune first".to_owned(),
            };
            return Err(Error::Nothing { reason });
        }
        Ok(Stored { folder, all })
    }

    fn folder(&self) -> &Path {
        self.folder.as_deref().unwrap_or(Path::new("."))
    }
}

/// What was found of all problems.
#[derive(Default)]
struct Findings {
    lines: String,
    values: Vec<Value>,
    /// Whether winners were measured, and not their constraints alone checked.
    measured: bool,
    holding: usize,
    moved: usize,
}

impl Findings {
    fn add(&mut self, heading: &str, source: &Source, entry: &KeyWinners, found: &Verified) {
        let state = match (found.moved.is_empty(), self.measured) {
            (true, true) => "holds",
            (true, false) => "fits",
            (false, _) => "MOVED",
        };
        self.lines += &format!("{state}  {heading}, {source}\n");
        let rows: Vec<Vec<String>> = found.lines.iter().enumerate().map(|(at, line)| row(at, line)).collect();
        if !rows.is_empty() {
            let table = table(&["", "stored ms", "ms now", "spread", "schedule"], &rows, &[1, 2, 3]);
            self.lines.extend(table.lines().map(|line| format!("       {line}\n")));
        }
        self.lines.extend(found.moved.iter().map(|sentence| format!("       {sentence}\n")));
        match found.moved.is_empty() {
            true => self.holding += 1,
            false => self.moved += 1,
        }
        self.values.push(json!({
            "source": source.to_string(), "key": entry.key, "problem": heading, "holds": found.moved.is_empty(),
            "moved": found.moved, "schedules": found.lines,
        }));
    }

    fn finish(self, output: &Output, left_out: &[String], stopped: bool) -> Result<u8, Error> {
        let mut text = self.lines;
        text.extend(left_out.iter().map(|line| format!("{line}\n")));
        let verified = counted((self.holding + self.moved) as u64, "problem");
        text += &format!(
            "{verified} {}, of {} something moved\n",
            match self.measured {
                true => format!("verified, of {} the winner holds", self.holding),
                false => format!("looked at and not measured, of {} the winners fit", self.holding),
            },
            self.moved
        );
        if stopped {
            text += "stopped before the end\n";
        } else if self.moved > 0 {
            text += "tune what moved again: cce-tune, or cce-tune profile --again for a whole profile\n";
        }
        let value = json!({
            "schema": 1, "holding": self.holding, "moved": self.moved, "stopped": stopped, "left_out": left_out,
            "problems": self.values,
        });
        output.either(|| text, &value)?;
        Ok(match (stopped, self.moved) {
            (true, _) => EXIT_STOPPED,
            (false, 0) => EXIT_OK,
            (false, _) => EXIT_MOVED,
        })
    }
}

fn row(at: usize, line: &Line) -> Vec<String> {
    let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.3}"));
    let spread = line
        .spread_ms
        .zip(line.ms)
        .map_or(String::new(), |(spread, ms)| format!("{:.1} %", 100.0 * spread / ms));
    let name = if line.stored_ms.is_some() { (at + 1).to_string() } else { "default".to_owned() };
    let schedule = match &line.failure {
        Some(failure) => format!("{}: {failure}", line.schedule),
        None => line.schedule.clone(),
    };
    vec![name, ms(line.stored_ms), ms(line.ms), spread, schedule]
}

pub(super) fn run(args: &VerifyArgs, programs: &Programs, output: &Output, stop: &Stop) -> Result<u8, Error> {
    let stored = Stored::read(args, programs)?;
    match args.dry_run {
        true => constraints(args, programs, output, &stored),
        false => measured(args, programs, output, stop, &stored),
    }
}

/// Checks every winner's constraints, on whatever device it is for.
fn constraints(
    args: &VerifyArgs,
    programs: &Programs,
    output: &Output,
    stored: &Stored,
) -> Result<u8, Error> {
    let mut names = Names::new(programs, stored.folder());
    let (mut findings, mut left_out) = (Findings::default(), Vec::new());
    for (source, entry) in &stored.all {
        let heading = names.described(&entry.key).join(", ");
        let Some(program) = programs.with_hash(stored.folder(), &entry.key.program) else {
            left_out.push(format!("left out: {heading}: its loss is not known here"));
            continue;
        };
        let winners = foremost(entry, &selection::generation(&entry.key.device), args.best);
        let broken = |winner: &&Winner| {
            let why = stored::check(&program, &entry.key, winner).err()?;
            Some(format!("{}: {why}", stored::schedule_text(&winner.config)))
        };
        let moved = winners.iter().filter_map(broken).collect();
        findings.add(&heading, source, entry, &Verified { lines: Vec::new(), moved });
    }
    findings.finish(output, &left_out, false)
}

/// Measures the winners of the devices that are here.
fn measured(
    args: &VerifyArgs,
    programs: &Programs,
    output: &Output,
    stop: &Stop,
    stored: &Stored,
) -> Result<u8, Error> {
    let console = Console::new();
    let mut names = Names::new(programs, stored.folder());
    let (mut findings, mut left_out) = (Findings { measured: true, ..Findings::default() }, Vec::new());
    let mut here = Vec::new();
    for device in devices(args.gpu, "measuring winners on")? {
        here.push((tuning_device(&device)?, device));
    }
    let generated = Generated { worker: worker()?, seed: args.seed, scalars: &args.scalar };
    let mut elsewhere = Elsewhere::default();
    let mut stopped = false;
    'all: for (source, entry) in &stored.all {
        let Some((_, device)) = here.iter().find(|(keyed, _)| *keyed == entry.key.device) else {
            elsewhere.add(&entry.key.device);
            continue;
        };
        let heading = names.described(&entry.key).join(", ");
        let Some(program) = programs.with_hash(stored.folder(), &entry.key.program) else {
            left_out.push(format!("left out: {heading}: its loss is not known here"));
            continue;
        };
        console.note(&format!("measuring {heading}"));
        match problem(args, &program, entry, (device, &generated), stop)? {
            Some(found) => findings.add(&heading, source, entry, &found),
            None => {
                stopped = true;
                break 'all;
            }
        }
    }
    if let Some(line) = elsewhere.left_out() {
        if findings.values.is_empty() && !stopped {
            let names: Vec<&str> = here.iter().map(|(keyed, _)| keyed.name()).collect();
            let reason = format!("{}; --dry-run checks the constraints of all", elsewhere.only(&names));
            return Err(Error::Nothing { reason });
        }
        left_out.push(line);
    }
    findings.finish(output, &left_out, stopped)
}

/// One problem, its inputs generated. `None`: asked to stop.
fn problem(
    args: &VerifyArgs,
    program: &Program,
    entry: &KeyWinners,
    (device, generated): (&Device, &Generated<'_>),
    stop: &Stop,
) -> Result<Option<Verified>, Error> {
    let mut moved = Vec::new();
    let mut fitting: Vec<(&Winner, Schedule)> = Vec::new();
    for winner in foremost(entry, &selection::generation(&entry.key.device), args.best) {
        match stored::check(program, &entry.key, winner) {
            Ok(schedule) => fitting.push((winner, schedule)),
            Err(why) => moved.push(format!("a winner no longer fits: {why}")),
        }
    }
    // The winners of a key may be of several shapes of its bucket; times compare at one.
    let Some(shape) = fitting.first().map(|(winner, _)| winner.shape) else {
        return Ok(Some(Verified { lines: Vec::new(), moved }));
    };
    fitting.retain(|(winner, _)| winner.shape == shape);
    let task = match stored::task(program, &entry.key, shape) {
        Ok(task) => task,
        Err(why) => return Ok(Some(Verified { lines: Vec::new(), moved: vec![why] })),
    };
    let measuring = Measuring { rounds: args.rounds, tolerance: args.tolerance / 100.0 };
    let found = again(&task, &fitting, (device, generated), &measuring, stop)?;
    Ok(found.map(|found| Verified { moved: [moved, found.moved].concat(), ..found }))
}

fn again(
    task: &Task,
    winners: &[(&Winner, Schedule)],
    (device, generated): (&Device, &Generated<'_>),
    measuring: &Measuring,
    stop: &Stop,
) -> Result<Option<Verified>, Error> {
    let Some((_, first)) = winners.first() else {
        return Ok(Some(Verified { lines: Vec::new(), moved: Vec::new() }));
    };
    let slowest = winners.iter().map(|(winner, _)| winner.median).fold(0.0, f64::max);
    let (mut bench, problem) = generated.bench(device, task, *first, slowest)?;
    let default = match device.kind() {
        DeviceKind::Cpu => selection::cpu_space(&problem).first().copied().map(Schedule::Cpu),
        DeviceKind::Cuda => {
            Some(Schedule::Gpu(GpuSchedule::default_for(&task.program, &problem, &gpu_of(device)?)))
        }
    };
    let refusal = bench.refusal();
    measure(winners, default, &mut bench, measuring, stop).map_err(|error| refusal.instead_of(error))
}
