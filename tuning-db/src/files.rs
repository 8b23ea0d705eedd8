//! Writing files whole, and setting files aside.
//!
//! Invariants: a crash at any moment leaves either the old file or the new, never a part of one; a write that fails
//! leaves the old one alone, and nothing beside it, but for the one failure that comes after the renaming: a folder
//! that the system opens and cannot sync, which leaves the new file in place, whole, and lets a crash bring the old
//! one back (so does a folder that cannot be opened, which is no failure); two writers of one path, in whatever
//! threads, processes or hosts, do not mix; a link is followed, not replaced.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::provenance::unix_ms;

/// What the name of a file ends with that is being written.
const UNFINISHED: &str = ".new";

/// Writes a file under a name of its own beside `path`, syncs it, renames it over `path`, and syncs the folder;
/// returns what `write` does. Where `path` is a link, all of that is done where it leads: see [`link_target`]. Any
/// number of writers may do so at once: the last one's file stays. One that is killed leaves `NAME.RANDOM.new` behind,
/// which means nothing to anybody.
///
/// # Errors
/// Those of `write`; [`Error::Io`] when the file cannot be made, synced or renamed, and when its folder cannot be
/// synced: then alone the new file is in place.
pub fn write_whole<T, E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let failed = |source| Error::io("write", path)(source);
    let place = link_target(path).map_err(failed)?;
    let name = place.file_name().ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
    let mut prefix = name.to_owned();
    prefix.push(".");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(UNFINISHED);
    // As any other new file, with the rights that the process's mask leaves, and with the system's own error.
    let open = |name: &Path| File::options().read(true).write(true).create_new(true).open(name);
    // Removed when it is dropped, as on every early end below: on a full disk it is the first thing to go.
    let mut file = builder.make_in(folder_of(&place), open).map_err(failed)?;
    let written = write(file.as_file_mut())?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&place).map_err(|unmoved| failed(unmoved.error))?;
    sync_folder(folder_of(&place))?;
    Ok(written)
}

/// Where a file lies that is written under this name: where a link leads, whether something is there yet or not; of
/// what is no link, the name itself.
///
/// # Errors
/// When that cannot be told: links in a circle, a folder on the way that may not be entered, an open file that has no
/// name.
pub fn link_target(path: &Path) -> io::Result<PathBuf> {
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink()) {
        return Ok(path.to_owned());
    }
    match fs::metadata(path) {
        Ok(_) => fs::canonicalize(path),
        // Links in a circle are another error, so this comes to an end.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            link_target(&folder_of(path).join(fs::read_link(path)?))
        }
        Err(error) => Err(error),
    }
}

/// The same for whoever holds the lock that covers `path`: what killed writers left beside it is removed.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    if let Ok(place) = link_target(path) {
        remove_unfinished(&place);
    }
    write_whole(path, |file| write(file).map_err(Error::io("write", path)))
}

/// Removes what killed writers of a path left. What cannot be removed is in nobody's way.
fn remove_unfinished(path: &Path) {
    let Some(name) = path.file_name() else { return };
    let is_of_it = |other: &std::ffi::OsStr| {
        let rest = other.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
        rest.is_some_and(|rest| rest.starts_with(b".") && rest.ends_with(UNFINISHED.as_bytes()))
    };
    for entry in fs::read_dir(folder_of(path)).into_iter().flatten().flatten() {
        if is_of_it(&entry.file_name()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Syncs a folder's entries, where the system and the file system can, and where it may be opened: to make files in it
/// does not take the right to read it.
fn sync_folder(folder: &Path) -> Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    let Ok(opened) = File::open(folder) else { return Ok(()) };
    match opened.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        synced => synced.map_err(Error::io("sync the folder", folder)),
    }
}

/// Renames a file or folder to `NAME.aside-TIME` beside it, and returns the new name.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf> {
    let to = aside_name(path);
    fs::rename(path, &to).map_err(Error::io("set aside", path))?;
    sync_folder(folder_of(path))?;
    Ok(to)
}

/// Leaves a copy (a second name, where the file system has links) of a file at `NAME.aside-TIME`.
pub(crate) fn copy_aside(path: &Path) -> Result<PathBuf> {
    let to = aside_name(path);
    fs::hard_link(path, &to)
        .or_else(|_| fs::copy(path, &to).map(drop))
        .map_err(Error::io("set aside", path))?;
    Ok(to)
}

fn aside_name(path: &Path) -> PathBuf {
    let now = unix_ms();
    let name = |n: u32| with_suffix(path, &format!(".aside-{now}-{n}"));
    (0..1000).map(name).find(|p| fs::symlink_metadata(p).is_err()).unwrap_or_else(|| name(1000))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn write_text(path: &Path, text: &str) -> Result<()> {
        write_whole(path, |file| file.write_all(text.as_bytes()).map_err(Error::io("write", path)))
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_write_that_fails_leaves_the_earlier_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_text(&path, "earlier").unwrap();
        let full = write_whole(&path, |file| {
            file.write_all(b"lat").unwrap();
            // Every write to it is answered with "no space left on device".
            let mut full = File::options().write(true).open("/dev/full").unwrap();
            full.write_all(b"er").map_err(Error::io("write", &path))
        });
        let error = full.unwrap_err();
        assert!(error.is_unwritable_place() && error.to_string().contains("free some space"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
        assert_eq!(names(folder.path()), ["file"]);
        assert_eq!(write_whole::<_, Error>(&path, |file| Ok(file.write(b"later").unwrap())).unwrap(), 5);
        assert_eq!(fs::read_to_string(&path).unwrap(), "later");
        // A folder in its place is not replaced.
        fs::create_dir(folder.path().join("folder")).unwrap();
        write_text(&folder.path().join("folder"), "text").unwrap_err();
        assert_eq!(names(folder.path()), ["file", "folder"]);
        write_text(&folder.path().join("none/file"), "text").unwrap_err();
        write_text(Path::new("/"), "text").unwrap_err();
    }

    #[test]
    fn a_write_that_fails_names_the_file_once_and_not_its_temporary_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/file");
        let words = write_text(&path, "text").unwrap_err().to_string();
        let (file, folder) = (path.display().to_string(), folder.path().display().to_string());
        assert!(words.starts_with(&format!("could not write {file}: ")), "{words}");
        assert_eq!(words.matches(&folder).count(), 1, "{words}");
        assert!(!words.contains(UNFINISHED), "{words}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_in_a_folder_that_takes_files_and_may_not_be_read_is_written() {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let set = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        set(0o333);
        let path = folder.path().join("file");
        // Root is bound by the mode, too, once it has given up these; a thread has its own.
        let written = std::thread::scope(|scope| {
            let write = || {
                let mut held = capabilities(None).unwrap();
                held.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
                set_capabilities(None, held).unwrap();
                let opened = File::open(folder.path()).map(drop).map_err(|error| error.kind());
                assert_eq!(
                    opened,
                    Err(io::ErrorKind::PermissionDenied),
                    "the mode does not bind: no test possible"
                );
                write_text(&path, "text")
            };
            scope.spawn(write).join().unwrap()
        });
        set(0o755);
        written.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    #[cfg(unix)]
    fn a_link_is_followed_and_stays_wherever_it_leads() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let here = |name: &str| folder.path().join(name);
        fs::create_dir(here("below")).unwrap();
        fs::write(here("below/target"), "earlier").unwrap();
        symlink("below/target", here("link")).unwrap();
        symlink("link", here("link of a link")).unwrap();
        symlink("below/new", here("dangling")).unwrap();
        symlink("circle", here("circle")).unwrap();
        symlink("none/file", here("nowhere")).unwrap();
        for (link, target) in [("link", "target"), ("link of a link", "target"), ("dangling", "new")] {
            write_text(&here(link), link).unwrap();
            assert!(fs::symlink_metadata(here(link)).unwrap().is_symlink(), "{link} was replaced");
            let place = here("below").join(target);
            assert!(fs::symlink_metadata(&place).unwrap().is_file());
            assert_eq!(fs::read_to_string(place).unwrap(), link);
        }
        assert_eq!(names(&here("below")), ["new", "target"]);
        write_text(&here("circle"), "text").unwrap_err();
        write_text(&here("nowhere"), "text").unwrap_err();
        assert_eq!(names(folder.path()).len(), 6);
    }

    #[test]
    fn writers_of_one_file_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let texts = ["a", "b", "c", "d"].map(|letter| letter.repeat(100_000));
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| (0..5).for_each(|_| write_text(&path, text).unwrap()));
            }
        });
        assert!(texts.contains(&fs::read_to_string(&path).unwrap()));
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn what_killed_writers_left_is_removed_under_the_lock_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["file.new", "file.aB3xYz.new", "file.aside-1-0", "file2.aB3xYz.new", "other.new"] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        replace(&folder.path().join("file"), |file| file.write_all(b"whole")).unwrap();
        let left = ["file", "file.aside-1-0", "file2.aB3xYz.new", "other.new"];
        assert_eq!(names(folder.path()), left);
    }

    #[test]
    #[cfg(unix)]
    fn a_file_may_be_read_by_those_who_may_read_any_other_new_one() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        fs::write(folder.path().join("other"), "text").unwrap();
        write_text(&folder.path().join("file"), "text").unwrap();
        assert_eq!(mode("file"), mode("other"));
    }
}
