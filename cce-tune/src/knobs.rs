//! A configuration as named values: what a person, or another tool, varies.
//!
//! Nothing here knows the fields of a schedule: a knob that a schedule gains later is there by itself. The device's
//! kind around a schedule (`{"gpu": {..}}`) is no knob.

use cce_tuning_db::Config;
use serde_json::Value;

/// One knob of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Knob {
    /// Its name, dotted where schedules nest: `logits.stages`.
    pub name: String,
    /// Its value: a number, a text, true or false.
    pub value: Value,
}

/// Every number of a configuration, nested ones too: `logits.m`, `chunk`.
pub fn every(config: &Config) -> Vec<Knob> {
    let mut knobs = Vec::new();
    flatten("", schedule(config.value()), &mut knobs);
    knobs
}

/// The fields of a configuration, with what nests in one as one text, `k=64 m=128 n=256`: few knobs, of which every
/// combination that was tried is a point.
pub fn grouped(config: &Config) -> Vec<Knob> {
    let Value::Object(fields) = schedule(config.value()) else { return every(config) };
    let one = |(name, value): (&String, &Value)| {
        let mut parts = Vec::new();
        flatten("", value, &mut parts);
        let nests = value.is_object() || value.is_array();
        let value = match nests {
            true => {
                let parts: Vec<String> =
                    parts.iter().map(|part| format!("{}={}", part.name, text(&part.value))).collect();
                Value::String(parts.join(" "))
            }
            false => scalar(value),
        };
        Knob { name: name.clone(), value }
    };
    fields.iter().map(one).collect()
}

/// A knob's value in words.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What is inside the one field that names the device's kind.
fn schedule(value: &Value) -> &Value {
    match value {
        Value::Object(fields) if fields.len() == 1 => {
            fields.values().next().filter(|v| v.is_object()).unwrap_or(value)
        }
        other => other,
    }
}

fn flatten(prefix: &str, value: &Value, knobs: &mut Vec<Knob>) {
    let under = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| flatten(&under(name), value, knobs)),
        Value::Array(items) => {
            for (place, value) in items.iter().enumerate() {
                flatten(&under(&place.to_string()), value, knobs);
            }
        }
        value => knobs.push(Knob { name: under("").trim_end_matches('.').to_owned(), value: scalar(value) }),
    }
}

/// Absence is a value like any other: `none`.
fn scalar(value: &Value) -> Value {
    match value {
        Value::Null => Value::String("none".to_owned()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Config {
        Config::new(json!({"gpu": {
            "family": "wgmma", "chunk": 8192, "hot": null,
            "logits": {"m": 128, "n": 256, "stages": 4},
        }}))
    }

    fn pairs(knobs: &[Knob]) -> Vec<(&str, String)> {
        knobs.iter().map(|knob| (knob.name.as_str(), text(&knob.value))).collect()
    }

    #[test]
    fn every_number_is_a_knob_and_absence_a_value() {
        let of = |name, value: &str| (name, value.to_owned());
        assert_eq!(
            pairs(&every(&config())),
            [
                of("chunk", "8192"),
                of("family", "wgmma"),
                of("hot", "none"),
                of("logits.m", "128"),
                of("logits.n", "256"),
                of("logits.stages", "4"),
            ]
        );
    }

    #[test]
    fn grouped_knobs_are_the_fields_with_a_text_for_what_nests() {
        let grouped = grouped(&config());
        assert_eq!(grouped.len(), 4);
        assert_eq!(pairs(&grouped)[3], ("logits", "m=128 n=256 stages=4".to_owned()));
        assert_eq!(grouped[0].value, json!(8192));
    }
}
