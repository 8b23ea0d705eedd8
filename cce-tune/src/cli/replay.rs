//! `cce-tune replay`: strategies on recorded trials.

use super::EXIT_OK;
use super::output::{Output, counted, table};
use super::programs::Programs;
use super::recorded::read;
use super::show::Names;
use super::transfer::is_profile;
use crate::Error;
use crate::recording::Recording;
use crate::strategy::replay::{LIMITS, Played, experience, play};
use crate::strategy::{Experience, Kind};
use cce_runtime::selection;
use clap::Args;
use rayon::prelude::*;
use serde_json::json;
use std::path::Path;

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// Recordings (cce-tune --record FILE), exports of trials, or folders of databases.
    #[arg(required = true)]
    pub(super) trials: Vec<std::path::PathBuf>,
    /// Only this strategy; may be given several times.
    #[arg(long, value_name = "STRATEGY")]
    pub(super) strategy: Vec<crate::strategy::Kind>,
    /// Runs of each, with another seed.
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = super::values::count)]
    pub(super) seeds: usize,
    /// Schedules that are chosen at a time.
    #[arg(long, default_value_t = crate::strategy::replay::BATCH, value_name = "COUNT", value_parser = super::values::count)]
    pub(super) batch: usize,
    /// Let each recording's search learn from the others of its loss, as a database's trials do.
    #[arg(long)]
    pub(super) learn: bool,
}

/// One strategy on one recording, over the seeds.
struct Line<'a> {
    recording: &'a Recording,
    kind: Kind,
    played: Vec<Played>,
}

pub(super) fn run(args: &ReplayArgs, programs: &Programs, output: &Output) -> Result<u8, Error> {
    for path in &args.trials {
        if is_profile(path) {
            let reason = "it is a profile, which holds winners alone, and a search needs all that was tried; give \
                          a recording (cce-tune --record FILE) or an export of trials (cce-tune export FILE). \
                          `cce-tune regret` reads profiles";
            return Err(Error::Recording { path: path.clone(), reason: reason.to_owned() });
        }
    }
    let folder = selection::folder();
    let folder = folder.as_deref().unwrap_or(Path::new("."));
    let recordings = read(&args.trials, &mut Names::new(programs, folder))?;
    let kinds: Vec<Kind> = match args.strategy.as_slice() {
        [] => Kind::ALL.into(),
        some => some.into(),
    };
    let mut lines: Vec<Line<'_>> = Vec::new();
    for recording in &recordings {
        let known = if args.learn { experience(recording, &recordings) } else { Experience::default() };
        for &kind in &kinds {
            let seeds: Vec<u64> = (0..args.seeds as u64).collect();
            let played = seeds.par_iter().filter_map(|&seed| play(recording, kind, seed, args.batch, &known));
            lines.push(Line { recording, kind, played: played.collect() });
        }
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| row(&line.recording.name, line.kind, &shares(std::slice::from_ref(line))))
        .collect();
    let totals: Vec<Vec<String>> = kinds
        .iter()
        .map(|&kind| {
            let of: Vec<&Line<'_>> = lines.iter().filter(|line| line.kind == kind).collect();
            row("all", kind, &shares(of))
        })
        .collect();
    let text = || {
        let header = [
            "recording",
            "schedules",
            "strategy",
            "within 5 %",
            "2 %",
            "1 %",
            "never 2 %",
            "trials in all",
            "winner over best",
        ];
        let rows: Vec<Vec<String>> = rows.iter().chain(&totals).cloned().collect();
        let text = table(&header, &rows, &[1]);
        format!(
            "{text}\nTrials until a winner so near the recorded best, in hundredths of those of an exhaustive search: \
             median, worst of {} ({} each)\n",
            counted(recordings.len() as u64, "recording"),
            counted(args.seeds as u64, "seed"),
        )
    };
    let value = json!({
        "schema": 1,
        "seeds": args.seeds,
        "batch": args.batch,
        "limits": LIMITS,
        "played": lines.iter().map(|line| json!({
            "recording": line.recording.name,
            "schedules": line.recording.trials.len(),
            "strategy": line.kind.name(),
            "runs": line.played.iter().map(|played| json!({
                "trials": played.trials, "within": played.within, "winner": played.winner,
            })).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    });
    output.either(text, &value)?;
    Ok(EXIT_OK)
}

/// What the table shows of one or several lines: of each run its fractions of the exhaustive search.
struct Shares {
    schedules: Option<usize>,
    within: [Vec<f64>; 3],
    never: usize,
    trials: Vec<f64>,
    winners: Vec<f64>,
}

fn shares<'a, L: std::borrow::Borrow<Line<'a>>>(lines: impl IntoIterator<Item = L>) -> Shares {
    let mut shares =
        Shares { schedules: None, within: Default::default(), never: 0, trials: vec![], winners: vec![] };
    let mut count = 0;
    for line in lines {
        let line = line.borrow();
        let all = line.recording.trials.len();
        (shares.schedules, count) = ((count == 0).then_some(all), count + 1);
        for played in &line.played {
            for (to, within) in shares.within.iter_mut().zip(played.within) {
                // Who never comes near takes all of them.
                to.push(within.unwrap_or(all) as f64 / all as f64);
            }
            shares.never += usize::from(played.within[1].is_none());
            shares.trials.push(played.trials as f64 / all as f64);
            shares.winners.push(played.winner);
        }
    }
    shares
}

fn row(name: &str, kind: Kind, shares: &Shares) -> Vec<String> {
    let percent = |values: &[f64]| {
        let (median, worst) = median_and_worst(values);
        format!("{:.0}, {:.0}", 100.0 * median, 100.0 * worst)
    };
    let (median, worst) = median_and_worst(&shares.winners);
    let [five, two, one] = &shares.within;
    vec![
        name.to_owned(),
        shares.schedules.map_or(String::new(), |count| count.to_string()),
        kind.name().to_owned(),
        percent(five),
        percent(two),
        percent(one),
        format!("{} of {}", shares.never, shares.winners.len()),
        percent(&shares.trials),
        format!("{median:.3}, {worst:.3}"),
    ]
}

pub(super) fn median_and_worst(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
    (at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}
