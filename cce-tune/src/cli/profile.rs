//! `cce-tune profile`: many problems of one device, tuned one after the other, their winners in one profile.
//!
//! The profile is written anew, in one piece, after every problem: whatever ends the process, what is done is in
//! the file, and the same command goes on behind it. Problems that the file holds winners of already, made by this
//! version of the kernels on this device, are left alone.

use super::devices::devices;
use super::output::{Output, counted};
use super::programs::Programs;
use super::tune::database_folder;
use super::{EXIT_NO_WINNER, EXIT_OK, EXIT_STOPPED, ProfileArgs};
use crate::Error;
use crate::data::{Head, MODELS};
use crate::progress::{Console, Progress};
use crate::search::Ended;
use crate::stop::Stop;
use crate::task::Task;
use crate::tuning::{Report, Scope, Tuner, host_name, tuning_device};
use cce_codegen::problem::DType;
use cce_codegen::schedule::Schedule;
use cce_runtime::{Device, DeviceKind, Gradients, selection};
use cce_tuning_db::{Key, KeyWinners, Profile, Provenance, Winner};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// The head of a model, or of any shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeadShape {
    name: String,
    hidden: usize,
    vocab: usize,
}

/// The parser of an item of `--heads`: `all`, a model's name, or `DxV`.
pub(super) fn heads(text: &str) -> Result<Vec<HeadShape>, String> {
    let of = |name: &str, hidden, vocab| HeadShape { name: name.to_owned(), hidden, vocab };
    if text == "all" {
        return Ok(MODELS.iter().map(|model| of(model.name, model.hidden, model.vocab)).collect());
    }
    if let Some(model) = MODELS.iter().find(|model| model.flag() == text.to_lowercase()) {
        return Ok(vec![of(model.name, model.hidden, model.vocab)]);
    }
    let shape = text.split_once('x').and_then(|(hidden, vocab)| {
        Some((super::values::count(hidden).ok()?, super::values::count(vocab).ok()?))
    });
    match shape {
        Some((hidden, vocab)) => Ok(vec![of(text, hidden, vocab)]),
        None => {
            let flags: Vec<String> = MODELS.iter().map(crate::data::Model::flag).collect();
            Err(format!(
                "expected all, one of {}, or a hidden size and a vocabulary such as 4096x128256, found {text}",
                flags.join(", ")
            ))
        }
    }
}

/// One problem of the list.
struct Item {
    head: HeadShape,
    task: Task,
    objective: &'static str,
}

impl Item {
    fn text(&self) -> String {
        let HeadShape { name, hidden, vocab } = &self.head;
        let shape = format!("{hidden} x {vocab}");
        let name = if *name == format!("{hidden}x{vocab}") { String::new() } else { format!("{name} ") };
        format!("{name}{shape}, {}, {}", counted(self.task.tokens as u64, "token"), self.objective)
    }
}

pub(super) fn run(
    args: &ProfileArgs,
    programs: &Programs,
    output: &Output,
    stop: &Stop,
) -> Result<u8, Error> {
    let program = programs.find(&args.loss)?;
    let devices = devices(args.gpu)?;
    let [device] = devices.as_slice() else {
        let reason =
            format!("a profile is of one device, and there are {}; name one with --gpu", devices.len());
        return Err(Error::Usage { reason });
    };
    let name = match (&args.name, args.out.file_stem()) {
        (Some(name), _) => name.clone(),
        (None, Some(stem)) => stem.to_string_lossy().into_owned(),
        (None, None) => {
            let reason = format!("{} names no file; expected --out FILE.json", args.out.display());
            return Err(Error::Usage { reason });
        }
    };
    let console = Console::new();
    let folder = database_folder()?;
    let tuner = Tuner {
        budget: args.budget.0,
        scope: Scope { candidates: args.candidates, ..Scope::default() },
        again: args.again,
        scalars: args.scalar.clone(),
        ..Tuner::new(&folder, &console, stop)
    };
    let keyed = tuning_device(device)?;
    let generation = selection::generation(&keyed);
    let mut profile = Collected::open(&args.out, name, args.keep)?;
    let items = items(args, &program, device);
    let most = args.tokens.iter().copied().max().unwrap_or(1);
    let mut made: Option<(HeadShape, Head)> = None;
    let (mut values, mut code) = (Vec::new(), EXIT_OK);
    for (number, item) in items.iter().enumerate() {
        let place = format!("[{}/{}] {}", number + 1, items.len(), item.text());
        let (problem, space) = tuner.space(&item.task, device)?;
        let key = selection::key(&item.task.program, &problem, keyed.clone())?;
        let known = profile.winner(&key).filter(|winner| winner.generation == generation && !args.again);
        if let Some(winner) = known {
            say(
                output,
                &format!("{place}: {:.3} ms, in {} already\n", winner.deciding_time(), args.out.display()),
            )?;
            values.push(
                json!({"problem": item.text(), "key": key, "state": "known", "ms": winner.deciding_time()}),
            );
            continue;
        }
        let started = Instant::now();
        let (slot, console) = (&mut made, &console);
        let head = move || {
            if slot.as_ref().is_none_or(|(of, _)| *of != item.head) {
                // One head at a time: the largest takes gigabytes.
                *slot = None;
                console.note(&format!("generating the inputs of {}", item.head.name));
                let HeadShape { hidden, vocab, .. } = item.head;
                let head = Head::generated(most, hidden, vocab, args.seed, item.task.dtype);
                *slot = Some((item.head.clone(), head));
            }
            slot.as_ref().map(|(_, head)| head.first_tokens(item.task.tokens)).ok_or(Error::NoCandidate)
        };
        let report = tuner.tune(&item.task, device, (head, item.task.tokens))?;
        Programs::remember(&folder, &item.task.program)?;
        report.notes.iter().for_each(|note| console.note(note));
        let default = space.candidates.first().map(|first| first.schedule);
        let (line, mut value) = described(&report, default, started.elapsed().as_secs_f64());
        value["problem"] = json!(item.text());
        values.push(value);
        say(output, &format!("{place}: {line}\n"))?;
        if report.ended == Ended::Stopped {
            code = EXIT_STOPPED;
            break;
        }
        if report.ranking.winner().is_none() {
            code = EXIT_NO_WINNER;
            continue;
        }
        profile.replace(&report);
        profile.write(&args.out)?;
    }
    let held = counted(profile.profile.entries.len() as u64, "problem");
    let text = match code {
        EXIT_STOPPED => {
            format!("stopped; {} holds winners for {held}, run again to go on\n", args.out.display())
        }
        _ => format!("{} holds winners for {held}\n", args.out.display()),
    };
    let value = json!({"schema": 1, "database": folder, "profile": args.out, "problems": values});
    output.either(|| text, &value)?;
    Ok(code)
}

/// A line as soon as it is true; JSON comes at the end, in one piece.
fn say(output: &Output, line: &str) -> Result<(), Error> {
    if output.is_json() { Ok(()) } else { output.text(line) }
}

/// Heads, then numbers of tokens, then objectives.
fn items(args: &ProfileArgs, program: &cce_codegen::ir::Program, device: &Device) -> Vec<Item> {
    let dtype = args.dtype.unwrap_or(match device.kind() {
        DeviceKind::Cuda => DType::Bf16,
        DeviceKind::Cpu => DType::F32,
    });
    let mut items = Vec::new();
    for head in args.heads.iter().flatten() {
        for &tokens in &args.tokens {
            for &gradients in &args.objective {
                let task = Task::new(program.clone(), tokens, head.hidden, head.vocab, dtype);
                items.push(Item {
                    head: head.clone(),
                    task: Task { filter: args.filter, gradients, ..task },
                    objective: objective_text(gradients),
                });
            }
        }
    }
    items
}

fn objective_text(gradients: Gradients) -> &'static str {
    match (gradients.hidden, gradients.classifier) {
        (true, true) => "loss and both gradients",
        (true, false) => "loss and dE",
        (false, true) => "loss and dC",
        (false, false) => "loss",
    }
}

fn described(report: &Report, default: Option<Schedule>, seconds: f64) -> (String, Value) {
    let time = |schedule: Option<Schedule>| {
        let entry = report.ranking.entries.iter().find(|entry| Some(entry.schedule) == schedule)?;
        entry.trial.as_ref()?.deciding_time()
    };
    let best = report.ranking.winner().and_then(|winner| time(Some(winner.schedule)));
    let default = time(default);
    let line = match (report.ended, best, default) {
        (Ended::Stopped, ..) => "stopped; what is done is kept".to_owned(),
        (_, None, _) => "no winner: no candidate could run and was right".to_owned(),
        (_, Some(best), Some(default)) => {
            format!(
                "{best:.3} ms, by default {default:.3} ms ({:.2} times that); {seconds:.0} s",
                best / default
            )
        }
        (_, Some(best), None) => format!("{best:.3} ms; {seconds:.0} s"),
    };
    let state = match (report.ended, best) {
        (Ended::Stopped, _) => "stopped",
        (_, None) => "no winner",
        _ => "tuned",
    };
    let value = json!({
        "key": report.key, "state": state, "ms": best, "default_ms": default, "seconds": seconds,
        "winner": report.ranking.winner().map(|winner| winner.description.clone()),
    });
    (line, value)
}

/// The profile as it grows.
struct Collected {
    profile: Profile,
    keep: usize,
}

impl Collected {
    /// Goes on with the file if there is one.
    fn open(path: &Path, name: String, keep: usize) -> Result<Collected, Error> {
        let mut entries = Vec::new();
        if path.exists() {
            let (profile, skipped) = Profile::read(path)?;
            if let Some(reason) = skipped.first() {
                let reason = format!(
                    "{} holds an entry that this version cannot read and would lose ({reason}); name another file",
                    path.display()
                );
                return Err(Error::Usage { reason });
            }
            entries = profile.entries;
        }
        Ok(Collected { profile: Profile::new(name, Provenance::now(host_name()), entries), keep })
    }

    /// The best winner of a key, of any generation.
    fn winner(&self, key: &Key) -> Option<&Winner> {
        self.profile.entries.iter().find(|entry| entry.key == *key)?.winners.first()
    }

    /// Takes the best of a report in the place of what was there for its key.
    fn replace(&mut self, report: &Report) {
        let trials = report.ranking.entries.iter().filter_map(|entry| entry.trial.as_ref());
        let mut chosen = KeyWinners::choose(report.key.clone(), trials);
        chosen.winners.truncate(self.keep);
        let mut entries = std::mem::take(&mut self.profile.entries);
        entries.retain(|entry| entry.key != report.key);
        entries.push(chosen);
        self.profile = Profile::new(self.profile.name.clone(), Provenance::now(host_name()), entries);
    }

    fn write(&self, path: &Path) -> Result<(), Error> {
        Ok(self.profile.write(path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_all_a_models_or_of_any_shape() {
        assert_eq!(heads("all").unwrap().len(), MODELS.len());
        assert_eq!(heads("gemma-2-2b").unwrap()[0].vocab, 256_000);
        assert_eq!(heads("GPT-2").unwrap()[0].hidden, 768);
        assert_eq!(
            heads("16x1500"),
            Ok(vec![HeadShape { name: "16x1500".to_owned(), hidden: 16, vocab: 1500 }])
        );
        for wrong in ["gemma", "16x", "x", "0x5", "16x1500x2"] {
            let message = heads(wrong).unwrap_err();
            assert!(message.contains("llama-3-8b") && message.ends_with(wrong), "{message}");
        }
    }
}
