//! `cce-tune regret`: what selection costs shapes that were not tuned.

use super::output::{Output, counted, table};
use super::programs::Programs;
use super::recorded::read;
use super::replay::median_and_worst;
use super::selected::{SelectedArgs, Selector};
use super::{EXIT_OK, measured};
use crate::Error;
use crate::recording::Recording;
use crate::regret::{Found, Regret, regrets};
use crate::stop::Stop;
use cce_runtime::selection;
use cce_tuning_db::Key;
use clap::Args;
use serde_json::json;
use std::path::Path;

#[derive(Debug, Args)]
pub(super) struct RegretArgs {
    /// Recordings of several shapes (cce-tune --record FILE), exports of trials, folders of databases, or profiles, of
    /// which the winners alone are known.
    #[arg(required = true)]
    pub(super) trials: Vec<std::path::PathBuf>,
    /// Near problems that are asked; most have to agree with the nearest [default: that of a plan].
    #[arg(long, default_value_t = cce_runtime::selection::CONSULTED, hide_default_value = true, value_name = "COUNT", value_parser = super::values::count)]
    pub(super) consulted: usize,
    /// Measure what is selected, and the default schedule, beside the winner of each problem: on a device of its kind.
    #[arg(long)]
    pub(super) measure: bool,
    #[command(flatten)]
    pub(super) selected: SelectedArgs,
    /// The device that measures: auto (the first GPU, else the CPU device), cpu, the index of a GPU, or all GPUs.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|INDEX|all", requires = "measure")]
    pub(super) gpu: super::values::Gpu,
    /// Timed runs of each schedule.
    #[arg(long, default_value_t = 11, value_name = "COUNT", value_parser = super::values::count, requires = "measure")]
    pub(super) rounds: usize,
    /// A value for a Scalar input of the loss; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::values::scalar, requires = "measure")]
    pub(super) scalar: Vec<(String, f32)>,
    /// The seed of the generated heads.
    #[arg(long, default_value_t = 0, value_name = "NUMBER", requires = "measure")]
    pub(super) seed: u64,
}

pub(super) fn run(args: &RegretArgs, programs: &Programs, output: &Output, stop: &Stop) -> Result<u8, Error> {
    let folder = selection::folder();
    let folder = folder.as_deref().unwrap_or(Path::new("."));
    let mut selector = Selector::new(&args.selected, programs, folder)?;
    let recordings = read(&args.trials, selector.names())?;
    let is_asked = |recording: &&Recording| selector.described(&recording.key).is_some();
    let asked: Vec<&Recording> = recordings.iter().filter(is_asked).collect();
    if asked.is_empty() {
        let known = counted(recordings.len() as u64, "recording");
        let reason =
            format!("{} chooses none of the {known}; without it all are taken", args.selected.stated());
        return Err(Error::Nothing { reason });
    }
    let program = |key: &Key| programs.with_hash(folder, &key.program);
    if args.measure {
        return measured::run(args, &asked, &recordings, program, output, stop);
    }
    let regrets = regrets(&asked, &recordings, args.consulted, program)?;
    if regrets.is_empty() {
        return Err(nothing(asked.len()));
    }
    let is_held_out = |recording: &&&Recording| regrets.iter().any(|regret| regret.name == recording.name);
    let left_out: Vec<String> = asked
        .iter()
        .filter(|recording| !is_held_out(recording))
        .map(|recording| match program(&recording.key) {
            None => format!("{}: its loss is not known here", recording.name),
            Some(_) => format!("{}: no other recording says anything of it", recording.name),
        })
        .collect();
    let of = |value: fn(&Regret) -> Found| -> Vec<f64> {
        regrets.iter().filter_map(|regret| value(regret).over_best).collect()
    };
    let (selected, default) = (of(|regret| regret.selected), of(|regret| regret.default));
    let text = || {
        let rows: Vec<Vec<String>> = regrets.iter().map(row).collect();
        let header = ["held out", "selected", "default", "grade", ""];
        let summary = |what: &str, values: &[f64]| {
            let (median, worst) = median_and_worst(values);
            format!(
                "{what}, of {} where it is known: median {:.1} %, worst {:.1} % over the best\n",
                counted(values.len() as u64, "problem"),
                100.0 * median,
                100.0 * worst
            )
        };
        format!(
            "{}{}\n{}{}",
            table(&header, &rows, &[1, 2]),
            left_out.iter().map(|line| format!("left out: {line}\n")).collect::<String>(),
            summary("selected from the others", &selected),
            summary("the default schedules", &default)
        )
    };
    let value = json!({
        "schema": 2,
        "held_out": regrets.iter().map(|regret| json!({
            "recording": regret.name,
            "grade": regret.grade.to_string(),
            "selected": value_of(&regret.selected),
            "default": value_of(&regret.default),
            "notes": regret.notes,
        })).collect::<Vec<_>>(),
        "left_out": left_out,
    });
    output.either(text, &value)?;
    Ok(EXIT_OK)
}

/// Of so many recordings none could be held out.
pub(super) fn nothing(asked: usize) -> Error {
    let reason = format!(
        "of {} none says anything of another: give at least two of the same loss, type, filter and gradients",
        counted(asked as u64, "recording")
    );
    Error::Nothing { reason }
}

fn row(regret: &Regret) -> Vec<String> {
    let percent = |found: Found| {
        let Some(over) = found.over_best else { return "-".to_owned() };
        let about = if found.recorded { "" } else { "~" };
        let deviation =
            found.deviation.map_or(String::new(), |deviation| format!(" ± {:.1}", 100.0 * deviation));
        format!("{about}{:.1}{deviation} %", 100.0 * over)
    };
    vec![
        regret.name.clone(),
        percent(regret.selected),
        percent(regret.default),
        regret.grade.to_string(),
        regret.notes.join("; "),
    ]
}

fn value_of(found: &Found) -> serde_json::Value {
    json!({ "over_best": found.over_best, "deviation": found.deviation, "recorded": found.recorded })
}
