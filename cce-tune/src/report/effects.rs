//! What each knob does to the time: main effects and pairwise interactions, on a logarithmic scale, where twice as slow
//! counts the same everywhere.
//!
//! A knob's *effect* is the share of the variance of log time that the means of its values explain (eta squared). The
//! *interaction* of two is the share that the means of their pairs of values explain beyond the best sum of one
//! contribution of each. Trials come from a search and not from a designed experiment: knobs that the search moved
//! together share what they explain, and one that it moved seldom explains little.

use crate::knobs;
use cce_tuning_db::Trial;
use serde_json::Value;

/// The timed trials as points in the space of the knobs that vary.
#[derive(Clone, Debug)]
pub(super) struct Effects {
    /// The knobs, that of the largest effect first.
    pub(super) knobs: Vec<Knob>,
    /// Time in ms of each point.
    pub(super) times: Vec<f64>,
}

/// A knob that takes more than one value. Knobs that always move together are one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Knob {
    /// Its name, or its names.
    pub(super) name: String,
    /// Its values, numbers in their order.
    pub(super) values: Vec<String>,
    /// Which value each point has.
    pub(super) of: Vec<usize>,
    /// The share of the variance of log time that it explains, 0 to 1.
    pub(super) effect: f64,
}

/// Two knobs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pair {
    /// Places among the knobs.
    pub(super) knobs: (usize, usize),
    /// The share of the variance of log time that they explain together, beyond the sum of both, 0 to 1.
    pub(super) interaction: f64,
}

impl Effects {
    /// Of these trials, those that were timed, with their times in ms.
    pub(super) fn of(trials: &[Trial], ms: impl Fn(&Trial) -> Option<f64>) -> Effects {
        let timed: Vec<(Vec<knobs::Knob>, f64)> =
            trials.iter().filter_map(|trial| Some((knobs::every(&trial.config), ms(trial)?))).collect();
        let times: Vec<f64> = timed.iter().map(|(_, ms)| *ms).collect();
        let mut names: Vec<&str> = Vec::new();
        for knob in timed.iter().flat_map(|(knobs, _)| knobs) {
            if !names.contains(&knob.name.as_str()) {
                names.push(&knob.name);
            }
        }
        let none = Value::String("none".to_owned());
        let mut all: Vec<Knob> = Vec::new();
        for name in names {
            let of = |knobs: &[knobs::Knob]| {
                knobs.iter().find(|knob| knob.name == name).map_or(none.clone(), |knob| knob.value.clone())
            };
            let knob = Knob::new(name, &timed.iter().map(|(knobs, _)| of(knobs)).collect::<Vec<_>>());
            if knob.values.len() < 2 {
                continue;
            }
            match all.iter_mut().find(|known| known.moves_with(&knob)) {
                Some(known) => known.join(&knob),
                None => all.push(knob),
            }
        }
        let logs: Vec<f64> = times.iter().map(|ms| ms.ln()).collect();
        for knob in &mut all {
            knob.effect = share(explained(&logs, &knob.of, knob.values.len()), &logs);
        }
        all.sort_by(|a, b| b.effect.total_cmp(&a.effect).then(a.name.cmp(&b.name)));
        Effects { knobs: all, times }
    }

    /// Every pair of knobs of which some values met in more than one way, the strongest interaction first.
    pub(super) fn pairs(&self) -> Vec<Pair> {
        let logs: Vec<f64> = self.times.iter().map(|ms| ms.ln()).collect();
        let mut pairs = Vec::new();
        for a in 0..self.knobs.len() {
            for b in a + 1..self.knobs.len() {
                if let Some(explained) = interaction(&logs, &self.knobs[a], &self.knobs[b]) {
                    pairs.push(Pair { knobs: (a, b), interaction: share(explained, &logs) });
                }
            }
        }
        pairs.sort_by(|a, b| b.interaction.total_cmp(&a.interaction).then(a.knobs.cmp(&b.knobs)));
        pairs
    }

    /// The median time of the points with these values of two knobs, and how many there are.
    pub(super) fn cell(&self, (a, b): (usize, usize), (x, y): (usize, usize)) -> Option<(f64, usize)> {
        let (a, b) = (&self.knobs[a], &self.knobs[b]);
        let points = (0..self.times.len()).filter(|&at| a.of[at] == x && b.of[at] == y);
        let times: Vec<f64> = points.map(|at| self.times[at]).collect();
        Some((median(&times)?, times.len()))
    }
}

impl Knob {
    fn new(name: &str, values: &[Value]) -> Knob {
        let mut distinct: Vec<&Value> = Vec::new();
        for value in values {
            if !distinct.contains(&value) {
                distinct.push(value);
            }
        }
        let number = |value: &Value| value.as_f64().unwrap_or(f64::INFINITY);
        distinct.sort_by(|a, b| {
            number(a).total_cmp(&number(b)).then_with(|| knobs::text(a).cmp(&knobs::text(b)))
        });
        let of = values.iter().map(|value| distinct.iter().position(|d| *d == value).unwrap_or(0)).collect();
        let values = distinct.iter().map(|value| knobs::text(value)).collect();
        Knob { name: name.to_owned(), values, of, effect: 0.0 }
    }

    /// Whether each value of one always comes with the same value of the other.
    fn moves_with(&self, other: &Knob) -> bool {
        self.values.len() == other.values.len()
            && (0..self.of.len())
                .all(|i| (0..i).all(|j| (self.of[i] == self.of[j]) == (other.of[i] == other.of[j])))
    }

    fn join(&mut self, other: &Knob) {
        for (at, value) in self.values.iter_mut().enumerate() {
            let theirs = self.of.iter().position(|of| *of == at).map(|point| other.of[point]);
            if let Some(theirs) = theirs.and_then(|of| other.values.get(of)) {
                *value = format!("{value} / {theirs}");
            }
        }
        self.name = format!("{} / {}", self.name, other.name);
    }
}

/// The median of these; `None` if there are none.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    if count == 0.0 { 0.0 } else { sum / count }
}

/// A sum of squares as a share of all there is.
fn share(squares: f64, logs: &[f64]) -> f64 {
    let centre = mean(logs.iter().copied());
    let all: f64 = logs.iter().map(|log| (log - centre).powi(2)).sum();
    if all <= f64::EPSILON { 0.0 } else { (squares / all).clamp(0.0, 1.0) }
}

/// The sum of squares that the means of groups explain.
fn explained(logs: &[f64], groups: &[usize], count: usize) -> f64 {
    let centre = mean(logs.iter().copied());
    let of = |group| logs.iter().zip(groups).filter(move |(_, of)| **of == group).map(|(log, _)| *log);
    (0..count).map(|group| of(group).count() as f64 * (mean(of(group)) - centre).powi(2)).sum()
}

/// The sum of squares that the means of pairs explain beyond a sum of both knobs' contributions. `None` where such a
/// sum fits whatever the times are, because no values met in more than one way.
fn interaction(logs: &[f64], a: &Knob, b: &Knob) -> Option<f64> {
    let width = b.values.len();
    let mut cells: Vec<(f64, f64)> = vec![(0.0, 0.0); a.values.len() * width];
    for (at, log) in logs.iter().enumerate() {
        let cell = &mut cells[a.of[at] * width + b.of[at]];
        *cell = (cell.0 + log, cell.1 + 1.0);
    }
    let filled: Vec<(usize, usize, f64, f64)> = cells
        .iter()
        .enumerate()
        .filter(|(_, (_, count))| *count > 0.0)
        .map(|(at, (sum, count))| (at / width, at % width, sum / count, *count))
        .collect();
    // A sum of both has as many free numbers as values, less one; fewer cells than that leave nothing over.
    if filled.len() < a.values.len() + width {
        return None;
    }
    // Fitted one knob at a time (backfitting), which converges to the least squares of the sum.
    let (mut of_a, mut of_b) = (vec![0.0; a.values.len()], vec![0.0; width]);
    for _ in 0..200 {
        for (x, value) in of_a.iter_mut().enumerate() {
            let row = filled.iter().filter(|cell| cell.0 == x);
            let (sum, count) =
                row.fold((0.0, 0.0), |(s, c), cell| (s + cell.3 * (cell.2 - of_b[cell.1]), c + cell.3));
            *value = if count > 0.0 { sum / count } else { 0.0 };
        }
        for (y, value) in of_b.iter_mut().enumerate() {
            let column = filled.iter().filter(|cell| cell.1 == y);
            let (sum, count) =
                column.fold((0.0, 0.0), |(s, c), cell| (s + cell.3 * (cell.2 - of_a[cell.0]), c + cell.3));
            *value = if count > 0.0 { sum / count } else { 0.0 };
        }
    }
    Some(filled.iter().map(|(x, y, log, count)| count * (log - of_a[*x] - of_b[*y]).powi(2)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_tuning_db::{Config, Generation, Provenance, Shape};
    use serde_json::json;

    /// A grid of two knobs, a third that follows the first, and one that never moves.
    fn grid(time: impl Fn(u32, u32) -> f64) -> Vec<Trial> {
        let one = |a: u32, b: u32| {
            let config = Config::new(json!({"cpu": {"a": a, "b": {"c": b}, "twice": 2 * a, "fixed": 1}}));
            let (generation, provenance) = (Generation::new("1", "s"), Provenance::new("here", 1));
            Trial::measured(config, Shape::new(1, 1, 1), vec![time(a, b)], generation, provenance).unwrap()
        };
        (1..5).flat_map(|a| (1..4).map(move |b| (a, b))).map(|(a, b)| one(a, b)).collect()
    }

    #[test]
    fn what_never_moves_is_no_knob_and_what_moves_together_is_one() {
        let effects = Effects::of(&grid(|a, _| f64::from(a)), Trial::time);
        let names: Vec<&str> = effects.knobs.iter().map(|knob| knob.name.as_str()).collect();
        assert_eq!(names, ["a / twice", "b.c"]);
        assert_eq!(effects.knobs[0].values, ["1 / 2", "2 / 4", "3 / 6", "4 / 8"]);
        assert!((effects.knobs[0].effect - 1.0).abs() < 1e-9 && effects.knobs[1].effect < 1e-9);
    }

    #[test]
    fn a_product_of_two_factors_is_no_interaction_and_a_best_value_that_depends_on_the_other_is_one() {
        let product = Effects::of(&grid(|a, b| f64::from(a) * f64::from(b * b)), Trial::time);
        assert!(product.pairs()[0].interaction < 1e-9);
        assert!((product.knobs.iter().map(|knob| knob.effect).sum::<f64>() - 1.0).abs() < 1e-9);
        let crossed = Effects::of(&grid(|a, b| if (a + b) % 2 == 0 { 1.0 } else { 4.0 }), Trial::time);
        assert!(crossed.pairs()[0].interaction > 0.8, "{:?}", crossed.pairs());
    }

    #[test]
    fn knobs_moved_one_at_a_time_have_no_interaction_to_speak_of() {
        let mut crossed = grid(|a, b| f64::from(a + b));
        crossed.retain(|trial| {
            trial.config.value()["cpu"]["a"] == 1 || trial.config.value()["cpu"]["b"]["c"] == 1
        });
        assert_eq!(Effects::of(&crossed, Trial::time).pairs(), []);
    }

    #[test]
    fn a_cell_holds_the_median_of_its_points() {
        let effects = Effects::of(&grid(|a, b| f64::from(10 * a + b)), Trial::time);
        let place = |name: &str| effects.knobs.iter().position(|knob| knob.name == name).unwrap();
        assert_eq!(effects.cell((place("a / twice"), place("b.c")), (3, 0)), Some((41.0, 1)));
        assert_eq!(median(&[4.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn one_trial_or_none_has_no_effects() {
        assert!(Effects::of(&[], Trial::time).knobs.is_empty());
        assert!(Effects::of(&grid(|_, _| 1.0)[..1], Trial::time).knobs.is_empty());
    }
}
