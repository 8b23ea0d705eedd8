//! The head of the page: what was tuned, what came out, how near it is to the floor.

use super::html::Html;
use super::{Facts, ms_text};

pub(super) fn write(html: &mut Html, facts: &Facts<'_>) {
    let page = facts.page;
    html.leaf("h1", &[], format!("{}, {}", page.loss, page.problem));
    html.leaf("p", &[("class", &"lead")], format!("Tuned on {}.", page.key.device.described()));
    html.element("dl", &[("class", &"cards")], |html| {
        match (facts.best(), facts.ranked.first()) {
            (Some(best), Some(winner)) => {
                let spread = winner.relative_spread().map(|spread| format!("spread {:.1} %", 100.0 * spread));
                card(html, "Best time", &format!("{} ms", ms_text(best)), &spread.unwrap_or_default());
            }
            _ => card(html, "Best time", "none", "no candidate could run and was right"),
        }
        let default = facts.timed().iter().find(|trial| facts.is_default(trial));
        if let (Some(best), Some(default)) = (facts.best(), default.and_then(|default| facts.ms(default))) {
            let text = format!("{:.2} times", default / best);
            card(html, "Faster than the default", &text, &format!("which takes {} ms", ms_text(default)));
        }
        floor(html, facts);
        let (all, timed) = (facts.ranked.len(), facts.timed);
        let dropped = format!("{timed} timed, {} dropped", all - timed);
        card(html, "Configurations", &all.to_string(), &dropped);
    });
    if let Some(winner) = facts.timed().first() {
        html.element("div", &[("class", &"panel")], |html| {
            html.leaf("h3", &[], "The winner");
            html.leaf("div", &[("class", &"mono")], facts.describe(winner));
            if winner.settled.is_some_and(|settled| settled.cut_short) {
                html.leaf(
                    "p",
                    &[("class", &"about")],
                    "The time cut short the run-off that it won: candidates near the best were not compared with it, or too \
                     few times. The same command goes on with them.",
                );
            }
        });
    }
}

fn card(html: &mut Html, name: &str, value: &str, beside: &str) {
    html.element("div", &[("class", &"card")], |html| {
        html.leaf("dt", &[], name);
        html.element("dd", &[], |html| {
            html.text(value);
            if !beside.is_empty() {
                html.leaf("small", &[], beside);
            }
        });
    });
}

fn floor(html: &mut Html, facts: &Facts<'_>) {
    let Some(best) = facts.best() else { return };
    let work = &facts.work;
    let rate = format!("{}op/s", scaled(1e3 * work.flops / best));
    let needed = format!("{}op, {}B", scaled(work.flops), scaled(work.bytes));
    match facts.floor() {
        Some(floor) => {
            let bound = if work.is_bound_by_arithmetic(&floor.peak) { "arithmetic" } else { "memory" };
            let text = match best < floor.ms {
                true => "less: of the data, tokens are ignored".to_owned(),
                false => format!("{:.2} times", best / floor.ms),
            };
            card(
                html,
                "Above the floor",
                &text,
                &format!("{} ms, bound by {bound}: {needed}; {rate}", ms_text(floor.ms)),
            );
        }
        None => card(html, "Rate", &rate, &format!("{needed}; no peak is known")),
    }
}

/// Three digits and the prefix of a unit: `5.32 G`.
fn scaled(value: f64) -> String {
    let (scale, prefix) = match value {
        v if v >= 1e12 => (1e12, "T"),
        v if v >= 1e9 => (1e9, "G"),
        v if v >= 1e6 => (1e6, "M"),
        _ => (1e3, "k"),
    };
    let digits = match value / scale {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{:.digits$} {prefix}", value / scale)
}
