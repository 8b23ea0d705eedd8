//! `cce-tune diff`: the winners of two databases, exports or profiles beside each other.

use super::EXIT_OK;
use super::output::{Output, counted, table};
use super::programs::Programs;
use super::selected::{SelectedArgs, Selector, distinct, none_of};
use super::transfer::holds_a_database;
use crate::Error;
use crate::stored::schedule_text;
use cce_runtime::selection;
use cce_tuning_db::{Error as DatabaseError, Key, KeyWinners, Profile, Record, Winner, Winners, exported};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// A database's folder, an export of trials, or a profile.
    pub(super) a: std::path::PathBuf,
    /// What it is compared with: a folder, an export or a profile.
    pub(super) b: std::path::PathBuf,
    /// Print problems too whose winners are the same.
    #[arg(long)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) selected: SelectedArgs,
}

/// Winners by the encoding of their keys.
#[derive(Debug, Default)]
pub(super) struct Side {
    winners: BTreeMap<Vec<u8>, KeyWinners>,
}

impl Side {
    fn of(entries: impl IntoIterator<Item = KeyWinners>) -> Side {
        let placed = |entry: KeyWinners| Some((entry.key.encode().ok()?, entry));
        let has_some = |entry: &KeyWinners| !entry.winners.is_empty();
        Side { winners: entries.into_iter().filter(has_some).filter_map(placed).collect() }
    }

    /// What a database's readers see; it is only read.
    pub(super) fn of_database(folder: &Path) -> Side {
        Side::of(Winners::open(folder).all().into_iter().map(|(_, entry)| entry))
    }

    fn of_records(records: impl Iterator<Item = Record>) -> Side {
        let mut trials: BTreeMap<Vec<u8>, (Key, Vec<cce_tuning_db::Trial>)> = BTreeMap::new();
        for record in records {
            let Ok(place) = record.key.encode() else { continue };
            trials.entry(place).or_insert_with(|| (record.key, Vec::new())).1.push(record.trial);
        }
        Side::of(trials.into_values().map(|(key, trials)| KeyWinners::choose(key, &trials)))
    }

    /// A folder, an export or a profile.
    fn read(path: &Path) -> Result<Side, Error> {
        if path.is_dir() {
            holds_a_database(path)?;
            return Ok(Side::of_database(path));
        }
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let left_out = |reason: &str| eprintln!("{}: left out: {reason}", path.display());
        if let Ok((profile, skipped)) = Profile::parse(&text) {
            skipped.iter().for_each(|reason| left_out(reason));
            return Ok(Side::of(profile.entries));
        }
        match exported(&text) {
            Ok(records) => {
                let unreadable = records.iter().filter(|record| record.is_none()).count();
                if unreadable > 0 {
                    left_out(&format!(
                        "{} that this version cannot read",
                        counted(unreadable as u64, "record")
                    ));
                }
                Ok(Side::of_records(records.into_iter().flatten()))
            }
            Err(DatabaseError::Decode { reason, .. }) => Err(Error::Unreadable {
                path: path.into(),
                reason: format!("it is neither a profile nor an export of trials: {reason}"),
            }),
            Err(other) => Err(other.into()),
        }
    }
}

/// How two sides differ.
#[derive(Debug, Default)]
pub(super) struct Difference<'a> {
    /// The winner is another, or has another time.
    pub(super) differing: Vec<(&'a KeyWinners, &'a KeyWinners)>,
    /// The same winner with the same time.
    pub(super) same: Vec<&'a KeyWinners>,
    /// Only the first has winners.
    pub(super) only_a: Vec<&'a KeyWinners>,
    /// Only the second has winners.
    pub(super) only_b: Vec<&'a KeyWinners>,
}

impl<'a> Difference<'a> {
    pub(super) fn between(a: &'a Side, b: &'a Side) -> Difference<'a> {
        let mut difference = Difference::default();
        for (place, ours) in &a.winners {
            match b.winners.get(place) {
                None => difference.only_a.push(ours),
                Some(theirs) if is_same(best(ours), best(theirs)) => difference.same.push(ours),
                Some(theirs) => difference.differing.push((ours, theirs)),
            }
        }
        difference.only_b =
            b.winners.iter().filter(|(place, _)| !a.winners.contains_key(*place)).map(|(_, w)| w).collect();
        difference
    }
}

/// What a plan takes first: of the newest generation the fastest.
fn best(entry: &KeyWinners) -> Option<&Winner> {
    entry.winners.first()
}

fn is_same(a: Option<&Winner>, b: Option<&Winner>) -> bool {
    let of = |winner: &Winner| (winner.config.hash(), winner.median.to_bits(), winner.generation.clone());
    a.map(of) == b.map(of)
}

pub(super) fn run(args: &DiffArgs, programs: &Programs, output: &Output) -> Result<u8, Error> {
    let (a, b) = (Side::read(&args.a)?, Side::read(&args.b)?);
    let folder = selection::folder();
    let mut selector = Selector::new(&args.selected, programs, folder.as_deref().unwrap_or(Path::new(".")))?;
    let difference = Difference::between(&a, &b);
    let mut named = |entry: &KeyWinners| selector.described(&entry.key);
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    let (mut differing, mut same) = (0_u64, 0);
    for (ours, theirs) in &difference.differing {
        let (Some(name), Some(a), Some(b)) = (named(ours), best(ours), best(theirs)) else { continue };
        differing += 1;
        rows.push(row(&name, Some(a), Some(b)));
        values.push(value("differs", &name, &ours.key, Some(a), Some(b)));
    }
    for entry in &difference.same {
        let (Some(name), Some(winner)) = (named(entry), best(entry)) else { continue };
        same += 1;
        if args.all {
            rows.push(row(&name, Some(winner), Some(winner)));
        }
        values.push(value("same", &name, &entry.key, Some(winner), Some(winner)));
    }
    let mut alone = [0, 0];
    for (side, entries) in [&difference.only_a, &difference.only_b].into_iter().enumerate() {
        for entry in entries.iter() {
            let Some(name) = named(entry) else { continue };
            alone[side] += 1;
            let (a, b, state) = match side {
                0 => (best(entry), None, "only in a"),
                _ => (None, best(entry), "only in b"),
            };
            rows.push(row(&name, a, b));
            values.push(value(state, &name, &entry.key, a, b));
        }
    }
    if values.is_empty() && args.selected.chooses() {
        let stored = a.winners.values().chain(b.winners.values());
        return Err(none_of(distinct(stored.map(|entry| &entry.key))));
    }
    let [only_a, only_b] = alone;
    let text = || {
        let header = ["loss", "device", "problem", "A ms", "B ms", "B is", "A's schedule", "B's schedule"];
        let table = if rows.is_empty() { String::new() } else { table(&header, &rows, &[3, 4]) };
        format!(
            "{table}{} {}, {same} are the same, {only_a} only in A ({}), {only_b} only in B ({})\n",
            counted(differing, "winner"),
            if differing == 1 { "differs" } else { "differ" },
            args.a.display(),
            args.b.display()
        )
    };
    let whole = json!({
        "schema": 1, "a": args.a, "b": args.b, "differing": differing, "same": same, "only_a": only_a,
        "only_b": only_b, "problems": values,
    });
    output.either(text, &whole)?;
    Ok(EXIT_OK)
}

fn row(name: &[String; 3], a: Option<&Winner>, b: Option<&Winner>) -> Vec<String> {
    let ms =
        |winner: Option<&Winner>| winner.map_or("-".to_owned(), |winner| format!("{:.3}", winner.median));
    let schedule =
        |winner: Option<&Winner>| winner.map_or("-".to_owned(), |winner| schedule_text(&winner.config));
    let theirs = match (a, b) {
        (Some(a), Some(b)) if a.config.hash() == b.config.hash() => "as A's".to_owned(),
        _ => schedule(b),
    };
    let mut row = name.to_vec();
    row.extend([ms(a), ms(b), change_text(a, b), schedule(a), theirs]);
    row
}

fn change_text(a: Option<&Winner>, b: Option<&Winner>) -> String {
    match (a, b) {
        (Some(a), Some(b)) => {
            let percent = 100.0 * (b.median / a.median - 1.0);
            let time = match percent {
                p if p.abs() < 0.05 => "the same".to_owned(),
                p if p < 0.0 => format!("{:.1} % faster", -p),
                p => format!("{p:.1} % slower"),
            };
            if a.generation == b.generation { time } else { format!("{time}, of other kernels") }
        }
        (Some(_), None) => "missing".to_owned(),
        _ => "new".to_owned(),
    }
}

fn value(state: &str, name: &[String; 3], key: &Key, a: Option<&Winner>, b: Option<&Winner>) -> Value {
    let ratio = a.zip(b).map(|(a, b)| b.median / a.median);
    let schedules = a.zip(b).map(|(a, b)| a.config.hash() == b.config.hash());
    json!({
        "state": state, "loss": name[0], "device": name[1], "problem": name[2], "key": key, "a": a, "b": b,
        "b_over_a": ratio, "same_schedule": schedules,
    })
}
