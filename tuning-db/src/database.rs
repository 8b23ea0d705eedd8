//! The writer's side: append trials, keep the index and the snapshot, merge, export.
//!
//! [`Database::append`] is all that durability needs: when it returns, the records are in the log and
//! synced. [`Database::index`] makes them visible to readers; when another process is at it, the records
//! wait in the log for whoever indexes next.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::hash::RecordId;
use crate::index::{Failure, read_record};
use crate::key::{Device, Key};
use crate::log::{Log, ScanReport};
use crate::profile::Profile;
use crate::provenance::Provenance;
use crate::session::{Owner, Repair, Session};
use crate::snapshot::Snapshot;
use crate::trial::{Record, Trial};
use crate::winner::KeyWinners;

/// How long a writer waits for another one by default.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The layout of exports.
pub const EXPORT_SCHEMA: u32 = 1;
const BATCH: usize = 512;

/// A folder of trials, open for writing. Holds neither locks nor files between calls, so any number of
/// processes may have the same folder open.
#[derive(Debug)]
pub struct Database {
    folder: PathBuf,
    log: Log,
    patience: Duration,
}

/// What became of an attempt to index.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Indexing {
    /// Readers now see every record of the log.
    Done {
        /// What had to be put right on the way.
        repairs: Vec<Repair>,
    },
    /// Another process is indexing. The records are safe in the log; the next to index takes them in.
    Deferred,
}

/// What a merge or an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Merged {
    /// Records that were new.
    pub added: u64,
    /// Records that were there already.
    pub known: u64,
    /// Records that this version cannot read, left out.
    pub unreadable: u64,
}

impl Database {
    /// Opens the database in `folder`, which is created if need be, waiting for other writers up to
    /// [`PATIENCE`].
    ///
    /// # Errors
    /// When the folder cannot be written or belongs to a later version.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_with_patience(folder, PATIENCE)
    }

    /// The same, waiting for other writers up to `patience` in each call.
    ///
    /// # Errors
    /// As [`Database::open`].
    pub fn open_with_patience(folder: &Path, patience: Duration) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
        let mut log = Log::in_folder(folder, patience);
        log.prepare()?;
        Ok(Self { folder: folder.into(), log, patience })
    }

    /// Whether there is a database in `folder`, which is only looked at.
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        Log::in_folder(folder, Duration::ZERO).path().exists()
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends records to the log and syncs it. They are durable when this returns.
    ///
    /// # Errors
    /// When the log cannot be written or stays locked, or a time is no time; then none of the records is
    /// promised to be there.
    pub fn append(&mut self, records: &[Record]) -> Result<()> {
        let payloads = records.iter().map(payload).collect::<Result<Vec<_>>>()?;
        self.log.append(&payloads)
    }

    /// Takes what is new in the log into the index and renews the snapshot that readers load.
    ///
    /// # Errors
    /// When the folder cannot be written, or the index fails even when built anew.
    pub fn index(&mut self) -> Result<Indexing> {
        Ok(match self.session(false, |_| Ok(()))? {
            Some(((), repairs)) => Indexing::Done { repairs },
            None => Indexing::Deferred,
        })
    }

    /// Compares index and log record by record and puts right what differs.
    ///
    /// # Errors
    /// As [`Database::index`].
    pub fn verify(&mut self) -> Result<(Indexing, ScanReport)> {
        let indexing = match self.session(true, |_| Ok(()))? {
            Some(((), repairs)) => Indexing::Done { repairs },
            None => Indexing::Deferred,
        };
        let (_, report) = self.log.scan(None, |_| Ok(()))?;
        Ok((indexing, report))
    }

    /// All trials of a key, in no particular order.
    ///
    /// # Errors
    /// As [`Database::index`].
    pub fn trials(&mut self, key: &Key) -> Result<Vec<Trial>> {
        let mut trials = Vec::new();
        self.each(&key.encode()?, |record| trials.push(record.trial), |record| record.key == *key)?;
        Ok(trials)
    }

    /// All records.
    ///
    /// # Errors
    /// As [`Database::index`].
    pub fn records(&mut self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        self.each(b"", |record| records.push(record), |_| true)?;
        Ok(records)
    }

    /// All records of a device, of all programs.
    ///
    /// # Errors
    /// As [`Database::index`].
    pub fn records_of_device(&mut self, device: &Device) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let prefix = Key::device_prefix(device)?;
        self.each(&prefix, |record| records.push(record), |record| record.key.device == *device)?;
        Ok(records)
    }

    /// From the index, or, while another process has it, from the log.
    fn each(
        &mut self,
        prefix: &[u8],
        mut take: impl FnMut(Record),
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<()> {
        let indexed = self.session(false, |session| {
            let mut found = Vec::new();
            session.records(prefix, |stored| {
                found.extend(read_record(stored.payload));
                Ok(())
            })?;
            Ok(found)
        })?;
        if let Some((found, _)) = indexed {
            found.into_iter().filter(wanted).for_each(take);
            return Ok(());
        }
        let mut seen = HashSet::new();
        self.log.scan(None, |payload| {
            if let Some(record) = read_record(payload).filter(&wanted)
                && seen.insert(RecordId::of(payload))
            {
                take(record);
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Adds the records of the database in another folder, which is only read. Winners are chosen again
    /// from both: the better record wins, each keeps its provenance.
    ///
    /// # Errors
    /// When the other log cannot be read, or ours cannot be written.
    pub fn merge(&mut self, other: &Path) -> Result<Merged> {
        let theirs = Log::in_folder(other, self.patience);
        let mut adding = self.adding()?;
        theirs.scan(None, |payload| adding.take(read_record(payload)))?;
        adding.finish()
    }

    /// Writes all records as JSON: `{"kind": "cce trials", "schema": 1, "records": [..]}`, one record a line.
    /// Returns how many.
    ///
    /// # Errors
    /// As [`Database::index`], or when `out` fails.
    pub fn export(&mut self, out: impl Write) -> Result<u64> {
        let records = self.records()?;
        let io = || Error::io("write the export of", &self.folder);
        let mut out = std::io::BufWriter::new(out);
        let mut count = 0;
        write!(out, "{{\"kind\":\"cce trials\",\"schema\":{EXPORT_SCHEMA},\"records\":[").map_err(io())?;
        for record in &records {
            out.write_all(if count == 0 { b"\n" } else { b",\n" }).map_err(io())?;
            out.write_all(&payload(record)?).map_err(io())?;
            count += 1;
        }
        out.write_all(b"\n]}\n").and_then(|()| out.flush()).map_err(io())?;
        Ok(count)
    }

    /// Adds the records of an export.
    ///
    /// # Errors
    /// When the input is no export, or one of a later schema, or the log cannot be written.
    pub fn import(&mut self, mut input: impl Read) -> Result<Merged> {
        let mut text = String::new();
        input.read_to_string(&mut text).map_err(Error::io("read the import for", &self.folder))?;
        let mut adding = self.adding()?;
        for record in exported(&text)? {
            adding.take(record)?;
        }
        adding.finish()
    }

    /// The winners of a device (of all devices for `None`) as a profile.
    ///
    /// # Errors
    /// As [`Database::index`]; [`Error::Busy`] when another process keeps the index.
    pub fn profile(
        &mut self,
        name: &str,
        provenance: Provenance,
        device: Option<&Device>,
    ) -> Result<Profile> {
        if self.index()? == Indexing::Deferred {
            return Err(Error::Busy { path: self.folder.join("lock"), waited: self.patience });
        }
        let snapshot = Snapshot::load(&self.folder.join(crate::snapshot::FILE))?;
        let entries: Vec<KeyWinners> =
            snapshot.all().filter(|w| device.is_none_or(|device| w.key.device == *device)).collect();
        Ok(Profile::new(name, provenance, entries))
    }

    /// Indexes what was appended. Dropping the database without closing it loses nothing: the next to index
    /// takes the records in.
    ///
    /// # Errors
    /// As [`Database::index`].
    pub fn close(mut self) -> Result<Indexing> {
        self.index()
    }

    fn session<T>(
        &mut self,
        compare: bool,
        work: impl FnMut(&Session) -> std::result::Result<T, Failure>,
    ) -> Result<Option<(T, Vec<Repair>)>> {
        let Some(mut owner) = Owner::wait(&self.folder, self.patience)? else { return Ok(None) };
        // The folder may have lost its log since it was opened.
        self.log.prepare()?;
        let value = owner.session(&mut self.log, compare, work)?;
        Ok(value.map(|value| (value, owner.repairs)))
    }

    fn adding(&mut self) -> Result<Adding<'_>> {
        let mut known = HashSet::new();
        self.log.scan(None, |payload| {
            known.insert(RecordId::of(payload));
            Ok(())
        })?;
        Ok(Adding { database: self, known, waiting: Vec::new(), merged: Merged::default() })
    }
}

/// The records of an export; `None` stands for one that this version cannot read.
///
/// # Errors
/// When the text is no export, or one of a later schema.
pub fn exported(text: &str) -> Result<Vec<Option<Record>>> {
    #[derive(Deserialize)]
    struct Export<'a> {
        kind: String,
        schema: u32,
        #[serde(borrow)]
        records: Vec<&'a RawValue>,
    }
    let bad = |reason: String| Error::Decode { what: "an export of trials".to_owned(), reason };
    let export: Export<'_> = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    if export.kind != "cce trials" || export.schema != EXPORT_SCHEMA {
        let found = format!("it says {:?}, schema {}", export.kind, export.schema);
        return Err(bad(format!("expected \"cce trials\", schema {EXPORT_SCHEMA}; {found}")));
    }
    Ok(export.records.iter().map(|record| read_record(record.get().as_bytes())).collect())
}

/// Records on their way in, each only once.
struct Adding<'a> {
    database: &'a mut Database,
    known: HashSet<RecordId>,
    waiting: Vec<Vec<u8>>,
    merged: Merged,
}

impl Adding<'_> {
    fn take(&mut self, record: Option<Record>) -> Result<()> {
        let Some(record) = record else {
            self.merged.unreadable += 1;
            return Ok(());
        };
        let payload = payload(&record)?;
        if !self.known.insert(RecordId::of(&payload)) {
            self.merged.known += 1;
            return Ok(());
        }
        self.merged.added += 1;
        self.waiting.push(payload);
        if self.waiting.len() == BATCH { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        self.database.log.append(&std::mem::take(&mut self.waiting))
    }

    fn finish(mut self) -> Result<Merged> {
        self.write()?;
        self.database.index()?;
        Ok(self.merged)
    }
}

/// The bytes of a record in the log.
fn payload(record: &Record) -> Result<Vec<u8>> {
    record.trial.check()?;
    record.key.encode()?;
    serde_json::to_vec(record)
        .map_err(|e| Error::Decode { what: "a record to be written".to_owned(), reason: e.to_string() })
}
