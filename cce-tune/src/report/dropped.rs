//! Why candidates were dropped: counts of each end, and each with its reason.

use super::html::Html;
use super::{Facts, heading, sortable};
use std::collections::BTreeMap;

pub(super) fn write(html: &mut Html, facts: &Facts<'_>) {
    let dropped = &facts.ranked[facts.timed..];
    heading(
        html,
        "Why candidates were dropped",
        "A constraint is broken before anything is built; compile, resources and launch say what kept a kernel from \
         running; wrong is a result that differs from the reference, which is a defect.",
    );
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for trial in dropped {
        *counts.entry(trial.status.name()).or_default() += 1;
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0).max(facts.timed).max(1);
    html.element("div", &[("class", &"panel")], |html| {
        html.element("div", &[("class", &"bars")], |html| {
            let all = std::iter::once(("timed", facts.timed)).chain(counts);
            for (name, count) in all {
                html.leaf("span", &[], name);
                let width = format!("width: {:.1}%", 100.0 * count as f64 / most as f64);
                let class = if name == "timed" { "ok" } else { "" };
                html.element("i", &[("class", &class), ("style", &width)], |_| {});
                html.leaf("b", &[], count);
            }
        });
        if dropped.is_empty() {
            html.leaf("p", &[("class", &"about"), ("style", &"margin: 12px 0 0")], "None was dropped.");
        }
    });
    if dropped.is_empty() {
        return;
    }
    html.element("div", &[("class", &"panel scroll tall")], |html| {
        sortable(html, &[("end", false), ("reason", false), ("schedule", false)], |html| {
            for trial in dropped {
                html.element("tr", &[], |html| {
                    html.leaf("td", &[], trial.status.name());
                    html.leaf("td", &[], trial.status.reason());
                    html.leaf("td", &[("class", &"mono")], facts.describe(trial));
                });
            }
        });
    });
}
