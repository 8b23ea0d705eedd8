//! Reading the log as a stream: every intact frame, whatever lies between them.

use std::io::{self, Read};

use super::frame::{Step, next_magic, step};

/// What a scan met besides intact frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanReport {
    /// Intact records.
    pub records: u64,
    /// Bytes in front of the tail that belong to no intact record.
    pub damaged_bytes: u64,
    /// Bytes at the end that look like a record of which only the beginning was written.
    pub torn_bytes: u64,
}

/// Where the intact part of the scanned input ends, relative to its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) report: ScanReport,
    /// Behind the last intact frame.
    pub(super) intact: u64,
    /// Behind everything that will never change: the beginning of a torn tail, else the end of the input.
    pub(super) settled: u64,
}

const CHUNK: usize = 1 << 18;

/// Calls `each` with the payload of every intact frame. Stops at the first error of `each`.
pub(super) fn scan<E>(
    mut input: impl Read,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> io::Result<Result<Ends, E>> {
    let mut ends = Ends::default();
    let mut buffer: Vec<u8> = Vec::with_capacity(2 * CHUNK);
    let mut start = 0; // of what is not consumed yet
    let mut offset = 0_u64; // of `start` in the input
    let mut at_end = false;
    loop {
        let rest = buffer.get(start..).unwrap_or_default();
        let (used, damaged) = match step(rest) {
            _ if rest.is_empty() && at_end => break,
            _ if rest.is_empty() => (0, false),
            Step::Frame { payload, length } => {
                if let Err(error) = each(payload) {
                    return Ok(Err(error));
                }
                ends.report.records += 1;
                ends.intact = offset + length as u64;
                (length, false)
            }
            Step::Damaged { skip } => (skip, true),
            Step::Incomplete if !at_end => (0, false),
            Step::Incomplete => {
                // At the end of the input an incomplete frame is a torn tail, unless an intact frame
                // follows: then its length was damaged.
                let Some(next) = next_frame(rest) else {
                    ends.report.torn_bytes = rest.len() as u64;
                    break;
                };
                (next, true)
            }
        };
        if damaged {
            ends.report.damaged_bytes += used as u64;
        }
        start += used;
        offset += used as u64;
        if used == 0 {
            buffer.drain(..start);
            start = 0;
            let read = input.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
            at_end = read == 0;
        }
    }
    ends.settled = offset;
    Ok(Ok(ends))
}

/// Where the next intact frame begins, at 1 or later. A magic alone does not count: the check of a torn
/// frame may end in the magic's first byte.
fn next_frame(buffer: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(rest) = buffer.get(at..).filter(|rest| !rest.is_empty()) {
        at += next_magic(rest);
        if matches!(step(buffer.get(at..)?), Step::Frame { .. }) {
            return Some(at);
        }
    }
    None
}
