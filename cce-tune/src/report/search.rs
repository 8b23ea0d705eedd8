//! How the search went: the best time so far, by trial and by the clock.

use super::charts::{Dot, Plane, Size};
use super::clock::Clock;
use super::html::Html;
use super::ranked::key;
use super::{Facts, heading, ms_text};
use cce_tuning_db::Trial;

/// One measurement in its order.
struct Step<'a> {
    trial: &'a Trial,
    /// From 1.
    number: usize,
    /// Minutes since the first, [pauses](Clock) left out.
    minutes: f64,
    /// The best of this and all before, in ms.
    best: Option<f64>,
}

fn steps<'a>(facts: &Facts<'a>) -> (Vec<Step<'a>>, usize) {
    let mut in_order: Vec<&Trial> = facts.page.trials.iter().collect();
    in_order.sort_by_key(|trial| trial.provenance.unix_ms);
    let clock = Clock::of(&in_order);
    let mut best: Option<f64> = None;
    let mut steps: Vec<Step<'a>> = Vec::new();
    for (at, (trial, ms)) in in_order.into_iter().zip(clock.ms).enumerate() {
        best = match (best, facts.ms(trial)) {
            (Some(best), Some(ms)) => Some(best.min(ms)),
            (best, ms) => best.or(ms),
        };
        steps.push(Step { trial, number: at + 1, minutes: ms as f64 / 60_000.0, best });
    }
    (steps, clock.pauses)
}

pub(super) fn write(html: &mut Html, facts: &Facts<'_>) {
    let (steps, pauses) = steps(facts);
    let Some(last) = steps.last().filter(|last| last.best.is_some()) else { return };
    let mut about = "The best time so far, over everything that was measured: screenings and, as later measurements of \
                     the same configurations, the run-off. It takes more runs, so that the last word may be above the \
                     best single screening."
        .to_owned();
    if pauses > 0 {
        about += &format!(
            " Pauses are left out of the clock: {pauses}. A pause is a wait that is far longer than the search's own."
        );
    }
    heading(html, "How the search went", &about);
    let seconds = last.minutes < 3.0;
    let clock = |step: &Step<'_>| if seconds { 60.0 * step.minutes } else { step.minutes };
    let plane = |x: &'static str, title: &str, at: &dyn Fn(&Step<'_>) -> f64| Plane {
        title: title.to_owned(),
        describes: "Dots are trials, the line is the best so far; the numbers are in the table below"
            .to_owned(),
        size: Size::Half,
        x,
        y: "ms",
        width: (at(last) * 1.02).max(1e-3),
        dots: steps
            .iter()
            .filter_map(|step| {
                let ms = facts.ms(step.trial)?;
                let says =
                    format!("trial {}: {} ms, {}", step.number, ms_text(ms), facts.describe(step.trial));
                Some(Dot { x: at(step), y: ms, class: "faint", says })
            })
            .collect(),
        steps: steps.iter().filter_map(|step| Some((at(step), step.best?))).collect(),
        levels: Vec::new(),
    };
    let by_number = plane("trial", "Best so far by trial", &|step| step.number as f64);
    let by_clock = plane(if seconds { "seconds" } else { "minutes" }, "Best so far by the clock", &clock);
    html.element("div", &[("class", &"pair")], |html| {
        for chart in [by_number, by_clock] {
            html.element("div", &[("class", &"panel")], |html| {
                html.leaf("h3", &[], &chart.title);
                chart.draw(html);
                html.element("ul", &[("class", &"key")], |html| {
                    key(html, "line steps", "best so far");
                    key(html, "faint", "trials");
                });
            });
        }
    });
    html.element("details", &[], |html| {
        html.leaf("summary", &[], "When the best time improved");
        html.element("div", &[("class", &"panel scroll")], |html| improvements(html, facts, &steps));
    });
}

fn improvements(html: &mut Html, facts: &Facts<'_>, steps: &[Step<'_>]) {
    html.element("table", &[], |html| {
        html.element("thead", &[], |html| {
            html.element("tr", &[], |html| {
                for name in ["trial", "seconds", "best ms"] {
                    html.leaf("th", &[("scope", &"col"), ("class", &"n")], name);
                }
                html.leaf("th", &[("scope", &"col")], "schedule");
            });
        });
        html.element("tbody", &[], |html| {
            let mut best = f64::INFINITY;
            for step in steps {
                let Some(now) = step.best.filter(|now| *now < best) else { continue };
                best = now;
                html.element("tr", &[], |html| {
                    html.leaf("td", &[("class", &"n")], step.number);
                    html.leaf("td", &[("class", &"n")], format!("{:.1}", 60.0 * step.minutes));
                    html.leaf("td", &[("class", &"n")], ms_text(now));
                    html.leaf("td", &[("class", &"mono")], facts.describe(step.trial));
                });
            }
        });
    });
}
