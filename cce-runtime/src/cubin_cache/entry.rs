//! The bytes of one cache entry.
//!
//! ```text
//! "cce-cubin 1\n" | length of the record, u64 LE | record (JSON: log, kernels' resources) | cubin |
//! BLAKE3, 32 bytes
//! ```
//! The checksum covers the entry's key and all bytes before it, so a damaged entry and one under a wrong
//! name are both noticed.

use crate::nvrtc::Compiled;

const MAGIC: &[u8] = b"cce-cubin 1\n";

pub(super) fn encode(compiled: &Compiled, key: &blake3::Hash) -> Result<Vec<u8>, serde_json::Error> {
    let record = serde_json::to_vec(compiled)?;
    let mut bytes =
        Vec::with_capacity(MAGIC.len() + 8 + record.len() + compiled.cubin.len() + blake3::OUT_LEN);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&(record.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&record);
    bytes.extend_from_slice(&compiled.cubin);
    let sum = checksum(&bytes, key);
    bytes.extend_from_slice(sum.as_bytes());
    Ok(bytes)
}

/// The entry's content, or what is wrong with it.
pub(super) fn decode(bytes: &[u8], key: &blake3::Hash) -> Result<Compiled, &'static str> {
    let (body, sum) = bytes.split_last_chunk::<{ blake3::OUT_LEN }>().ok_or("cut short")?;
    if checksum(body, key) != *sum {
        return Err("its checksum does not hold");
    }
    let rest = body.strip_prefix(MAGIC).ok_or("not a cache entry")?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or("cut short")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| "its lengths do not fit")?;
    let (record, cubin) = rest.split_at_checked(length).ok_or("its lengths do not fit")?;
    let mut compiled: Compiled = serde_json::from_slice(record).map_err(|_| "its record cannot be read")?;
    compiled.cubin = cubin.to_vec();
    Ok(compiled)
}

fn checksum(body: &[u8], key: &blake3::Hash) -> blake3::Hash {
    blake3::Hasher::new().update(key.as_bytes()).update(body).finalize()
}
