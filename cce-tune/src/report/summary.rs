//! The head of the page: what was tuned, what came out, how near it is to the roof.

use super::html::Html;
use super::{Facts, ms_text};

pub(super) fn write(html: &mut Html, facts: &Facts<'_>) {
    let page = facts.page;
    html.leaf("h1", &[], format!("{}, {}", page.loss, page.problem));
    html.leaf("p", &[("class", &"lead")], format!("Tuned on {}.", page.key.device.name()));
    html.element("dl", &[("class", &"cards")], |html| {
        match (facts.best(), facts.ranked.first()) {
            (Some(best), Some(winner)) => {
                let spread = winner.spread.map(|spread| format!("spread {:.1} %", 100.0 * spread / best));
                card(html, "Best time", &format!("{} ms", ms_text(best)), &spread.unwrap_or_default());
            }
            _ => card(html, "Best time", "none", "no candidate could run and was right"),
        }
        let default = facts.timed().iter().find(|trial| facts.is_default(trial));
        if let (Some(best), Some(default)) = (facts.best(), default.and_then(cce_tuning_db::Trial::time)) {
            let text = format!("{:.2} times", default / best);
            card(html, "Faster than the default", &text, &format!("which takes {} ms", ms_text(default)));
        }
        roof(html, facts);
        let (all, timed) = (facts.ranked.len(), facts.timed);
        let dropped = format!("{timed} timed, {} dropped", all - timed);
        card(html, "Configurations", &all.to_string(), &dropped);
    });
    if let Some(winner) = facts.timed().first() {
        html.element("div", &[("class", &"panel")], |html| {
            html.leaf("h3", &[], "The winner");
            html.leaf("div", &[("class", &"mono")], facts.describe(winner));
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

fn roof(html: &mut Html, facts: &Facts<'_>) {
    let Some(best) = facts.best() else { return };
    let work = &facts.work;
    let rate = work.operations / (best * 1e9);
    let done =
        format!("{} of {:.4} Tflop, {:.3} GB", rate_text(rate), work.operations / 1e12, work.bytes / 1e9);
    match (facts.roof_ms(), &facts.page.peak) {
        (Some(roof), Some(peak)) => {
            let bound = if work.is_bound_by_arithmetic(peak) { "arithmetic" } else { "memory" };
            let text = format!("{:.0} %", 100.0 * roof / best);
            card(html, "Of the roofline", &text, &format!("{} ms, bound by {bound}; {done}", ms_text(roof)));
        }
        _ => card(
            html,
            "Rate",
            &rate_text(rate),
            &format!("{:.4} Tflop, {:.3} GB; no peak is known", work.operations / 1e12, work.bytes / 1e9),
        ),
    }
}

/// Tera-operations a second in a unit that fits.
fn rate_text(tera: f64) -> String {
    match tera {
        tera if tera < 1.0 => format!("{:.1} Gflop/s", tera * 1e3),
        tera => format!("{tera:.1} Tflop/s"),
    }
}
