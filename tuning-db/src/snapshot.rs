//! The snapshot of winners: what a launching process loads. One file, replaced atomically; header and index
//! are read and checked at once, values are read, checked and decoded only where a selection looks. The open
//! file keeps a reader on one and the same snapshot while writers replace it.
//!
//! ```text
//! word 12 | format u32 | log id 8 | log offset u64 | entries u32 | index length u64 | index check 8 | header
//! check 8 index: entries x { program 32 | key length u32 | value length u32 | value check 8 | key } values:
//! JSON of the winners, one after the other in the same order
//! ```
//! Integers are little-endian; checks are the first 8 bytes of BLAKE3.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::files::replace;
use crate::hash::ProgramHash;
use crate::key::Key;
use crate::log::Position;
use crate::winner::{KeyWinners, Winner};

pub(crate) const FILE: &str = "winners.snap";
const WORD: &[u8; 12] = b"cce winners\n";
const FORMAT: u32 = 1;
const HEADER: usize = 60;

/// A loaded snapshot.
#[derive(Debug)]
pub(crate) struct Snapshot<R = File> {
    input: Mutex<R>,
    index: Vec<u8>,
    entries: Vec<Entry>,
    position: Position,
}

#[derive(Debug)]
struct Entry {
    program: ProgramHash,
    /// In the index.
    key: Range<usize>,
    /// In the file.
    value: Range<u64>,
    check: [u8; 8],
}

impl Snapshot {
    /// Opens the file, loads and checks header and index.
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
        let log = r.array().ok_or_else(short)?;
        let offset = r.u64().ok_or_else(short)?;
        let count = r.u32().ok_or_else(short)?;
        let index_length = r.u64().ok_or_else(short)?;
        let index_check = r.array::<8>().ok_or_else(short)?;
        let head = header.get(..r.at).ok_or_else(short)?;
        if r.array::<8>().ok_or_else(short)? != check(head) {
            return Err(damaged("its header does not match its checksum"));
        }
        let mut index = Vec::new();
        input.by_ref().take(index_length).read_to_end(&mut index).map_err(io())?;
        if index.len() as u64 != index_length || check(&index) != index_check {
            return Err(damaged("its index does not match its checksum"));
        }
        let mut r = Reader { bytes: &index, at: 0 };
        let mut value_at = HEADER as u64 + index_length;
        let mut entries = Vec::new();
        for _ in 0..count {
            let program = ProgramHash::from_bytes(r.array().ok_or_else(short)?);
            let key_length = r.u32().ok_or_else(short)? as usize;
            let value_length = r.u32().ok_or_else(short)?;
            let check = r.array().ok_or_else(short)?;
            let key = r.at..r.at + key_length;
            let value = value_at..value_at + u64::from(value_length);
            r.at = key.end;
            value_at = value.end;
            entries.push(Entry { program, key, value, check });
        }
        Ok(Self { input: Mutex::new(input), index, entries, position: Position { log, offset } })
    }

    /// How much of which log is in it.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Whether every entry matches its checksum.
    pub(crate) fn is_intact(&self) -> bool {
        self.raw().count() == self.entries.len()
    }

    /// Encoded keys and values as they stand, without decoding; damaged values are left out.
    fn raw(&self) -> impl Iterator<Item = (&[u8], Vec<u8>)> {
        self.entries.iter().filter_map(|e| Some((self.index.get(e.key.clone())?, self.value(e)?)))
    }

    fn value(&self, entry: &Entry) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        input.seek(SeekFrom::Start(entry.value.start)).ok()?;
        input.by_ref().take(entry.value.end - entry.value.start).read_to_end(&mut value).ok()?;
        drop(input);
        (check(&value) == entry.check).then_some(value)
    }

    /// The keys of a program, with the number to ask [`Snapshot::winners`] for.
    pub(crate) fn keys_of(&self, program: ProgramHash) -> impl Iterator<Item = (usize, Key)> {
        let of_program = self.entries.iter().enumerate().filter(move |(_, e)| e.program == program);
        of_program.filter_map(|(number, _)| Some((number, self.key(number)?)))
    }

    /// The key of one entry.
    pub(crate) fn key(&self, number: usize) -> Option<Key> {
        Key::decode(self.index.get(self.entries.get(number)?.key.clone())?).ok()
    }

    /// The winners of one entry; `None` when the entry is damaged.
    pub(crate) fn winners(&self, number: usize) -> Option<Vec<Winner>> {
        serde_json::from_slice(&self.value(self.entries.get(number)?)?).ok()
    }

    /// All keys with their winners; damaged entries are left out.
    pub(crate) fn all(&self) -> impl Iterator<Item = KeyWinners> {
        self.raw().filter_map(|(key, value)| {
            Some(KeyWinners { key: Key::decode(key).ok()?, winners: serde_json::from_slice(&value).ok()? })
        })
    }
}

/// A snapshot being made: encoded key -> encoded winners.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    entries: std::collections::BTreeMap<Vec<u8>, (ProgramHash, Vec<u8>)>,
}

impl Draft {
    /// Starts from an existing snapshot.
    pub(crate) fn of(snapshot: &Snapshot<impl Read + Seek>) -> Self {
        let mut draft = Self::default();
        for (key, value) in snapshot.raw() {
            if let Ok(decoded) = Key::decode(key) {
                draft.entries.insert(key.to_vec(), (decoded.program, value));
            }
        }
        draft
    }

    /// Replaces the winners of a key; a key without winners is left out.
    pub(crate) fn set(&mut self, winners: &KeyWinners) -> Result<()> {
        let key = winners.key.encode()?;
        if winners.winners.is_empty() {
            self.entries.remove(&key);
            return Ok(());
        }
        let value = serde_json::to_vec(&winners.winners)
            .map_err(|e| Error::Decode { what: "winners to be written".to_owned(), reason: e.to_string() })?;
        self.entries.insert(key, (winners.key.program, value));
        Ok(())
    }

    /// Replaces the snapshot at `path`.
    pub(crate) fn write(&self, path: &Path, position: Position) -> Result<()> {
        let bytes = self.to_bytes(position).ok_or_else(|| Error::Invalid {
            what: "snapshot of winners",
            expected: "fewer than 2^32 keys with less than 4 GiB each",
            found: format!("{} keys", self.entries.len()),
        })?;
        replace(path, |file| file.write_all(&bytes))
    }

    fn to_bytes(&self, position: Position) -> Option<Vec<u8>> {
        let mut index = Vec::new();
        for (key, (program, value)) in &self.entries {
            index.extend(program.as_bytes());
            index.extend(u32::try_from(key.len()).ok()?.to_le_bytes());
            index.extend(u32::try_from(value.len()).ok()?.to_le_bytes());
            index.extend(check(value));
            index.extend(key);
        }
        let mut out = Vec::with_capacity(HEADER + index.len());
        out.extend(WORD);
        out.extend(FORMAT.to_le_bytes());
        out.extend(position.log);
        out.extend(position.offset.to_le_bytes());
        out.extend(u32::try_from(self.entries.len()).ok()?.to_le_bytes());
        out.extend((index.len() as u64).to_le_bytes());
        out.extend(check(&index));
        let header_check = check(&out);
        out.extend(header_check);
        out.extend(&index);
        for (_, value) in self.entries.values() {
            out.extend(value);
        }
        Some(out)
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

    fn draft() -> (Draft, Position) {
        let mut draft = Draft::default();
        for tokens in [256, 1024, 4096] {
            let mut key = sample::key();
            key.problem.tokens_bucket = tokens;
            draft.set(&KeyWinners::choose(key, &[sample::trial(1, 2.0), sample::trial(2, 1.0)])).unwrap();
        }
        (draft, Position { log: [7; 8], offset: 99 })
    }

    fn parse(bytes: &[u8]) -> Result<Snapshot<std::io::Cursor<&[u8]>>> {
        Snapshot::read(std::io::Cursor::new(bytes), Path::new("x"))
    }

    #[test]
    fn what_was_written_is_read_back() {
        let (draft, position) = draft();
        let bytes = draft.to_bytes(position).unwrap();
        let snapshot = parse(&bytes).unwrap();
        assert_eq!(snapshot.position(), position);
        let tokens: Vec<_> = snapshot.all().map(|w| w.key.problem.tokens_bucket).collect();
        assert_eq!(tokens, [256, 1024, 4096]);
        let again = Draft::of(&snapshot).to_bytes(position).unwrap();
        assert_eq!(again, bytes);
        assert_eq!(snapshot.keys_of(sample::key().program).count(), 3);
        assert_eq!(snapshot.keys_of(ProgramHash::of(b"other")).count(), 0);
    }

    #[test]
    fn any_flipped_bit_and_any_truncation_is_noticed_where_it_matters() {
        let (draft, position) = draft();
        let whole = draft.to_bytes(position).unwrap();
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
}
