//! The trials of one problem as a page for people: ranked configurations, what each knob does, the time beside the
//! floor, why candidates were dropped, how the search went.
//!
//! Invariants: a page is one file that loads nothing, from the network or elsewhere; whatever a trial says is escaped
//! ([`html`]); without scripts everything is there but the sorting of tables; every chart's numbers are in a table too.

mod charts;
mod clock;
mod dropped;
mod effects;
mod html;
mod index;
mod ranked;
mod search;
mod summary;
mod varied;

pub use index::{Entry, index};

use crate::exchange::{Problem, counting, timestamp};
use crate::floor::{Floor, Peak, Work};
use cce_tuning_db::{ConfigHash, Generation, Key, Shape, ShownTimes, Trial};
use html::Html;

/// What a page is made of.
#[derive(Clone, Debug)]
pub struct Page {
    /// The loss.
    pub loss: String,
    /// The problem in words: shape, type, what is computed, the filter.
    pub problem: String,
    /// What the trials are stored under.
    pub key: Key,
    /// What generated the code.
    pub generation: Generation,
    /// Every trial of the key and the generation, screening and run-off, in any order.
    pub trials: Vec<Trial>,
    /// The schedule that is used where nothing is tuned.
    pub default: Option<ConfigHash>,
    /// What the device can do at most.
    pub peak: Option<Peak>,
    /// A schedule in a few words.
    pub describe: fn(&cce_tuning_db::Config) -> String,
}

/// The page's trials in their order, and what every section needs of them.
struct Facts<'a> {
    page: &'a Page,
    /// Of each configuration the trial that counts: timed ones first, the winner first, then those that were dropped.
    ranked: Vec<Trial>,
    /// How many of these were timed.
    timed: usize,
    times: ShownTimes,
    work: Work,
}

impl Page {
    /// A page of a problem's trials.
    pub fn new(
        loss: String,
        problem: String,
        of: &Problem,
        trials: Vec<Trial>,
        describe: fn(&cce_tuning_db::Config) -> String,
    ) -> Page {
        let trials: Vec<Trial> =
            trials.into_iter().filter(|trial| trial.generation == of.generation).collect();
        // What was measured before all was measured anew is history.
        let trials = cce_tuning_db::counting(&trials).cloned().collect();
        Page {
            loss,
            problem,
            key: of.key.clone(),
            generation: of.generation.clone(),
            trials,
            default: None,
            peak: Peak::of_stored(&of.key),
            describe,
        }
    }

    /// The page as HTML.
    pub fn html(&self) -> String {
        let mut ranked = counting(&self.trials);
        // What was dropped comes by the kind of its end.
        ranked.sort_by(|a, b| {
            let kind = |trial: &Trial| trial.time().is_none().then(|| trial.status.name());
            kind(a).cmp(&kind(b)).then_with(|| a.standing(b))
        });
        let shape = ranked.first().map_or(Shape::new(0, 0, 0), |trial| trial.shape);
        let facts = Facts {
            page: self,
            timed: ranked.iter().filter(|trial| trial.time().is_some()).count(),
            ranked,
            times: ShownTimes::of(&self.trials),
            work: Work::of_stored(&self.key, shape),
        };
        document(&format!("{}, {}", self.loss, self.problem), |html| {
            summary::write(html, &facts);
            ranked::write(html, &facts);
            varied::write(html, &facts);
            dropped::write(html, &facts);
            search::write(html, &facts);
            footer(html, &facts);
        })
    }
}

impl Facts<'_> {
    fn timed(&self) -> &[Trial] {
        &self.ranked[..self.timed]
    }

    /// The winner's time, in ms.
    fn best(&self) -> Option<f64> {
        self.ms(self.ranked.first()?)
    }

    /// The time to show of any trial of the page, in ms.
    fn ms(&self, trial: &Trial) -> Option<f64> {
        self.times.ms(trial)
    }

    fn is_default(&self, trial: &Trial) -> bool {
        self.page.default == Some(trial.config.hash())
    }

    fn floor(&self) -> Option<Floor> {
        Some(self.work.floor(self.page.peak?))
    }

    fn describe(&self, trial: &Trial) -> String {
        (self.page.describe)(&trial.config)
    }
}

/// A whole document around a page's sections. It is XML as well as HTML.
fn document(title: &str, inside: impl FnOnce(&mut Html)) -> String {
    let mut html = Html::default();
    html.constant("<!DOCTYPE html>\n");
    html.element("html", &[("lang", &"en")], |html| {
        html.element("head", &[], |html| {
            html.empty("meta", &[("charset", &"utf-8")]);
            html.empty("meta", &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")]);
            // Nothing is loaded, whatever a trial says.
            let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
            html.empty("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &policy)]);
            html.leaf("title", &[], format!("cce-tune: {title}"));
            html.element("style", &[], |html| html.constant(include_str!("style.css")));
        });
        html.element("body", &[], |html| {
            html.element("main", &[], inside);
            html.element("script", &[], |html| html.constant(include_str!("sort.js")));
        });
    });
    html.constant("\n");
    html.into_text()
}

fn footer(html: &mut Html, facts: &Facts<'_>) {
    html.element("footer", &[], |html| {
        let mut hosts: Vec<&str> =
            facts.page.trials.iter().map(|trial| trial.provenance.host.as_str()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let last = facts.page.trials.iter().map(|trial| trial.provenance.unix_ms).max().unwrap_or(0);
        html.text(format!(
            "Measured on {}, last at {} UTC, with {}. Made by cce-tune {}.",
            hosts.join(", "),
            timestamp(last).split('.').next().unwrap_or_default(),
            facts.page.generation,
            env!("CARGO_PKG_VERSION")
        ));
    });
}

/// A time in ms with as many digits as say something.
fn ms_text(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{ms:.4}"),
        ms if ms < 100.0 => format!("{ms:.3}"),
        ms => format!("{ms:.1}"),
    }
}

/// A heading of a section, and what it is about.
fn heading(html: &mut Html, title: &str, about: &str) {
    html.leaf("h2", &[], title);
    html.leaf("p", &[("class", &"about")], about);
}

/// A table with a header that sorts it. Cells of numbers carry the number itself.
fn sortable(html: &mut Html, columns: &[(&str, bool)], rows: impl FnOnce(&mut Html)) {
    html.element("table", &[("class", &"sortable")], |html| {
        html.element("thead", &[], |html| {
            html.element("tr", &[], |html| {
                for (name, is_number) in columns {
                    let class = if *is_number { "n" } else { "" };
                    html.element("th", &[("scope", &"col"), ("class", &class)], |html| {
                        html.leaf("button", &[("type", &"button")], name);
                    });
                }
            });
        });
        html.element("tbody", &[], rows);
    });
}

/// A cell of a number, as text and for sorting.
fn number(html: &mut Html, value: Option<f64>, text: String) {
    match value {
        Some(value) => html.leaf("td", &[("class", &"n"), ("data-v", &value)], text),
        None => html.leaf("td", &[("class", &"n")], text),
    }
}

#[cfg(test)]
mod tests;
