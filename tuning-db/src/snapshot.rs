//! The snapshot of winners: what a launching process loads. One file, replaced atomically; header and directory
//! are read and checked at once, the rows of a kind of keys and their values only where a selection looks. The
//! open file keeps a reader on one and the same snapshot while writers replace it.
//!
//! Keys of one kind (device, program, type, objective, filter) have the beginning of their encoding in common: it
//! stands in the directory once, and of a key there is a row of fixed length. So of 100,000 keys a selection reads
//! 48 bytes each at most, and decodes the few that it takes.
//!
//! ```text
//! header    word 12 | format u32 | log id 8 | log offset u64 | kinds u32 | directory length u64 | directory check 8
//!           | header check 8
//! directory kinds x { program 32 | prefix length u32 | rows u32 | length of the values u64 | rows check 8 | prefix }
//! rows      of every kind, in the directory's order: { rest of the key 36 | value length u32 | value check 8 }
//! values    JSON { winners, wrong } of a key, one after the other in the rows' order
//! ```
//! Integers are little-endian; checks are the first 8 bytes of BLAKE3. Format 1 had whole keys in one index, format 2
//! the winners alone; they are not read any more, and whoever writes next makes this one of the records.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::replace;
use crate::hash::ProgramHash;
use crate::key::{Key, REST};
use crate::log::Position;
use crate::select::{Relation, Request};
use crate::winner::{KeyWinners, Winner};
use crate::wrong::Wrong;

pub(crate) const FILE: &str = "winners.snap";
const WORD: &[u8; 12] = b"cce winners\n";
const FORMAT: u32 = 3;
const HEADER: usize = 60;
const ROW: usize = REST + 12;

/// A loaded snapshot.
#[derive(Debug)]
pub(crate) struct Snapshot<R = File> {
    input: Mutex<R>,
    directory: Vec<u8>,
    kinds: Vec<Kind>,
    position: Position,
}

/// What is kept of a key.
#[derive(Debug, Serialize, Deserialize)]
struct Value {
    winners: Vec<Winner>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    wrong: Vec<Wrong>,
}

/// The keys of one device, program, type, objective and filter.
#[derive(Debug)]
struct Kind {
    program: ProgramHash,
    /// In the directory.
    prefix: Range<usize>,
    /// In the file.
    rows: Range<u64>,
    check: [u8; 8],
    /// In the file.
    values: Range<u64>,
    /// Read when they are first asked for; `None`: they do not match their checksum.
    loaded: OnceLock<Option<Vec<u8>>>,
}

/// Rows of the snapshot that do not match their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged;

/// A key of the snapshot, and where its winners are.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    kind: usize,
    rest: [u8; REST],
    /// In the file.
    value: Range<u64>,
    check: [u8; 8],
}

impl Snapshot {
    /// Opens the file, loads and checks header and directory.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read the snapshot of winners", path))?;
        Self::read(file, path)
    }
}

impl<R: Read + Seek> Snapshot<R> {
    fn read(mut input: R, path: &Path) -> Result<Self> {
        let damaged = |reason: &str| Error::Decode {
            what: format!("the snapshot of winners {}", path.display()),
            reason: reason.to_owned(),
        };
        let short = || damaged("it is too short");
        let io = || Error::io("read the snapshot of winners", path);
        let mut header = Vec::new();
        input.by_ref().take(HEADER as u64).read_to_end(&mut header).map_err(io())?;
        let mut r = Reader { bytes: &header, at: 0 };
        let word = r.array::<12>().ok_or_else(short)?;
        let format = r.u32().ok_or_else(short)?;
        if word != *WORD {
            return Err(damaged("it does not begin like one"));
        }
        if format > FORMAT {
            return Err(Error::Newer { path: path.into(), found: format, known: FORMAT });
        }
        if format < FORMAT {
            return Err(damaged(&format!("it has the earlier format {format}, this version reads {FORMAT}")));
        }
        let log = r.array().ok_or_else(short)?;
        let offset = r.u64().ok_or_else(short)?;
        let count = r.u32().ok_or_else(short)?;
        let directory_length = r.u64().ok_or_else(short)?;
        let directory_check = r.array::<8>().ok_or_else(short)?;
        let head = header.get(..r.at).ok_or_else(short)?;
        if r.array::<8>().ok_or_else(short)? != check(head) {
            return Err(damaged("its header does not match its checksum"));
        }
        let mut directory = Vec::new();
        input.by_ref().take(directory_length).read_to_end(&mut directory).map_err(io())?;
        if directory.len() as u64 != directory_length || check(&directory) != directory_check {
            return Err(damaged("its directory does not match its checksum"));
        }
        let mut r = Reader { bytes: &directory, at: 0 };
        let mut kinds = Vec::new();
        let mut rows_at = HEADER as u64 + directory_length;
        let mut values_at = 0;
        for _ in 0..count {
            let program = ProgramHash::from_bytes(r.array().ok_or_else(short)?);
            let prefix_length = r.u32().ok_or_else(short)? as usize;
            let rows = rows_at..rows_at + u64::from(r.u32().ok_or_else(short)?) * ROW as u64;
            let values = values_at..values_at + r.u64().ok_or_else(short)?;
            let check = r.array().ok_or_else(short)?;
            let prefix = r.at..r.at + prefix_length;
            (r.at, rows_at, values_at) = (prefix.end, rows.end, values.end);
            kinds.push(Kind { program, prefix, rows, check, values, loaded: OnceLock::new() });
        }
        // Values begin where the last rows end.
        for kind in &mut kinds {
            kind.values = rows_at + kind.values.start..rows_at + kind.values.end;
        }
        Ok(Self { input: Mutex::new(input), directory, kinds, position: Position { log, offset } })
    }

    /// How much of which log is in it.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Whether all rows and values match their checksums.
    pub(crate) fn is_intact(&self) -> bool {
        (0..self.kinds.len()).all(|kind| {
            self.entries(kind).is_ok_and(|mut entries| entries.all(|entry| self.value(&entry).is_some()))
        })
    }

    fn bytes(&self, range: &Range<u64>, expected: [u8; 8]) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).ok()?.min(1 << 24));
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input.seek(SeekFrom::Start(range.start)).ok()?;
        input.by_ref().take(range.end - range.start).read_to_end(&mut bytes).ok()?;
        drop(input);
        (check(&bytes) == expected).then_some(bytes)
    }

    fn value(&self, entry: &Entry) -> Option<Vec<u8>> {
        self.bytes(&entry.value, entry.check)
    }

    /// The keys of a kind, in the order of their encodings.
    fn entries(&self, number: usize) -> std::result::Result<impl Iterator<Item = Entry>, Damaged> {
        let kind = self.kinds.get(number).ok_or(Damaged)?;
        let rows =
            kind.loaded.get_or_init(|| self.bytes(&kind.rows, kind.check)).as_deref().ok_or(Damaged)?;
        let mut value_at = kind.values.start;
        Ok(rows.chunks_exact(ROW).filter_map(move |row| {
            let mut r = Reader { bytes: row, at: 0 };
            let (rest, length, check) = (r.array()?, r.u32()?, r.array()?);
            let value = value_at..value_at + u64::from(length);
            value_at = value.end;
            Some(Entry { kind: number, rest, value, check })
        }))
    }

    fn prefix(&self, kind: &Kind) -> &[u8] {
        self.directory.get(kind.prefix.clone()).unwrap_or_default()
    }

    /// The keys that say something of a request.
    ///
    /// # Errors
    /// When rows that may hold some are damaged.
    pub(crate) fn related(&self, request: &Request) -> std::result::Result<Vec<(Relation, Entry)>, Damaged> {
        let mut related = Vec::new();
        let of_program =
            self.kinds.iter().enumerate().filter(|(_, kind)| kind.program == request.key.program);
        for (number, kind) in of_program {
            let Ok(mut of_kind) = Key::of_kind_prefix(self.prefix(kind)) else { continue };
            let gradients = request.key.problem.gradients;
            of_kind.problem.gradients = gradients;
            let Some(device) = request.to_device(&of_kind.device) else { continue };
            if !of_kind.is_related_to(&request.key) {
                continue;
            }
            related.extend(self.entries(number)?.filter_map(|entry| {
                let (memory, problem) = Key::read_rest(&entry.rest).ok()?;
                let wanted = problem.gradients == gradients;
                Some((wanted.then(|| request.to_problem(device, memory, &problem))??, entry))
            }));
        }
        Ok(related)
    }

    /// The key of an entry.
    pub(crate) fn key(&self, entry: &Entry) -> Option<Key> {
        let mut key = Key::of_kind_prefix(self.prefix(self.kinds.get(entry.kind)?)).ok()?;
        (key.memory, key.problem) = Key::read_rest(&entry.rest).ok()?;
        Some(key)
    }

    /// What is kept of an entry's key; `None` when it is damaged.
    pub(crate) fn winners(&self, entry: &Entry) -> Option<KeyWinners> {
        of_value(self.key(entry)?, &self.value(entry)?)
    }

    /// Keys with their winners' bytes; what is damaged is left out.
    fn raw(&self) -> impl Iterator<Item = (Key, Vec<u8>)> {
        let kinds = (0..self.kinds.len()).filter_map(|kind| self.entries(kind).ok());
        kinds.flatten().filter_map(|entry| Some((self.key(&entry)?, self.value(&entry)?)))
    }

    /// All keys with what is kept of them; damaged entries are left out.
    pub(crate) fn all(&self) -> impl Iterator<Item = KeyWinners> {
        self.raw().filter_map(|(key, value)| of_value(key, &value))
    }
}

fn of_value(key: Key, bytes: &[u8]) -> Option<KeyWinners> {
    let Value { winners, wrong } = serde_json::from_slice(bytes).ok()?;
    Some(KeyWinners { key, winners, wrong })
}

/// A snapshot being made: encoded key -> key and encoded winners.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    entries: std::collections::BTreeMap<Vec<u8>, (Key, Vec<u8>)>,
}

impl Draft {
    /// Starts from an existing snapshot.
    pub(crate) fn of(snapshot: &Snapshot<impl Read + Seek>) -> Self {
        let entries = snapshot.raw().filter_map(|(key, value)| Some((key.encode().ok()?, (key, value))));
        Self { entries: entries.collect() }
    }

    /// Replaces what is kept of a key; one of which nothing is to be kept is left out.
    pub(crate) fn set(&mut self, kept: KeyWinners) -> Result<()> {
        let encoded = kept.key.encode()?;
        let KeyWinners { key, winners, wrong } = kept;
        if winners.is_empty() && wrong.is_empty() {
            self.entries.remove(&encoded);
            return Ok(());
        }
        let value = serde_json::to_vec(&Value { winners, wrong })
            .map_err(|e| Error::Decode { what: "winners to be written".to_owned(), reason: e.to_string() })?;
        self.entries.insert(encoded, (key, value));
        Ok(())
    }

    /// Replaces the snapshot at `path`.
    pub(crate) fn write(&self, path: &Path, position: Position) -> Result<()> {
        let bytes = self.to_bytes(position)?.ok_or_else(|| Error::Invalid {
            what: "snapshot of winners",
            expected: "fewer than 2^32 keys with less than 4 GiB each",
            found: format!("{} keys", self.entries.len()),
        })?;
        replace(path, |file| file.write_all(&bytes))
    }

    /// `None` when something does not fit its number.
    fn to_bytes(&self, position: Position) -> Result<Option<Vec<u8>>> {
        // Sorted as encoded, so that keys of one kind come one after the other.
        let mut kinds: Vec<(ProgramHash, Vec<u8>, Vec<u8>, u64)> = Vec::new();
        for (key, value) in self.entries.values() {
            let prefix = key.kind_prefix()?;
            if kinds.last().is_none_or(|(_, known, ..)| *known != prefix) {
                kinds.push((key.program, prefix, Vec::new(), 0));
            }
            if let (Some((.., rows, values)), Ok(length)) = (kinds.last_mut(), u32::try_from(value.len())) {
                rows.extend(key.rest_bytes());
                rows.extend(length.to_le_bytes());
                rows.extend(check(value));
                *values += u64::from(length);
            } else {
                return Ok(None);
            }
        }
        let mut directory = Vec::new();
        for (program, prefix, rows, values) in &kinds {
            let (Ok(length), Ok(count)) = (u32::try_from(prefix.len()), u32::try_from(rows.len() / ROW))
            else {
                return Ok(None);
            };
            directory.extend(program.as_bytes());
            directory.extend(length.to_le_bytes());
            directory.extend(count.to_le_bytes());
            directory.extend(values.to_le_bytes());
            directory.extend(check(rows));
            directory.extend(prefix);
        }
        let Ok(count) = u32::try_from(kinds.len()) else { return Ok(None) };
        let mut out = Vec::with_capacity(HEADER + directory.len());
        out.extend(WORD);
        out.extend(FORMAT.to_le_bytes());
        out.extend(position.log);
        out.extend(position.offset.to_le_bytes());
        out.extend(count.to_le_bytes());
        out.extend((directory.len() as u64).to_le_bytes());
        out.extend(check(&directory));
        let header_check = check(&out);
        out.extend(header_check);
        out.extend(&directory);
        for (_, _, rows, _) in &kinds {
            out.extend(rows);
        }
        for (_, value) in self.entries.values() {
            out.extend(value);
        }
        Ok(Some(out))
    }
}

fn check(bytes: &[u8]) -> [u8; 8] {
    blake3::hash(bytes).as_bytes().first_chunk().copied().unwrap_or_default()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = self.bytes.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(*found)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn draft_position() -> Position {
        Position { log: [7; 8], offset: 99 }
    }

    fn draft() -> (Draft, Position) {
        let mut draft = Draft::default();
        for tokens in [256, 1024, 4096] {
            let mut key = sample::key();
            key.problem.tokens_bucket = tokens;
            draft.set(KeyWinners::choose(key, &[sample::trial(1, 2.0), sample::trial(2, 1.0)])).unwrap();
        }
        (draft, draft_position())
    }

    fn parse(bytes: &[u8]) -> Result<Snapshot<std::io::Cursor<&[u8]>>> {
        Snapshot::read(std::io::Cursor::new(bytes), Path::new("x"))
    }

    #[test]
    fn what_was_written_is_read_back() {
        let (draft, position) = draft();
        let bytes = draft.to_bytes(position).unwrap().unwrap();
        let snapshot = parse(&bytes).unwrap();
        assert_eq!(snapshot.position(), position);
        let tokens: Vec<_> = snapshot.all().map(|w| w.key.problem.tokens_bucket).collect();
        assert_eq!(tokens, [256, 1024, 4096]);
        let again = Draft::of(&snapshot).to_bytes(position).unwrap().unwrap();
        assert_eq!(again, bytes);
        let related = |key: Key| {
            let request = Request::new(key, sample::trial(1, 1.0).generation).with_snap_limit(9.0);
            snapshot.related(&request).unwrap()
        };
        let keys: Vec<Key> =
            related(sample::key()).iter().map(|(_, entry)| snapshot.key(entry).unwrap()).collect();
        assert_eq!(keys, snapshot.all().map(|winners| winners.key).collect::<Vec<_>>());
        let mut other = sample::key();
        other.program = ProgramHash::of(b"other");
        assert_eq!(related(other).len(), 0);
    }

    #[test]
    fn any_flipped_bit_and_any_truncation_is_noticed_where_it_matters() {
        let (draft, position) = draft();
        let whole = draft.to_bytes(position).unwrap().unwrap();
        let intact: Vec<_> = parse(&whole).unwrap().all().collect();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            for bytes in [bytes, whole[..at].to_vec()] {
                // Either refused, or what is still given out is what was put in.
                if let Ok(snapshot) = parse(&bytes) {
                    let rest: Vec<_> = snapshot.all().collect();
                    assert!(rest.len() < intact.len(), "damage at {at} went unnoticed");
                    assert!(rest.iter().all(|w| intact.contains(w)));
                }
            }
        }
    }

    #[test]
    fn keys_of_several_kinds_are_each_found_by_their_own_requests() {
        use crate::key::{Dtype, MemoryClass};
        let half = sample::key().with_dtype(Dtype::F16);
        let limited = sample::key().with_memory(MemoryClass::of_limit(Some(1 << 30)));
        let keys = [sample::key(), half.clone(), limited.clone()];
        let mut draft = Draft::default();
        for (number, key) in (0..).zip(&keys) {
            draft.set(KeyWinners::choose(key.clone(), &[sample::trial(number, 1.0)])).unwrap();
        }
        let bytes = draft.to_bytes(draft_position()).unwrap().unwrap();
        let snapshot = parse(&bytes).unwrap();
        assert_eq!(snapshot.kinds.len(), 2);
        let found = |key: &Key| {
            let request = Request::new(key.clone(), sample::trial(1, 1.0).generation);
            let related = snapshot.related(&request).unwrap();
            related.iter().map(|(_, entry)| snapshot.key(entry).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(found(&half), std::slice::from_ref(&half));
        assert_eq!(found(&limited), [limited.clone(), sample::key()]);
        let winners: Vec<_> = snapshot.all().map(|w| (w.key, w.winners)).collect();
        for (key, winners) in winners {
            let number = (0..).zip(&keys).find(|(_, known)| **known == key).unwrap().0;
            assert_eq!(winners[0].config, sample::trial(number, 1.0).config);
        }
    }

    #[test]
    fn an_earlier_format_is_refused_and_says_so() {
        let (draft, position) = draft();
        let mut bytes = draft.to_bytes(position).unwrap().unwrap();
        bytes[12] = 1;
        let error = parse(&bytes).unwrap_err().to_string();
        assert!(error.contains("the earlier format 1"), "{error}");
    }
}
