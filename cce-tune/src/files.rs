//! Files and folders that a command makes: looked at before its work, written whole after it.

use crate::Error;
use cce_tuning_db::write_whole;
use std::fs;
use std::io::Write;
use std::path::Path;

/// Writes a text whole: see [`write_whole`].
///
/// # Errors
/// When it cannot be written.
pub(crate) fn whole_text(path: &Path, text: &str) -> Result<(), Error> {
    write_whole(path, |file| {
        file.write_all(text.as_bytes()).map_err(|source| Error::Write { path: path.into(), source })
    })
}

/// Looks whether a file can be written, before the work whose result it takes. Leaves what is there alone, and nothing
/// behind.
///
/// # Errors
/// [`Error::Place`], which says why not, and what to do.
pub(crate) fn can_be_written(path: &Path) -> Result<(), Error> {
    if path.is_dir() || path.file_name().is_none() {
        return refused(path, "expected the name of a file, found a folder; name a file in it".to_owned());
    }
    // What takes its place would not be what it is.
    if path.exists() && !path.is_file() {
        return refused(
            path,
            "expected a file, or none yet, found a device or a pipe; name a file".to_owned(),
        );
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    if !shown(folder).exists() {
        let folder = folder.display();
        let reason = format!(
            "expected a folder that is there, found no {folder}; make it (mkdir -p {folder}), or name a file elsewhere"
        );
        return refused(path, reason);
    }
    takes_files(path, shown(folder))
}

/// Looks whether a folder can be made, with those above it, or filled if it is there. Leaves nothing behind.
///
/// # Errors
/// As [`can_be_written`].
pub(crate) fn can_be_made(folder: &Path) -> Result<(), Error> {
    let nearest = folder.ancestors().map(shown).find(|above| fs::symlink_metadata(above).is_ok());
    takes_files(folder, nearest.unwrap_or(Path::new(".")))
}

/// Whether a folder that is there takes new files, for the sake of `path`.
fn takes_files(path: &Path, folder: &Path) -> Result<(), Error> {
    if !folder.is_dir() {
        let reason = format!("expected a folder, found a file at {}; name another place", folder.display());
        return refused(path, reason);
    }
    // Where the system can, it never has a name.
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(()),
        Err(found) => {
            let folder = folder.display();
            let reason = format!(
                "expected a folder that takes new files, found that {folder} does not ({found}); choose one that does"
            );
            refused(path, reason)
        }
    }
}

/// The folder that a relative path is in has no name of its own.
fn shown(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

fn refused(path: &Path, reason: String) -> Result<(), Error> {
    Err(Error::Place { path: path.into(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_looked_at_without_a_trace_and_what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let here = |name: &str| folder.path().join(name);
        fs::write(here("file"), "text").unwrap();
        can_be_written(&here("file")).unwrap();
        can_be_written(&here("new")).unwrap();
        can_be_written(Path::new("new")).unwrap();
        can_be_made(&here("a/b")).unwrap();
        can_be_made(folder.path()).unwrap();
        can_be_made(Path::new("new")).unwrap();
        assert_eq!(fs::read_to_string(here("file")).unwrap(), "text");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(!Path::new("new").exists());
    }

    #[test]
    fn a_place_that_takes_nothing_is_refused_with_what_was_expected_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let here = |name: &str| folder.path().join(name);
        fs::write(here("file"), "text").unwrap();
        let words = |refused: Result<(), Error>| refused.unwrap_err().to_string();
        let missing = words(can_be_written(&here("no/page.html")));
        assert!(
            missing.contains("expected a folder that is there") && missing.contains("mkdir -p"),
            "{missing}"
        );
        let itself = words(can_be_written(folder.path()));
        assert!(itself.contains("expected the name of a file, found a folder"), "{itself}");
        assert!(words(can_be_written(Path::new("/"))).contains("name a file in it"));
        assert!(words(can_be_written(Path::new("/dev/null"))).contains("found a device or a pipe"));
        for refused in [can_be_written(&here("file/page.html")), can_be_made(&here("file/plan/a"))] {
            let file = words(refused);
            assert!(
                file.contains("expected a folder, found a file at") || file.contains("found no"),
                "{file}"
            );
        }
        // Nobody makes files there, whoever they are.
        for refused in [can_be_written(Path::new("/proc/page.html")), can_be_made(Path::new("/proc/plan"))] {
            let full = words(refused);
            assert!(full.contains("expected a folder that takes new files, found that /proc"), "{full}");
        }
    }
}
