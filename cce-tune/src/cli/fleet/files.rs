//! The files of a plan: its folder, its shards, what they came to.
//!
//! Invariants: a plan's folder appears in one step, whole; a file in it is whole or not there; a file of another
//! layout is told from a damaged one, and both say what to do.

use crate::Error;
use crate::files::{can_be_made, can_be_moved_to, place_of_folder, whole_text};
use crate::tuning::{Report, host_name};
use crate::worker::Job;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The layout of a shard's files.
const SHARD_SCHEMA: u32 = 1;
/// The folder of the run-off.
pub(super) const RUN_OFF: &str = "run-off";
/// What a folder's name ends with in which a plan is being made.
const UNFINISHED: &str = ".unfinished";

/// What a shard's worker has to know.
#[derive(Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub(super) struct Shard {
    schema: u32,
    kind: Kind,
    pub(super) job: Job,
    pub(super) on_gpu: bool,
    pub(super) counted: usize,
    /// Which share of the candidates; `None`: the run-off.
    pub(super) share: Option<(usize, usize)>,
    pub(super) budget_ms: Option<u64>,
}

/// That a file is what it seems.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "cce tuning shard")]
    Shard,
}

/// What a shard came to.
#[derive(Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub(super) struct Done {
    schema: u32,
    pub(super) host: String,
    pub(super) device: String,
    pub(super) candidates: usize,
    pub(super) tried: usize,
    pub(super) winner: Option<String>,
}

impl Shard {
    pub(super) fn new(
        job: Job,
        on_gpu: bool,
        counted: usize,
        share: Option<(usize, usize)>,
        budget_ms: Option<u64>,
    ) -> Shard {
        Shard { schema: SHARD_SCHEMA, kind: Kind::Shard, job, on_gpu, counted, share, budget_ms }
    }

    pub(super) fn read(folder: &Path) -> Result<Shard, Error> {
        let shard = read(&folder.join("shard.json"), "plan again")?;
        shard.ok_or_else(|| Error::Usage {
            reason: format!(
                "{} is no shard: it has no shard.json; `cce-tune plan --out DIR` writes shards",
                folder.display()
            ),
        })
    }
}

impl Done {
    pub(super) fn of(report: &Report) -> Done {
        Done {
            schema: SHARD_SCHEMA,
            host: host_name(),
            device: report.device.name().to_owned(),
            candidates: report.searched,
            tried: report.tried(),
            winner: report.ranking.winner().map(|winner| winner.description.clone()),
        }
    }

    /// `None`: the shard is not done.
    pub(super) fn read(folder: &Path) -> Result<Option<Done>, Error> {
        read(
            &folder.join("done.json"),
            "remove this file and do the shard again: its trials are kept and not measured again",
        )
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), Error> {
        write(&folder.join("done.json"), self)
    }
}

/// Refuses a place where no plan can be made, and a folder in which something is that would be lost.
pub(super) fn is_free(out: &Path) -> Result<(), Error> {
    holds_nothing(out)?;
    // What is in it is removed first.
    if !is_empty(out)? {
        can_be_made(out)?;
    }
    can_be_moved_to(out)
}

/// Refuses a folder in which something is that would be lost. What a plan left that was killed while it was made does
/// not count: nobody has worked on it.
fn holds_nothing(out: &Path) -> Result<(), Error> {
    let found = match is_plan(out) {
        true => "a plan",
        false if is_empty(out)? || is_half(out)? => return Ok(()),
        false => "other files",
    };
    Err(taken(out, found))
}

fn taken(out: &Path, found: &str) -> Error {
    let out = out.display();
    let reason = format!(
        "expected a new folder for the plan, found {found} in {out}; name another, or remove this one"
    );
    Error::Usage { reason }
}

/// Makes a plan of these shards, by their folders' names: beside its place, and then moved there in one step. What
/// earlier ones left that were killed is removed.
pub(super) fn make(out: &Path, shards: &[(String, Shard)]) -> Result<(), Error> {
    let failed = |source| Error::Write { path: out.into(), source };
    // Where a link leads to is what is moved to.
    let place = place_of_folder(out)?;
    let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
        return Err(taken(out, "the root of a file system"));
    };
    fs::create_dir_all(parent).map_err(failed)?;
    let stem = format!(".{}.{}-", name.to_string_lossy(), host_name());
    remove_unfinished(parent, &stem);
    // A process's number is no name: containers of one host name have the same.
    let process = format!("{stem}{}.", std::process::id());
    let mut builder = tempfile::Builder::new();
    let aside = builder.prefix(&process).suffix(UNFINISHED).tempdir_in(parent);
    let mut aside = aside.map_err(failed)?;
    let made = fill(aside.path(), shards).and_then(|_lock| {
        // From the look at the place to the move, so that no other's whole plan is taken for the half one that was there.
        let _alone = alone(parent)?;
        holds_nothing(&place)?;
        if !is_empty(&place)? {
            fs::remove_dir_all(&place).map_err(failed)?;
        }
        // An empty folder may be in the way of the move on some systems; where it cannot go, the move says why.
        let _ = fs::remove_dir(&place);
        fs::rename(aside.path(), &place).map_err(|error| match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => taken(out, "a plan"),
            ErrorKind::ResourceBusy | ErrorKind::CrossesDevices => Error::Usage {
                reason: format!(
                    "expected a folder that can be made in one step, found that {} is in use, such as a place where a \
                     file system is mounted; name a folder inside it",
                    out.display()
                ),
            },
            _ => failed(error),
        })
    });
    // What failed is removed.
    aside.disable_cleanup(made.is_ok());
    made
}

/// Writes the shards into a new, empty folder, which stays locked as long as what is returned lives, where the file
/// system has locks.
fn fill(folder: &Path, shards: &[(String, Shard)]) -> Result<Option<File>, Error> {
    let failed = |source| Error::Write { path: folder.into(), source };
    let lock = lock(folder)?;
    for (name, shard) in shards {
        let shard_folder = folder.join(name);
        fs::create_dir(&shard_folder).map_err(failed)?;
        write(&shard_folder.join("shard.json"), shard)?;
    }
    Ok(lock)
}

/// A folder to be locked; `None`: the system opens none. It has to be there.
fn opened(folder: &Path) -> std::io::Result<Option<File>> {
    match File::open(folder) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(error),
        Err(_) => Ok(None),
    }
}

/// Locks a new folder; `None`: the system or the file system has no such locks.
fn lock(folder: &Path) -> Result<Option<File>, Error> {
    let failed = |source| Error::Write { path: folder.into(), source };
    let Some(file) = opened(folder).map_err(failed)? else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        // Whoever has it takes it for one that was left behind, and removes it.
        Err(TryLockError::WouldBlock) => Err(Error::Usage {
            reason: format!(
                "expected to be alone with {}, found it locked by another cce-tune that makes a plan for the same place; \
                 wait for that one, or name another folder",
                folder.display()
            ),
        }),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Waits for others that look at a folder's plans, for the moment that each takes; `None`: the system or the file system has
/// no such locks.
fn alone(folder: &Path) -> Result<Option<File>, Error> {
    let failed = |source| Error::Read { path: folder.into(), source };
    let Some(file) = opened(folder).map_err(failed)? else { return Ok(None) };
    match file.lock() {
        Ok(()) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Removes what was being made for this place by processes of this host that have ended: of another host's, locks may
/// say nothing. What cannot be told or removed is in nobody's way.
fn remove_unfinished(parent: &Path, stem: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = |name: &str| {
            let rest = name.strip_prefix(stem)?.strip_suffix(UNFINISHED)?;
            // Earlier versions had the process's number alone.
            let (process, random) = rest.split_once('.').unwrap_or((rest, ""));
            let is_random = random.chars().all(|c| c.is_ascii_alphanumeric());
            process.parse::<u32>().ok().filter(|_| is_random)
        };
        let is_one = name.to_str().and_then(process).is_some();
        // Whoever still makes it holds its lock.
        let lock = is_one.then(|| File::open(entry.path()).ok()).flatten();
        if lock.is_some_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether there is nothing.
fn is_empty(path: &Path) -> Result<bool, Error> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(source) => Err(Error::Read { path: path.into(), source }),
    }
}

/// Whether there are shards alone, none of them begun: a plan without its run-off, made by a version that wrote it in
/// its place and was killed.
fn is_half(path: &Path) -> Result<bool, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let number = entry.file_name().to_str().and_then(number_of_shard);
        if number.is_none() && entry.file_name() != RUN_OFF || !entry.path().is_dir() {
            return Ok(false);
        }
        for inside in fs::read_dir(entry.path()).map_err(failed)? {
            let name = inside.map_err(failed)?.file_name();
            if !name.to_str().is_some_and(|name| name.starts_with("shard.json")) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The run-off is written last: what has one is whole.
pub(in crate::cli) fn is_plan(path: &Path) -> bool {
    path.join(RUN_OFF).join("shard.json").exists()
}

/// The shards of a plan, in order.
pub(super) fn shards(plan: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Read { path: plan.into(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(plan).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let number = path.file_name().and_then(|name| number_of_shard(name.to_str()?));
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn number_of_shard(name: &str) -> Option<usize> {
    name.strip_prefix("shard-")?.parse().ok()
}

/// What a file holds; `None`: there is no such file. `mend`: what to do about one that cannot be read.
fn read<T: DeserializeOwned>(path: &Path, mend: &str) -> Result<Option<T>, Error> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|source| Error::Read { path: path.into(), source })?,
    };
    let path = path.display();
    let damaged =
        |error: serde_json::Error| Error::Usage { reason: format!("{path} is damaged: {error}; {mend}") };
    // The layout first: another one's fields say nothing.
    let value: Value = serde_json::from_str(&text).map_err(damaged)?;
    match value.get("schema").and_then(Value::as_u64) {
        Some(schema) if schema != u64::from(SHARD_SCHEMA) => {
            let reason = format!(
                "{path} has schema {schema}, expected {SHARD_SCHEMA}: another version of cce-tune wrote it; use that \
                 one, or {mend}"
            );
            Err(Error::Usage { reason })
        }
        _ => serde_json::from_value(value).map(Some).map_err(damaged),
    }
}

/// Written beside and renamed: whoever reads it finds a whole one, or none.
fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Json(error.to_string()))?;
    whole_text(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::HeadSource;
    use crate::task::Task;
    use cce_codegen::problem::DType;

    #[test]
    fn only_what_ended_processes_of_this_host_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let kept = [
            ".plan.here-12.aB3xYz.unfinished",
            ".plan.there-11.aB3xYz.unfinished",
            ".plan.here-a-11.aB3xYz.unfinished",
            ".plan.here-12.org-11.aB3xYz.unfinished",
        ];
        let left = [".plan.here-11.aB3xYz.unfinished", ".plan.here-11.unfinished"];
        for name in kept.iter().chain(&left) {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let held = lock(&folder.path().join(kept[0])).unwrap();
        assert!(held.is_some());
        remove_unfinished(folder.path(), ".plan.here-");
        for name in left {
            assert!(!folder.path().join(name).exists(), "{name} was left");
        }
        for name in kept {
            assert!(folder.path().join(name).exists(), "{name} was removed");
        }
    }

    #[test]
    fn of_planners_of_one_place_in_one_process_one_makes_the_plan_and_none_spoils_another_s() {
        let program = cce::losses::named("cross_entropy").unwrap();
        let task = Task::new(program, 48, 16, 1500, DType::F32);
        let job = Job::new(&task, &[], HeadSource::Generated { seed: 0 });
        let shard = |name: &str| (name.to_owned(), Shard::new(job.clone(), false, 48, None, None));
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("plan");
        let made: Vec<Result<(), Error>> = std::thread::scope(|scope| {
            let one = || make(&out, &[shard("shard-0"), shard("shard-1"), shard(RUN_OFF)]);
            let planners: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            planners.into_iter().map(|planner| planner.join().unwrap()).collect()
        });
        assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1, "{made:?}");
        assert_eq!(shards(&out).unwrap().len(), 2);
        Shard::read(&out.join(RUN_OFF)).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was left");
    }

    #[test]
    #[cfg(unix)]
    fn a_plan_is_made_where_a_link_leads_and_the_link_stays() {
        let folder = tempfile::tempdir().unwrap();
        let task = Task::new(cce::losses::named("cross_entropy").unwrap(), 48, 16, 1500, DType::F32);
        let job = Job::new(&task, &[], HeadSource::Generated { seed: 0 });
        let shards = [(RUN_OFF.to_owned(), Shard::new(job, false, 48, None, None))];
        let here = |name: &str| folder.path().join(name);
        fs::create_dir(here("empty")).unwrap();
        for (link, target) in [("link", "empty"), ("dangling", "above/new")] {
            std::os::unix::fs::symlink(target, here(link)).unwrap();
            is_free(&here(link)).unwrap();
            make(&here(link), &shards).unwrap();
            assert!(fs::symlink_metadata(here(link)).unwrap().is_symlink());
            assert!(is_plan(&here(target)));
            assert!(is_free(&here(link)).unwrap_err().to_string().contains("found a plan"));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "something was left");
    }

    #[test]
    fn a_folder_that_another_planner_locks_or_has_removed_is_not_filled() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("new");
        fs::create_dir(&place).unwrap();
        // As a planner does that takes it for one that was left behind.
        let other = File::open(&place).unwrap();
        other.try_lock().unwrap();
        let error = lock(&place).unwrap_err().to_string();
        assert!(error.contains("another cce-tune that makes a plan for the same place"), "{error}");
        drop(other);
        assert!(lock(&place).unwrap().is_some());
        fs::remove_dir(&place).unwrap();
        assert!(matches!(lock(&place), Err(Error::Write { .. })));
    }
}
