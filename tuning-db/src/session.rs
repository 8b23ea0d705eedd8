//! A session with the indexed store: open, take in what is new in the log, do the work, renew the snapshot,
//! close. Sessions are short, so that many processes can take turns.
//!
//! Whoever holds `lock` owns `index/`, `index.state` and `winners.snap`. Repair goes from gentle to thorough:
//! 1. sled refuses: remove only `snap.*.generating` and try again;
//! 2. still refuses, panics, or holds another version's files: set the folder aside and build it from the
//!    log;
//! 3. the last owner did not close (it left `index.state`): compare store and log record by record, both
//!    ways.
//!
//! A full or read-only disk is no damage: nothing is repaired then, the error is reported.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::files::{replace, set_aside};
use crate::hash::RecordId;
use crate::index::{Entry, Failure, Index, Standing, Stored, read_record, remove_unfinished_snapshots};
use crate::key::Key;
use crate::lock::Lock;
use crate::log::{Log, Position};
use crate::snapshot::{Draft, Snapshot};
use crate::trial::Trial;
use crate::winner::KeyWinners;

type Outcome<T> = std::result::Result<T, Failure>;

/// So many owners in a row died while opening the store: it is set aside without opening it again. Three in a
/// row are met by chance when processes are killed all the time; rebuilding is only slow, but needless then.
const OPENINGS_GRANTED: u32 = 5;

/// Something that was put right, for people to read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repair {
    /// Snapshots that a killed process was still writing were removed from the indexed store.
    RemovedUnfinishedSnapshots {
        /// How many.
        count: usize,
    },
    /// The indexed store was set aside and built again from the log.
    SetAside {
        /// Where it is now.
        to: PathBuf,
        /// Why.
        reason: String,
    },
    /// Records that the log had lost were taken back from the indexed store.
    RestoredToLog {
        /// How many.
        count: usize,
    },
    /// Records that the indexed store had lost were taken back from the log.
    RestoredToIndex {
        /// How many.
        count: usize,
    },
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemovedUnfinishedSnapshots { count } => {
                write!(f, "removed {count} unfinished snapshots from the index")
            }
            Self::SetAside { to, reason } => {
                write!(f, "set the index aside as {} and rebuilt it from the log: {reason}", to.display())
            }
            Self::RestoredToLog { count } => write!(f, "restored {count} records to the log from the index"),
            Self::RestoredToIndex { count } => {
                write!(f, "restored {count} records to the index from the log")
            }
        }
    }
}

/// Paths and repairs of one owner.
#[derive(Debug)]
pub(crate) struct Owner {
    folder: PathBuf,
    _lock: Lock,
    pub(crate) repairs: Vec<Repair>,
}

impl Owner {
    /// Becomes the owner, trying for `patience`; `None` when another process stays it.
    pub(crate) fn wait(folder: &Path, patience: Duration) -> Result<Option<Self>> {
        match Lock::wait(&folder.join("lock"), patience) {
            Ok(lock) => Ok(Some(Self { folder: folder.into(), _lock: lock, repairs: Vec::new() })),
            Err(Error::Busy { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn index(&self) -> PathBuf {
        self.folder.join("index")
    }

    fn state(&self) -> PathBuf {
        self.folder.join("index.state")
    }

    /// Runs `work` in a session, repairing as far as needed. `None` when somebody who does not know our lock
    /// has the store open.
    pub(crate) fn session<T>(
        &mut self,
        log: &mut Log,
        compare: bool,
        mut work: impl FnMut(&Session) -> Outcome<T>,
    ) -> Result<Option<T>> {
        let left = std::fs::read_to_string(self.state()).ok();
        let openings =
            left.as_deref().and_then(|s| s.strip_prefix("opening ")).and_then(|n| n.trim().parse().ok());
        let openings: u32 = openings.unwrap_or(0);
        let compare = compare || left.is_some();
        if openings >= OPENINGS_GRANTED {
            self.set_index_aside(format!("{openings} processes in a row died while opening it"))?;
        }
        for attempt in 0.. {
            self.write_state(&format!("opening {}", openings + 1))?;
            let reason = match self.once(log, compare || attempt > 0, &mut work) {
                Ok(value) => {
                    let state = self.state();
                    std::fs::remove_file(&state).map_err(Error::io("remove", &state))?;
                    return Ok(Some(value));
                }
                Err(Failure::Damaged(reason)) => reason,
                Err(failure) => {
                    // Not the store's fault: it is not closed, but this opening does not count against it.
                    let _ = self.write_state("open");
                    return match failure {
                        Failure::Place(source) => Err(Error::io("write the index", self.index())(source)),
                        Failure::Other(error) => Err(error),
                        Failure::Busy | Failure::Damaged(_) => Ok(None),
                    };
                }
            };
            match attempt {
                0 if self.remove_unfinished()? => {}
                0 | 1 => self.set_index_aside(reason)?,
                _ => return Err(Error::Index { path: self.index(), reason }),
            }
        }
        Ok(None)
    }

    fn once<T>(
        &mut self,
        log: &mut Log,
        compare: bool,
        work: &mut impl FnMut(&Session) -> Outcome<T>,
    ) -> Outcome<T> {
        let index = Index::open(&self.index())?;
        self.write_state("open")?;
        let mut session = Session { index };
        let outcome =
            session.take_in(log, &self.folder, compare, &mut self.repairs).and_then(|()| work(&session));
        match outcome {
            Ok(value) => session.index.close().map(|()| value),
            Err(failure) => {
                // The first failure is the one to report.
                let _ = session.index.abandon();
                Err(failure)
            }
        }
    }

    fn write_state(&self, text: &str) -> Result<()> {
        let state = self.state();
        if text == "open" {
            // Not synced: "opening" already says that the store was not closed.
            return std::fs::write(&state, text).map_err(Error::io("write", &state));
        }
        replace(&state, |file| std::io::Write::write_all(file, text.as_bytes()))
    }

    /// Whether there was anything to remove.
    fn remove_unfinished(&mut self) -> Result<bool> {
        let index = self.index();
        if !index.is_dir() {
            return Ok(false);
        }
        let count = remove_unfinished_snapshots(&index).map_err(Error::io("repair the index", index))?;
        if count > 0 {
            self.repairs.push(Repair::RemovedUnfinishedSnapshots { count });
        }
        Ok(count > 0)
    }

    fn set_index_aside(&mut self, reason: String) -> Result<()> {
        let index = self.index();
        if std::fs::symlink_metadata(&index).is_ok() {
            let to = set_aside(&index)?;
            self.repairs.push(Repair::SetAside { to, reason });
        }
        Ok(())
    }
}

/// The open store, up to date with the log.
#[derive(Debug)]
pub(crate) struct Session {
    index: Index,
}

impl Session {
    fn take_in(
        &mut self,
        log: &mut Log,
        folder: &Path,
        compare: bool,
        repairs: &mut Vec<Repair>,
    ) -> Outcome<()> {
        let standing = match self.index.standing()? {
            // Of another log, or beyond the end of this one: worth nothing.
            Some(standing) if log.bytes_behind(standing.position)?.is_none() => None,
            standing => standing,
        };
        let mut touched = BTreeSet::new();
        match standing {
            Some(Standing { position: before, count, complete: true }) if !compare => {
                let position = self.catch_up(log, before, count, &mut touched)?;
                self.index.flush()?;
                self.renew_snapshot(folder, Some(before), position, &touched)
            }
            _ => {
                let position = self.compare(log, standing.map(|s| s.position), repairs)?;
                self.index.flush()?;
                self.renew_snapshot(folder, None, position, &touched)
            }
        }
    }

    /// Takes in what the log has behind `from`, where the store holds `count` records.
    fn catch_up(
        &self,
        log: &Log,
        from: Position,
        count: u64,
        touched: &mut BTreeSet<Vec<u8>>,
    ) -> Outcome<Position> {
        let mut count = count;
        let position = log.scan_in_portions(Some(from), |payloads| {
            let new = self.index.missing(entries(&payloads))?;
            touched.extend(new.iter().map(|e| e.tuning_key().to_vec()));
            count += new.len() as u64;
            self.index.insert(new)
        })?;
        if from != position {
            self.index.set_standing(position, count)?;
        }
        Ok(position)
    }

    /// Gives the store every record that only the log has, and the log every record that only the store has.
    /// What the log has in front of `before` the store once had.
    fn compare(
        &self,
        log: &mut Log,
        before: Option<Position>,
        repairs: &mut Vec<Repair>,
    ) -> Outcome<Position> {
        let mut not_due: HashSet<RecordId> = HashSet::new();
        log.scan(before, |payload| {
            not_due.insert(RecordId::of(payload));
            Ok(())
        })?;
        // First, so that what is damaged here is missing, and comes back from the log.
        let mut damaged = Vec::new();
        self.index.scan(b"", |stored| {
            if stored.id().is_none() {
                damaged.push(stored.store_key().to_vec());
            }
            Ok(())
        })?;
        self.index.remove(&damaged)?;
        let mut in_log: HashSet<RecordId> = HashSet::new();
        let mut lost = 0;
        let position = log.scan_in_portions(None, |payloads| {
            in_log.extend(payloads.iter().map(|payload| RecordId::of(payload)));
            let missing = self.index.missing(entries(&payloads))?;
            lost += missing.iter().filter(|e| e.id().is_none_or(|id| !not_due.contains(&id))).count();
            self.index.insert(missing)
        })?;
        if lost > 0 {
            repairs.push(Repair::RestoredToIndex { count: lost });
        }
        let (mut only_here, mut count) = (Vec::new(), 0);
        self.index.scan(b"", |stored| {
            if stored.id().is_some_and(|id| !in_log.contains(&id)) {
                only_here.push(stored.payload.to_vec());
            }
            count += 1;
            Ok(())
        })?;
        self.index.set_standing(position, count)?;
        if only_here.is_empty() {
            return Ok(position);
        }
        log.append(&only_here)?;
        repairs.push(Repair::RestoredToLog { count: only_here.len() });
        self.catch_up(log, position, count, &mut BTreeSet::new())
    }

    fn renew_snapshot(
        &self,
        folder: &Path,
        before: Option<Position>,
        position: Position,
        touched: &BTreeSet<Vec<u8>>,
    ) -> Outcome<()> {
        let path = folder.join(crate::snapshot::FILE);
        let old = match Snapshot::load(&path) {
            // A newer version's snapshot is its own: leave it.
            Err(error @ Error::Newer { .. }) => return Err(error.into()),
            old => old.ok(),
        };
        let current = old.filter(|old| Some(old.position()) == before && old.is_intact());
        let mut draft = match &current {
            Some(old) if old.position() == position => return Ok(()),
            Some(old) => {
                let mut draft = Draft::of(old);
                for key in touched {
                    self.choose(key, &mut draft)?;
                }
                draft
            }
            None => Draft::default(),
        };
        if current.is_none() {
            self.choose(b"", &mut draft)?;
        }
        Ok(draft.write(&path, position)?)
    }

    /// Sets the winners of every key that begins with `prefix`.
    fn choose(&self, prefix: &[u8], draft: &mut Draft) -> Outcome<()> {
        let mut trials: Vec<Trial> = Vec::new();
        let mut current: Option<(Vec<u8>, Key)> = None;
        let mut finish = |key: Option<(Vec<u8>, Key)>, trials: &mut Vec<Trial>| match key {
            Some((_, key)) => {
                let outcome = draft.set(KeyWinners::choose(key, &*trials));
                trials.clear();
                outcome
            }
            None => Ok(()),
        };
        self.index.scan(prefix, |stored| {
            let Some(record) = read_record(stored.payload) else { return Ok(()) };
            let bytes = stored.tuning_key().unwrap_or_default();
            if current.as_ref().is_none_or(|(known, _)| known != bytes) {
                finish(current.replace((bytes.to_vec(), record.key)), &mut trials)?;
            }
            trials.push(record.trial);
            Ok(())
        })?;
        Ok(finish(current, &mut trials)?)
    }

    /// Calls `each` with every record whose encoded key begins with `prefix`.
    pub(crate) fn records(&self, prefix: &[u8], each: impl FnMut(Stored<'_>) -> Outcome<()>) -> Outcome<()> {
        self.index.scan(prefix, each)
    }
}

/// What this version can read of the payloads.
fn entries(payloads: &[Vec<u8>]) -> Vec<Entry> {
    payloads.iter().filter_map(|payload| Entry::of(payload)).collect()
}
