//! Where the winners of a machine are: its database, profiles below it, and below these the shipped ones. Read
//! again when they change.

use super::shipped::{SHIPPED, Shipped, asked_for};
use cce_tuning_db as db;
use cce_tuning_db::Winners;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// What the environment says of the database.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    /// It is switched off, and profiles with it.
    Off,
    /// Nothing says where it could be.
    Nowhere,
    /// Its folder.
    At(PathBuf),
}

/// The folder of the tuning database; `None` when `CCE_TUNING_DIR` is `none` or nothing says where it could
/// be.
pub fn folder() -> Option<PathBuf> {
    match place() {
        Place::At(folder) => Some(folder),
        Place::Off | Place::Nowhere => None,
    }
}

fn place() -> Place {
    place_of(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

fn place_of(variable: impl Fn(&str) -> Option<OsString>) -> Place {
    match variable("CCE_TUNING_DIR") {
        Some(folder) if folder == "none" => Place::Off,
        Some(folder) => Place::At(folder.into()),
        None => variable("XDG_DATA_HOME")
            .map(|folder| Path::new(&folder).join("cce"))
            .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".local/share/cce")))
            .map_or(Place::Nowhere, Place::At),
    }
}

/// The profile files that `CCE_PROFILE` names.
pub fn profiles() -> Vec<PathBuf> {
    match std::env::var_os("CCE_PROFILE") {
        Some(paths) => std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect(),
        None => Vec::new(),
    }
}

/// What identifies the state of the layers: their places, and when and how long their files were written.
#[derive(Clone, Debug, PartialEq)]
struct State {
    folder: Option<PathBuf>,
    profiles: Vec<PathBuf>,
    /// The snapshot of the database, then the profiles; `None`: it cannot be read.
    written: Vec<Option<(SystemTime, u64)>>,
}

impl State {
    fn of(folder: Option<PathBuf>, profiles: Vec<PathBuf>) -> State {
        let written = |path: &Path| {
            let data = std::fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        let snapshot = folder.as_ref().map(|folder| written(&folder.join("winners.snap")));
        let written = snapshot.into_iter().chain(profiles.iter().map(|path| written(path))).collect();
        State { folder, profiles, written }
    }
}

/// The winners that plans for a device ask, read again when the tuner or somebody else has written meanwhile. `None` when
/// they are switched off.
pub(super) fn winners(device: &db::Device) -> Option<Arc<Winners>> {
    /// By the shipped profiles among them.
    static LOADED: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());
    let folder = match place() {
        Place::Off => return None,
        Place::Nowhere => None,
        Place::At(folder) => Some(folder),
    };
    let state = State::of(folder, profiles());
    let shipped = asked_for(device);
    let files: Vec<&str> = shipped.iter().map(|shipped| shipped.file).collect();
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = loaded.iter().position(|loaded| loaded.shipped == files);
    if let Some(known) = known.and_then(|at| loaded.get(at)).filter(|known| known.state == state) {
        return Some(Arc::clone(&known.winners));
    }
    let read = read(state.folder.as_deref(), &state.profiles, &shipped);
    // What is said once a process has been said for any device.
    let read = loaded.iter().fold(read, |read, earlier| read.after(&earlier.winners));
    let winners = Arc::new(read);
    if let Some(known) = known {
        loaded.remove(known);
    }
    loaded.push(Loaded { shipped: files, state, winners: Arc::clone(&winners) });
    Some(winners)
}

struct Loaded {
    shipped: Vec<&'static str>,
    state: State,
    winners: Arc<Winners>,
}

/// The winners of a database, below them those of profile files, below these all that ship.
pub fn open(folder: Option<&Path>, profiles: &[PathBuf]) -> Winners {
    read(folder, profiles, &SHIPPED.iter().collect::<Vec<_>>())
}

fn read(folder: Option<&Path>, profiles: &[PathBuf], shipped: &[&Shipped]) -> Winners {
    let database = folder.map_or_else(Winners::empty, Winners::open);
    let named = profiles.iter().fold(database, |winners, profile| winners.with_profile_file(profile));
    shipped.iter().fold(named, |winners, shipped| winners.with_shipped_profile(shipped.file, shipped.text))
}

#[cfg(test)]
mod tests {
    use super::{Place, State, place_of};

    #[test]
    fn a_profile_or_a_snapshot_that_was_written_is_another_state() {
        let folder = tempfile::tempdir().unwrap();
        let profile = folder.path().join("profile.json");
        let now = || State::of(Some(folder.path().into()), vec![profile.clone()]);
        let nothing = now();
        assert_eq!(now(), nothing);
        std::fs::write(&profile, "{}").unwrap();
        let with_profile = now();
        assert_ne!(with_profile, nothing);
        std::fs::write(&profile, "{ }").unwrap();
        assert_ne!(now(), with_profile);
        let rewritten = now();
        std::fs::write(folder.path().join("winners.snap"), "x").unwrap();
        assert_ne!(now(), rewritten);
    }

    #[test]
    fn the_folder_follows_the_environment() {
        let with = |pairs: &'static [(&str, &str)]| {
            place_of(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into()))
        };
        assert_eq!(with(&[("CCE_TUNING_DIR", "/t"), ("HOME", "/h")]), Place::At("/t".into()));
        assert_eq!(with(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]), Place::At("/x/cce".into()));
        assert_eq!(with(&[("HOME", "/h")]), Place::At("/h/.local/share/cce".into()));
        assert_eq!(with(&[("CCE_TUNING_DIR", "none"), ("HOME", "/h")]), Place::Off);
        assert_eq!(with(&[]), Place::Nowhere);
    }
}
