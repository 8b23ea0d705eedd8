//! What the knobs do: a strip chart a knob, a map of interactions, and a heat map of each of the strongest.

use super::charts::{Strip, Strips};
use super::effects::{Effects, Pair, median};
use super::html::Html;
use super::{Facts, heading, ms_text};

/// Pairs that get a heat map.
const PAIRS: usize = 4;
/// Knobs of the map of interactions.
const MAPPED: usize = 10;
/// Values of a knob that a heat map shows at most.
const VALUES: usize = 16;

pub(super) fn write(html: &mut Html, facts: &Facts<'_>) {
    let effects = Effects::of(facts.timed(), |trial| facts.ms(trial));
    let Some(best) = facts.best().filter(|_| !effects.knobs.is_empty()) else { return };
    heading(
        html,
        "What each knob does",
        "Every dot is a timed configuration, every line the median of a value. The percentage is the share of the \
         variance of log time that the knob's values explain by themselves. Knobs that always move together are one. \
         The search tries more near what is fast: a value that was tried seldom was tried beside good ones.",
    );
    html.element("div", &[("class", &"pair")], |html| {
        for knob in 0..effects.knobs.len() {
            html.element("div", &[("class", &"panel")], |html| strips(html, &effects, knob, best));
        }
    });
    let pairs = effects.pairs();
    if pairs.is_empty() {
        return;
    }
    heading(
        html,
        "Which knobs depend on each other",
        "In the map, a knob's own share of the variance is on the diagonal; beside it, what two knobs explain together \
         beyond the sum of both: where it is large, the best value of one depends on the other. An empty cell: their \
         values never met in more than one way.",
    );
    html.element("div", &[("class", &"panel scroll")], |html| map(html, &effects, &pairs));
    html.element("div", &[("class", &"pair")], |html| {
        for pair in pairs.iter().take(PAIRS) {
            html.element("div", &[("class", &"panel scroll")], |html| heat(html, &effects, pair, best));
        }
    });
}

fn strips(html: &mut Html, effects: &Effects, place: usize, best: f64) {
    let knob = &effects.knobs[place];
    html.element("h3", &[], |html| {
        html.text(&knob.name);
        html.leaf("small", &[], format!("explains {:.0} %", 100.0 * knob.effect));
    });
    let rows: Vec<Strip> = knob
        .values
        .iter()
        .enumerate()
        .map(|(value, name)| {
            let times: Vec<f64> = (0..effects.times.len())
                .filter(|&at| knob.of[at] == value)
                .map(|at| effects.times[at])
                .collect();
            let dots = times.iter().map(|ms| (ms / best, format!("{name}: {} ms", ms_text(*ms)))).collect();
            Strip { name: name.clone(), middle: median(&times).unwrap_or(best) / best, dots }
        })
        .collect();
    let chart = Strips {
        title: format!("Time by {}", knob.name),
        describes: "One row a value, one dot a configuration; the numbers are in the table below".to_owned(),
        x: "times the best",
        rows: rows.clone(),
    };
    chart.draw(html);
    html.element("details", &[], |html| {
        html.leaf("summary", &[], "Numbers");
        html.element("table", &[], |html| {
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    html.leaf("th", &[("scope", &"col")], "value");
                    for name in ["tried", "fastest ms", "median ms", "slowest ms"] {
                        html.leaf("th", &[("scope", &"col"), ("class", &"n")], name);
                    }
                });
            });
            html.element("tbody", &[], |html| {
                for row in &rows {
                    let times = || row.dots.iter().map(|(times, _)| times * best);
                    html.element("tr", &[], |html| {
                        html.leaf("th", &[("scope", &"row")], &row.name);
                        html.leaf("td", &[("class", &"n")], row.dots.len());
                        let least = times().fold(f64::INFINITY, f64::min);
                        for ms in [least, row.middle * best, times().fold(0.0, f64::max)] {
                            html.leaf("td", &[("class", &"n")], ms_text(ms));
                        }
                    });
                }
            });
        });
    });
}

/// A share of a colour behind a cell, as style.
fn tint(share: f64, colour: &str) -> String {
    let percent = (100.0 * share.clamp(0.0, 1.0)).round();
    format!("background: color-mix(in oklab, var(--{colour}) {percent}%, var(--card))")
}

/// A name that may go on in another line behind a dot or an underscore.
fn broken(name: &str) -> String {
    name.replace('.', ".\u{200b}").replace('_', "_\u{200b}")
}

fn map(html: &mut Html, effects: &Effects, pairs: &[Pair]) {
    let knobs = effects.knobs.len().min(MAPPED);
    let share = |a: usize, b: usize| match a == b {
        true => Some(effects.knobs[a].effect),
        false => pairs.iter().find(|pair| pair.knobs == (a.min(b), a.max(b))).map(|pair| pair.interaction),
    };
    html.element("table", &[("class", &"heat")], |html| {
        html.leaf(
            "caption",
            &[("hidden", &"hidden")],
            "Share of the variance of log time, of knobs and of pairs",
        );
        html.element("thead", &[], |html| {
            html.element("tr", &[], |html| {
                html.element("td", &[], |_| {});
                for knob in &effects.knobs[..knobs] {
                    html.leaf("th", &[("scope", &"col")], broken(&knob.name));
                }
            });
        });
        html.element("tbody", &[], |html| {
            for a in 0..knobs {
                html.element("tr", &[], |html| {
                    html.leaf("th", &[("scope", &"row")], broken(&effects.knobs[a].name));
                    for b in 0..knobs {
                        match share(a, b) {
                            Some(share) => {
                                let own = if a == b { "own" } else { "" };
                                let style = tint(0.7 * share.sqrt(), if a == b { "accent" } else { "warm" });
                                let text = format!("{:.1} %", 100.0 * share);
                                html.leaf("td", &[("class", &own), ("style", &style)], text);
                            }
                            None => html.leaf("td", &[("class", &"none")], "\u{b7}"),
                        }
                    }
                });
            }
        });
    });
}

fn heat(html: &mut Html, effects: &Effects, pair: &Pair, best: f64) {
    let (a, b) = pair.knobs;
    // The knob of fewer values across.
    let (down, across) =
        if effects.knobs[a].values.len() >= effects.knobs[b].values.len() { (a, b) } else { (b, a) };
    let (rows, columns) = (&effects.knobs[down], &effects.knobs[across]);
    html.element("h3", &[], |html| {
        html.text(format!("{} by {}", rows.name, columns.name));
        html.leaf(
            "small",
            &[],
            format!("median, times the best; interaction {:.1} %", 100.0 * pair.interaction),
        );
    });
    let most = effects.times.iter().copied().fold(best, f64::max) / best;
    html.element("table", &[("class", &"heat")], |html| {
        html.element("thead", &[], |html| {
            html.element("tr", &[], |html| {
                html.element("td", &[], |_| {});
                for value in columns.values.iter().take(VALUES) {
                    html.leaf("th", &[("scope", &"col")], value);
                }
            });
        });
        html.element("tbody", &[], |html| {
            for (x, value) in rows.values.iter().enumerate().take(VALUES) {
                html.element("tr", &[], |html| {
                    html.leaf("th", &[("scope", &"row")], value);
                    for y in 0..columns.values.len().min(VALUES) {
                        match effects.cell((down, across), (x, y)) {
                            Some((ms, count)) => {
                                let heat = if most > 1.0 { (ms / best).ln() / most.ln() } else { 0.0 };
                                let says = format!("{} ms, median of {count}", ms_text(ms));
                                let style = tint(0.75 * heat, "warm");
                                html.leaf(
                                    "td",
                                    &[("style", &style), ("title", &says)],
                                    format!("{:.2}", ms / best),
                                );
                            }
                            None => html.leaf("td", &[("class", &"none")], "\u{b7}"),
                        }
                    }
                });
            }
        });
    });
}
