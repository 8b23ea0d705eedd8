//! `cce-tune regret --measure`: what selection costs shapes that were not tuned, measured on the device.

use super::devices::{Elsewhere, devices};
use super::generated::Generated;
use super::output::{Output, counted, table};
use super::regret::{RegretArgs, nothing};
use super::replay::median_and_worst;
use super::tune::worker;
use super::{EXIT_OK, EXIT_STOPPED};
use crate::Error;
use crate::progress::{Console, Progress};
use crate::recording::Recording;
use crate::regret::{Compared, Measured, Measuring, measured};
use crate::stop::Stop;
use crate::stored;
use crate::tuning::tuning_device;
use crate::worker::{Refusal, RemoteBench};
use cce_codegen::ir::Program;
use cce_codegen::schedule::Schedule;
use cce_runtime::{Device, selection};
use cce_tuning_db::Key;
use serde_json::json;

/// Measures each of `asked` whose device is here, with the other recordings as the database.
pub(super) fn run(
    args: &RegretArgs,
    asked: &[&Recording],
    recordings: &[Recording],
    program: impl Fn(&Key) -> Option<Program>,
    output: &Output,
    stop: &Stop,
) -> Result<u8, Error> {
    let console = Console::new();
    let generated = Generated { worker: worker()?, seed: args.seed, scalars: &args.scalar };
    let mut here = Vec::new();
    for device in devices(args.gpu, "measuring on")? {
        here.push((tuning_device(&device)?, device));
    }
    let (mut lines, mut left_out): (Vec<(&str, Measured)>, Vec<String>) = (Vec::new(), Vec::new());
    let mut elsewhere = Elsewhere::default();
    for held_out in asked {
        let Some((_, device)) = here.iter().find(|(keyed, _)| *keyed == held_out.key.device) else {
            elsewhere.add(&held_out.key.device);
            continue;
        };
        let Some(program) = program(&held_out.key) else {
            left_out.push(format!("{}: its loss is not known here", held_out.name));
            continue;
        };
        console.note(&format!("measuring {}", held_out.name));
        let mut refusal = Refusal::default();
        let bench = |first| {
            let bench = bench(&generated, &program, held_out, device, first)?;
            refusal = bench.refusal();
            Ok(bench)
        };
        let measuring = Measuring { consulted: args.consulted, rounds: args.rounds };
        let found = measured(held_out, recordings, &program, &measuring, bench, stop);
        match found.map_err(|error| refusal.instead_of(error))? {
            Some(mut found) => {
                let now = selection::generation(&held_out.key.device);
                if held_out.generation != now {
                    found.notes.push(format!("stored by {}, this is {now}", held_out.generation));
                }
                lines.push((&held_out.name, found));
            }
            None if stop.requested() => break,
            None => left_out.push(format!("{}: no other problem says anything of it", held_out.name)),
        }
    }
    let stopped = stop.requested();
    if lines.is_empty() && !stopped {
        let names: Vec<&str> = here.iter().map(|(keyed, _)| keyed.name()).collect();
        return Err(match (left_out.as_slice(), elsewhere.left_out()) {
            ([], None) => nothing(asked.len()),
            ([], Some(_)) => Error::Nothing { reason: elsewhere.only(&names) },
            (some, line) => {
                let all: Vec<&str> = some.iter().chain(&line).map(String::as_str).collect();
                Error::Nothing { reason: format!("nothing was measured; {}", all.join("; ")) }
            }
        });
    }
    left_out.extend(elsewhere.left_out());
    let value = json!({
        "schema": 1,
        "measured": lines.iter().map(|(name, found)| json!({
            "recording": name,
            "grade": found.grade.to_string(),
            "winner": found.winner,
            "winner_ms": found.winner_ms,
            "selected": compared(&found.selected),
            "default": compared(&found.default),
            "notes": found.notes,
        })).collect::<Vec<_>>(),
        "left_out": left_out,
        "stopped": stopped,
    });
    output.either(|| text(&lines, &left_out, stopped), &value)?;
    Ok(if stopped { EXIT_STOPPED } else { EXIT_OK })
}

/// A worker with inputs of a problem; `first` is a schedule that can run it.
fn bench(
    generated: &Generated<'_>,
    program: &Program,
    held_out: &Recording,
    device: &Device,
    first: Schedule,
) -> Result<RemoteBench, Error> {
    let task = stored::task(program, &held_out.key, held_out.shape)
        .map_err(|reason| Error::Nothing { reason: format!("{}: {reason}", held_out.name) })?;
    let slowest = held_out.trials.iter().filter_map(|trial| trial.time).map(|(ms, _)| ms).fold(0.0, f64::max);
    generated.bench(device, &task, first, slowest).map(|(bench, _)| bench)
}

fn compared(compared: &Compared) -> serde_json::Value {
    let (regret, failure) = match &compared.regret {
        Ok(regret) => (Some(regret), None),
        Err(failure) => (None, Some(failure)),
    };
    json!({ "schedule": compared.schedule, "regret": regret, "failure": failure })
}

fn text(lines: &[(&str, Measured)], left_out: &[String], stopped: bool) -> String {
    let percent = |compared: &Compared| match &compared.regret {
        Ok(regret) => format!("{:.1} %", 100.0 * regret),
        Err(failure) => failure.clone(),
    };
    let rows = lines.iter().map(|(name, found)| {
        vec![
            (*name).to_owned(),
            format!("{:.3}", found.winner_ms),
            percent(&found.selected),
            percent(&found.default),
            found.grade.to_string(),
            found.notes.join("; "),
        ]
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let mut text = table(&["held out", "winner ms", "selected", "default", "grade", ""], &rows, &[1, 2, 3]);
    text += "\n";
    let mut summary = |what: &str, of: fn(&Measured) -> &Compared| {
        let regrets: Vec<f64> =
            lines.iter().filter_map(|(_, found)| of(found).regret.as_ref().ok().copied()).collect();
        if !regrets.is_empty() {
            let (median, worst) = median_and_worst(&regrets);
            text += &format!(
                "{what}, of {}: median {:.1} %, worst {:.1} % over the winner\n",
                counted(regrets.len() as u64, "problem"),
                100.0 * median,
                100.0 * worst
            );
        }
    };
    summary("selected from the others", |found| &found.selected);
    summary("the default schedules", |found| &found.default);
    text.extend(left_out.iter().map(|line| format!("left out: {line}\n")));
    if stopped {
        text += "stopped before the end\n";
    }
    text
}
