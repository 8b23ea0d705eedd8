//! Files that are there whole or not at all.
//!
//! Invariants: whoever reads a file that is written here finds the earlier one or the new one, never a part of one; a
//! write that fails leaves the earlier one alone; two writers of one path, in whatever threads, processes or hosts, do
//! not mix.

use crate::Error;
use crate::tuning::host_name;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes a file beside its place, syncs it, and renames it: returns what `write` does.
///
/// # Errors
/// Those of `write`, and when the file cannot be made, synced or renamed.
pub(crate) fn whole(path: &Path, write: impl FnOnce(&mut File) -> Result<u64, Error>) -> Result<u64, Error> {
    let failed = |source| Error::Write { path: path.into(), source };
    let aside = aside(path);
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

/// The same for a text.
///
/// # Errors
/// As [`whole`].
pub(crate) fn whole_text(path: &Path, text: &str) -> Result<(), Error> {
    let write = |file: &mut File| {
        let written = file.write_all(text.as_bytes());
        written.map(|()| 0).map_err(|source| Error::Write { path: path.into(), source })
    };
    whole(path, write).map(drop)
}

/// A name beside a file's that no other writer has now; what a killed one left under it is written over.
fn aside(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}-{process}-{number}.aside", host_name()));
    PathBuf::from(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_leaves_the_earlier_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        whole_text(&path, "earlier").unwrap();
        let half = whole(&path, |file| {
            file.write_all(b"lat").unwrap();
            Err(Error::NoCandidate)
        });
        assert!(half.is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "earlier");
        whole_text(&path, "later").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "later");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn writers_of_one_file_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let texts = ["a", "b", "c", "d"].map(|letter| letter.repeat(100_000));
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| (0..5).for_each(|_| whole_text(&path, text).unwrap()));
            }
        });
        assert!(texts.contains(&std::fs::read_to_string(&path).unwrap()));
    }
}
