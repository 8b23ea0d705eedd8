//! Configurations by time, beside the floor, as a chart and as a table.

use super::charts::{Dot, Level, Plane, Size};
use super::html::Html;
use super::{Facts, heading, ms_text, number, sortable};

pub(super) fn write(html: &mut Html, facts: &Facts<'_>) {
    let Some(best) = facts.best() else { return };
    heading(
        html,
        "Configurations, fastest first",
        "The winner's median; of the others their time relative to the winner's, each by its last measurement. Those \
         of the run-off come first, and of those that tie in it the default, else the simplest. The floor is the least time that \
         operations and bytes of the problem allow on this device, where its peak is known.",
    );
    let class = |place: usize, is_default: bool| match (place, is_default) {
        (0, _) => "winner",
        (_, true) => "default",
        _ => "dot",
    };
    let dots = facts.timed().iter().enumerate().filter_map(|(place, trial)| {
        let ms = facts.ms(trial)?;
        let name = facts.describe(trial);
        let says = format!("{}. {} ms, {:.2} times the best: {name}", place + 1, ms_text(ms), ms / best);
        let class = class(place, facts.is_default(trial));
        Some(Dot { x: (place + 1) as f64, y: ms, class, says })
    });
    let dots: Vec<Dot> = dots.collect();
    let fastest = dots.iter().map(|dot| dot.y).fold(best, f64::min);
    let slowest = dots.iter().map(|dot| dot.y).fold(best, f64::max);
    let floor = facts.floor().map(|floor| floor.ms);
    let level = floor.map(|y| Level { y, class: "floor", name: format!("floor, {} ms", ms_text(y)) });
    let plane = Plane {
        title: "Time of each configuration, fastest first".to_owned(),
        describes: format!(
            "{} configurations from {} ms to {} ms; the numbers are in the table below",
            dots.len(),
            ms_text(fastest),
            ms_text(slowest)
        ),
        size: Size::Whole,
        x: "place",
        y: "ms",
        width: dots.len() as f64 + 1.0,
        dots,
        steps: Vec::new(),
        levels: level.into_iter().collect(),
    };
    html.element("div", &[("class", &"panel")], |html| {
        html.element("div", &[("class", &"wide")], |html| plane.draw(html));
        html.element("ul", &[("class", &"key")], |html| {
            key(html, "winner", "winner");
            if facts.timed().iter().skip(1).any(|trial| facts.is_default(trial)) {
                key(html, "default", "default schedule");
            }
            key(html, "dot", "other configurations");
        });
    });
    html.element("div", &[("class", &"panel scroll tall")], |html| table(html, facts, best, floor));
}

pub(super) fn key(html: &mut Html, class: &'static str, name: &str) {
    html.element("li", &[], |html| {
        html.element("i", &[("class", &class)], |_| {});
        html.text(name);
    });
}

fn table(html: &mut Html, facts: &Facts<'_>, best: f64, floor: Option<f64>) {
    let has_resources = facts.timed().iter().any(|trial| trial.resources.is_some());
    let mut columns =
        vec![("place", true), ("ms", true), ("times the best", true), ("spread", true), ("runs", true)];
    if floor.is_some() {
        columns.push(("times the floor", true));
    }
    columns.push(("error", true));
    if has_resources {
        columns.extend([("registers", true), ("shared bytes", true)]);
    }
    columns.push(("schedule", false));
    sortable(html, &columns, |html| {
        for (place, trial) in facts.timed().iter().enumerate() {
            let Some(ms) = facts.ms(trial) else { continue };
            let class = if place == 0 { "best" } else { "" };
            html.element("tr", &[("class", &class)], |html| {
                number(html, Some((place + 1) as f64), (place + 1).to_string());
                number(html, Some(ms), ms_text(ms));
                number(html, Some(ms / best), format!("{:.2}", ms / best));
                let spread =
                    trial.relative_spread().filter(|_| trial.samples.len() > 1).map(|spread| 100.0 * spread);
                number(html, spread, spread.map_or("-".to_owned(), |percent| format!("{percent:.1} %")));
                number(html, Some(trial.samples.len() as f64), trial.samples.len().to_string());
                if let Some(floor) = floor {
                    number(html, Some(ms / floor), format!("{:.2}", ms / floor));
                }
                let error = trial.gradient_error;
                number(html, error, error.map_or("-".to_owned(), |error| format!("{error:.1e}")));
                if has_resources {
                    let used = |value: Option<f64>| value.map_or("-".to_owned(), |value| value.to_string());
                    let registers = trial.resources.map(|used| f64::from(used.registers));
                    let shared = trial.resources.map(|used| used.shared_bytes as f64);
                    number(html, registers, used(registers));
                    number(html, shared, used(shared));
                }
                let default = if facts.is_default(trial) { " (the default)" } else { "" };
                html.leaf("td", &[("class", &"mono")], format!("{}{default}", facts.describe(trial)));
            });
        }
    });
}
