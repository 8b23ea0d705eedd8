//! `cce-tune plan`, `work`, `merge`: one tuning, divided among machines that share a folder, by whatever
//! scheduler there is.
//!
//! A plan is a folder. In it, each shard is a folder with `shard.json`, which says all that its worker needs,
//! `database`, which takes its trials as they come, and in the end `done.json`. Shards know nothing of each
//! other; `run-off` takes in what they have, does what none of them did, and settles the winner on one device.
//!
//! Invariants: every command may be repeated at any time, and killed at any time: a plan is there whole or not at
//! all; a shard goes on from the last batch that was stored, on whatever host, and one that is done does nothing; a
//! merge adds what is not there yet.

mod files;

pub(super) use files::is_plan;

use super::devices::devices;
use super::inputs::{InputArgs, Stated};
use super::output::{Output, counted};
use super::programs::Programs;
use super::tune::{database_folder, worker};
use super::values::{Budget, Gpu};
use super::{EXIT_NO_WINNER, EXIT_OK, EXIT_STOPPED, values};
use crate::Error;
use crate::losses;
use crate::progress::{Console, Progress};
use crate::search::{Effort, Ended};
use crate::stop::Stop;
use crate::tuning::Tuner;
use crate::worker::Job;
use cce_runtime::DeviceKind;
use cce_tuning_db::{Database, Merged};
use clap::Args;
use files::{Done, RUN_OFF, Shard, shards};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The plan's folder, which must not exist or be empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Into how many shards.
    #[arg(long, value_name = "COUNT", value_parser = values::count)]
    shards: usize,
    /// What the shards will run on: any GPU of one kind, wherever it is, or the CPU device.
    #[arg(long, default_value = "any", value_name = "any|cpu", value_parser = ["any", "cpu"])]
    gpu: String,
    #[command(flatten)]
    input: InputArgs,
    /// How long each shard may take: 90s, 5m, or none to try every candidate.
    #[arg(long, default_value = "none", value_name = "TIME|none", value_parser = values::budget)]
    budget: Budget,
}

#[derive(Debug, Args)]
pub(super) struct WorkArgs {
    /// A shard's folder, or the plan's folder `run-off`.
    shard: PathBuf,
    /// The device: auto (the first GPU, else the CPU device), cpu, or the index of a GPU.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|INDEX")]
    gpu: Gpu,
}

#[derive(Debug, Args)]
pub(super) struct MergeArgs {
    /// The plan's folder.
    plan: PathBuf,
}

pub(super) fn plan(args: &PlanArgs, programs: &Programs, output: &Output) -> Result<u8, Error> {
    files::is_free(&args.out)?;
    let stated = Stated::of(&args.input, programs)?;
    let on_gpu = args.gpu == "any";
    let kind = if on_gpu { DeviceKind::Cuda } else { DeviceKind::Cpu };
    let task = stated.task(&args.input, kind);
    let job = Job::new(&task, &args.input.scalar, stated.source.clone());
    // Wrong scalars are told here, not on every node.
    job.arguments(&task)?;
    let counted_tokens = stated.counted(&task);
    let shares = (0..args.shards).map(|index| (format!("shard-{index}"), Some((index, args.shards))));
    let shard = |(name, share)| {
        let budget_ms = args.budget.0.map(|budget| budget.as_millis() as u64);
        (name, Shard::new(job.clone(), on_gpu, counted_tokens, share, budget_ms))
    };
    let shards: Vec<(String, Shard)> = shares.chain([(RUN_OFF.to_owned(), None)]).map(shard).collect();
    files::make(&args.out, &shards)?;
    let out = args.out.display();
    let text = || {
        format!(
            "{} in {out}: run `cce-tune work {out}/shard-K` for K from 0 to {}, then `cce-tune work \
             {out}/{RUN_OFF}`, each on a device of the same kind, then `cce-tune merge {out}`\n",
            counted(args.shards as u64, "shard"),
            args.shards - 1
        )
    };
    output.either(text, &json!({"schema": 1, "plan": args.out, "shards": args.shards}))?;
    Ok(EXIT_OK)
}

pub(super) fn work(args: &WorkArgs, output: &Output, stop: &Stop) -> Result<u8, Error> {
    let shard = Shard::read(&args.shard)?;
    if let Some(done) = Done::read(&args.shard)? {
        let text = || format!("{} is done already, by {}\n", args.shard.display(), done.host);
        output.either(text, &json!({"schema": 1, "shard": args.shard, "done": done, "again": true}))?;
        return Ok(EXIT_OK);
    }
    if args.gpu == Gpu::All {
        let reason = "a shard is one device's work: expected auto, cpu or the index of a GPU, found all";
        return Err(Error::Usage { reason: reason.to_owned() });
    }
    let devices = devices(args.gpu, "working on")?;
    let device = devices.first().ok_or(Error::NoCandidate)?;
    if (device.kind() == DeviceKind::Cuda) != shard.on_gpu {
        let (planned, found) =
            if shard.on_gpu { ("a GPU", "the CPU device") } else { ("the CPU device", "a GPU") };
        let reason = format!("the plan is for {planned}, found {found}; choose another with --gpu");
        return Err(Error::Usage { reason });
    }
    let console = Console::new();
    let folder = args.shard.join("database");
    if shard.share.is_none() {
        take_in(&args.shard, &folder, &console)?;
    }
    let tuner = Tuner {
        effort: match shard.share {
            // The best of the shards meet in the run-off.
            Some(_) => Effort { finalists: 0, ..Effort::default() },
            None => Effort::default(),
        },
        budget: shard.budget_ms.map(Duration::from_millis),
        share: shard.share,
        all_hosts: true,
        scalars: shard.job.scalars.clone(),
        ..Tuner::new(&folder, &console, stop)
    };
    let task = shard.job.task()?;
    let report = tuner.tune_in_workers(&task, &devices, (&shard.job.source, shard.counted), &worker()?)?;
    let winner = report.ranking.winner();
    let done = Done::of(&report);
    // A run-off that the time cut short goes on when it is worked on again.
    if report.ended != Ended::Stopped && report.undecided == 0 {
        done.write(&args.shard)?;
    }
    let text = || {
        let best = match (&done.winner, winner.and_then(|winner| winner.ms)) {
            (Some(winner), Some(ms)) => format!("the best is {winner} ({ms:.3} ms)"),
            _ => "none could run and was right".to_owned(),
        };
        let stopped = match (report.ended, report.undecided) {
            (Ended::Stopped, _) => "; stopped, run it again to go on",
            (_, 1..) => "; the time cut the run-off short, run it again to go on",
            _ => "",
        };
        format!(
            "{} of {} tried on {}: {best}{stopped}\n",
            done.tried,
            counted(done.candidates as u64, "candidate"),
            done.device
        )
    };
    let done_value = json!({"schema": 1, "shard": args.shard, "done": done, "again": false});
    output.either(text, &done_value)?;
    Ok(match (report.ended, winner, shard.share) {
        (Ended::Stopped, ..) => EXIT_STOPPED,
        // A share may have nothing but failures in it; the whole may not.
        (_, None, None) => EXIT_NO_WINNER,
        _ => EXIT_OK,
    })
}

/// Takes the shards' trials into the run-off's database.
fn take_in(run_off: &Path, folder: &Path, console: &Console) -> Result<(), Error> {
    let plan = std::path::absolute(run_off)
        .map_err(|source| Error::Read { path: run_off.into(), source })?
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    let mut database = Database::open(folder)?;
    for shard in shards(&plan)? {
        if Done::read(&shard)?.is_none() {
            let name = shard.display();
            console.note(&format!("{name} is not done; what it lacks is tried here"));
        }
        if shard.join("database").is_dir() {
            database.merge(&shard.join("database"))?;
        }
    }
    Ok(())
}

pub(super) fn merge(args: &MergeArgs, output: &Output) -> Result<u8, Error> {
    if !is_plan(&args.plan) {
        let path = args.plan.display();
        let reason = format!(
            "{path} is no plan: it has no {RUN_OFF}/shard.json; `cce-tune plan --out DIR` writes plans, and \
             `cce-tune import` takes exports and folders of databases"
        );
        return Err(Error::Usage { reason });
    }
    let folder = database_folder()?;
    let mut folders = shards(&args.plan)?;
    folders.push(args.plan.join(RUN_OFF));
    let mut database = Database::open(&folder)?;
    let (mut lines, mut values) = (String::new(), Vec::new());
    let mut kinds: Vec<String> = Vec::new();
    for path in folders {
        let shard = Shard::read(&path)?;
        losses::remember(&folder, &shard.job.task()?.program)?;
        let done = Done::read(&path)?;
        let trials = path.join("database");
        let merged: Option<Merged> = trials.is_dir().then(|| database.merge(&trials)).transpose()?;
        let state = match (&done, &merged) {
            (Some(done), _) => format!("done on {} ({})", done.host, done.device),
            (None, Some(_)) => "not done".to_owned(),
            (None, None) => "not begun".to_owned(),
        };
        let (added, known) = merged.as_ref().map_or((0, 0), |merged| (merged.added, merged.known));
        let added_text = counted(added, "trial");
        lines += &format!("{}: {state}, {added_text} added, {known} known already\n", path.display());
        values.push(json!({"shard": path, "done": done, "added": added, "known": known}));
        if let Some(done) = done.filter(|done| !kinds.contains(&done.device)) {
            kinds.push(done.device);
        }
    }
    if kinds.len() > 1 {
        lines += &format!(
            "the shards ran on {} kinds of devices ({}): each kind tried only a part of the candidates; make a \
             plan for each kind\n",
            kinds.len(),
            kinds.join(", ")
        );
    }
    output.either(|| lines, &json!({"schema": 1, "database": folder, "merged": values, "devices": kinds}))?;
    Ok(EXIT_OK)
}
