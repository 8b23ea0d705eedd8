//! `cce-tune profile`: many problems of one kind of device, each tuned on one, their winners in one profile.
//!
//! The profile is written anew, in one piece, after every problem: whatever ends the process, what is done is in
//! the file, and the same command goes on behind it. Problems that the file holds winners of already, made by this
//! version of the kernels on this device, are left alone, unless the time cut short the run-off that they won.

use super::devices::{devices, kinds};
use super::output::{Output, counted};
use super::programs::Programs;
use super::transfer::read_profile;
use super::tune::{database_folder, go_on, worker};
use super::{EXIT_NO_WINNER, EXIT_OK, EXIT_STOPPED};
use crate::Error;
use crate::data::{HeadSource, MODELS};
use crate::files::can_be_written;
use crate::progress::{Console, Progress, Silent};
use crate::search::Ended;
use crate::stop::Stop;
use crate::task::Task;
use crate::tuning::{Report, Scope, Tuner, host_name, tuning_device};
use crate::worker::WorkerCommand;
use cce_codegen::problem::DType;
use cce_runtime::{Device, DeviceKind, Gradients, selection};
use cce_tuning_db::{Generation, Key, KeyWinners, Profile, Provenance, Winner};
use clap::Args;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Debug, Args)]
pub(super) struct ProfileArgs {
    /// The device: auto (the first GPU, else the CPU device), cpu, the index of a GPU, or all GPUs, which are of one kind
    /// and take a problem each.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|INDEX|all")]
    pub(super) gpu: super::values::Gpu,
    /// Heads: all of the models below, some of them by name, or any as HIDDENxVOCAB, separated by commas. The models:
    /// gpt-2, smollm2-135m, llama-3-8b, qwen-2.5-7b, gemma-2-2b, gemma-3-27b.
    #[arg(long, default_value = "all", value_name = "HEADS", value_delimiter = ',', value_parser = heads)]
    pub(super) heads: Vec<Vec<HeadShape>>,
    /// Numbers of tokens, separated by commas; a plan finds the nearest power of two.
    #[arg(long, default_value = "2048,8192,32768", value_name = "N,...", value_delimiter = ',',
          value_parser = super::values::count)]
    pub(super) tokens: Vec<usize>,
    /// What is minimised, separated by commas: the time of the loss alone (loss), or with gradients (gradients,
    /// hidden, classifier).
    #[arg(long, default_value = "gradients,loss", value_name = "OBJECTIVE,...", value_delimiter = ',',
          value_parser = super::values::objective)]
    pub(super) objective: Vec<cce_runtime::Gradients>,
    /// A shipped loss by its name, or a file saved with Program::save.
    #[arg(long, default_value = "cross_entropy", value_name = "NAME|FILE")]
    pub(super) loss: String,
    /// Type of hidden states and classifier: f32, f16, bf16 [default: bf16 on a GPU, f32 on the CPU device].
    #[arg(long, value_name = "TYPE", value_parser = super::values::dtype)]
    pub(super) dtype: Option<cce_codegen::problem::DType>,
    /// The filter, as for tuning [default: that of a plan].
    #[arg(long, value_name = "FILTER", value_parser = super::values::filter)]
    pub(super) filter: Option<cce_codegen::problem::Filter>,
    /// A value for a Scalar input of the loss; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::values::scalar)]
    pub(super) scalar: Vec<(String, f32)>,
    /// The seed of the generated heads.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub(super) seed: u64,
    /// Try only the first candidates of each problem, at most so many.
    #[arg(long, value_name = "COUNT", value_parser = super::values::count)]
    pub(super) candidates: Option<usize>,
    /// How long one problem may take: 20s, 2m, 1h; or none.
    #[arg(long, default_value = "60s", value_name = "TIME|none", value_parser = super::values::budget)]
    pub(super) budget: super::values::Budget,
    /// Measure again what the file or the database holds already.
    #[arg(long)]
    pub(super) again: bool,
    /// Winners kept a problem: the next is taken where the best does not fit a call.
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = super::values::count)]
    pub(super) keep: usize,
    /// The profile's name [default: the file's].
    #[arg(long, value_name = "NAME", value_parser = super::values::name)]
    pub(super) name: Option<String>,
    /// The profile. What it holds already for other problems stays.
    #[arg(long, value_name = "FILE")]
    pub(super) out: std::path::PathBuf,
}

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
    can_be_written(&args.out)?;
    let program = programs.find(&args.loss)?;
    let kinds = kinds(devices(args.gpu, "tuning")?)?;
    let [devices] = kinds.as_slice() else {
        let names = kinds.iter().flatten().map(|device| device.properties().name.clone());
        let names = names.collect::<Vec<_>>().join(", ");
        let reason = format!("a profile is of one kind of device, found {names}; name one with --gpu INDEX");
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
    let first = devices.first().ok_or(Error::NoCandidate)?;
    let keyed = tuning_device(first)?;
    let console = Console::new();
    let folder = database_folder()?;
    let making = Making {
        args,
        output,
        stop,
        console: &console,
        folder: &folder,
        worker: worker()?.among(devices.len()),
        generation: selection::generation(&keyed),
        keyed,
        items: items(args, &program, first),
        made: Mutex::new(Made {
            profile: Collected::open(&args.out, name, args.keep)?,
            values: Vec::new(),
            told: HashSet::new(),
            open: 0,
            code: EXIT_OK,
        }),
    };
    if let [device] = devices.as_slice() {
        (0..making.items.len()).try_for_each(|number| making.item(device, number, &console))?;
    } else {
        console.begin(making.items.len() as u64);
        let made = shared(devices, making.items.len(), |device, number| {
            making.item(device, number, &Silent).inspect(|()| console.step(1))
        });
        console.end();
        made?;
    }
    let Made { profile, mut values, open, code, .. } =
        making.made.into_inner().unwrap_or_else(PoisonError::into_inner);
    values.sort_by_key(|(number, _)| *number);
    let values: Vec<Value> = values.into_iter().map(|(_, value)| value).collect();
    let text = ended_text(code, &args.out, profile.profile.entries.len(), open, args.again);
    let value = json!({
        "schema": 1, "database": folder, "profile": args.out, "problems": values, "undecided": open,
    });
    output.either(|| text, &value)?;
    Ok(code)
}

/// Numbers below `count`, taken by lanes one after the other as each is done with the one before. No lane takes another
/// when one failed.
///
/// # Errors
/// The first that was.
fn shared<L: Sync>(
    lanes: &[L],
    count: usize,
    work: impl Fn(&L, usize) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    let lane = |lane: &L| {
        loop {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= count {
                return;
            }
            if let Err(error) = work(lane, number) {
                next.store(count, Ordering::SeqCst);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    };
    std::thread::scope(|scope| lanes.iter().for_each(|one| drop(scope.spawn(|| lane(one)))));
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// A profile in the making.
struct Making<'a> {
    args: &'a ProfileArgs,
    output: &'a Output,
    stop: &'a Stop,
    console: &'a Console,
    folder: &'a Path,
    worker: WorkerCommand,
    keyed: cce_tuning_db::Device,
    generation: Generation,
    items: Vec<Item>,
    made: Mutex<Made>,
}

/// What is done of it.
struct Made {
    profile: Collected,
    /// By the problem's number.
    values: Vec<(usize, Value)>,
    /// What was said besides: once.
    told: HashSet<String>,
    /// Problems whose run-off is open.
    open: u64,
    code: u8,
}

impl Making<'_> {
    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tunes a problem, unless the file holds its winners, and writes the file anew. Nothing, once it was stopped.
    fn item(&self, device: &Device, number: usize, progress: &dyn Progress) -> Result<(), Error> {
        if self.made().code == EXIT_STOPPED {
            return Ok(());
        }
        let (args, item) = (self.args, &self.items[number]);
        let tuner = Tuner {
            budget: args.budget.0,
            scope: Scope { candidates: args.candidates, ..Scope::default() },
            again: args.again,
            scalars: args.scalar.clone(),
            ..Tuner::new(self.folder, progress, self.stop)
        };
        let place = format!("[{}/{}] {}", number + 1, self.items.len(), item.text());
        let plan = item.task.builder().build(device)?;
        let key = selection::key(&item.task.program, plan.problem(), self.keyed.clone())?;
        let is_known = |winner: &&Winner| is_done(winner, &self.generation) && !args.again;
        let known = self.made().profile.winner(&key).filter(is_known).map(|winner| winner.median);
        if let Some(ms) = known {
            let value = json!({"problem": item.text(), "key": key, "state": "known", "ms": ms});
            self.made().values.push((number, value));
            return say(self.output, &format!("{place}: {ms:.3} ms, in {} already\n", args.out.display()));
        }
        let started = Instant::now();
        let source = HeadSource::Generated { seed: args.seed };
        let on = std::slice::from_ref(device);
        let report = tuner.tune_in_workers(&item.task, on, (&source, item.task.tokens), &self.worker)?;
        for note in &report.notes {
            if self.made().told.insert(note.clone()) {
                self.console.note(note);
            }
        }
        let (line, mut value) = described(&report, started.elapsed().as_secs_f64(), args.again);
        value["problem"] = json!(item.text());
        let mut made = self.made();
        made.values.push((number, value));
        say(self.output, &format!("{place}: {line}\n"))?;
        match (report.ended, report.ranking.winner()) {
            (Ended::Stopped, _) => made.code = EXIT_STOPPED,
            (_, None) if made.code != EXIT_STOPPED => made.code = EXIT_NO_WINNER,
            (_, None) => {}
            (_, Some(_)) => {
                made.open += u64::from(report.undecided > 0);
                made.profile.replace(&report);
                made.profile.write(&args.out)?;
            }
        }
        Ok(())
    }
}

/// A line as soon as it is true; JSON comes at the end, in one piece.
fn say(output: &Output, line: &str) -> Result<(), Error> {
    if output.is_json() { Ok(()) } else { output.text(line) }
}

/// Whether a stored winner is what tuning would come to again: of these kernels, and compared to the end.
fn is_done(winner: &Winner, generation: &Generation) -> bool {
    winner.generation == *generation && !winner.settled.is_some_and(|settled| settled.cut_short)
}

/// The last line: what the file at `out` holds now, if it was made at all, and whether there is more to do.
fn ended_text(code: u8, out: &Path, held: usize, open: u64, again: bool) -> String {
    let holds = match held {
        0 if !out.exists() => "nothing was written yet".to_owned(),
        _ => format!("{} holds winners for {}", out.display(), counted(held as u64, "problem")),
    };
    let stopped = if code == EXIT_STOPPED { "stopped; " } else { "" };
    let more = if code == EXIT_STOPPED || open > 0 { format!(", {}", go_on(again)) } else { String::new() };
    format!("{stopped}{holds}{}{more}\n", open_text(open))
}

/// Of how many problems the run-off is open.
fn open_text(problems: u64) -> String {
    match problems {
        0 => String::new(),
        _ => format!("; of {} the time cut the run-off short", counted(problems, "problem")),
    }
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

fn described(report: &Report, seconds: f64, again: bool) -> (String, Value) {
    let best = report.ranking.winner().and_then(|winner| winner.ms);
    let default = report.ranking.default().and_then(|default| default.ms);
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
    let line = match (report.ended, best, report.undecided) {
        (Ended::Stopped, ..) | (_, None, _) | (_, _, 0) => line,
        (.., undecided) => format!(
            "{line}; {} near the best not compared, {}",
            counted(undecided as u64, "candidate"),
            go_on(again)
        ),
    };
    let state = match (report.ended, best) {
        (Ended::Stopped, _) => "stopped",
        (_, None) => "no winner",
        _ => "tuned",
    };
    let value = json!({
        "key": report.key, "state": state, "ms": best, "default_ms": default, "seconds": seconds,
        "undecided": report.undecided,
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
            let (profile, skipped) = read_profile(path)?;
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
        let trials = report.ranking.entries.iter().map(|entry| &entry.trial);
        let mut chosen = KeyWinners::choose(report.key.clone(), trials);
        chosen.winners.truncate(self.keep);
        // The file says what is open, as the database's trials do together: it may be gone on with without them.
        if let Some(first) = chosen.winners.first_mut().filter(|_| report.undecided > 0) {
            first.settled = first.settled.map(|settled| settled.in_a_cut(true));
        }
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
    fn lanes_share_what_there_is_and_take_no_more_when_one_fails() {
        let taken = Mutex::new(Vec::new());
        let count = || taken.lock().unwrap().len();
        let take = |lane: &char, number: usize| {
            // A lane that is slow leaves all that it has not taken to the other.
            while *lane == 'b' && count() < 19 {
                std::thread::yield_now();
            }
            taken.lock().unwrap().push(number);
            Ok(())
        };
        shared(&['a', 'b'], 20, take).unwrap();
        let mut all = std::mem::take(&mut *taken.lock().unwrap());
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..20), "{all:?}");
        let fails = |lane: &char, number: usize| {
            if number == 3 { Err(Error::NoCandidate) } else { take(lane, number) }
        };
        assert!(matches!(shared(&['a'], 20, fails), Err(Error::NoCandidate)));
        assert_eq!(*taken.lock().unwrap(), [0, 1, 2]);
    }

    #[test]
    fn the_end_speaks_of_a_file_only_where_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("ci.json");
        let stopped = ended_text(EXIT_STOPPED, &out, 0, 0, false);
        assert_eq!(stopped, "stopped; nothing was written yet, run again to go on\n");
        assert_eq!(ended_text(EXIT_NO_WINNER, &out, 0, 0, false), "nothing was written yet\n");
        std::fs::write(&out, "{}").unwrap();
        let holds = format!("{} holds winners for ", out.display());
        assert_eq!(ended_text(EXIT_OK, &out, 2, 0, false), format!("{holds}2 problems\n"));
        let kept = ended_text(EXIT_STOPPED, &out, 1, 0, false);
        assert_eq!(kept, format!("stopped; {holds}1 problem, run again to go on\n"));
        let open = ended_text(EXIT_OK, &out, 2, 1, false);
        let words = "2 problems; of 1 problem the time cut the run-off short, run again to go on\n";
        assert_eq!(open, format!("{holds}{words}"));
    }

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
