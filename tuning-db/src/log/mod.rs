//! The append-only trial log: the durable record, from which everything else can be built again.
//!
//! - A record is flushed when [`Log::append`] has returned; from then on neither a killed process nor damage
//!   elsewhere in the file loses it.
//! - Appending takes `log.lock` for one write and one sync, so any number of processes may append.
//! - Only the incomplete frame that a killed writer left at the very end is ever cut, under that lock.
//!   Damage in the middle is skipped and left in place.
//! - A file that is no log of ours is set aside, with whatever intact records it holds copied over first.

mod frame;
mod scan;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use scan::ScanReport;

use crate::error::{Error, Result};
use crate::files::{copy_aside, replace};
use crate::lock::Lock;

const HEADER_LENGTH: u64 = 32;
const FORMAT: u32 = 1;
/// Bounds the memory that indexing takes; many times the largest record.
const PORTION: u64 = if cfg!(test) { 4 << 20 } else { 32 << 20 };
const WORD: &[u8; 12] = b"cce trials\r\n";

/// Distinguishes a log from any other that ever stood in its place.
pub(crate) type LogId = [u8; 8];

/// How far a reader has come in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) log: LogId,
    pub(crate) offset: u64,
}

/// The log of a folder. Holds no file open between calls.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    lock: PathBuf,
    patience: Duration,
    /// Known to end in an intact frame, so that the tail need not be checked again.
    clean: Option<Position>,
}

impl Log {
    pub(crate) fn in_folder(folder: &Path, patience: Duration) -> Self {
        Self { path: folder.join("trials.log"), lock: folder.join("log.lock"), patience, clean: None }
    }

    /// Creates the log if there is none, and repairs its tail. Errors when it cannot be written.
    pub(crate) fn prepare(&mut self) -> Result<()> {
        self.append(&[])
    }

    /// Appends payloads in one write and syncs. All of them are durable when this returns; after an error
    /// none of them is promised, and what was written of them is taken back as far as possible.
    pub(crate) fn append(&mut self, payloads: &[Vec<u8>]) -> Result<()> {
        let mut bytes = Vec::new();
        for payload in payloads {
            frame::write_frame(payload, &mut bytes)?;
        }
        let _lock = Lock::wait(&self.lock, self.patience)?;
        let (mut file, id) = self.open_for_append()?;
        let end = self.cut_torn_tail(&mut file, id)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let written = file.write_all(&bytes).and_then(|()| file.sync_data());
        if let Err(error) = written {
            self.clean = None;
            // Best effort: what remains is either whole records, which do no harm, or a torn tail.
            let _ = file.set_len(end);
            return Err(Error::io("append to the trial log", &self.path)(error));
        }
        self.clean = Some(Position { log: id, offset: end + bytes.len() as u64 });
        Ok(())
    }

    /// Opens the log, which exists and has a valid header afterwards.
    fn open_for_append(&self) -> Result<(File, LogId)> {
        let io = |action| Error::io(action, &self.path);
        if !self.path.exists() {
            replace(&self.path, |file| file.write_all(&header(new_id())))?;
        }
        let open = || OpenOptions::new().read(true).append(true).open(&self.path);
        let mut file = open().map_err(io("open the trial log"))?;
        if let Some(id) = read_header(&mut file, &self.path)? {
            return Ok((file, id));
        }
        let id = new_id();
        self.start_again(&mut file, id)?;
        Ok((open().map_err(io("open the trial log"))?, id))
    }

    /// Puts a new log in the place of a file without a valid header. A copy of the old file is set aside
    /// first and the new one is renamed over it, so that at no moment the records are nowhere.
    fn start_again(&self, old: &mut File, id: LogId) -> Result<()> {
        copy_aside(&self.path)?;
        let io = |action| Error::io(action, &self.path);
        old.seek(SeekFrom::Start(0)).map_err(io("read the trial log"))?;
        let length = old.metadata().map_err(io("read the trial log"))?.len();
        replace(&self.path, |file| {
            let mut out = std::io::BufWriter::new(file);
            out.write_all(&header(id))?;
            let mut framed = Vec::new();
            scan::scan(old.take(length), |payload| {
                framed.clear();
                frame::write_frame(payload, &mut framed).map_err(std::io::Error::other)?;
                out.write_all(&framed)
            })??;
            out.flush()
        })
    }

    /// Returns where the next frame goes. Looks at the tail only: the magic cannot occur in a payload, so a
    /// scan may begin anywhere.
    fn cut_torn_tail(&self, file: &mut File, id: LogId) -> Result<u64> {
        let io = |action| Error::io(action, &self.path);
        let length = file.metadata().map_err(io("read the trial log"))?.len();
        if self.clean == Some(Position { log: id, offset: length }) {
            return Ok(length);
        }
        let window = 2 * (frame::MAX_PAYLOAD + frame::HEADER) as u64;
        let begin = length.saturating_sub(window).max(HEADER_LENGTH);
        file.seek(SeekFrom::Start(begin)).map_err(io("read the trial log"))?;
        let ends = ends(file, length - begin).map_err(io("read the trial log"))?;
        if ends.report.torn_bytes == 0 {
            return Ok(length);
        }
        let end = begin + ends.settled;
        file.set_len(end).map_err(io("cut the torn end of the trial log"))?;
        Ok(end)
    }

    /// Calls `each` with every intact payload from `from` on (from the beginning when `from` is of another
    /// log or beyond the end), without taking a lock. Returns where the next scan may begin.
    pub(crate) fn scan(
        &self,
        from: Option<Position>,
        each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<(Position, ScanReport)> {
        let (position, report, _) = self.scan_some(from, u64::MAX, each)?;
        Ok((position, report))
    }

    /// Hands over all payloads from `from` on in portions of some [`PORTION`] bytes. Nobody appends while a
    /// portion is read, so that what is met is there to stay; everybody may while it is worked on.
    pub(crate) fn scan_in_portions<E: From<Error>>(
        &self,
        from: Option<Position>,
        mut each: impl FnMut(Vec<Vec<u8>>) -> std::result::Result<(), E>,
    ) -> std::result::Result<Position, E> {
        let mut next = from;
        loop {
            let mut payloads = Vec::new();
            let lock = Lock::wait(&self.lock, self.patience)?;
            let (position, _, at_end) = self.scan_some(next, PORTION, |payload| {
                payloads.push(payload.to_vec());
                Ok(())
            })?;
            drop(lock);
            each(payloads)?;
            // Without progress there is nothing but the beginning of a record.
            if at_end || next == Some(position) {
                return Ok(position);
            }
            next = Some(position);
        }
    }

    /// Scans at most `limit` bytes; also says whether that was all there is. A record that is cut by the
    /// limit looks like a torn tail, and the next scan begins with it.
    fn scan_some(
        &self,
        from: Option<Position>,
        limit: u64,
        each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<(Position, ScanReport, bool)> {
        let io = |action| Error::io(action, &self.path);
        let mut file = File::open(&self.path).map_err(io("open the trial log"))?;
        let length = file.metadata().map_err(io("read the trial log"))?.len();
        let id = read_header(&mut file, &self.path)?;
        let begin = match (from, id) {
            (Some(from), Some(id)) if from.log == id && from.offset <= length => {
                from.offset.max(HEADER_LENGTH)
            }
            (_, Some(_)) => HEADER_LENGTH,
            (_, None) => 0,
        };
        file.seek(SeekFrom::Start(begin)).map_err(io("read the trial log"))?;
        let rest = length.saturating_sub(begin);
        let ends = scan::scan(file.take(rest.min(limit)), each).map_err(io("read the trial log"))??;
        // A file without a header is given one by the next writer; nobody may resume in it.
        let position = Position { log: id.unwrap_or_default(), offset: begin + ends.settled };
        Ok((position, ends.report, rest <= limit))
    }

    /// Whether a scan from `position` would begin there, and what is behind it: `None` when the log is
    /// another one or shorter.
    pub(crate) fn bytes_behind(&self, position: Position) -> Result<Option<u64>> {
        let io = |action| Error::io(action, &self.path);
        let mut file = File::open(&self.path).map_err(io("open the trial log"))?;
        let length = file.metadata().map_err(io("read the trial log"))?.len();
        let same = read_header(&mut file, &self.path)? == Some(position.log);
        Ok(length.checked_sub(position.offset).filter(|_| same))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn ends(file: &mut File, length: u64) -> std::io::Result<scan::Ends> {
    scan::scan(file.take(length), |_| Ok::<(), std::convert::Infallible>(())).map(|Ok(ends)| ends)
}

fn header(id: LogId) -> [u8; HEADER_LENGTH as usize] {
    let mut out = [0; HEADER_LENGTH as usize];
    let fields = WORD.iter().copied().chain(FORMAT.to_le_bytes()).chain(id);
    let (head, check) = out.split_at_mut(24);
    for (to, from) in head.iter_mut().zip(fields) {
        *to = from;
    }
    for (to, from) in check.iter_mut().zip(blake3::hash(head).as_bytes()) {
        *to = *from;
    }
    out
}

/// `None` when the file does not begin with an intact header; it is positioned behind it otherwise.
fn read_header(file: &mut File, path: &Path) -> Result<Option<LogId>> {
    let mut found = Vec::new();
    file.seek(SeekFrom::Start(0)).map_err(Error::io("read the trial log", path))?;
    file.take(HEADER_LENGTH).read_to_end(&mut found).map_err(Error::io("read the trial log", path))?;
    let Some(found) = found.first_chunk::<{ HEADER_LENGTH as usize }>() else { return Ok(None) };
    let (head, check) = found.split_at(24);
    if !head.starts_with(WORD) || !blake3::hash(head).as_bytes().starts_with(check) {
        return Ok(None);
    }
    let format = head.get(12..).and_then(|rest| rest.first_chunk()).map(|b| u32::from_le_bytes(*b));
    match format {
        Some(FORMAT) => Ok(head.last_chunk().copied()),
        Some(found) if found > FORMAT => Err(Error::Newer { path: path.into(), found, known: FORMAT }),
        _ => Ok(None),
    }
}

/// Unlike any other log's in the same place; not a secret.
fn new_id() -> LogId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&std::process::id().to_le_bytes());
    if let Ok(now) = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        hasher.update(&now.as_nanos().to_le_bytes());
    }
    hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
