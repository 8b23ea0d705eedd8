//! `cce-tune`: tune one problem on one or several devices, print the ranking.

use super::check::{Check, Checked};
use super::devices::{devices, kinds};
use super::inputs::{File, InputArgs, Stated};
use super::output::{Output, bytes, counted, table};
use super::programs::Programs;
use super::report::PeakArgs;
use super::{EXIT_NO_WINNER, EXIT_OK, EXIT_REFERENCES, EXIT_STOPPED};
use crate::Error;
use crate::arguments::Arguments;
use crate::files::{can_be_written, whole_text};
use crate::phases::Phase;
use crate::progress::{Console, Progress};
use crate::search::{Ended, Ranked};
use crate::space::Space;
use crate::stop::Stop;
use crate::strategy::Kind;
use crate::task::Task;
use crate::tuning::{Report, Scope, Tuner};
use crate::worker::WorkerCommand;
use cce_runtime::{Device, selection};
use clap::Args;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is tuned.
#[derive(Debug, Args)]
pub(super) struct TuneArgs {
    /// The device: auto (the first GPU, else the CPU device), cpu, the index of a GPU, or all GPUs.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|INDEX|all")]
    pub(super) gpu: super::values::Gpu,
    #[command(flatten)]
    pub(super) input: InputArgs,
    /// Try at most so many candidates [default: as many as the strategy thinks worth it].
    #[arg(long, value_name = "COUNT", value_parser = super::values::count)]
    pub(super) candidates: Option<usize>,
    /// Who chooses the candidates: see docs/tuning.md.
    #[arg(long, default_value_t, value_name = "STRATEGY")]
    pub(super) strategy: crate::strategy::Kind,
    /// Try every candidate: the same as --strategy exhaustive.
    #[arg(long, conflicts_with = "strategy")]
    pub(super) exhaustive: bool,
    /// The candidates that there are to choose from, at most.
    #[arg(long, default_value_t = crate::space::SEARCHED, value_name = "COUNT")]
    pub(super) space: u64,
    /// Write the problem's trials as a recording, for `cce-tune replay`; takes one device.
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub(super) record: Option<std::path::PathBuf>,
    /// How long tuning one kind of device may take, inputs and reference included: 90s, 5m, or none to try
    /// every candidate.
    #[arg(long, default_value = "60s", value_name = "TIME|none", value_parser = super::values::budget)]
    pub(super) budget: super::values::Budget,
    /// The same as --budget 10s.
    #[arg(long, conflicts_with = "budget")]
    pub(super) quick: bool,
    /// Measure anew: on other data (--data, --seed, --untrained, --scalar), say. Once that has a whole run-off, what this
    /// machine measured before of the problem at this shape does not count any more.
    #[arg(long)]
    pub(super) again: bool,
    /// List the candidates and the constraints that they break, without running any.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print every candidate that was tried, not only the best; with --dry-run every one that there is to choose from.
    #[arg(long)]
    pub(super) all: bool,
    /// Write a page for people when it is done: see `cce-tune report`.
    #[arg(long, value_name = "FILE.html", conflicts_with = "dry_run")]
    pub(super) report: Option<std::path::PathBuf>,
    /// Print where the time went; --json always does.
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) phases: bool,
    #[command(flatten)]
    pub(super) peak: PeakArgs,
}

/// What to think of times where the device's speed changed.
const OF_LAST_RUNS: &str = "the times are those of its last runs; where something else ran beside it, tune again \
                            (--again) when it does not";
/// The end of what breaks a constraint, and is no candidate.
const BROKEN: &str = "constraint";
/// Candidates that the table shows without `--all`.
const SHOWN: usize = 12;
/// How much faster or slower the device may become without a word: twice what a GPU does that gets warm.
const DRIFT: f64 = 0.3;
/// The budget of `--quick`.
const QUICK: Duration = Duration::from_secs(10);

impl TuneArgs {
    /// How long tuning may take.
    fn time(&self) -> Option<Duration> {
        if self.quick { Some(QUICK) } else { self.budget.0 }
    }
}

pub(super) fn run(args: &TuneArgs, programs: &Programs, output: &Output, stop: &Stop) -> Result<u8, Error> {
    for written in args.report.iter().chain(&args.record) {
        can_be_written(written)?;
    }
    let stated = Stated::of(&args.input, programs)?;
    let devices = devices(args.gpu, "tuning")?;
    if let (Some(_), 2..) = (&args.record, devices.len()) {
        let reason = format!("--record takes one device, and there are {}; give --gpu INDEX", devices.len());
        return Err(Error::Usage { reason });
    }
    let kinds = kinds(devices)?;
    let console = Console::new();
    let folder = database_folder()?;
    let budget = args.time();
    let tuner = || Tuner {
        budget,
        scope: Scope {
            strategy: if args.exhaustive { Kind::Exhaustive } else { args.strategy },
            seed: 0,
            searched: args.space,
            candidates: args.candidates,
        },
        again: args.again,
        peak: args.peak.stated(),
        scalars: args.input.scalar.clone(),
        ..Tuner::new(&folder, &console, stop)
    };
    let mut values = Vec::new();
    if args.dry_run {
        for alike in &kinds {
            let Some(device) = alike.first() else { continue };
            let task = stated.task(&args.input, device.kind());
            values.push(dry_run(&tuner(), &task, device, args.all, output)?);
        }
    }
    // Devices of different kinds have nothing in common: all at the same time.
    let tuned: Vec<Result<Tuned, Error>> = match args.dry_run {
        true => Vec::new(),
        false => std::thread::scope(|scope| {
            let stated = &stated;
            let one = |alike| scope.spawn(move || one(args, &tuner(), stated, alike));
            let started: Vec<_> = kinds.iter().map(|alike| one(alike)).collect();
            started
                .into_iter()
                .map(|kind| kind.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        }),
    };
    let (mut code, mut failed, mut keys) = (EXIT_OK, None, Vec::new());
    for tuned in tuned {
        match tuned {
            Ok(tuned) => {
                if !output.is_json() {
                    output.text(&text(args, &tuned))?;
                }
                code = code.max(tuned.code());
                values.push(value(&tuned));
                keys.push(tuned.report.key);
            }
            // What the others came to is printed all the same.
            Err(error) if failed.is_none() => failed = Some(error),
            Err(error) => console.note(&error.to_string()),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(out) = &args.report {
        let files = super::report::after_tuning(out, &keys, args.peak.stated(), programs, &folder)?;
        console.note(&match files.first() {
            Some(page) => format!("a page of it was written to {}", page.display()),
            None => "no page was written: nothing was tried yet".to_owned(),
        });
    }
    if output.is_json() {
        let value = json!({"schema": 1, "database": folder, "devices": values});
        output.either(String::new, &value)?;
    }
    Ok(code)
}

/// The folder of the database, which has to be somewhere.
pub(super) fn database_folder() -> Result<PathBuf, Error> {
    selection::folder().ok_or_else(|| Error::Usage {
        reason: "there is no folder for the database: CCE_TUNING_DIR is `none`, or neither it nor \
                 XDG_DATA_HOME nor HOME is set; set CCE_TUNING_DIR to a folder"
            .to_owned(),
    })
}

/// How this program is run as a worker.
pub(super) fn worker() -> Result<WorkerCommand, Error> {
    let program =
        std::env::current_exe().map_err(|source| Error::Read { path: "this program".into(), source })?;
    Ok(WorkerCommand::new(program, ["worker".into()]))
}

/// What tuning a task on devices of a kind came to.
pub(super) struct Tuned {
    pub(super) task: Task,
    pub(super) report: Report,
    devices: usize,
    scalars: Vec<(String, f32)>,
    checked: Option<Checked>,
    seconds: f64,
}

impl Tuned {
    fn code(&self) -> u8 {
        match (&self.checked, self.report.ended, self.report.ranking.winner()) {
            (_, Ended::Stopped, _) => EXIT_STOPPED,
            (_, _, None) => EXIT_NO_WINNER,
            (Some(checked), ..) if !checked.is_right() => EXIT_REFERENCES,
            _ => EXIT_OK,
        }
    }
}

/// Tunes devices of a kind.
fn one(args: &TuneArgs, tuner: &Tuner<'_>, stated: &Stated, devices: &[Device]) -> Result<Tuned, Error> {
    let started = Instant::now();
    let first = devices.first().ok_or(Error::NoCandidate)?;
    let task = stated.task(&args.input, first.kind());
    let report =
        tuner.tune_in_workers(&task, devices, (&stated.source, stated.counted(&task)), &worker()?)?;
    if let Some(path) = &args.record {
        record(path, &report, tuner)?;
    }
    let scalars = Arguments::new(&task.program, 0, 0, &args.input.scalar)?.scalars;
    for note in &report.notes {
        tuner.progress.note(note);
    }
    let checked = match (&stated.file, report.ranking.winner()) {
        (Some(File { head, left_out }), Some(winner))
            if report.ended != Ended::Stopped && (!head.references.is_empty() || left_out.is_some()) =>
        {
            let (of, head) = (head.dtype(), &head.converted(task.dtype));
            let (schedule, left_out) = (winner.schedule, *left_out);
            let check = Check { task: &task, device: first, head, of, schedule, left_out };
            Some(check.run(report.problem.filter)?)
        }
        _ => None,
    };
    let seconds = started.elapsed().as_secs_f64();
    Ok(Tuned { task, report, devices: devices.len(), scalars, checked, seconds })
}

/// Writes the trials of a search.
fn record(path: &Path, report: &Report, tuner: &Tuner<'_>) -> Result<(), Error> {
    let Some(recording) = &report.recording else {
        let reason = "nothing was tried, so there is nothing to record".to_owned();
        return Err(Error::Nothing { reason });
    };
    whole_text(path, &recording.to_json()?)?;
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
        report.device.described()
    )
}

fn text(args: &TuneArgs, tuned: &Tuned) -> String {
    let Tuned { task, report, scalars, checked, seconds, .. } = tuned;
    let mut text = format!("{}\n", headline(task, report));
    let unstated: Vec<String> = scalars
        .iter()
        .filter(|(name, _)| !args.input.scalar.iter().any(|(stated, _)| stated == name))
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
    let (broken, ended): (Vec<_>, Vec<_>) =
        report.ranking.counts().into_iter().partition(|(name, _)| *name == BROKEN);
    let ended: Vec<String> = ended.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let tried = report.tried();
    text += &format!(
        "\n{tried} of {} tried: {}{}; {} of {} stored before{}; {seconds:.1} s\n",
        counted(report.searched as u64, "candidate"),
        if ended.is_empty() { "none".to_owned() } else { ended.join(", ") },
        match broken.first() {
            None => String::new(),
            Some((_, broken)) => format!(", and {broken} that break a constraint"),
        },
        report.reused.min(tried),
        counted(tried as u64, "trial"),
        match (report.reused, args.input.states_inputs()) {
            (0, _) => "",
            (_, false) => " (--again measures anew)",
            (_, true) =>
                ", perhaps on other data or scalars than are given now (--again measures anew, on these)",
        }
    );
    text += &match (report.ended, report.ranking.winner()) {
        (Ended::Stopped, _) => format!("stopped; what is done is kept, {}\n", go_on(args.again)),
        (ended, Some(winner)) => format!(
            "{}winner: {} ({:.3} ms{}); {} (grade {})\n",
            match ended {
                Ended::Spent if report.undecided > 0 => undecided_text(report, args),
                Ended::Spent => format!("the time is spent, {}; until then the ", go_on(args.again)),
                Ended::AtFloor => "so near the floor that the rest was not tried; ".to_owned(),
                Ended::Complete => "nothing is left that is worth a trial; ".to_owned(),
                Ended::Stopped => String::new(),
            },
            winner.description,
            winner.ms.unwrap_or(f64::NAN),
            against_default(report),
            use_text(report),
            report.grade
        ),
        (_, None) => "no winner: no candidate could run and was right; the reasons are above\n".to_owned(),
    };
    text += &drift_text(report.drift());
    text += &floor_text(report);
    if args.phases {
        text += &phases_text(report);
    }
    if let Some(checked) = checked {
        text += &format!("\n{}", checked.text());
    }
    text
}

/// Where the time went.
fn phases_text(report: &Report) -> String {
    let row = |indent: &str, phase: &Phase| {
        vec![format!("{:.2}", phase.seconds), format!("{indent}{}", phase.name)]
    };
    let mut rows = Vec::new();
    for phase in &report.phases {
        rows.push(row("", phase));
    }
    rows.extend(report.preparation.iter().map(|phase| row("preparation: ", phase)));
    format!("\n{}", table(&["s", "where the time went"], &rows, &[0]))
}

/// How what is left is done: --again would begin anew.
pub(super) fn go_on(again: bool) -> &'static str {
    if again { "run again without --again to go on" } else { "run again to go on" }
}

/// Whether plans take the winner.
fn use_text(report: &Report) -> String {
    match report.in_use_text() {
        None => "plans for this problem now use it".to_owned(),
        Some(other) => format!("plans for this problem use {other}"),
    }
}

/// What the time left open of the run-off.
fn undecided_text(report: &Report, args: &TuneArgs) -> String {
    let candidates = counted(report.undecided as u64, "candidate");
    let needed = report.run_off.as_secs_f64().ceil().max(1.0);
    let longer = args.time().is_some_and(|budget| needed > budget.as_secs_f64());
    let how = format!("{}{}", go_on(args.again), if longer { ", with a longer --budget" } else { "" });
    format!(
        "the time is spent before the run-off of {candidates}, of {needed} s or more, came to its end, {how}; until then the "
    )
}

/// What tuning brought over the default.
fn against_default(report: &Report) -> String {
    match (report.ranking.winner(), report.ranking.of_default()) {
        (Some(winner), _) if winner.is_default => ", the default".to_owned(),
        (_, Some(ratio)) => format!(", {ratio:.3} of the default's time"),
        _ => String::new(),
    }
}

/// What is said where the device's speed changed while it was searched: something else may have run.
fn drift_text(drift: Option<f64>) -> String {
    match drift {
        Some(times) if times > 1.0 + DRIFT => {
            format!("the device became {times:.2} times slower while it was searched: {OF_LAST_RUNS}\n")
        }
        Some(times) if times < 1.0 / (1.0 + DRIFT) => {
            format!(
                "the device became {:.2} times faster while it was searched: {OF_LAST_RUNS}\n",
                1.0 / times
            )
        }
        _ => String::new(),
    }
}

/// How far the winner is from what is possible.
fn floor_text(report: &Report) -> String {
    match (report.floor, of_floor(report)) {
        (Some(floor), Some(times)) if times < 1.0 => format!(
            "that is less than the floor of {:.3} ms: it was measured on data of which more tokens are ignored (--again \
             measures anew), or the peak is higher\n",
            floor.ms
        ),
        (Some(floor), Some(times)) => format!(
            "that is {times:.2} times the floor of {:.3} ms ({:.2} TFLOP at {:.0} TFLOP/s, {:.2} GB)\n",
            floor.ms,
            floor.flops / 1e12,
            floor.peak.flops / 1e12,
            floor.bytes / 1e9,
        ),
        _ => String::new(),
    }
}

/// The winner's time over the floor.
fn of_floor(report: &Report) -> Option<f64> {
    Some(report.ranking.winner()?.ms? / report.floor?.ms)
}

fn row(at: usize, entry: &Ranked) -> Vec<String> {
    let trial = &entry.trial;
    vec![
        (at + 1).to_string(),
        entry.ms.map_or("-".to_owned(), |ms| format!("{ms:.3}")),
        match trial.relative_spread() {
            None => String::new(),
            // One run has none.
            Some(_) if trial.samples.len() < 2 => "-".to_owned(),
            Some(spread) => format!("{:.1} %", 100.0 * spread),
        },
        trial.gradient_error.map_or(String::new(), |error| format!("{error:.1e}")),
        match entry.is_default {
            true => format!("{} (the default)", entry.description),
            false => entry.description.clone(),
        },
        match trial.status {
            cce_tuning_db::Status::Ok => entry.reason.clone(),
            _ => format!("{}: {}", trial.status.name(), entry.reason),
        },
    ]
}

fn candidate_value(entry: &Ranked) -> Value {
    let trial = &entry.trial;
    json!({
        "schedule": entry.schedule,
        "description": entry.description,
        "default": entry.is_default,
        "status": trial.status.name(),
        "ms": entry.ms,
        "ties": trial.settled.is_some_and(|settled| settled.tie_ms.is_some()),
        "spread_ms": entry.spread_ms,
        "samples": trial.samples.len(),
        "gradient_error": trial.gradient_error.filter(|error| error.is_finite()),
        "resources": trial.resources,
        "reason": entry.reason,
    })
}

fn value(tuned: &Tuned) -> Value {
    let Tuned { task, report, devices, scalars, checked, seconds } = tuned;
    json!({
        "scalars": scalars.iter().cloned().collect::<std::collections::BTreeMap<String, f32>>(),
        "loss": task.program.name(),
        "key": report.key,
        "problem": report.problem,
        "ended": match report.ended {
            Ended::Complete => "complete",
            Ended::Stopped => "stopped",
            Ended::Spent => "spent",
            Ended::AtFloor => "at floor",
        },
        "seconds": seconds,
        "alike": devices,
        "floor": report.floor,
        "of_floor": of_floor(report),
        "searched": report.searched,
        "of_default": report.ranking.of_default(),
        "undecided": report.undecided,
        "in_use": report.in_use.as_ref().map(|winner| &winner.config),
        "phases": report.phases,
        "preparation": report.preparation,
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
    // Refused as they would be if it were run.
    Arguments::new(&task.program, 0, 0, &tuner.scalars)?;
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

#[cfg(test)]
mod tests {
    use super::drift_text;

    #[test]
    fn a_device_whose_speed_changes_is_told_of() {
        assert_eq!(drift_text(Some(1.2)) + &drift_text(Some(0.8)) + &drift_text(None), "");
        assert!(drift_text(Some(0.5)).starts_with("the device became 2.00 times faster while"));
        assert!(drift_text(Some(1.5)).starts_with("the device became 1.50 times slower while"));
    }
}
