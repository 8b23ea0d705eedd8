//! `cce-tune show`: what is stored.

use super::output::{Output, table};
use super::programs::Programs;
use super::tune::database_folder;
use super::{EXIT_OK, ShowArgs};
use crate::Error;
use crate::search::describe;
use cce_codegen::problem::Filter;
use cce_runtime::selection;
use cce_tuning_db::{Config, Database, Key, MemoryClass, Objective, ProgramHash, Record, Winner};
use serde_json::{Value, json};

pub(super) fn run(args: &ShowArgs, programs: &Programs, output: &Output) -> Result<u8, Error> {
    let only = match &args.loss {
        Some(name) => Some(ProgramHash::from_bytes(programs.find(name)?.hash())),
        None => None,
    };
    let wanted = |key: &Key| only.is_none_or(|hash| key.program == hash);
    match args.trials {
        true => trials(programs, output, wanted)?,
        false => winners(programs, output, wanted)?,
    }
    Ok(EXIT_OK)
}

/// Reads only: works beside a running tuner and in a read-only folder.
fn winners(programs: &Programs, output: &Output, wanted: impl Fn(&Key) -> bool) -> Result<(), Error> {
    let folder = database_folder()?;
    let winners = selection::open(&folder, &selection::profiles());
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for (source, stored) in winners.all().into_iter().filter(|(_, stored)| wanted(&stored.key)) {
        let generation = selection::generation(&stored.key.device);
        let current = |winner: &&Winner| winner.generation == generation;
        let best = stored.winners.iter().find(current).or_else(|| stored.winners.first());
        if let Some(winner) = best {
            let state = if current(&winner) { "exact" } else { "stale" };
            let mut row = described(programs, &stored.key);
            row.extend([
                format!("{:.3}", winner.median),
                state.to_owned(),
                schedule_text(&winner.config),
                source.to_string(),
            ]);
            rows.push(row);
        }
        values.push(json!({
            "source": source.to_string(),
            "loss": programs.name_of(&stored.key.program),
            "key": stored.key,
            "winners": stored.winners,
        }));
    }
    for warning in winners.take_warnings() {
        eprintln!("{warning}");
    }
    let header = ["loss", "device", "problem", "ms", "grade", "schedule", "from"];
    let text = || match rows.is_empty() {
        true => format!("nothing is stored in {}; run cce-tune\n", folder.display()),
        false => table(&header, &rows, &[3]),
    };
    output.either(text, &json!({"schema": 1, "database": folder, "stored": values}))
}

fn trials(programs: &Programs, output: &Output, wanted: impl Fn(&Key) -> bool) -> Result<(), Error> {
    let folder = database_folder()?;
    if !folder.exists() {
        let text = || format!("nothing is stored in {}; run cce-tune\n", folder.display());
        return output.either(text, &json!({"schema": 1, "database": folder, "trials": []}));
    }
    let mut records: Vec<Record> = Database::open(&folder)?.records()?;
    records.retain(|record| wanted(&record.key));
    let name = |record: &Record| programs.name_of(&record.key.program);
    let time = |record: &Record| record.trial.time().unwrap_or(f64::INFINITY);
    let place = |record: &Record| record.key.encode().unwrap_or_default();
    records.sort_by(|a, b| place(a).cmp(&place(b)).then(time(a).total_cmp(&time(b))));
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| {
            let trial = &record.trial;
            let mut row = described(programs, &record.key);
            row.extend([
                trial.time().map_or("-".to_owned(), |ms| format!("{ms:.3}")),
                trial.samples.len().to_string(),
                trial.status.name().to_owned(),
                schedule_text(&trial.config),
                trial.status.reason().to_owned(),
            ]);
            row
        })
        .collect();
    let values: Vec<Value> = records
        .iter()
        .map(|record| json!({"loss": name(record), "key": record.key, "trial": record.trial}))
        .collect();
    let header = ["loss", "device", "problem", "ms", "runs", "status", "schedule", "reason"];
    let text = || match rows.is_empty() {
        true => "no trial is stored for that\n".to_owned(),
        false => table(&header, &rows, &[3, 4]),
    };
    output.either(text, &json!({"schema": 1, "database": folder, "trials": values}))
}

/// Loss, device and problem of a key.
fn described(programs: &Programs, key: &Key) -> Vec<String> {
    let problem = &key.problem;
    let mut text =
        format!("{} x {} x {} {:?}", problem.tokens_bucket, problem.hidden, problem.vocab, key.dtype)
            .to_lowercase();
    text += match (key.objective, problem.gradients.hidden, problem.gradients.classifier) {
        (Objective::Loss, ..) => ", loss",
        (_, true, true) => ", gradients",
        (_, true, false) => ", dE",
        (_, false, true) => ", dC",
        (_, false, false) => ", input gradients",
    };
    let filter = match key.filter {
        cce_tuning_db::Filter::Sampled { eps, max_entries } => {
            Filter::Sampled { eps: eps.value() as f32, max_entries }
        }
        cce_tuning_db::Filter::Blocks { eps } => Filter::Blocks { eps: eps.value() as f32 },
        _ => Filter::Exact,
    };
    text += &format!(", {filter}");
    if let MemoryClass::AtMost { log2_bytes } = key.memory {
        text += &format!(", at most 2^{log2_bytes} bytes");
    }
    vec![programs.name_of(&key.program), key.device.name().to_owned(), text]
}

/// The schedule in a few words; as stored, if this version does not know it.
fn schedule_text(config: &Config) -> String {
    selection::schedule(config).map_or_else(|_| config.text().to_owned(), |schedule| describe(&schedule))
}
