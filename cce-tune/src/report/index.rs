//! A page that leads to the pages of several problems.

use super::html::Html;
use super::{document, ms_text, number, sortable};

/// One problem's line.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The loss.
    pub loss: String,
    /// The problem in words.
    pub problem: String,
    /// The device.
    pub device: String,
    /// The best time in ms, if anything was timed.
    pub best: Option<f64>,
    /// Configurations that were looked at.
    pub configurations: usize,
    /// The page, relative to this one.
    pub file: String,
}

/// The page.
pub fn index(entries: &[Entry]) -> String {
    document("tuning reports", |html: &mut Html| {
        html.leaf("h1", &[], "Tuning reports");
        html.leaf("p", &[("class", &"lead")], "One page a problem.");
        html.element("div", &[("class", &"panel scroll")], |html| {
            let columns = [
                ("problem", false),
                ("loss", false),
                ("device", false),
                ("best ms", true),
                ("configurations", true),
            ];
            sortable(html, &columns, |html| {
                for entry in entries {
                    html.element("tr", &[], |html| {
                        html.element("td", &[], |html| {
                            // A name is no address: a scheme or a folder in it leads nowhere.
                            let file: String = entry
                                .file
                                .chars()
                                .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
                                .collect();
                            html.leaf("a", &[("href", &format!("./{file}"))], &entry.problem);
                        });
                        html.leaf("td", &[], &entry.loss);
                        html.leaf("td", &[], &entry.device);
                        number(html, entry.best, entry.best.map_or("-".to_owned(), ms_text));
                        number(html, Some(entry.configurations as f64), entry.configurations.to_string());
                    });
                }
            });
        });
    })
}
