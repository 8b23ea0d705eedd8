//! `cce-tune export` and `import`: trials from machine to machine.

use super::output::{Output, counted};
use super::tune::database_folder;
use super::{EXIT_OK, ExportArgs, ImportArgs};
use crate::Error;
use crate::tuning::host_name;
use cce_tuning_db::{Database, Merged, Profile, Provenance};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Written beside and renamed: an export that fails half-way leaves an earlier one alone.
pub(super) fn whole(path: &Path, write: impl FnOnce(&mut File) -> Result<u64, Error>) -> Result<u64, Error> {
    let failed = |source| Error::Write { path: path.into(), source };
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.aside", std::process::id()));
    let aside = PathBuf::from(aside);
    let mut file = File::create(&aside).map_err(failed)?;
    let written = write(&mut file).and_then(|count| {
        file.sync_all().map_err(failed)?;
        std::fs::rename(&aside, path).map_err(failed)?;
        Ok(count)
    });
    if written.is_err() {
        // What is left over does no harm.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

fn existing() -> Result<(PathBuf, Database), Error> {
    let folder = database_folder()?;
    if !folder.exists() {
        let reason = format!("there is no database in {} yet; run cce-tune first", folder.display());
        return Err(Error::Nothing { reason });
    }
    let database = Database::open(&folder)?;
    Ok((folder, database))
}

pub(super) fn export(args: &ExportArgs, output: &Output) -> Result<u8, Error> {
    let (_, mut database) = existing()?;
    let Some(path) = &args.file else {
        match &args.profile {
            Some(name) => {
                let profile = database.profile(name, Provenance::now(host_name()), None)?;
                let text = serde_json::to_string_pretty(&profile).map_err(|e| Error::Json(e.to_string()))?;
                output.text(&format!("{text}\n"))?;
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
            let count = whole(path, |file| Ok(database.export(file)?))?;
            (count, counted(count, "trial"))
        }
    };
    let text = || format!("{what} written to {}\n", path.display());
    output.either(text, &serde_json::json!({"schema": 1, "written": count, "file": path}))?;
    Ok(EXIT_OK)
}

/// The error of an import, with the file's name. A profile is the likeliest mistake.
fn not_imported(path: &Path, text: &str, error: cce_tuning_db::Error) -> Error {
    let reason = match error {
        cce_tuning_db::Error::Decode { .. } if Profile::parse(text).is_ok() => {
            "it is a profile, which holds winners and no trials; set CCE_PROFILE to it".to_owned()
        }
        cce_tuning_db::Error::Decode { reason, .. } => {
            format!("it is no export of trials: {reason}; `cce-tune export FILE` makes one")
        }
        other => return other.into(),
    };
    Error::Import { path: path.into(), reason }
}

pub(super) fn import(args: &ImportArgs, output: &Output) -> Result<u8, Error> {
    let folder = database_folder()?;
    let mut database = Database::open(&folder)?;
    let (mut lines, mut values) = (String::new(), Vec::new());
    for path in &args.from {
        let merged: Merged = match path.is_dir() {
            true => database.merge(path)?,
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
    output.either(|| lines, &serde_json::json!({"schema": 1, "imported": values}))?;
    Ok(EXIT_OK)
}
