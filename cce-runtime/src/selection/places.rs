//! Where the winners of a machine are: its database, and profiles below it. Read again when they change.

use cce_tuning_db::Winners;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The folder of the tuning database; `None` when `CCE_TUNING_DIR` is `none` or nothing says where it could
/// be.
pub fn folder() -> Option<PathBuf> {
    folder_of(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

fn folder_of(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    match variable("CCE_TUNING_DIR") {
        Some(folder) if folder == "none" => None,
        Some(folder) => Some(folder.into()),
        None => variable("XDG_DATA_HOME")
            .map(|folder| Path::new(&folder).join("cce"))
            .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".local/share/cce"))),
    }
}

/// The profile files that `CCE_PROFILE` names.
pub fn profiles() -> Vec<PathBuf> {
    match std::env::var_os("CCE_PROFILE") {
        Some(paths) => std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect(),
        None => Vec::new(),
    }
}

/// What identifies the state of the layers: their places, and when the snapshot was written.
#[derive(Clone, Debug, PartialEq)]
struct State {
    folder: PathBuf,
    profiles: Vec<PathBuf>,
    snapshot: Option<(SystemTime, u64)>,
}

/// The winners of this machine, read again when the tuner has written meanwhile. `None` when they are
/// switched off.
pub fn winners() -> Option<Arc<Winners>> {
    static LOADED: Mutex<Option<(State, Arc<Winners>)>> = Mutex::new(None);
    let folder = folder()?;
    let written = std::fs::metadata(folder.join("winners.snap"))
        .and_then(|data| Ok((data.modified()?, data.len())))
        .ok();
    let state = State { profiles: profiles(), snapshot: written, folder };
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((known, winners)) = &*loaded
        && *known == state
    {
        return Some(Arc::clone(winners));
    }
    let winners = Arc::new(open(&state.folder, &state.profiles));
    *loaded = Some((state, Arc::clone(&winners)));
    Some(winners)
}

/// The winners of a database and, below them, of profiles.
pub fn open(folder: &Path, profiles: &[PathBuf]) -> Winners {
    profiles.iter().fold(Winners::open(folder), |winners, profile| winners.with_profile_file(profile))
}

#[cfg(test)]
mod tests {
    use super::folder_of;

    #[test]
    fn the_folder_follows_the_environment() {
        let with = |pairs: &'static [(&str, &str)]| {
            folder_of(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into()))
        };
        assert_eq!(with(&[("CCE_TUNING_DIR", "/t"), ("HOME", "/h")]), Some("/t".into()));
        assert_eq!(with(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]), Some("/x/cce".into()));
        assert_eq!(with(&[("HOME", "/h")]), Some("/h/.local/share/cce".into()));
        assert_eq!(with(&[("CCE_TUNING_DIR", "none"), ("HOME", "/h")]), None);
        assert_eq!(with(&[]), None);
    }
}
