//! `cce-tune show`: what is stored.

use super::EXIT_OK;
use super::output::{Output, counted, table};
use super::programs::Programs;
use super::selected::{SelectedArgs, Selector, distinct, none_of};
use super::tune::database_folder;
use crate::Error;
use crate::stored::{self, schedule_text};
use cce_codegen::ir::InputKind;
use cce_runtime::driver::{DeviceInfo, Devices};
use cce_runtime::selection;
use cce_tuning_db::{
    Database, Device, Key, MemoryClass, ProgramHash, Record, ShownTimes, Source, Trial, Winner, newest,
};
use clap::Args;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Every trial, not only the winners.
    #[arg(long)]
    pub(super) trials: bool,
    /// The winners of profiles for other devices too, a row each.
    #[arg(long, conflicts_with = "trials")]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) selected: SelectedArgs,
}

pub(super) fn run(args: &ShowArgs, programs: &Programs, output: &Output) -> Result<u8, Error> {
    let folder = database_folder()?;
    if folder.exists() && !folder.is_dir() {
        let reason =
            "expected the folder of the database, found a file; set CCE_TUNING_DIR to a folder".to_owned();
        return Err(Error::Unreadable { path: folder, reason });
    }
    let selector = Selector::new(&args.selected, programs, &folder)?;
    match args.trials {
        true => trials(args, &folder, selector, output)?,
        false => winners(args, &folder, selector, output)?,
    }
    Ok(EXIT_OK)
}

/// The devices of this machine, as the database knows them.
fn here() -> Vec<Device> {
    let (gpus, complaint) = listed(Devices::list());
    if let Some(complaint) = complaint {
        eprintln!("{complaint}");
    }
    gpus.iter().map(selection::gpu).chain([selection::cpu()]).collect()
}

/// The GPUs, and what is to be said if they could not be listed. Without a driver there are none.
fn listed(found: Result<Vec<DeviceInfo>, cce_runtime::Error>) -> (Vec<DeviceInfo>, Option<String>) {
    match found {
        Ok(gpus) => (gpus, None),
        Err(cce_runtime::Error::NoDriver { .. }) => (Vec::new(), None),
        Err(error) => {
            let complaint = format!(
                "cannot tell which GPUs this machine has, so what is for them is listed as not of this machine: {error} \
                 (`cce-tune doctor` says more)"
            );
            (Vec::new(), Some(complaint))
        }
    }
}

/// Reads only: works beside a running tuner and in a read-only folder. What is printed as a line of a profile is in the
/// JSON as everything else.
fn winners(args: &ShowArgs, folder: &Path, mut selector: Selector<'_>, output: &Output) -> Result<(), Error> {
    let winners = selection::open(Some(folder), &selection::profiles());
    let here = here();
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    let mut elsewhere: Vec<(String, u64)> = Vec::new();
    let all = winners.all();
    for (source, stored) in &all {
        let Some(described) = selector.described(&stored.key) else { continue };
        let is_row = args.all || *source == Source::Database || here.contains(&stored.key.device);
        if !is_row {
            let device = stored.key.device.described();
            let line = format!("{source}, for {device}");
            match elsewhere.last_mut().filter(|(last, _)| *last == line) {
                Some((_, count)) => *count += 1,
                None => elsewhere.push((line, 1)),
            }
        }
        let generation = selection::generation(&stored.key.device);
        let current = |winner: &&Winner| winner.generation == generation;
        let best = stored.winners.iter().find(current).or_else(|| stored.winners.first());
        if let Some(winner) = best.filter(|_| is_row) {
            let mut state = if current(&winner) { "exact" } else { "stale" }.to_owned();
            if winner.settled.is_some_and(|settled| settled.cut_short) {
                state += ", run-off cut short";
            } else if winner.settled.is_none_or(|settled| settled.place.is_none()) {
                state += ", no run-off yet";
            }
            let mut row = described.to_vec();
            row.extend([
                format!("{:.3}", winner.median),
                state,
                schedule_text(&winner.config),
                source.to_string(),
            ]);
            rows.push(row);
        }
        values.push(json!({
            "source": source.to_string(),
            "loss": selector.names().of(&stored.key).name,
            "input_gradients": selector.names().input_gradients(&stored.key),
            "key": stored.key,
            "winners": stored.winners,
        }));
    }
    for warning in winners.take_warnings() {
        eprintln!("{warning}");
    }
    if values.is_empty() && args.selected.chooses() {
        return Err(none_of(distinct(all.iter().map(|(_, stored)| &stored.key))));
    }
    let header = ["loss", "device", "problem", "ms", "grade", "schedule", "from"];
    let text = || {
        let mut text = match (rows.is_empty(), args.selected.chooses()) {
            (false, _) => table(&header, &rows, &[3]),
            (true, false) => format!("nothing is stored in {}; run cce-tune\n", folder.display()),
            (true, true) => format!("nothing that is asked for is stored in {}\n", folder.display()),
        };
        for (profile, problems) in &elsewhere {
            let problems = counted(*problems, "problem");
            text += &format!("{profile}, not of this machine: winners for {problems} (--all lists them)\n");
        }
        text
    };
    output.either(text, &json!({"schema": 1, "database": folder, "stored": values}))
}

fn trials(args: &ShowArgs, folder: &Path, mut selector: Selector<'_>, output: &Output) -> Result<(), Error> {
    if !folder.exists() {
        if args.selected.chooses() {
            return Err(none_of(0));
        }
        let text = || format!("nothing is stored in {}; run cce-tune\n", folder.display());
        return output.either(text, &json!({"schema": 1, "database": folder, "trials": []}));
    }
    let mut records: Vec<Record> = Database::open(folder)?.records()?;
    let stored = distinct(records.iter().map(|record| &record.key));
    records.retain(|record| selector.described(&record.key).is_some());
    if records.is_empty() && args.selected.chooses() {
        return Err(none_of(stored));
    }
    let names = selector.names();
    let place = |record: &Record| record.key.encode().unwrap_or_default();
    records.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.trial.standing(&b.trial)));
    let times = shown(&records);
    let rows: Vec<Vec<String>> = records
        .iter()
        .zip(&times)
        .map(|(record, (ms, counts))| {
            let trial = &record.trial;
            let mut row = names.described(&record.key).to_vec();
            row.extend([
                ms.map_or("-".to_owned(), |ms| format!("{ms:.3}")),
                trial.samples.len().to_string(),
                format!("{}{}", stage(trial), if *counts { "" } else { ", superseded" }),
                trial.status.name().to_owned(),
                schedule_text(&trial.config),
                trial.status.reason().to_owned(),
            ]);
            row
        })
        .collect();
    let values: Vec<Value> = records
        .iter()
        .zip(&times)
        .map(|(record, (ms, counts))| {
            json!({
                "loss": names.of(&record.key).name,
                "input_gradients": names.input_gradients(&record.key),
                "key": record.key,
                "stage": stage(&record.trial),
                "ms": ms,
                "counts": counts,
                "trial": record.trial,
            })
        })
        .collect();
    let header = ["loss", "device", "problem", "ms", "runs", "stage", "status", "schedule", "reason"];
    let text = || match rows.is_empty() {
        true => format!("nothing is stored in {}; run cce-tune\n", folder.display()),
        false => table(&header, &rows, &[3, 4]),
    };
    output.either(text, &json!({"schema": 1, "database": folder, "trials": values}))
}

/// The time to show of each, in ms, and whether it counts: of what was measured several times, one does.
fn shown(records: &[Record]) -> Vec<(Option<f64>, bool)> {
    let key = |record: &Record| record.key.encode().unwrap_or_default();
    let mut problems: BTreeMap<_, Vec<&Trial>> = BTreeMap::new();
    for record in records {
        problems.entry(key(record)).or_default().push(&record.trial);
    }
    let counting: HashSet<*const Trial> =
        problems.values().flat_map(|trials| newest(trials.iter().copied())).map(std::ptr::from_ref).collect();
    let times: BTreeMap<_, ShownTimes> =
        problems.into_iter().map(|(key, trials)| (key, ShownTimes::of(trials))).collect();
    let shown = |record: &Record| {
        let ms = times.get(&key(record)).and_then(|times| times.ms(&record.trial));
        (ms, counting.contains(&std::ptr::from_ref(&record.trial)))
    };
    records.iter().map(shown).collect()
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
    pub(super) fn described(&mut self, key: &Key) -> [String; 3] {
        let problem = &key.problem;
        let mut text =
            format!("{} x {} x {} {:?}", problem.tokens_bucket, problem.hidden, problem.vocab, key.dtype)
                .to_lowercase();
        text += &format!(", {}", stored::objective(key));
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
        [self.of(key).name, key.device.described(), text]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_there_and_does_not_work_is_told_and_one_that_is_not_there_is_not() {
        let old = cce_runtime::Error::DriverTooOld {
            found: "11.4".to_owned(),
            needed: "12.0".to_owned(),
            missing: None,
        };
        let (gpus, complaint) = listed(Err(old));
        let complaint = complaint.unwrap();
        assert!(gpus.is_empty());
        assert!(
            complaint.contains("install a newer NVIDIA driver") && complaint.contains("doctor"),
            "{complaint}"
        );
        assert!(!complaint.contains('\n'), "{complaint}");
        let none = cce_runtime::Error::NoDriver { reason: "there is no libcuda.so.1".to_owned() };
        assert_eq!(listed(Err(none)).1, None);
        assert_eq!(listed(Ok(Vec::new())).1, None);
    }
}
