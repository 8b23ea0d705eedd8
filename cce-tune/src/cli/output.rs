//! Standard output: text for people, or one JSON value for programs.

use crate::Error;
use serde::Serialize;
use std::io::Write;

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) const fn new(json: bool) -> Output {
        Output { json }
    }

    pub(super) const fn is_json(&self) -> bool {
        self.json
    }

    /// Text, as it is.
    pub(super) fn text(&self, text: &str) -> Result<(), Error> {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|source| Error::Write { path: "standard output".into(), source })
    }

    /// The text, or in JSON mode the value.
    pub(super) fn either(&self, text: impl FnOnce() -> String, value: &impl Serialize) -> Result<(), Error> {
        match self.json {
            false => self.text(&text()),
            true => {
                let json = serde_json::to_string_pretty(value).map_err(|e| Error::Json(e.to_string()))?;
                self.text(&format!("{json}\n"))
            }
        }
    }

    /// A failure: a line on standard error, and in JSON mode a value too.
    pub(super) fn failed(&self, error: &Error) {
        if self.json {
            let value = serde_json::json!({"error": error.to_string()});
            // The message still goes to standard error.
            let _ = self.text(&format!("{value}\n"));
        }
        eprintln!("cce-tune: {error}");
    }
}

/// Columns padded to their widest cell; those in `right` are aligned to the right.
pub(super) fn table(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let all =
        || std::iter::once(header.iter().map(|h| (*h).to_owned()).collect()).chain(rows.iter().cloned());
    let mut widths = vec![0; header.len()];
    for row in all() {
        let row: Vec<String> = row;
        for (width, cell) in widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in all() {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            if right.contains(&at) {
                line += &pad;
                line += cell;
            } else {
                line += cell;
                line += &pad;
            }
            line += "  ";
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// A count and what is counted, in the singular if it is one: `1 trial`, `0 trials`.
pub(super) fn counted(count: impl Into<u64>, what: &str) -> String {
    let count = count.into();
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A byte count for people: `512 B`, `1.5 GiB`.
pub(super) fn bytes(count: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if count >> shift != 0 {
            return format!("{:.1} {unit}", count as f64 / (1u64 << shift) as f64);
        }
    }
    format!("{count} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_every_other_count_plural() {
        assert_eq!(counted(0u64, "trial"), "0 trials");
        assert_eq!(counted(1u64, "trial"), "1 trial");
        assert_eq!(counted(2u64, "trial"), "2 trials");
    }
}
