//! Files and folders that a command makes: looked at before its work, written whole after it.
//!
//! Invariants: what passes the look has a folder that takes new files; the look leaves nothing behind and changes nothing;
//! what a link leads to is looked at and written, the link stays. What else may keep a file from being replaced (it is
//! another's, in a folder for all; something is mounted on it) the writing tells.

use crate::Error;
use cce_tuning_db::{link_target, write_whole};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Writes a text whole: see [`write_whole`].
///
/// # Errors
/// When it cannot be written.
pub(crate) fn whole_text(path: &Path, text: &str) -> Result<(), Error> {
    write_whole(path, |file| {
        file.write_all(text.as_bytes()).map_err(|source| Error::Write { path: path.into(), source })
    })
}

/// Where a file lies that is written under this name: see [`link_target`].
///
/// # Errors
/// [`Error::Place`], when that cannot be told.
pub(crate) fn place_of(path: &Path) -> Result<PathBuf, Error> {
    link_target(path).or_else(|error| {
        let reason = format!(
            "expected a file or a link to one, found a link that leads nowhere ({error}); name a file"
        );
        refused(path, reason)
    })
}

/// Where a folder lies that is put under this name by renaming, in full.
///
/// # Errors
/// As [`place_of`]; when there is no current folder.
pub(crate) fn place_of_folder(path: &Path) -> Result<PathBuf, Error> {
    if let Ok(place) = fs::canonicalize(path) {
        return Ok(place);
    }
    std::path::absolute(place_of(path)?).map_err(|source| Error::Write { path: path.into(), source })
}

/// Looks whether a file can be written, before the work whose result it takes. Leaves what is there alone, and nothing
/// behind.
///
/// # Errors
/// [`Error::Place`], which says why not, and what to do.
pub(crate) fn can_be_written(path: &Path) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            return refused(
                path,
                "expected the name of a file, found a folder; name a file in it".to_owned(),
            );
        }
        // What takes its place would not be what it is.
        Ok(found) if !found.is_file() => {
            let reason = "expected a file, or none yet, found a device or a pipe; name a file";
            return refused(path, reason.to_owned());
        }
        Ok(_) => {}
        // Its folder says more.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        Err(error) => return hidden(path, path, &error),
    }
    let place = place_of(path)?;
    if !is_name_of_a_file(path) || !is_name_of_a_file(&place) {
        let reason = "expected the name of a file, found that of a folder; name a file in it";
        return refused(path, reason.to_owned());
    }
    takes_files(path, shown(place.parent().unwrap_or(Path::new(""))))
}

/// Looks whether a folder can be made, with those above it, or filled if it is there. Leaves nothing behind.
///
/// # Errors
/// As [`can_be_written`].
pub(crate) fn can_be_made(folder: &Path) -> Result<(), Error> {
    takes_folders(folder, folder)
}

/// Looks whether a folder that is made beside its place can be renamed into it, with those above it made, or over an
/// empty one that is there. Leaves nothing behind.
///
/// # Errors
/// As [`can_be_written`].
pub(crate) fn can_be_moved_to(path: &Path) -> Result<(), Error> {
    let place = place_of_folder(path)?;
    takes_folders(path, place.parent().unwrap_or(&place))
}

/// Whether a name ends with that of a file: no separator behind it, no `.` or `..`.
fn is_name_of_a_file(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    path.file_name().is_some_and(|name| text.ends_with(name.as_encoded_bytes()))
}

/// Whether a folder, or the nearest above it that is there, takes new files and folders, for the sake of `path`.
fn takes_folders(path: &Path, folder: &Path) -> Result<(), Error> {
    let nearest = folder.ancestors().map(shown).find(|above| fs::symlink_metadata(above).is_ok());
    takes_files(path, nearest.unwrap_or(Path::new(".")))
}

/// Whether a folder that is there takes new files, for the sake of `path`.
fn takes_files(path: &Path, folder: &Path) -> Result<(), Error> {
    let named = folder.display();
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return refused(path, format!("expected a folder, found a file at {named}; name another place"));
        }
        Err(error) => match error.kind() {
            ErrorKind::NotFound if fs::symlink_metadata(folder).is_ok() => {
                let reason = format!(
                    "expected a folder, found a link that leads nowhere at {named}; name another place"
                );
                return refused(path, reason);
            }
            ErrorKind::NotFound => {
                let reason = format!(
                    "expected a folder that is there, found no {named}; make it (mkdir -p {named}), or name a file \
                     elsewhere"
                );
                return refused(path, reason);
            }
            ErrorKind::NotADirectory => {
                let file = folder.ancestors().find(|above| above.is_file()).unwrap_or(folder).display();
                return refused(
                    path,
                    format!("expected a folder, found a file at {file}; name another place"),
                );
            }
            _ => return hidden(path, folder, &error),
        },
    }
    // Where the system can, it never has a name.
    match tempfile::tempfile_in(folder) {
        Ok(_) => Ok(()),
        Err(found) => {
            let reason = format!(
                "expected a folder that takes new files, found that {named} does not ({found}); choose one that does"
            );
            refused(path, reason)
        }
    }
}

/// The folder that a relative path is in has no name of its own.
fn shown(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

/// What is at `place` cannot be told.
fn hidden(path: &Path, place: &Path, error: &io::Error) -> Result<(), Error> {
    let place = place.display();
    let reason = format!(
        "expected a place that can be looked at, found that {place} cannot ({error}); name another place"
    );
    refused(path, reason)
}

fn refused<T>(path: &Path, reason: String) -> Result<T, Error> {
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
        for name in ["new/", "new//", "new/.", "file/", ".."] {
            let of_a_folder = words(can_be_written(&here(name)));
            assert!(
                of_a_folder.contains("expected the name of a file, found")
                    && of_a_folder.contains("name a file in it"),
                "{name}: {of_a_folder}"
            );
        }
        for refused in [
            can_be_written(&here("file/page.html")),
            can_be_written(&here("file/below/page.html")),
            can_be_made(&here("file/plan/a")),
            can_be_moved_to(&here("file/plan")),
        ] {
            let file = words(refused);
            let at = format!("expected a folder, found a file at {}; name another", here("file").display());
            assert!(file.contains(&at), "{file}");
        }
        // Nobody makes files there, whoever they are.
        for refused in [
            can_be_written(Path::new("/proc/page.html")),
            can_be_made(Path::new("/proc/plan")),
            can_be_moved_to(Path::new("/proc/plan")),
        ] {
            let full = words(refused);
            assert!(full.contains("expected a folder that takes new files, found that /proc"), "{full}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_link_is_looked_at_where_it_leads() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let here = |name: &str| folder.path().join(name);
        for (target, link) in [
            ("target", "dangling"),
            ("none/target", "nowhere"),
            ("new/", "new folder"),
            ("/proc/page.html", "full"),
            ("circle", "circle"),
        ] {
            symlink(target, here(link)).unwrap();
        }
        can_be_written(&here("dangling")).unwrap();
        can_be_moved_to(&here("dangling")).unwrap();
        assert_eq!(place_of(&here("dangling")).unwrap(), here("target"));
        fs::write(here("target"), "text").unwrap();
        can_be_written(&here("dangling")).unwrap();
        for (link, expected) in [
            ("nowhere", "mkdir -p"),
            ("new folder", "found that of a folder"),
            ("full", "expected a folder that takes new files, found that /proc"),
            ("circle", "expected a place that can be looked at"),
        ] {
            let words = can_be_written(&here(link)).unwrap_err().to_string();
            assert!(words.contains(expected), "{link}: {words}");
        }
        let words = can_be_made(&here("nowhere/a")).unwrap_err().to_string();
        assert!(words.contains("found a link that leads nowhere"), "{words}");
        assert!(fs::symlink_metadata(here("dangling")).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(here("target")).unwrap(), "text");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6);
    }

    #[cfg(target_os = "linux")]
    mod rights {
        use super::super::*;
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        use std::os::unix::fs::PermissionsExt;

        /// What a user sees that has none of root's rights, which a thread gives up alone.
        fn without_rights<T: Send>(look: impl FnOnce() -> T + Send) -> T {
            std::thread::scope(|scope| {
                let look = || {
                    let mut held = capabilities(None).unwrap();
                    held.effective.remove(
                        CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::FOWNER,
                    );
                    set_capabilities(None, held).unwrap();
                    look()
                };
                scope.spawn(look).join().unwrap()
            })
        }

        fn set(path: &Path, mode: u32) {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }

        #[test]
        fn a_folder_that_may_not_be_entered_is_not_called_missing() {
            let folder = tempfile::tempdir().unwrap();
            let secret = folder.path().join("secret");
            fs::create_dir_all(secret.join("in")).unwrap();
            set(&secret, 0);
            for name in ["in/page.html", "page.html"] {
                let words = without_rights(|| can_be_written(&secret.join(name)).unwrap_err().to_string());
                assert!(words.contains("expected a place that can be looked at"), "{words}");
                assert!(words.contains("ermission denied") && !words.contains("mkdir"), "{words}");
            }
            let words = without_rights(|| can_be_made(&secret.join("in/plan")).unwrap_err().to_string());
            assert!(words.contains("expected a folder that takes new files, found that"), "{words}");
            set(&secret, 0o755);
        }

        #[test]
        fn a_folder_is_moved_to_its_place_with_the_rights_to_the_one_above_and_made_in_its_own() {
            let folder = tempfile::tempdir().unwrap();
            let plan = folder.path().join("plan");
            fs::create_dir(&plan).unwrap();
            set(folder.path(), 0o555);
            without_rights(|| can_be_made(&plan)).unwrap();
            for name in [&plan, &folder.path().join("new/plan")] {
                let words = without_rights(|| can_be_moved_to(name)).unwrap_err().to_string();
                let above = format!("files, found that {} does not", folder.path().display());
                assert!(words.contains(&above), "{words}");
            }
            set(folder.path(), 0o755);
            set(&plan, 0o555);
            without_rights(|| can_be_moved_to(&plan)).unwrap();
            assert!(plan.is_dir());
        }
    }
}
