//! `cce-tune`: tune one problem on one or several devices, print the ranking.

use super::check::{Check, Checked};
use super::output::{Output, bytes, counted, table};
use super::programs::Programs;
use super::transfer::whole;
use super::values::Gpu;
use super::{EXIT_NO_WINNER, EXIT_OK, EXIT_REFERENCES, EXIT_STOPPED, ProblemArgs, TuneArgs};
use crate::Error;
use crate::arguments::Arguments;
use crate::data::{Head, IGNORED, Targets};
use crate::progress::{Console, Progress};
use crate::search::{Effort, Ended, Ranked};
use crate::space::Space;
use crate::stop::Stop;
use crate::strategy::Kind;
use crate::task::Task;
use crate::tuning::{Report, Scope, Tuner};
use cce_codegen::ir::Program;
use cce_codegen::problem::{DType, IndexType};
use cce_runtime::driver::Devices;
use cce_runtime::{Device, DeviceKind, selection};
use cce_tuning_db::Key;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Candidates that the table shows without `--all`.
const SHOWN: usize = 12;

pub(super) fn run(args: &TuneArgs, programs: &Programs, output: &Output, stop: &Stop) -> Result<u8, Error> {
    let program = programs.find(&args.problem.loss)?;
    let devices = devices(args.gpu)?;
    if let (Some(_), 2..) = (&args.record, devices.len()) {
        let reason = format!("--record takes one device, and there are {}; give --gpu INDEX", devices.len());
        return Err(Error::Usage { reason });
    }
    let file = match &args.data {
        Some(path) => {
            for (given, flag) in [(args.problem.hidden, "--hidden"), (args.problem.vocab, "--vocab")] {
                if given.is_some() {
                    let reason = format!("{flag} comes from the file with --data; leave it out");
                    return Err(Error::Usage { reason });
                }
            }
            let file = File::of(Head::load(path)?, args.problem.tokens)?;
            if args.problem.no_ignored {
                file.has_none_ignored()?;
            }
            Some(file)
        }
        None => None,
    };
    let console = Console::new();
    let folder = database_folder()?;
    let tuner = Tuner {
        folder: &folder,
        effort: Effort::default(),
        scope: Scope {
            strategy: if args.exhaustive { Kind::Exhaustive } else { args.strategy },
            seed: 0,
            searched: args.space,
            budget: args.candidates,
        },
        again: args.again,
        scalars: args.scalar.clone(),
        progress: &console,
        stop,
    };
    let (mut values, mut code, mut keys) = (Vec::new(), EXIT_OK, Vec::new());
    for device in &devices {
        let head = file.as_ref().map(|file| &file.head);
        let task = task(&args.problem, program.clone(), device, head);
        if args.dry_run {
            values.push(dry_run(&tuner, &task, device, args.all, output)?);
            continue;
        }
        let (value, device_code, key) = one(args, &tuner, &task, device, file.as_ref(), output)?;
        keys.push(key);
        values.push(value);
        code = code.max(device_code);
        if stop.requested() {
            break;
        }
    }
    if let Some(out) = &args.report {
        let files = super::report::after_tuning(out, &keys, args.peak, programs, &folder)?;
        console.note(&format!("a page of it was written to {}", files.first().unwrap_or(out).display()));
    }
    if output.is_json() {
        let value = json!({"schema": 1, "database": folder, "devices": values});
        output.either(String::new, &value)?;
    }
    Ok(code)
}

/// The data file.
struct File {
    /// As many of its tokens as are asked for.
    head: Head,
    /// The references that were lost on the way.
    left_out: Option<&'static str>,
}

impl File {
    fn of(head: Head, tokens: Option<usize>) -> Result<File, Error> {
        let usage = |reason| Err(Error::Usage { reason });
        if let Some(tokens) = tokens.filter(|&tokens| tokens > head.tokens) {
            return usage(format!("--tokens {tokens} are more than the file's {}", head.tokens));
        }
        let left_out = tokens.is_some_and(|tokens| tokens < head.tokens) && head.references.has_gradients();
        let head = head.first_tokens(tokens.unwrap_or(head.tokens));
        if (0..head.tokens).all(|token| head.targets.get(token) == IGNORED) {
            return usage(format!(
                "all {} targets are {IGNORED}, so that every token is ignored and there is nothing to measure",
                head.tokens
            ));
        }
        let reason = "not compared: the file's gradients, which are of the mean over all of its tokens; \
                      leave out --tokens";
        Ok(File { head, left_out: left_out.then_some(reason) })
    }

    /// What `--no-ignored` says.
    fn has_none_ignored(&self) -> Result<(), Error> {
        let head = &self.head;
        match (0..head.tokens).find(|&token| head.targets.get(token) == IGNORED) {
            None => Ok(()),
            Some(token) => Err(Error::Usage {
                reason: format!(
                    "token {token} of the file is ignored (its target is {IGNORED}); leave out --no-ignored"
                ),
            }),
        }
    }
}

/// The folder of the database, which has to be somewhere.
pub(super) fn database_folder() -> Result<PathBuf, Error> {
    selection::folder().ok_or_else(|| Error::Usage {
        reason: "there is no folder for the database: CCE_TUNING_DIR is `none`, or neither it nor \
                 XDG_DATA_HOME nor HOME is set; set CCE_TUNING_DIR to a folder"
            .to_owned(),
    })
}

/// The devices to tune. Says in one line when `auto` falls to the CPU device.
pub(super) fn devices(gpu: Gpu) -> Result<Vec<Device>, Error> {
    Ok(match gpu {
        Gpu::Cpu => vec![Device::cpu()],
        Gpu::Index(index) => vec![Device::cuda(index)?],
        Gpu::All => {
            let count = Devices::count()?;
            if count == 0 {
                // The driver's own words for a device that is not there.
                return Ok(vec![Device::cuda(0)?]);
            }
            (0..count).map(Device::cuda).collect::<Result<_, _>>()?
        }
        Gpu::Auto => {
            let why = match Devices::count() {
                Ok(0) => "the CUDA driver shows no GPU".to_owned(),
                Ok(_) => return Ok(vec![Device::cuda(0)?]),
                Err(error @ cce_runtime::Error::NoDriver { .. }) => {
                    error.to_string().split([';', '\n']).next().unwrap_or_default().to_owned()
                }
                // A GPU that does not work is not hidden behind a slower device.
                Err(error) => return Err(error.into()),
            };
            eprintln!("no GPU here, tuning the CPU device ({why}; `cce-tune doctor` says more)");
            vec![Device::cpu()]
        }
    })
}

/// The task that the flags describe on a device.
pub(super) fn task(args: &ProblemArgs, program: Program, device: &Device, file: Option<&Head>) -> Task {
    let (tokens, width, vocab, dtype) = match (file, device.kind()) {
        (Some(head), _) => (head.tokens, head.width, head.vocab, head.dtype()),
        (None, DeviceKind::Cuda) => (8192, 2304, 256_000, DType::Bf16),
        (None, DeviceKind::Cpu) => (256, 576, 8192, DType::F32),
    };
    let index = match file.map(|head| &head.targets) {
        Some(Targets::I64(_)) => IndexType::I64,
        _ => IndexType::I32,
    };
    Task {
        program,
        tokens: args.tokens.map_or(tokens, |given| if file.is_some() { given.min(tokens) } else { given }),
        width: args.hidden.unwrap_or(width),
        vocab: args.vocab.unwrap_or(vocab),
        dtype: args.dtype.unwrap_or(dtype),
        filter: args.filter,
        gradients: args.objective,
        input_gradients: args.input_gradient.clone(),
        index,
        ignored: !args.no_ignored,
        memory_limit: args.memory_limit,
    }
}

/// Tunes one device, prints, and returns the JSON and the exit code.
fn one(
    args: &TuneArgs,
    tuner: &Tuner<'_>,
    task: &Task,
    device: &Device,
    file: Option<&File>,
    output: &Output,
) -> Result<(Value, u8, Key), Error> {
    let started = Instant::now();
    let head = || -> Result<Head, Error> {
        Ok(match file {
            Some(file) => file.head.converted(task.dtype),
            None => {
                tuner.progress.note("generating the inputs");
                let make = if args.untrained { Head::untrained } else { Head::generated };
                make(task.tokens, task.width, task.vocab, args.seed, task.dtype)
            }
        })
    };
    let report = tuner.tune(task, device, head)?;
    Programs::remember(tuner.folder, &task.program)?;
    if let Some(path) = &args.record {
        record(path, &report, tuner)?;
    }
    let scalars = Arguments::new(&task.program, 0, 0, &args.scalar)?.scalars;
    for note in &report.notes {
        tuner.progress.note(note);
    }
    let winner = report.ranking.winner();
    let checked = match (file, winner, report.ended) {
        (Some(File { head, left_out }), Some(winner), Ended::Complete)
            if !head.references.is_empty() || left_out.is_some() =>
        {
            let head = &head.converted(task.dtype);
            let check = Check { task, device, head, schedule: winner.schedule, left_out: *left_out };
            Some(check.run(report.problem.filter)?)
        }
        _ => None,
    };
    let code = match (&checked, report.ended, winner) {
        (_, Ended::Stopped, _) => EXIT_STOPPED,
        (_, _, None) => EXIT_NO_WINNER,
        (Some(checked), ..) if !checked.is_right() => EXIT_REFERENCES,
        _ => EXIT_OK,
    };
    let seconds = started.elapsed().as_secs_f64();
    if !output.is_json() {
        output.text(&text(args, task, &report, &scalars, checked.as_ref(), seconds))?;
    }
    Ok((value(task, &report, &scalars, checked.as_ref(), seconds), code, report.key))
}

/// Writes the trials of a search.
fn record(path: &Path, report: &Report, tuner: &Tuner<'_>) -> Result<(), Error> {
    let Some(recording) = &report.recording else {
        let reason = "nothing was tried, so there is nothing to record".to_owned();
        return Err(Error::Nothing { reason });
    };
    let text = recording.to_json()?;
    let failed = |source| Error::Write { path: path.into(), source };
    whole(path, |file| file.write_all(text.as_bytes()).map_err(failed).map(|()| 0))?;
    let (tried, all) = (recording.trials.len(), report.searched);
    tuner.progress.note(&format!("{tried} of {all} candidates recorded in {}", path.display()));
    Ok(())
}

fn headline(task: &Task, report: &Report) -> String {
    let problem = &report.problem;
    let wanted = match (task.gradients.hidden, task.gradients.classifier) {
        (true, true) => "loss and both gradients",
        (true, false) => "loss and dE",
        (false, true) => "loss and dC",
        (false, false) => "loss",
    };
    let inputs = match task.input_gradients.as_slice() {
        [] => String::new(),
        names => format!(", gradients of {}", names.join(", ")),
    };
    format!(
        "{}, {} x {} x {} {}, {wanted}{inputs}, filter {}, on {}",
        task.program.name(),
        problem.tokens,
        problem.hidden,
        problem.vocab,
        problem.dtype.name(),
        problem.filter,
        report.device.name()
    )
}

fn text(
    args: &TuneArgs,
    task: &Task,
    report: &Report,
    scalars: &[(String, f32)],
    checked: Option<&Checked>,
    seconds: f64,
) -> String {
    let mut text = format!("{}\n", headline(task, report));
    let unstated: Vec<String> = scalars
        .iter()
        .filter(|(name, _)| !args.scalar.iter().any(|(stated, _)| stated == name))
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    if !unstated.is_empty() {
        text += &format!("with {} (--scalar NAME=VALUE states another)\n", unstated.join(", "));
    }
    text.push('\n');
    let entries = &report.ranking.entries;
    let shown = if args.all { entries.len() } else { SHOWN.min(entries.len()) };
    let rows: Vec<Vec<String>> =
        entries.iter().take(shown).enumerate().map(|(at, entry)| row(at, entry)).collect();
    let header = ["", "ms", "spread", "error", "schedule", "why it is not the best"];
    text += &table(&header, &rows, &[0, 1, 2, 3]);
    if shown < entries.len() {
        text += &format!("... and {} more (--all)\n", entries.len() - shown);
    }
    let counts: Vec<String> =
        report.ranking.counts().iter().map(|(name, count)| format!("{count} {name}")).collect();
    let measured = entries.iter().filter(|entry| entry.trial.is_some()).count();
    text += &format!(
        "\n{}: {}; {} of {} stored before{}; {seconds:.1} s\n",
        counted(entries.len() as u64, "candidate"),
        counts.join(", "),
        report.reused.min(measured),
        counted(measured as u64, "trial"),
        match (report.reused, args.states_inputs()) {
            (0, _) => "",
            (_, false) => " (--again measures anew)",
            (_, true) =>
                ", perhaps on other data or scalars than are given now (--again measures anew, on these)",
        }
    );
    text += &match (report.ended, report.ranking.winner()) {
        (Ended::Stopped, _) => "stopped; what is done is kept, run again to go on\n".to_owned(),
        (_, Some(winner)) => format!(
            "winner: {} ({:.3} ms); plans for this problem now use it (grade {})\n",
            winner.description,
            winner.trial.as_ref().and_then(|trial| trial.median).unwrap_or(f64::NAN),
            report.grade
        ),
        (_, None) => "no winner: no candidate could run and was right; the reasons are above\n".to_owned(),
    };
    if let Some(checked) = checked {
        text += &format!("\n{}", checked.text());
    }
    text
}

fn row(at: usize, entry: &Ranked) -> Vec<String> {
    let trial = entry.trial.as_ref();
    let time = trial.and_then(cce_tuning_db::Trial::time);
    let spread = trial.and_then(|trial| trial.spread).zip(time);
    vec![
        (at + 1).to_string(),
        time.map_or("-".to_owned(), |ms| format!("{ms:.3}")),
        match spread {
            None => String::new(),
            // One run has none.
            Some(_) if trial.is_some_and(|trial| trial.samples.len() < 2) => "-".to_owned(),
            Some((spread, ms)) => format!("{:.1} %", 100.0 * spread / ms),
        },
        trial.and_then(|trial| trial.gradient_error).map_or(String::new(), |error| format!("{error:.1e}")),
        entry.description.clone(),
        match trial.filter(|trial| trial.status != cce_tuning_db::Status::Ok) {
            Some(trial) => format!("{}: {}", trial.status.name(), entry.reason),
            None => entry.reason.clone(),
        },
    ]
}

fn candidate_value(entry: &Ranked) -> Value {
    let trial = entry.trial.as_ref();
    json!({
        "schedule": entry.schedule,
        "description": entry.description,
        "status": trial.map_or("not tried", |trial| trial.status.name()),
        "ms": trial.and_then(cce_tuning_db::Trial::time),
        "spread_ms": trial.and_then(|trial| trial.spread),
        "samples": trial.map_or(0, |trial| trial.samples.len()),
        "gradient_error": trial.and_then(|trial| trial.gradient_error).filter(|error| error.is_finite()),
        "resources": trial.and_then(|trial| trial.resources),
        "reason": entry.reason,
    })
}

fn value(
    task: &Task,
    report: &Report,
    scalars: &[(String, f32)],
    checked: Option<&Checked>,
    seconds: f64,
) -> Value {
    json!({
        "scalars": scalars.iter().cloned().collect::<std::collections::BTreeMap<String, f32>>(),
        "loss": task.program.name(),
        "key": report.key,
        "problem": report.problem,
        "ended": match report.ended { Ended::Complete => "complete", Ended::Stopped => "stopped" },
        "seconds": seconds,
        "reused": report.reused,
        "grade": report.grade.to_string(),
        "winner": report.ranking.winner().map(candidate_value),
        "candidates": report.ranking.entries.iter().map(candidate_value).collect::<Vec<_>>(),
        "notes": report.notes,
        "references": checked,
    })
}

/// Lists the space.
fn dry_run(
    tuner: &Tuner<'_>,
    task: &Task,
    device: &Device,
    all: bool,
    output: &Output,
) -> Result<Value, Error> {
    let (problem, space) = tuner.space(task, device)?;
    let candidates = || space.candidates.iter().chain(&space.broken);
    let mut schedules = vec![];
    if all {
        schedules = candidates()
            .map(|c| vec![crate::search::describe(&c.schedule), c.constraint.clone().unwrap_or_default()])
            .collect();
    }
    if !output.is_json() {
        let mut text = knobs_text(&space);
        if !schedules.is_empty() {
            text += &format!("\n{}", table(&["schedule", "constraint that it breaks"], &schedules, &[]));
        }
        let searched = counted(space.candidates.len() as u64, "candidate");
        let whole = counted(space.size, "schedule");
        text += &format!("\n{searched} to choose from, of {whole} (--space COUNT: of more or fewer");
        text += if all { ")\n" } else { "; --all lists them)\n" };
        if let Some(limit) = problem.workspace_limit {
            text += &format!("workspace limit {}\n", bytes(limit));
        }
        output.text(&text)?;
    }
    Ok(json!({
        "loss": task.program.name(),
        "problem": problem,
        "knobs": space.knobs,
        "size": space.size,
        "candidates": candidates().map(|c| json!({
            "schedule": c.schedule,
            "description": crate::search::describe(&c.schedule),
            "constraint": c.constraint,
        })).collect::<Vec<_>>(),
    }))
}

/// The knobs of a space: their values, and which are off and why.
fn knobs_text(space: &Space) -> String {
    let mut rows = Vec::new();
    for knob in &space.knobs {
        let (tried, more) = knob.values.split_at(knob.searched);
        rows.push(match &knob.off {
            Some(why) => vec![knob.name.clone(), "off".to_owned(), knob.values.join(" "), why.clone()],
            None => {
                let rest = match more {
                    [] => String::new(),
                    more => format!("with a larger --space: {}", more.join(" ")),
                };
                vec![knob.name.clone(), tried.len().to_string(), tried.join(" "), rest]
            }
        });
        for (value, why) in &knob.left_out {
            rows.push(vec![String::new(), "left out".to_owned(), value.clone(), why.clone()]);
        }
    }
    table(&["knob", "values", "", ""], &rows, &[])
}
