//! The frame around every record of the log, and how to find the frames again in a damaged file.
//!
//! ```text
//! magic 4 | length u32 LE | check 8 | payload (UTF-8) ...
//! ```
//! `check` is the first 8 bytes of BLAKE3 over length and payload. The magic's first byte never occurs in
//! UTF-8, so no payload contains it: after damage, the next magic is the next frame, and one bad record
//! never costs the ones behind it.

use crate::error::{Error, Result};

/// Begins every frame; 0xff does not occur in UTF-8.
const MAGIC: [u8; 4] = [0xff, b'C', 0xfe, b'E'];
/// Magic, length and check.
pub(super) const HEADER: usize = 16;
/// The largest payload. A record is about 1 KB; the limit keeps a damaged length from being believed.
pub(crate) const MAX_PAYLOAD: usize = 1 << 20;

/// Appends a framed payload to `out`.
pub(crate) fn write_frame(payload: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let too_large = || Error::TooLarge { bytes: payload.len(), limit: MAX_PAYLOAD };
    if payload.len() > MAX_PAYLOAD {
        return Err(too_large());
    }
    let length = u32::try_from(payload.len()).map_err(|_| too_large())?.to_le_bytes();
    out.extend(MAGIC);
    out.extend(length);
    out.extend(check(length, payload));
    out.extend(payload);
    Ok(())
}

fn check(length: [u8; 4], payload: &[u8]) -> [u8; 8] {
    let hash = blake3::Hasher::new().update(&length).update(payload).finalize();
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

/// What stands at the beginning of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// A whole, intact frame of `length` bytes.
    Frame { payload: &'a [u8], length: usize },
    /// What is there may be the beginning of a frame: more bytes are needed to tell.
    Incomplete,
    /// The first `skip` bytes begin no intact frame.
    Damaged { skip: usize },
}

/// Reads one step from the beginning of `buffer`.
pub(super) fn step(buffer: &[u8]) -> Step<'_> {
    let seen = buffer.len().min(MAGIC.len());
    if buffer.get(..seen) != MAGIC.get(..seen) {
        return Step::Damaged { skip: next_magic(buffer) };
    }
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER>() else { return Step::Incomplete };
    let [_, _, _, _, l0, l1, l2, l3, stored @ ..] = *header;
    let length = [l0, l1, l2, l3];
    let size = u32::from_le_bytes(length) as usize;
    if size > MAX_PAYLOAD {
        return Step::Damaged { skip: next_magic(buffer) };
    }
    match rest.get(..size) {
        None => Step::Incomplete,
        Some(payload) if check(length, payload) == stored => Step::Frame { payload, length: HEADER + size },
        Some(_) => Step::Damaged { skip: next_magic(buffer) },
    }
}

/// Where the next frame may begin, at 1 or later; the buffer's length when nowhere.
pub(super) fn next_magic(buffer: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = buffer.get(at..).and_then(|rest| rest.iter().position(|b| *b == MAGIC[0])) {
        at += found;
        let seen = (buffer.len() - at).min(MAGIC.len());
        if buffer.get(at..at + seen) == MAGIC.get(..seen) {
            return at;
        }
        at += 1;
    }
    buffer.len()
}
