//! `cce-tune report`, and `--report` after tuning: pages for people.

use super::EXIT_OK;
use super::output::Output;
use super::programs::Programs;
use super::selected::SelectedArgs;
use super::selected::{Selected, Selector, paths};
use super::transfer::existing;
use crate::Error;
use crate::files::{can_be_written, place_of, whole_text};
use crate::floor::Peak;
use crate::report::{Entry, Page, index};
use crate::stored::{self, schedule_text};
use cce_codegen::schedule::{GpuSchedule, Schedule};
use cce_runtime::selection;
use cce_tuning_db::{ConfigHash, Database, Key, Record};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The page. Where there are several problems, an index, with a page of each beside it.
    #[arg(long, value_name = "FILE.html", default_value = "cce-tune-report.html")]
    pub(super) out: std::path::PathBuf,
    #[command(flatten)]
    pub(super) selected: SelectedArgs,
    #[command(flatten)]
    pub(super) peak: PeakArgs,
}

/// What the device can do at most, where no data sheet is known or another limit holds.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct PeakArgs {
    /// The device's peak in 10^12 operations a second in the problem's type, from which follows the least time that a
    /// schedule can take [default: at the highest clock, where the architecture is known].
    #[arg(long, value_name = "TFLOPS", value_parser = super::values::positive, requires = "bandwidth")]
    pub(super) peak: Option<f64>,
    /// The device's memory bandwidth in 10^9 bytes a second.
    #[arg(long, value_name = "GB/S", value_parser = super::values::positive, requires = "peak")]
    pub(super) bandwidth: Option<f64>,
}

impl PeakArgs {
    /// The peak, if one is stated.
    pub(super) fn stated(self) -> Option<crate::floor::Peak> {
        let (tera, giga) = (self.peak?, self.bandwidth?);
        Some(crate::floor::Peak { flops: tera * 1e12, bandwidth: Some(giga * 1e9) })
    }
}

pub(super) fn run(args: &ReportArgs, programs: &Programs, output: &Output) -> Result<u8, Error> {
    can_be_written(&args.out)?;
    let (folder, mut database) = existing()?;
    let mut selector = Selector::new(&args.selected, programs, &folder)?;
    let records = database.records()?;
    let selected = selector.problems(records.clone())?;
    let files = write(&args.out, &selected, &records, args.peak.stated(), programs, &folder)?;
    said(output, &files)
}

/// The pages of the problems that were tuned just now; none if that was stopped before anything was stored.
pub(super) fn after_tuning(
    out: &Path,
    keys: &[Key],
    peak: Option<Peak>,
    programs: &Programs,
    folder: &Path,
) -> Result<Vec<PathBuf>, Error> {
    let mut records = Database::open(folder)?.records()?;
    records.retain(|record| keys.contains(&record.key));
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let all = SelectedArgs { loss: None, only: Vec::new() };
    let selected = Selector::new(&all, programs, folder)?.problems(records.clone())?;
    write(out, &selected, &records, peak, programs, folder)
}

fn said(output: &Output, files: &[PathBuf]) -> Result<u8, Error> {
    let lines = || files.iter().map(|file| format!("written to {}\n", file.display())).collect();
    output.either(lines, &json!({"schema": 1, "files": files}))?;
    Ok(EXIT_OK)
}

/// One page, or an index and one page a problem. Returns what was written, what is to be opened first.
fn write(
    out: &Path,
    selected: &[Selected],
    records: &[Record],
    peak: Option<Peak>,
    programs: &Programs,
    folder: &Path,
) -> Result<Vec<PathBuf>, Error> {
    let page = |one: &Selected| {
        let trials =
            records.iter().filter(|record| record.key == one.of.key).map(|record| record.trial.clone());
        let mut page =
            Page::new(one.loss.clone(), one.problem.clone(), &one.of, trials.collect(), schedule_text);
        page.default = default(one, programs, folder);
        page.peak = peak.or(page.peak);
        page.html()
    };
    // Where a link leads, the pages are beside their index.
    let out = &place_of(out)?;
    if let [one] = selected {
        whole_text(out, &page(one))?;
        return Ok(vec![out.into()]);
    }
    let beside = out.parent().unwrap_or(Path::new(""));
    let stem = out.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let mut files = vec![out.to_path_buf()];
    let mut entries = Vec::new();
    for (one, path) in selected.iter().zip(paths(beside, selected, "html")) {
        let name =
            path.file_name().map_or_else(String::new, |name| format!("{stem}-{}", name.to_string_lossy()));
        let file = beside.join(&name);
        whole_text(&file, &page(one))?;
        entries.push(Entry {
            loss: one.loss.clone(),
            problem: one.problem.clone(),
            device: one.device.clone(),
            best: one.of.best(),
            configurations: one.of.trials.len(),
            file: name,
        });
        files.push(file);
    }
    whole_text(out, &index(&entries))?;
    Ok(files)
}

/// The schedule that this version uses for a problem where nothing is tuned.
fn default(one: &Selected, programs: &Programs, folder: &Path) -> Option<ConfigHash> {
    let key = &one.of.key;
    let program = programs.with_hash(folder, &key.program)?;
    let task = stored::task(&program, key, one.of.trials.first()?.shape).ok()?;
    let schedule = match selection::gpu_of(&key.device) {
        Some(gpu) => Schedule::Gpu(GpuSchedule::default_for(&program, &task.gpu_problem().ok()?, &gpu)),
        None => {
            let plan = task.builder().build(&cce_runtime::Device::cpu()).ok()?;
            Schedule::Cpu(*selection::cpu_space(plan.problem()).first()?)
        }
    };
    Some(selection::config(&schedule).ok()?.hash())
}
