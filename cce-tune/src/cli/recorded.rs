//! The recordings that a command reads, each called what `cce-tune show` prints of its problem.
//!
//! Invariant: no two of a command's recordings are called the same.

use super::show::Names;
use crate::Error;
use crate::recording::Recording;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// All recordings of these files and folders.
pub(super) fn read(paths: &[PathBuf], names: &mut Names<'_>) -> Result<Vec<Recording>, Error> {
    let (mut recordings, mut files) = (Vec::new(), Vec::new());
    for path in paths {
        for recording in Recording::read(path)? {
            files.push(path.display().to_string());
            recordings.push(recording);
        }
    }
    let problems = recordings.iter().map(|recording| names.described(&recording.key).join(", ")).collect();
    let called = told_apart(problems, &differences(&recordings, &files));
    for (recording, name) in recordings.iter_mut().zip(called) {
        recording.name = name;
    }
    if let Some((nothing, file)) = recordings.iter().zip(&files).find(|(of, _)| of.best().is_none()) {
        let reason = format!("nothing of {} ran, so there is no best to come near", nothing.name);
        return Err(Error::Recording { path: file.into(), reason });
    }
    Ok(recordings)
}

/// What recordings of problems that are described alike may differ in, in the order in which it is said.
fn differences(recordings: &[Recording], files: &[String]) -> Vec<Vec<String>> {
    type Part = fn(&Recording) -> String;
    let parts: [Part; 6] = [
        |of| format!("{} tokens", of.shape.tokens),
        |of| of.key.program.to_string().chars().take(12).collect(),
        |of| if of.key.problem.ignored { "tokens may be ignored" } else { "no token is ignored" }.to_owned(),
        |of| if of.key.problem.accumulate { "accumulated" } else { "overwritten" }.to_owned(),
        |of| of.generation.to_string(),
        |of| format!("on {}", of.provenance.host),
    ];
    let of_each = parts.iter().map(|part| recordings.iter().map(part).collect());
    of_each
        .chain([files.to_vec(), (1..=files.len()).map(|number| format!("number {number}")).collect()])
        .collect()
}

/// Adds to names that are alike what first tells some of them apart, until none are.
fn told_apart(mut names: Vec<String>, differences: &[Vec<String>]) -> Vec<String> {
    for said in differences {
        let mut alike: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, name) in names.iter().enumerate() {
            alike.entry(name.clone()).or_default().push(at);
        }
        for group in alike.into_values() {
            if group.iter().any(|&at| said[at] != said[group[0]]) {
                group.iter().for_each(|&at| names[at] += &format!(", {}", said[at]));
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_by_what_they_differ_in_and_by_no_more_than_it_takes() {
        let names = ["a", "b", "a", "a", "c", "c"].map(str::to_owned).to_vec();
        let said = |texts: [&str; 6]| texts.map(str::to_owned).to_vec();
        let differences = [
            said(["96 tokens", "1 tokens", "128 tokens", "128 tokens", "7 tokens", "7 tokens"]),
            said(["x"; 6]),
            said(["on h", "on h", "on h", "on i", "on h", "on h"]),
            said(["f", "f", "f", "f", "f", "g"]),
        ];
        let expected = ["a, 96 tokens", "b", "a, 128 tokens, on h", "a, 128 tokens, on i", "c, f", "c, g"];
        assert_eq!(told_apart(names, &differences), expected);
    }
}
