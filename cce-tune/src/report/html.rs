//! HTML and SVG that cannot be broken by what is put into them.
//!
//! Invariants: every text and every attribute value is escaped on its way in; what is taken as it stands is a
//! constant of this crate; elements close in the order in which they opened. The result is well-formed XML too.

use std::fmt::{Display, Write};

/// An attribute and its value.
pub(super) type Attribute<'a> = (&'static str, &'a dyn Display);

/// Markup that grows.
#[derive(Debug, Default)]
pub(super) struct Html {
    out: String,
}

/// A coordinate: a tenth of a pixel is enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct At(pub(super) f64);

impl Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_finite() {
            true => write!(f, "{:.1}", self.0),
            false => f.write_str("0"),
        }
    }
}

/// Escapes what is written through it.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // XML has no place for these, not even escaped.
                character if character.is_control() && !matches!(character, '\n' | '\t' | '\r') => {
                    self.0.push('\u{fffd}');
                }
                '\u{fffe}' | '\u{ffff}' => self.0.push('\u{fffd}'),
                character => self.0.push(character),
            }
        }
        Ok(())
    }
}

impl Html {
    pub(super) fn into_text(self) -> String {
        self.out
    }

    /// A constant of this crate, as it stands.
    pub(super) fn constant(&mut self, text: &'static str) {
        self.out.push_str(text);
    }

    /// Text.
    pub(super) fn text(&mut self, text: impl Display) {
        // Writing to a string does not fail.
        let _ = write!(Escaped(&mut self.out), "{text}");
    }

    /// An element with what is inside.
    pub(super) fn element(
        &mut self,
        tag: &'static str,
        attributes: &[Attribute<'_>],
        inside: impl FnOnce(&mut Html),
    ) {
        self.open(tag, attributes);
        self.out.push('>');
        inside(self);
        self.out.push_str("</");
        self.out.push_str(tag);
        self.out.push('>');
    }

    /// An element that holds a text.
    pub(super) fn leaf(&mut self, tag: &'static str, attributes: &[Attribute<'_>], text: impl Display) {
        self.element(tag, attributes, |html| html.text(text));
    }

    /// An element that holds nothing.
    pub(super) fn empty(&mut self, tag: &'static str, attributes: &[Attribute<'_>]) {
        self.open(tag, attributes);
        self.out.push_str("/>");
    }

    fn open(&mut self, tag: &'static str, attributes: &[Attribute<'_>]) {
        self.out.push('<');
        self.out.push_str(tag);
        for (name, value) in attributes {
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push_str("=\"");
            self.text(value);
            self.out.push('"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_text_nor_attributes_leave_their_place() {
        let mut html = Html::default();
        html.element("p", &[("title", &"\"><script>alert('1')</script>")], |html| {
            html.text("</p><img src=x onerror=alert(1)> & \u{0}\u{1b}");
        });
        assert_eq!(
            html.into_text(),
            "<p title=\"&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;\">\
             &lt;/p&gt;&lt;img src=x onerror=alert(1)&gt; &amp; \u{fffd}\u{fffd}</p>"
        );
    }

    #[test]
    fn a_coordinate_that_is_no_number_does_not_reach_the_page() {
        assert_eq!(format!("{} {} {}", At(1.26), At(f64::NAN), At(f64::INFINITY)), "1.3 0 0");
    }
}
