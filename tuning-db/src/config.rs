//! A configuration: plain JSON whose meaning only the code generator knows.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::hash::ConfigHash;

/// An opaque configuration with its canonical text (object keys sorted, no white space) and the hash of
/// that text. Two configurations are the same if and only if their canonical texts are.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    text: String,
    value: Value,
    hash: ConfigHash,
}

impl Config {
    /// Takes any JSON value.
    #[must_use]
    pub fn new(value: Value) -> Self {
        let value = sorted(value);
        let text = value.to_string();
        let hash = ConfigHash::of(text.as_bytes());
        Self { text, value, hash }
    }

    /// The JSON value, for the code generator to interpret.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The canonical text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The hash of the canonical text.
    #[must_use]
    pub fn hash(&self) -> ConfigHash {
        self.hash
    }
}

/// The same value with every object's keys inserted in order. Done here, not left to serde_json's map: its
/// order depends on a feature that any crate of the final program may turn on, and a hash must not.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(entries.into_iter().map(|(name, value)| (name, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        scalar => scalar,
    }
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_in_which_keys_are_written_does_not_change_the_hash() {
        let read = |text: &str| Config::new(serde_json::from_str(text).unwrap());
        let a = read(r#"{ "tile": [128, 256], "stages": 4, "walk": {"b": 1, "a": null} }"#);
        let b = read(r#"{"walk":{"a":null,"b":1},"stages":4,"tile":[128,256]}"#);
        assert_eq!(a.hash(), b.hash());
        assert_eq!(a.text(), r#"{"stages":4,"tile":[128,256],"walk":{"a":null,"b":1}}"#);
        assert_ne!(a.hash(), read(r#"{"stages":4,"tile":[256,128]}"#).hash());
    }
}
