//! Replacing and setting aside files such that a crash at any moment leaves either the old or the new.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::provenance::unix_ms;

/// Writes a file next to `path`, syncs it, renames it over `path`, and syncs the folder. Callers hold the
/// lock that covers `path`, so one temporary name is enough, and one that a killed writer left is reused.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
    let temporary = with_suffix(path, ".new");
    let written = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&temporary)
        .and_then(|mut file| write(&mut file).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // On a full disk, the half-written file is the first thing to go.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io("write", path)(error));
    }
    path.parent().map_or(Ok(()), sync_folder)
}

/// Syncs a folder's entries, where the system can.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if cfg!(unix) {
        File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io("sync the folder", folder))?;
    }
    Ok(())
}

/// Renames a file or folder to `NAME.aside-TIME` beside it, and returns the new name.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf> {
    let to = aside_name(path);
    fs::rename(path, &to).map_err(Error::io("set aside", path))?;
    path.parent().map_or(Ok(()), sync_folder)?;
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
