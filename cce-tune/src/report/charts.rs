//! Charts as SVG: axes, and three kinds of marks on them.
//!
//! Invariant: an axis spans what is drawn on it, so that every mark lies within its plane.
//!
//! A chart has a title and a description for those who do not see it, and every chart of the page has its numbers in a
//! table besides. Colours are classes of the style sheet, so that light and dark are its matter.

use super::html::{At, Html};

/// A straight or a logarithmic axis from data to pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    log: bool,
    start: f64,
    end: f64,
}

/// A factor between the ends from which an axis is logarithmic.
const LOGARITHMIC: f64 = 12.0;

impl Axis {
    /// An axis that holds these values, between two pixels; logarithmic where they span much and are positive.
    pub(super) fn over(values: impl Iterator<Item = f64>, start: f64, end: f64) -> Axis {
        let finite = values.filter(|value| value.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            return Axis { from: 0.0, to: 1.0, log: false, start, end };
        }
        if low > 0.0 && high / low >= LOGARITHMIC {
            return Axis { from: low / 1.08, to: high * 1.08, log: true, start, end };
        }
        let room = if high > low { 0.06 * (high - low) } else { 0.06 * high.abs().max(1e-9) };
        let from = if low >= 0.0 { (low - room).max(0.0) } else { low - room };
        Axis { from, to: high + room, log: false, start, end }
    }

    /// A straight axis from one value to another.
    pub(super) fn straight(from: f64, to: f64, start: f64, end: f64) -> Axis {
        Axis { from, to: if to > from { to } else { from + 1.0 }, log: false, start, end }
    }

    /// The pixel of a value that the axis was made for, between its ends.
    pub(super) fn at(&self, value: f64) -> f64 {
        let part = match self.log {
            true => (value / self.from).ln() / (self.to / self.from).ln(),
            false => (value - self.from) / (self.to - self.from),
        };
        self.start + part * (self.end - self.start)
    }

    /// Round values, some of which fit: 1, 2 and 5 times powers of ten.
    pub(super) fn ticks(&self, about: usize) -> Vec<f64> {
        match self.log {
            true => {
                let mut ticks = Vec::new();
                for power in self.from.log10().floor() as i32..=self.to.log10().ceil() as i32 {
                    ticks.extend([1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
                }
                ticks.retain(|tick| (self.from..=self.to).contains(tick));
                ticks
            }
            false => {
                let step = round_step((self.to - self.from) / about.max(1) as f64);
                let first = (self.from / step).ceil() as i64;
                let ticks = (first..).map(|k| k as f64 * step).take_while(|tick| *tick <= self.to);
                ticks.take(4 * about).collect()
            }
        }
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least this.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-12).log10().floor());
    let digit = [1.0, 2.0, 5.0, 10.0].into_iter().find(|digit| digit * power >= least * 0.999);
    digit.unwrap_or(10.0) * power
}

/// A number as an axis has it: no more digits than it needs.
pub(super) fn tick_text(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 || v == 0.0 => 0,
        v if v >= 1.0 => 2,
        v => (2.0 - v.log10().floor()) as usize,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A point with what is said of it.
#[derive(Clone, Debug)]
pub(super) struct Dot {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) class: &'static str,
    pub(super) says: String,
}

/// A level that is drawn across.
#[derive(Clone, Debug)]
pub(super) struct Level {
    pub(super) y: f64,
    pub(super) class: &'static str,
    pub(super) name: String,
}

/// Dots over a plane, with a line of steps through some and levels across.
#[derive(Clone, Debug)]
pub(super) struct Plane {
    pub(super) title: String,
    pub(super) describes: String,
    pub(super) size: Size,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    /// x from 0 to here.
    pub(super) width: f64,
    pub(super) dots: Vec<Dot>,
    /// Corners of a line of steps; the last goes on to the right end.
    pub(super) steps: Vec<(f64, f64)>,
    pub(super) levels: Vec<Level>,
}

/// Width and height of a plane: a pixel is about one of the screen's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// Over the page.
    Whole,
    /// Beside another.
    Half,
}

impl Size {
    const fn pixels(self) -> (f64, f64) {
        match self {
            Size::Whole => (990.0, 320.0),
            Size::Half => (470.0, 260.0),
        }
    }
}

const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 44.0;

impl Plane {
    pub(super) fn draw(&self, html: &mut Html) {
        let (width, height) = self.size.pixels();
        let x = Axis::straight(0.0, self.width, LEFT, width - RIGHT);
        let values = self.dots.iter().map(|dot| dot.y).chain(self.levels.iter().map(|level| level.y));
        let y = Axis::over(values, height - BOTTOM, TOP);
        svg(html, (width, height), &self.title, &self.describes, |html| {
            for tick in y.ticks(5) {
                let at = At(y.at(tick));
                let (left, right) = (At(LEFT), At(width - RIGHT));
                html.empty(
                    "line",
                    &[("class", &"grid"), ("x1", &left), ("x2", &right), ("y1", &at), ("y2", &at)],
                );
                let label = At(y.at(tick) + 4.0);
                html.leaf(
                    "text",
                    &[("class", &"tick end"), ("x", &At(LEFT - 8.0)), ("y", &label)],
                    tick_text(tick),
                );
            }
            for tick in x.ticks(7) {
                let (at, below) = (At(x.at(tick)), At(height - BOTTOM + 18.0));
                html.leaf("text", &[("class", &"tick middle"), ("x", &at), ("y", &below)], tick_text(tick));
            }
            let (middle, low) = (At((LEFT + width - RIGHT) / 2.0), At(height - 6.0));
            html.leaf("text", &[("class", &"axis middle"), ("x", &middle), ("y", &low)], self.x);
            html.leaf("text", &[("class", &"axis"), ("x", &At(2.0)), ("y", &At(11.0))], self.y);
            for level in &self.levels {
                let at = y.at(level.y);
                let (left, right, at_line) = (At(LEFT), At(width - RIGHT), At(at));
                html.empty(
                    "line",
                    &[
                        ("class", &level.class),
                        ("x1", &left),
                        ("x2", &right),
                        ("y1", &at_line),
                        ("y2", &at_line),
                    ],
                );
                let above = At(if at < TOP + 14.0 { at + 14.0 } else { at - 5.0 });
                let place = At(width - RIGHT - 2.0);
                html.leaf("text", &[("class", &"note end"), ("x", &place), ("y", &above)], &level.name);
            }
            self.draw_steps(html, &x, &y);
            for dot in &self.dots {
                let (cx, cy) = (At(x.at(dot.x)), At(y.at(dot.y)));
                let radius = if matches!(dot.class, "winner" | "default") { "6" } else { "3.5" };
                html.element(
                    "circle",
                    &[("class", &dot.class), ("cx", &cx), ("cy", &cy), ("r", &radius)],
                    |html| {
                        html.leaf("title", &[], &dot.says);
                    },
                );
            }
        });
    }

    fn draw_steps(&self, html: &mut Html, x: &Axis, y: &Axis) {
        let mut path = String::new();
        let mut last: Option<f64> = None;
        for (at, level) in &self.steps {
            let (at, level) = (x.at(*at), y.at(*level));
            path += &match last {
                None => format!("M{} {}", At(at), At(level)),
                Some(before) => format!("L{} {}L{} {}", At(at), At(before), At(at), At(level)),
            };
            last = Some(level);
        }
        if let Some(level) = last {
            path += &format!("L{} {}", At(x.at(self.width)), At(level));
            html.empty("path", &[("class", &"steps"), ("d", &path)]);
        }
    }
}

/// Rows of dots along one axis, a row a value, with a mark at each row's middle.
#[derive(Clone, Debug)]
pub(super) struct Strips {
    pub(super) title: String,
    pub(super) describes: String,
    pub(super) x: &'static str,
    pub(super) rows: Vec<Strip>,
}

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Strip {
    pub(super) name: String,
    pub(super) middle: f64,
    /// Values, and what is said of each.
    pub(super) dots: Vec<(f64, String)>,
}

impl Strips {
    pub(super) fn draw(&self, html: &mut Html) {
        const ROW: f64 = 26.0;
        const STRIP_WIDTH: f64 = 470.0;
        let longest = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0) as f64;
        let left = (16.0 + 7.4 * longest).clamp(40.0, 170.0);
        let height = 10.0 + ROW * self.rows.len() as f64 + 36.0;
        let dots = self.rows.iter().flat_map(|row| row.dots.iter().map(|(value, _)| *value));
        let x = Axis::over(dots.chain(self.rows.iter().map(|row| row.middle)), left, STRIP_WIDTH - 12.0);
        svg(html, (STRIP_WIDTH, height), &self.title, &self.describes, |html| {
            let floor = height - 36.0;
            for tick in x.ticks(5) {
                let at = At(x.at(tick));
                html.empty(
                    "line",
                    &[("class", &"grid"), ("x1", &at), ("x2", &at), ("y1", &At(6.0)), ("y2", &At(floor))],
                );
                let below = At(floor + 16.0);
                html.leaf("text", &[("class", &"tick middle"), ("x", &at), ("y", &below)], tick_text(tick));
            }
            for (number, row) in self.rows.iter().enumerate() {
                let centre = 10.0 + ROW * (number as f64 + 0.5);
                let (place, base) = (At(left - 8.0), At(centre + 4.0));
                html.leaf("text", &[("class", &"label end"), ("x", &place), ("y", &base)], short(&row.name));
                for (turn, (value, says)) in row.dots.iter().enumerate() {
                    // Apart, so that equal times do not hide each other; always the same way.
                    let cy = At(centre + [0.0, -5.0, 5.0, -2.5, 2.5][turn % 5]);
                    let cx = At(x.at(*value));
                    html.element(
                        "circle",
                        &[("class", &"dot"), ("cx", &cx), ("cy", &cy), ("r", &"3")],
                        |html| {
                            html.leaf("title", &[], says);
                        },
                    );
                }
                let (at, top, end) = (At(x.at(row.middle)), At(centre - 9.0), At(centre + 9.0));
                html.empty(
                    "line",
                    &[("class", &"median"), ("x1", &at), ("x2", &at), ("y1", &top), ("y2", &end)],
                );
            }
            let middle = At((left + STRIP_WIDTH - 12.0) / 2.0);
            html.leaf("text", &[("class", &"axis middle"), ("x", &middle), ("y", &At(height - 3.0))], self.x);
        });
    }
}

/// A name that fits beside a row; the whole one is in the table.
fn short(name: &str) -> String {
    const MOST: usize = 21;
    match name.chars().count() > MOST {
        true => name.chars().take(MOST - 1).chain(['\u{2026}']).collect(),
        false => name.to_owned(),
    }
}

fn svg(
    html: &mut Html,
    (width, height): (f64, f64),
    title: &str,
    describes: &str,
    inside: impl FnOnce(&mut Html),
) {
    let view = format!("0 0 {} {}", At(width), At(height));
    html.element("svg", &[("viewBox", &view), ("role", &"img"), ("aria-label", &title)], |html| {
        html.leaf("title", &[], title);
        html.leaf("desc", &[], describes);
        inside(html);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_axis() {
        let straight = Axis::over([3.0, 9.0].into_iter(), 0.0, 100.0);
        assert_eq!(straight.ticks(5), [4.0, 6.0, 8.0]);
        let wide = Axis::over([0.3, 40.0].into_iter(), 0.0, 100.0);
        assert_eq!(wide.ticks(5), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert!(wide.at(0.3) < wide.at(3.0) && (0.0..=100.0).contains(&wide.at(40.0)));
    }

    #[test]
    fn axes_of_nothing_or_of_one_value_are_axes() {
        for values in [vec![], vec![5.0], vec![0.0], vec![f64::NAN]] {
            let axis = Axis::over(values.into_iter(), 0.0, 100.0);
            assert!(axis.at(5.0).is_finite() && axis.ticks(5).len() < 30);
        }
    }

    #[test]
    fn numbers_on_axes_have_no_digits_to_spare() {
        let texts: Vec<String> = [0.0, 0.015, 0.5, 1.25, 40.0, 1500.0].into_iter().map(tick_text).collect();
        assert_eq!(texts, ["0", "0.015", "0.5", "1.25", "40", "1500"]);
    }
}
