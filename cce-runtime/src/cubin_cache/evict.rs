//! Keeping the cache below its limit.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The extension of a file that is being written.
pub(super) const ASIDE: &str = "aside";

/// A file that has been "being written" for this long was left by a process that died.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Removes the entries unused for longest until at most `limit` bytes remain, and what dead processes left
/// behind.
/// `newest`, the entry just written, always stays. Other processes may do the same at the same time: a file
/// that is gone already is no error, and what cannot be removed stays for the next time.
pub(super) fn shrink(folder: &Path, limit: u64, newest: &Path) {
    let Ok(listing) = fs::read_dir(folder) else {
        return;
    };
    let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for file in listing.flatten() {
        let Ok(data) = file.metadata() else { continue };
        let used = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == ASIDE) {
            if used.elapsed().is_ok_and(|age| age > ABANDONED) {
                _ = fs::remove_file(&path);
            }
        } else if data.is_file() {
            files.push((used, data.len(), path));
        }
    }
    let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
    files.sort();
    for (_, size, path) in files {
        if total <= limit {
            break;
        }
        if path != newest && fs::remove_file(&path).is_ok() {
            total -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, size: usize, age: u64) {
        fs::write(path, vec![0; size]).unwrap();
        let time = SystemTime::now() - Duration::from_secs(age);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn the_entries_unused_for_longest_go_first_and_the_newest_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        write(&at("old"), 100, 3000);
        write(&at("middle"), 100, 2000);
        write(&at("young"), 100, 1000);
        write(&at("newest"), 900, 9000);
        shrink(scratch.path(), 1000, &at("newest"));
        assert!(!at("old").exists() && !at("middle").exists());
        assert!(at("young").exists() && at("newest").exists());
    }

    #[test]
    fn only_abandoned_writes_are_swept() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        write(&at("a.1-0.aside"), 10, 7200);
        write(&at("b.2-0.aside"), 10, 60);
        shrink(scratch.path(), 1 << 20, &at("none"));
        assert!(!at("a.1-0.aside").exists() && at("b.2-0.aside").exists());
    }
}
