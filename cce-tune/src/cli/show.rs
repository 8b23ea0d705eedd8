//! `cce-tune show`: what is stored.

use super::EXIT_OK;
use super::output::{Output, table};
use super::programs::Programs;
use super::tune::database_folder;
use crate::Error;
use crate::search::describe;
use crate::stored;
use cce_codegen::ir::InputKind;
use cce_runtime::selection;
use cce_tuning_db::{Config, Database, Key, MemoryClass, Objective, ProgramHash, Record, Trial, Winner};
use clap::Args;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Every trial, not only the winners.
    #[arg(long)]
    pub(super) trials: bool,
    /// Only those of this loss: a name, or a file.
    #[arg(long, value_name = "NAME|FILE")]
    pub(super) loss: Option<String>,
}

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
    let mut names = Names::new(programs, &folder);
    let winners = selection::open(Some(&folder), &selection::profiles());
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for (source, stored) in winners.all().into_iter().filter(|(_, stored)| wanted(&stored.key)) {
        let generation = selection::generation(&stored.key.device);
        let current = |winner: &&Winner| winner.generation == generation;
        let best = stored.winners.iter().find(current).or_else(|| stored.winners.first());
        if let Some(winner) = best {
            let state = if current(&winner) { "exact" } else { "stale" };
            let mut row = names.described(&stored.key);
            row.extend([
                format!("{:.3}", winner.deciding_time()),
                state.to_owned(),
                schedule_text(&winner.config),
                source.to_string(),
            ]);
            rows.push(row);
        }
        values.push(json!({
            "source": source.to_string(),
            "loss": names.of(&stored.key).name,
            "input_gradients": names.input_gradients(&stored.key),
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
    let mut names = Names::new(programs, &folder);
    let place = |record: &Record| record.key.encode().unwrap_or_default();
    records.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.trial.standing(&b.trial)));
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| {
            let trial = &record.trial;
            let mut row = names.described(&record.key);
            row.extend([
                trial.deciding_time().map_or("-".to_owned(), |ms| format!("{ms:.3}")),
                trial.samples.len().to_string(),
                stage(trial).to_owned(),
                trial.status.name().to_owned(),
                schedule_text(&trial.config),
                trial.status.reason().to_owned(),
            ]);
            row
        })
        .collect();
    let values: Vec<Value> = records
        .iter()
        .map(|record| {
            json!({
                "loss": names.of(&record.key).name,
                "input_gradients": names.input_gradients(&record.key),
                "key": record.key,
                "stage": stage(&record.trial),
                "trial": record.trial,
            })
        })
        .collect();
    let header = ["loss", "device", "problem", "ms", "runs", "stage", "status", "schedule", "reason"];
    let text = || match rows.is_empty() {
        true => "no trial is stored for that\n".to_owned(),
        false => table(&header, &rows, &[3, 4]),
    };
    output.either(text, &json!({"schema": 1, "database": folder, "trials": values}))
}

/// Which part of a search a trial comes from; nothing was timed of one that has none.
fn stage(trial: &Trial) -> &'static str {
    match trial.settled.and_then(|settled| settled.place) {
        _ if trial.samples.is_empty() => "-",
        Some(_) => "run-off",
        None => "screening",
    }
}

/// What is known of a key's loss.
#[derive(Clone)]
struct Named {
    /// Its name, else the first digits of its hash.
    name: String,
    /// Its Row, Col and Scalar inputs, if the loss is known.
    values: Option<Vec<String>>,
}

/// The losses of keys.
pub(super) struct Names<'a> {
    programs: &'a Programs,
    folder: &'a Path,
    known: HashMap<ProgramHash, Named>,
}

impl<'a> Names<'a> {
    pub(super) fn new(programs: &'a Programs, folder: &'a Path) -> Names<'a> {
        Names { programs, folder, known: HashMap::new() }
    }

    fn of(&mut self, key: &Key) -> Named {
        let named = self.known.entry(key.program).or_insert_with(|| {
            match self.programs.with_hash(self.folder, &key.program) {
                Some(program) => Named {
                    name: program.name().to_owned(),
                    values: Some(
                        program
                            .inputs()
                            .iter()
                            .filter(|input| !matches!(input.kind, InputKind::Logit | InputKind::Target))
                            .map(|input| input.name.to_string())
                            .collect(),
                    ),
                },
                None => Named { name: key.program.to_string().chars().take(12).collect(), values: None },
            }
        });
        named.clone()
    }

    /// The inputs whose gradients are computed; of a loss that is not known, their places among its inputs.
    fn input_gradients(&mut self, key: &Key) -> Vec<String> {
        let values = self.of(key).values;
        (0..64)
            .filter(|&place| key.problem.gradients.inputs >> place & 1 != 0)
            .map(|place| {
                let name = values.as_ref().and_then(|values| values.get(place).cloned());
                name.unwrap_or_else(|| format!("input {place}"))
            })
            .collect()
    }

    /// Loss, device and problem of a key.
    pub(super) fn described(&mut self, key: &Key) -> Vec<String> {
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
        let inputs = self.input_gradients(key);
        if !inputs.is_empty() {
            text += &format!(" (of {} too)", inputs.join(", "));
        }
        text += &match stored::filter(key.filter) {
            Ok(filter) => format!(", {filter}"),
            Err(_) => ", a filter of another version".to_owned(),
        };
        if let MemoryClass::AtMost { log2_bytes } = key.memory {
            text += &format!(", at most 2^{log2_bytes} bytes");
        }
        vec![self.of(key).name, key.device.name().to_owned(), text]
    }
}

/// The schedule in a few words; as stored, if this version does not know it.
fn schedule_text(config: &Config) -> String {
    selection::schedule(config).map_or_else(|_| config.text().to_owned(), |schedule| describe(&schedule))
}
