//! Hashes as opaque identities, written as lower-case hex.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Result};

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// From raw bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The (leading bytes of the) BLAKE3 hash of `data`.
            #[must_use]
            pub fn of(data: &[u8]) -> Self {
                let mut out = [0; $bytes];
                for (to, from) in out.iter_mut().zip(blake3::hash(data).as_bytes()) {
                    *to = *from;
                }
                Self(out)
            }

            /// From hex digits.
            ///
            /// # Errors
            /// When `text` has another length or a character that is no hex digit.
            pub fn from_hex(text: &str) -> Result<Self> {
                let bad = || Error::Invalid {
                    what: stringify!($name),
                    expected: concat!($bytes, " bytes in hex"),
                    found: text.to_owned(),
                };
                if text.len() != 2 * $bytes || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(bad());
                }
                let mut out = [0; $bytes];
                for (i, to) in out.iter_mut().enumerate() {
                    let digits = text.get(2 * i..2 * i + 2).ok_or_else(bad)?;
                    *to = u8::from_str_radix(digits, 16).map_err(|_| bad())?;
                }
                Ok(Self(out))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::from_hex(&text).map_err(de::Error::custom)
            }
        }
    };
}

hash_type!(
    /// Identity of a program (what is computed): 32 bytes made by the code generator.
    ProgramHash,
    32
);
hash_type!(
    /// Identity of a configuration: the first 16 bytes of the BLAKE3 hash of its canonical text.
    ConfigHash,
    16
);
hash_type!(
    /// Identity of a record: the first 16 bytes of the BLAKE3 hash of its stored bytes, so that the same
    /// trial arriving twice (replay, merge, import) is one trial.
    RecordId,
    16
);
