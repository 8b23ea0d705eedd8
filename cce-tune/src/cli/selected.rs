//! The stored problems that a command is about, with their names, and files of their own.

use super::programs::Programs;
use super::show::Names;
use crate::Error;
use crate::exchange::{Problem, problems};
use cce_runtime::selection;
use cce_tuning_db::{Key, ProgramHash, Record};
use clap::Args;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Which of the stored problems.
#[derive(Debug, Args)]
pub(super) struct SelectedArgs {
    /// Only those of this loss: a name, or a file.
    #[arg(long, value_name = "NAME|FILE")]
    pub(super) loss: Option<String>,
    /// Only problems whose description, as `cce-tune show` prints it, contains this; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(super) only: Vec<String>,
}

impl SelectedArgs {
    /// Whether they choose at all.
    pub(super) fn chooses(&self) -> bool {
        self.loss.is_some() || !self.only.is_empty()
    }

    /// As on the command line.
    pub(super) fn stated(&self) -> String {
        let loss = self.loss.iter().map(|loss| format!("--loss {loss}"));
        let only = self.only.iter().map(|part| format!("--only {part}"));
        loss.chain(only).collect::<Vec<_>>().join(" ")
    }
}

/// A problem with its description.
pub(super) struct Selected {
    /// The loss.
    pub(super) loss: String,
    /// The device.
    pub(super) device: String,
    /// Shape, type, what is computed, filter.
    pub(super) problem: String,
    /// The trials that count.
    pub(super) of: Problem,
}

/// Which keys a command is about.
pub(super) struct Selector<'a> {
    names: Names<'a>,
    loss: Option<ProgramHash>,
    only: &'a [String],
}

impl<'a> Selector<'a> {
    pub(super) fn new(
        args: &'a SelectedArgs,
        programs: &'a Programs,
        folder: &'a Path,
    ) -> Result<Selector<'a>, Error> {
        let loss = match &args.loss {
            Some(name) => Some(ProgramHash::from_bytes(programs.find(name)?.hash())),
            None => None,
        };
        Ok(Selector { names: Names::new(programs, folder), loss, only: &args.only })
    }

    /// The losses of keys.
    pub(super) fn names(&mut self) -> &mut Names<'a> {
        &mut self.names
    }

    /// Loss, device and problem of a key, if it is one of those that are asked for.
    pub(super) fn described(&mut self, key: &Key) -> Option<[String; 3]> {
        if self.loss.is_some_and(|loss| loss != key.program) {
            return None;
        }
        let described = self.names.described(key);
        let text = described.join(", ");
        self.only.iter().all(|part| text.contains(part.as_str())).then_some(described)
    }

    /// The problems of these records that are asked for.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn problems(&mut self, records: Vec<Record>) -> Result<Vec<Selected>, Error> {
        let all = problems(records, |key| selection::generation(&key.device));
        let stored = all.len();
        let selected: Vec<Selected> = all
            .into_iter()
            .filter_map(|of| {
                let [loss, device, problem] = self.described(&of.key)?;
                Some(Selected { loss, device, problem, of })
            })
            .collect();
        match selected.is_empty() {
            false => Ok(selected),
            true => Err(none_of(stored)),
        }
    }
}

/// Of so many stored problems none is the one that a command is about.
pub(super) fn none_of(stored: usize) -> Error {
    let reason = match stored {
        0 => "no trial is stored; run cce-tune first".to_owned(),
        1 => "the only stored problem is not the one asked for; without --loss and --only it is taken"
            .to_owned(),
        _ => format!(
            "none of the {stored} stored problems is the one asked for; without --loss and --only all are taken"
        ),
    };
    Error::Nothing { reason }
}

/// How many problems these keys are of.
pub(super) fn distinct<'a>(keys: impl Iterator<Item = &'a Key>) -> usize {
    // What cannot be encoded was never stored.
    keys.filter_map(|key| key.encode().ok()).collect::<BTreeSet<_>>().len()
}

impl Selected {
    /// A name for a file: letters, digits, dots and dashes.
    pub(super) fn slug(&self) -> String {
        let text = format!("{} {} {}", self.loss, self.problem, self.device).to_lowercase();
        let plain: String =
            text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { ' ' }).collect();
        let words: Vec<&str> = plain.split_whitespace().collect();
        words.join("-").chars().take(150).collect()
    }
}

/// A path for each problem in a folder: its slug, with a number where two have the same.
pub(super) fn paths(folder: &Path, selected: &[Selected], extension: &str) -> Vec<PathBuf> {
    let mut taken: Vec<String> = Vec::new();
    let path = |one: &Selected| {
        let slug = one.slug();
        let numbered = (2..).map(|number| format!("{slug}-{number}"));
        let name = std::iter::once(slug.clone()).chain(numbered).find(|name| !taken.contains(name));
        let name = name.unwrap_or(slug);
        taken.push(name.clone());
        folder.join(format!("{name}.{extension}"))
    };
    selected.iter().map(path).collect()
}
