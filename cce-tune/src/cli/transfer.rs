//! `cce-tune export` and `import`: trials from machine to machine, and to other tools.

use super::EXIT_OK;
use super::diff::{Difference, Side};
use super::fleet::is_plan;
use super::output::{Output, counted};
use super::programs::Programs;
use super::selected::{Selected, SelectedArgs, Selector, paths};
use super::tune::database_folder;
use crate::Error;
use crate::exchange;
use crate::files::{can_be_made, can_be_written, whole_text};
use crate::recording::Recording;
use crate::tuning::host_name;
use cce_tuning_db::{Database, Error as DatabaseError, Merged, Profile, Provenance, exported, write_whole};
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Where to; standard output if left out. With a format of another tool, which holds one problem a file, a
    /// folder where there are several.
    pub(super) file: Option<std::path::PathBuf>,
    /// Write a profile of this name: the winners alone, for CCE_PROFILE on other machines.
    #[arg(long, value_name = "NAME", value_parser = super::values::name)]
    pub(super) profile: Option<String>,
    /// The format: cce (all trials, what import reads), kernel-tuner (a cache file for Kernel Tuner's dashboard and
    /// simulation mode), or t4 (the results format that several tuners share).
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", conflicts_with = "profile")]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) selected: SelectedArgs,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Exports, or folders of other databases.
    #[arg(required = true)]
    pub(super) from: Vec<std::path::PathBuf>,
}

/// How trials are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// All trials, what import reads.
    #[default]
    Cce,
    /// A cache file of Kernel Tuner's, one problem a file.
    KernelTuner,
    /// T4 results, one problem a file.
    T4,
}

pub(super) fn existing() -> Result<(PathBuf, Database), Error> {
    let folder = database_folder()?;
    if !folder.exists() {
        let reason = format!("there is no database in {} yet; run cce-tune first", folder.display());
        return Err(Error::Nothing { reason });
    }
    let database = Database::open(&folder)?;
    Ok((folder, database))
}

pub(super) fn export(args: &ExportArgs, programs: &Programs, output: &Output) -> Result<u8, Error> {
    match &args.file {
        Some(path) if is_folder(path, args.format) => can_be_made(path)?,
        Some(path) => can_be_written(path)?,
        None => {}
    }
    let (folder, mut database) = existing()?;
    if args.format != Format::Cce {
        let mut selector = Selector::new(&args.selected, programs, &folder)?;
        let selected = selector.problems(database.records()?)?;
        return for_other_tools(args, &selected, output);
    }
    if args.selected.chooses() {
        let reason =
            "--loss and --only choose among problems of the formats kernel-tuner and t4; an export of \
                      format cce, and a profile, hold all"
                .to_owned();
        return Err(Error::Usage { reason });
    }
    let Some(path) = &args.file else {
        match &args.profile {
            Some(name) => {
                let profile = database.profile(name, Provenance::now(host_name()), None)?;
                output.text(&profile.to_json()?)?;
            }
            None => {
                let mut text = Vec::new();
                database.export(&mut text)?;
                output.text(&String::from_utf8_lossy(&text))?;
            }
        }
        return Ok(EXIT_OK);
    };
    let (count, what) = match &args.profile {
        Some(name) => {
            let profile = database.profile(name, Provenance::now(host_name()), None)?;
            profile.write(path)?;
            let count = profile.entries.len() as u64;
            (count, format!("winners for {}", counted(count, "problem")))
        }
        None => {
            let count = write_whole(path, |file| Ok::<_, Error>(database.export(file)?))?;
            (count, counted(count, "trial"))
        }
    };
    let text = || format!("{what} written to {}\n", path.display());
    output.either(text, &serde_json::json!({"schema": 1, "written": count, "file": path}))?;
    Ok(EXIT_OK)
}

/// Whether a name is that of a file of such a format.
fn is_named(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

/// Whether what is named is the folder of files that hold a problem each.
fn is_folder(path: &Path, format: Format) -> bool {
    format != Format::Cce && !path.is_file() && (!is_named(path) || path.is_dir())
}

/// One problem a file: the file that is named, or files in the folder that is.
fn for_other_tools(args: &ExportArgs, selected: &[Selected], output: &Output) -> Result<u8, Error> {
    let text = |one: &Selected| match args.format {
        Format::KernelTuner => Ok(exchange::kernel_tuner(&one.of, &one.loss)),
        _ => serde_json::to_string_pretty(&exchange::t4(&one.of)).map_err(|e| Error::Json(e.to_string())),
    };
    let files: Vec<PathBuf> = match (&args.file, selected) {
        (None, [one]) => {
            output.text(&text(one)?)?;
            return Ok(EXIT_OK);
        }
        (Some(path), [_]) if is_named(path) && !path.is_dir() => vec![path.clone()],
        (Some(path), _) if is_folder(path, args.format) => {
            std::fs::create_dir_all(path).map_err(|source| Error::Write { path: path.clone(), source })?;
            paths(path, selected, "json")
        }
        (_, several) => {
            let problems: Vec<String> =
                several.iter().map(|one| format!("{}, {}, {}", one.loss, one.device, one.problem)).collect();
            let reason = format!(
                "this format holds one problem a file, and there {}; name a folder, or choose with --loss and --only:\n{}",
                if several.len() == 1 { "is one".to_owned() } else { format!("are {}", several.len()) },
                problems.join("\n")
            );
            return Err(Error::Usage { reason });
        }
    };
    let (mut lines, mut values) = (String::new(), Vec::new());
    for (one, path) in selected.iter().zip(&files) {
        whole_text(path, &text(one)?)?;
        let count = one.of.trials.len() as u64;
        lines += &format!("{} written to {}\n", counted(count, "trial"), path.display());
        values.push(serde_json::json!({
            "written": count, "file": path, "loss": one.loss, "device": one.device, "problem": one.problem,
        }));
    }
    output.either(|| lines, &serde_json::json!({"schema": 1, "files": values}))?;
    Ok(EXIT_OK)
}

/// Whether a file is a profile.
pub(super) fn is_profile(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| Profile::parse(&text).is_ok())
}

/// A profile, and why entries of it were left out. An export of trials is the likeliest mistake.
pub(super) fn read_profile(path: &Path) -> Result<(Profile, Vec<String>), Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
    Profile::parse(&text).map_err(|error| match error {
        DatabaseError::Decode { .. } if exported(&text).is_ok() => {
            let reason = "it is an export of trials, expected a profile; `cce-tune export --profile NAME FILE` makes one";
            Error::Unreadable { path: path.into(), reason: reason.to_owned() }
        }
        DatabaseError::Decode { reason, .. } => {
            Error::Unreadable { path: path.into(), reason: format!("it is no profile: {reason}") }
        }
        other => other.into(),
    })
}

/// Whether there is a database in a folder, said as an error where there is none.
pub(super) fn holds_a_database(folder: &Path) -> Result<(), Error> {
    if Database::is_in(folder) {
        return Ok(());
    }
    Err(Error::Nothing { reason: format!("there is no database in {}", folder.display()) })
}

/// The error of an import, with the file's name. A profile is the likeliest mistake.
fn not_imported(path: &Path, text: &str, error: DatabaseError) -> Error {
    let reason = match error {
        DatabaseError::Decode { .. } if Profile::parse(text).is_ok() => {
            "it is a profile, which holds winners and no trials; set CCE_PROFILE to it".to_owned()
        }
        DatabaseError::Decode { .. } if Recording::is_one(text) => {
            "it is a recording, for `cce-tune replay` and `regret`; `cce-tune export FILE` writes what import reads"
                .to_owned()
        }
        DatabaseError::Decode { .. } if is_for_other_tools(text) => {
            "it was written for another tool, which knows nothing of keys and provenance; export without --format"
                .to_owned()
        }
        DatabaseError::Decode { reason, .. } => {
            format!("it is no export of trials: {reason}; `cce-tune export FILE` makes one")
        }
        other => return other.into(),
    };
    Error::Import { path: path.into(), reason }
}

/// A cache file of Kernel Tuner's, or T4 results.
fn is_for_other_tools(text: &str) -> bool {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    ["tune_params_keys", "results"]
        .iter()
        .any(|field| value.get(field).is_some_and(serde_json::Value::is_array))
}

pub(super) fn import(args: &ImportArgs, output: &Output) -> Result<u8, Error> {
    let folder = database_folder()?;
    let mut database = Database::open(&folder)?;
    database.index()?;
    let before = Side::of_database(&folder);
    let (mut lines, mut values) = (String::new(), Vec::new());
    for path in &args.from {
        let merged: Merged = match path.is_dir() {
            true if is_plan(path) => {
                let reason = "it is the folder of a plan; `cce-tune merge` takes its shards".to_owned();
                return Err(Error::Import { path: path.clone(), reason });
            }
            true => {
                holds_a_database(path)?;
                database.merge(path)?
            }
            false => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| Error::Read { path: path.clone(), source })?;
                database.import(text.as_bytes()).map_err(|error| not_imported(path, &text, error))?
            }
        };
        lines += &format!(
            "{}: {} added, {} known already{}\n",
            path.display(),
            counted(merged.added, "trial"),
            merged.known,
            match merged.unreadable {
                0 => String::new(),
                count => format!(", {count} left out: this version cannot read them"),
            }
        );
        values.push(serde_json::json!({
            "from": path, "added": merged.added, "known": merged.known, "unreadable": merged.unreadable,
        }));
    }
    let after = Side::of_database(&folder);
    let changed = Difference::between(&before, &after);
    let (new, better) = (changed.only_b.len(), changed.differing.len());
    lines += &format!("new winners: of {}, and of {new} that had none\n", counted(better as u64, "problem"));
    let value = serde_json::json!({"schema": 1, "imported": values, "changed": better, "new": new});
    output.either(|| lines, &value)?;
    Ok(EXIT_OK)
}
