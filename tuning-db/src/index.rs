//! The indexed store: sled 0.34.7, opened for a moment, behind a fence.
//!
//! sled is quick and is what the log is indexed with, but it is not what we trust: it may refuse to open
//! after a killed process, and it may panic on a damaged file. Everything here runs behind [`fence`], which
//! sorts what went wrong into three kinds, and the caller (see [`crate::session`]) acts on the kind.
//!
//! Entries are `encoded key | config hash 16 | record id 16 -> record`, the record as it stands in the log.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::unwritable;
use crate::hash::RecordId;
use crate::log::Position;
use crate::trial::{RECORD_SCHEMA, Record};

/// Sorts behind every record, whose keys begin with a small schema number.
const POSITION_KEY: &[u8] = b"\xff position";
/// Config hash and record id behind the encoded key.
const SUFFIX: usize = 32;
const BATCH: usize = 1000;

/// Why the store could not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Somebody else has the store open.
    Busy,
    /// The place cannot be written: repairing would change nothing.
    Place(io::Error),
    /// The store is damaged, foreign, or in a state it did not foresee.
    Damaged(String),
    /// Something beside the store failed: the log, a file of ours.
    Other(crate::Error),
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        Self::Other(error)
    }
}

type Outcome<T> = Result<T, Failure>;

/// Runs a store operation; a panic inside is damage, like an error.
fn fence<T>(work: impl FnOnce() -> sled::Result<T>) -> Outcome<T> {
    // The store is not used again after a failure, so a broken invariant in it is never observed.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) if unwritable(&error) => Err(Failure::Place(error)),
        Ok(Err(sled::Error::Io(error))) if error.to_string().starts_with("could not acquire lock") => {
            Err(Failure::Busy)
        }
        Ok(Err(error)) => Err(Failure::Damaged(error.to_string())),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
            Err(Failure::Damaged(format!("it panicked: {said}")))
        }
    }
}

/// The open store.
#[derive(Debug)]
pub(crate) struct Index {
    db: sled::Db,
}

impl Index {
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        if let Some(stranger) = stranger(path).map_err(|e| place_or_damage(e, "read the folder"))? {
            return Err(Failure::Damaged(format!("{stranger:?} in it is not sled 0.34's")));
        }
        // A store that was closed a moment ago in this process may still hold its lock.
        let patience = Duration::from_secs(1);
        let begin = Instant::now();
        loop {
            let config = sled::Config::new()
                .path(path)
                .cache_capacity(64 << 20)
                .flush_every_ms(None)
                .mode(sled::Mode::HighThroughput);
            match fence(|| config.open()) {
                Err(Failure::Busy) if begin.elapsed() < patience => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                opened => return opened.map(|db| Self { db }),
            }
        }
    }

    /// Up to where the log has been taken in; `None` when it never was, or by another version.
    pub(crate) fn standing(&self) -> Outcome<Option<Standing>> {
        let Some(stored) = fence(|| self.db.get(POSITION_KEY))? else { return Ok(None) };
        let Some((position, count)) = read_position(&stored) else { return Ok(None) };
        Ok(Some(Standing { position, count, complete: self.count()? == count }))
    }

    /// Notes up to where the log has been taken in, and how many records there are.
    pub(crate) fn set_standing(&self, position: Position, count: u64) -> Outcome<()> {
        let mut bytes = RECORD_SCHEMA.to_le_bytes().to_vec();
        bytes.extend(position.log);
        bytes.extend(position.offset.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        fence(|| self.db.insert(POSITION_KEY, bytes).map(drop))
    }

    fn count(&self) -> Outcome<u64> {
        let mut count = 0;
        self.scan(b"", |_| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    /// Those of `entries` that the store does not hold, each once.
    pub(crate) fn missing(&self, entries: Vec<Entry>) -> Outcome<Vec<Entry>> {
        let mut missing = Vec::new();
        let mut seen = HashSet::new();
        for entry in entries {
            if entry.id().is_some_and(|id| seen.insert(id)) && !fence(|| self.db.contains_key(&entry.key))? {
                missing.push(entry);
            }
        }
        Ok(missing)
    }

    pub(crate) fn insert(&self, entries: Vec<Entry>) -> Outcome<()> {
        let mut batch = sled::Batch::default();
        let mut waiting = 0;
        for Entry { key, payload, .. } in entries {
            batch.insert(key, payload);
            waiting += 1;
            if waiting == BATCH {
                fence(|| self.db.apply_batch(std::mem::take(&mut batch)))?;
                waiting = 0;
            }
        }
        fence(|| self.db.apply_batch(batch))
    }

    pub(crate) fn remove(&self, keys: &[Vec<u8>]) -> Outcome<()> {
        keys.iter().try_for_each(|key| fence(|| self.db.remove(key)).map(drop))
    }

    /// Calls `each` with every stored record whose key begins with `prefix`, in order.
    pub(crate) fn scan(&self, prefix: &[u8], mut each: impl FnMut(Stored<'_>) -> Outcome<()>) -> Outcome<()> {
        let mut entries = self.db.scan_prefix(prefix);
        while let Some(entry) = fence(|| entries.next().transpose())? {
            let (key, payload) = entry;
            if key.as_ref() != POSITION_KEY {
                each(Stored { key: &key, payload: &payload })?;
            }
        }
        Ok(())
    }

    pub(crate) fn flush(&self) -> Outcome<()> {
        fence(|| self.db.flush().map(drop))
    }

    /// Flushes and closes; what goes wrong while closing is damage too.
    pub(crate) fn close(self) -> Outcome<()> {
        self.flush()?;
        self.abandon()
    }

    /// Closes without asking whether it went well.
    pub(crate) fn abandon(self) -> Outcome<()> {
        let db = self.db;
        fence(move || {
            drop(db);
            Ok(())
        })
    }
}

fn read_position(bytes: &[u8]) -> Option<(Position, u64)> {
    let (schema, rest) = bytes.split_first_chunk()?;
    let (log, rest) = rest.split_first_chunk()?;
    let (offset, count) = rest.split_first_chunk()?;
    let position = Position { log: *log, offset: u64::from_le_bytes(*offset) };
    let count = u64::from_le_bytes(count.try_into().ok()?);
    (u32::from_le_bytes(*schema) == RECORD_SCHEMA).then_some((position, count))
}

/// How far the store had come when it was last closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) position: Position,
    /// The records it held.
    pub(crate) count: u64,
    /// Whether the store still holds as many records as it did then. Damage that looks to sled like the end
    /// of its file makes records disappear without an error: the count notices.
    pub(crate) complete: bool,
}

/// A record as the store holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored<'a> {
    key: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl<'a> Stored<'a> {
    /// The encoded [`crate::Key`].
    pub(crate) fn tuning_key(&self) -> Option<&'a [u8]> {
        self.key.get(..self.key.len().checked_sub(SUFFIX)?)
    }

    /// The record's identity, when key and payload belong together.
    pub(crate) fn id(&self) -> Option<RecordId> {
        let id = RecordId::from_bytes(*self.key.last_chunk()?);
        (RecordId::of(self.payload) == id).then_some(id)
    }

    pub(crate) fn store_key(&self) -> &'a [u8] {
        self.key
    }
}

/// A record ready to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    key: Vec<u8>,
    payload: Vec<u8>,
    /// Length of the encoded tuning key at the front of `key`.
    split: usize,
}

impl Entry {
    /// `None` when the payload is no record of a schema that this version knows.
    pub(crate) fn of(payload: &[u8]) -> Option<Self> {
        let record = read_record(payload)?;
        let mut key = record.key.encode().ok()?;
        let split = key.len();
        key.extend(record.trial.config.hash().as_bytes());
        key.extend(RecordId::of(payload).as_bytes());
        Some(Self { key, payload: payload.to_vec(), split })
    }

    pub(crate) fn tuning_key(&self) -> &[u8] {
        self.key.get(..self.split).unwrap_or_default()
    }

    pub(crate) fn id(&self) -> Option<RecordId> {
        self.key.last_chunk().map(|id| RecordId::from_bytes(*id))
    }
}

/// Decodes a payload of the log; `None` when it is not of a schema that this version knows.
pub(crate) fn read_record(payload: &[u8]) -> Option<Record> {
    let record: Record = serde_json::from_slice(payload).ok()?;
    (record.schema == RECORD_SCHEMA && record.key.schema == crate::KEY_SCHEMA).then_some(record)
}

/// Removes the snapshots that a killed sled was still writing. Only these: the others are needed.
/// Returns how many there were.
pub(crate) fn remove_unfinished_snapshots(path: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Something in the folder that sled 0.34 would not have put there. It would open such a folder without a
/// word and mix its files with the others.
fn stranger(path: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if !(matches!(&*text, "conf" | "db" | "blobs") || text.starts_with("snap.")) {
            return Ok(Some(name.into()));
        }
    }
    Ok(None)
}

fn place_or_damage(error: io::Error, what: &str) -> Failure {
    if unwritable(&error) {
        Failure::Place(error)
    } else {
        Failure::Damaged(format!("could not {what}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_wrong_in_the_store_is_sorted_into_busy_place_and_damage() {
        let io =
            |kind, text: &str| fence(|| Err::<(), _>(sled::Error::Io(io::Error::new(kind, text.to_owned()))));
        assert!(matches!(io(io::ErrorKind::Other, "could not acquire lock on \"x\""), Err(Failure::Busy)));
        assert!(matches!(io(io::ErrorKind::StorageFull, "full"), Err(Failure::Place(_))));
        assert!(matches!(io(io::ErrorKind::PermissionDenied, "no"), Err(Failure::Place(_))));
        assert!(matches!(io(io::ErrorKind::UnexpectedEof, "cut"), Err(Failure::Damaged(_))));
        let bug = fence(|| Err::<(), _>(sled::Error::ReportableBug("odd".to_owned())));
        assert!(matches!(bug, Err(Failure::Damaged(reason)) if reason.contains("odd")));
    }

    #[test]
    fn a_panic_in_the_store_is_damage_and_does_not_get_through() {
        let outcome = fence(|| -> sled::Result<()> { panic!("page {} is missing", 7) });
        assert!(
            matches!(outcome, Err(Failure::Damaged(reason)) if reason == "it panicked: page 7 is missing")
        );
    }
}
