//! Messages on a pipe: four bytes that say what follows, its length as a little-endian u32, JSON.
//!
//! Whoever writes something else on the pipe (a library that prints, a process gone mad) is found out by the
//! four bytes, by the length, or by the JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{ErrorKind, Read, Write};

const MAGIC: [u8; 4] = *b"cce1";
/// No message is longer: a program and a problem are some kilobytes.
const LONGEST: u32 = 64 << 20;

/// Writes one message and flushes.
pub(super) fn write(out: &mut impl Write, message: &impl Serialize) -> std::io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).ok().filter(|length| *length <= LONGEST);
    let length =
        length.ok_or_else(|| std::io::Error::new(ErrorKind::InvalidData, "the message is too long"))?;
    let mut frame = Vec::with_capacity(json.len() + 8);
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&json);
    out.write_all(&frame)?;
    out.flush()
}

/// Reads one message; `None` at the end. The error says what was there instead.
pub(super) fn read<T: DeserializeOwned>(input: &mut impl Read) -> Result<Option<T>, String> {
    let mut head = [0u8; 8];
    let mut have = 0;
    while have < head.len() {
        match input.read(&mut head[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(format!("{} bytes that are no message: {:?}", have, lossy(&head[..have]))),
            Ok(more) => have += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let [a, b, c, d, length @ ..] = head;
    let length = u32::from_le_bytes(length);
    if [a, b, c, d] != MAGIC || length > LONGEST {
        return Err(format!("bytes that are no message: {:?}", lossy(&head)));
    }
    let mut json = vec![0; length as usize];
    input.read_exact(&mut json).map_err(|error| format!("half a message: {error}"))?;
    serde_json::from_slice(&json).map(Some).map_err(|error| format!("a message of another kind: {error}"))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written_and_the_end_is_no_error() {
        let mut pipe = Vec::new();
        write(&mut pipe, &vec![1.5f64, 2.0]).unwrap();
        write(&mut pipe, &vec![0.1f64]).unwrap();
        let mut input = pipe.as_slice();
        assert_eq!(read::<Vec<f64>>(&mut input), Ok(Some(vec![1.5, 2.0])));
        assert_eq!(read::<Vec<f64>>(&mut input), Ok(Some(vec![0.1])));
        assert_eq!(read::<Vec<f64>>(&mut input), Ok(None));
    }

    #[test]
    fn garbage_half_a_message_and_another_kind_are_each_told() {
        let mut whole = Vec::new();
        write(&mut whole, &"text").unwrap();
        let cases: [(&[u8], &str); 5] = [
            (b"hello, world\n", "no message"),
            (b"cc", "no message"),
            (b"cce1\xff\xff\xff\xff", "no message"),
            (&whole[..whole.len() - 1], "half a message"),
            (&whole, "another kind"),
        ];
        for (mut bytes, expected) in cases {
            let error = read::<Vec<f64>>(&mut bytes).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
