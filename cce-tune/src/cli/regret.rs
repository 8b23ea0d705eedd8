//! `cce-tune regret`: what selection costs shapes that were not tuned.

use super::EXIT_OK;
use super::output::{Output, counted, table};
use super::replay::{median_and_worst, read};
use crate::Error;
use crate::regret::{Regret, regrets};
use clap::Args;
use serde_json::json;

#[derive(Debug, Args)]
pub(super) struct RegretArgs {
    /// Recordings of several shapes (cce-tune --record FILE), exports of trials, or folders of databases.
    #[arg(required = true)]
    pub(super) trials: Vec<std::path::PathBuf>,
    /// Near shapes whose winners are judged together: 1 takes the nearest's [default: that of a plan].
    #[arg(long, default_value_t = cce_tuning_db::CONSULTED, hide_default_value = true, value_name = "COUNT", value_parser = super::values::count)]
    pub(super) consulted: usize,
}

pub(super) fn run(args: &RegretArgs, output: &Output) -> Result<u8, Error> {
    let recordings = read(&args.trials)?;
    let regrets = regrets(&recordings, args.consulted)?;
    if regrets.is_empty() {
        let reason = format!(
            "of {} none says anything of another: give at least two of the same loss, type, filter and gradients",
            counted(recordings.len() as u64, "recording")
        );
        return Err(Error::Nothing { reason });
    }
    let of = |value: fn(&Regret) -> Option<f64>| -> Vec<f64> { regrets.iter().filter_map(value).collect() };
    let (selected, default) = (of(|regret| regret.selected), of(|regret| regret.default));
    let text = || {
        let rows: Vec<Vec<String>> = regrets.iter().map(row).collect();
        let header = ["held out", "selected", "default", "grade", ""];
        let summary = |what: &str, values: &[f64]| {
            let (median, worst) = median_and_worst(values);
            format!(
                "{what}: median {:.1} %, worst {:.1} % over the recorded best\n",
                100.0 * median,
                100.0 * worst
            )
        };
        format!(
            "{}\n{}{}",
            table(&header, &rows, &[1, 2]),
            summary("selected from the others", &selected),
            summary("the default schedules", &default)
        )
    };
    let value = json!({
        "schema": 1,
        "held_out": regrets.iter().map(|regret| json!({
            "recording": regret.name,
            "grade": regret.grade.to_string(),
            "selected": regret.selected,
            "recorded": regret.recorded,
            "default": regret.default,
            "passed": regret.passed,
        })).collect::<Vec<_>>(),
    });
    output.either(text, &value)?;
    Ok(EXIT_OK)
}

fn row(regret: &Regret) -> Vec<String> {
    let percent = |value: Option<f64>| value.map_or("-".to_owned(), |over| format!("{:.1} %", 100.0 * over));
    let mut notes = Vec::new();
    match (regret.selected, regret.recorded) {
        (None, _) => notes.push("nothing with its tiles was recorded".to_owned()),
        (Some(_), false) => notes.push("the nearest with its tiles".to_owned()),
        (Some(_), true) => {}
    }
    if regret.passed > 0 {
        notes.push(format!("{} passed over", counted(regret.passed as u64, "schedule")));
    }
    vec![
        regret.name.clone(),
        percent(regret.selected),
        percent(regret.default),
        regret.grade.to_string(),
        notes.join(", "),
    ]
}
