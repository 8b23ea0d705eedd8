//! Profiles: winners that ship with a program, one JSON file a device, the lowest layer of selection.
//!
//! A profile is made on the device that it names, by an older version than the one that reads it, as a rule.
//! That makes its winners stale, not useless; an entry that cannot be understood is skipped, and the rest
//! is used.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::key::KEY_SCHEMA;
use crate::provenance::Provenance;
use crate::winner::KeyWinners;

/// The layout of profile files that this version writes and reads.
pub const PROFILE_SCHEMA: u32 = 1;

/// Winners with a name and an origin.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Profile {
    /// Layout of the file: [`PROFILE_SCHEMA`].
    pub schema: u32,
    /// What to call it in warnings, such as `nvidia-h100-80gb-hbm3`.
    pub name: String,
    /// Who made the file, when, and with what; every winner has its own as well.
    pub provenance: Provenance,
    /// The winners.
    pub entries: Vec<KeyWinners>,
}

#[derive(Deserialize)]
struct Stored<'a> {
    schema: u32,
    name: String,
    provenance: Provenance,
    #[serde(borrow)]
    entries: Vec<&'a RawValue>,
}

impl Profile {
    /// A profile of the given winners, in a fixed order.
    #[must_use]
    pub fn new(name: impl Into<String>, provenance: Provenance, entries: Vec<KeyWinners>) -> Self {
        let mut profile = Self { schema: PROFILE_SCHEMA, name: name.into(), provenance, entries: Vec::new() };
        profile.entries = joined(entries);
        profile
    }

    /// Reads a profile from its text. Also returned: why entries were skipped, one line each.
    ///
    /// # Errors
    /// When the text is no profile, or one of a later schema.
    pub fn parse(text: &str) -> Result<(Self, Vec<String>)> {
        let bad = |reason: String| Error::Decode { what: "a profile".to_owned(), reason };
        let stored: Stored<'_> = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        if stored.schema != PROFILE_SCHEMA {
            return Err(bad(format!("its schema is {}, this version reads {PROFILE_SCHEMA}", stored.schema)));
        }
        let (mut entries, mut skipped) = (Vec::new(), Vec::new());
        for (number, entry) in stored.entries.into_iter().enumerate() {
            match serde_json::from_str::<KeyWinners>(entry.get()) {
                Ok(entry) if entry.key.schema == KEY_SCHEMA => entries.push(entry),
                Ok(entry) => skipped.push(format!(
                    "entry {number} has a key of schema {}, this version reads {KEY_SCHEMA}",
                    entry.key.schema
                )),
                Err(error) => skipped.push(format!("entry {number}: {error}")),
            }
        }
        Ok((
            Self { schema: PROFILE_SCHEMA, name: stored.name, provenance: stored.provenance, entries },
            skipped,
        ))
    }

    /// Reads a profile file: see [`Profile::parse`].
    ///
    /// # Errors
    /// When the file cannot be read or is no profile.
    pub fn read(path: &Path) -> Result<(Self, Vec<String>)> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read the profile", path))?;
        Self::parse(&text).map_err(|error| match error {
            Error::Decode { reason, .. } => {
                Error::Decode { what: format!("profile {}", path.display()), reason }
            }
            other => other,
        })
    }

    /// The profile as JSON, an entry a line: what moved between two of them shows in a diff.
    ///
    /// # Errors
    /// When a configuration cannot be encoded.
    pub fn to_json(&self) -> Result<String> {
        let bad = |e: serde_json::Error| Error::Decode {
            what: "a profile to be written".to_owned(),
            reason: e.to_string(),
        };
        let name = serde_json::to_string(&self.name).map_err(bad)?;
        let provenance = serde_json::to_string(&self.provenance).map_err(bad)?;
        let entries: Vec<String> = self
            .entries
            .iter()
            .map(serde_json::to_string)
            .collect::<std::result::Result<_, _>>()
            .map_err(bad)?;
        let schema = self.schema;
        Ok(format!(
            "{{\"schema\":{schema},\"name\":{name},\"provenance\":{provenance},\"entries\":[\n{}\n]}}\n",
            entries.join(",\n")
        ))
    }

    /// Writes the profile whole, in the place of what is there: see [`write_whole`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = self.to_json()?;
        write_whole(path, |file| file.write_all(text.as_bytes()).map_err(Error::io("write", path)))
    }

    /// This profile with another's winners: a key's better records win, each with its own provenance.
    #[must_use]
    pub fn merged_with(mut self, other: Self) -> Self {
        self.entries.extend(other.entries);
        self.entries = joined(self.entries);
        self
    }
}

/// One entry a key, in the order of their encodings; keys that cannot be encoded stay as they are, last.
fn joined(entries: Vec<KeyWinners>) -> Vec<KeyWinners> {
    let mut by_key: BTreeMap<Vec<u8>, KeyWinners> = BTreeMap::new();
    let mut others = Vec::new();
    for entry in entries {
        let Ok(bytes) = entry.key.encode() else {
            others.push(entry);
            continue;
        };
        let both = match by_key.remove(&bytes) {
            None => entry,
            Some(known) => known.joined_with(entry),
        };
        by_key.insert(bytes, both);
    }
    by_key.into_values().chain(others).collect()
}
