//! A Gaussian process over the parts of schedules: what the model-guided strategy believes of the times.
//!
//! The kernel is additive with interactions of two parts (Duvenaud, Nickisch, Rasmussen: Additive Gaussian
//! Processes, 2011): parts of a schedule are kernels and loops that mostly have a time of their own, and some pairs
//! meet in a cache. With x_p the features of part p and m(x) what is expected beforehand (0 where nothing is),
//!
//! ```text
//! k(x, x') = 1 + sum_p w_p k_p + c sum_{p < q} sqrt(w_p w_q) k_p k_q + s m(x) m(x'),   k_p = exp(-|x_p - x'_p| / l_p)
//! ```
//!
//! The weights w_p, c and the noise are those of the largest marginal likelihood, found by steps along one after the
//! other: with a hundred observations that takes milliseconds.
//!
//! It is our own because the crates that fit processes (linfa and egobox upon ndarray, friedrich upon nalgebra) bring
//! a linear algebra that is larger than this tuner, have no additive kernel, and cannot take a schedule as known
//! without fitting anew, which choosing a batch needs.

use super::pool::Features;

/// Hyperparameters.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Weights {
    /// Variance of each part.
    parts: Vec<f64>,
    /// Strength of interactions.
    pairs: f64,
    /// Variance of a measurement.
    noise: f64,
}

/// The variance of the factor with which what was expected is taken.
const TRUST: f64 = 0.25;

/// The variance of the constant, in multiples of that of the observations.
const CONSTANT: f64 = 4.0;

/// Passes over the hyperparameters.
const PASSES: usize = 2;

/// The width of the prior of a hyperparameter's logarithm: no weight grows from a handful of observations.
const PRIOR_DEVIATION: f64 = 2.0;

/// Kernels of the parts between points.
struct Distances<'a> {
    points: &'a [Vec<Features>],
    /// Parts that vary, and the length over which each is alike.
    parts: Vec<(usize, f64)>,
}

impl Distances<'_> {
    fn of(points: &[Vec<Features>]) -> Distances<'_> {
        let count = points.first().map_or(0, Vec::len);
        let parts = (0..count).filter_map(|part| {
            // The mean distance between values that differ.
            let mut distinct: Vec<&Features> = Vec::new();
            for point in points {
                if !distinct.contains(&&point[part]) {
                    distinct.push(&point[part]);
                }
            }
            let pairs =
                distinct.iter().enumerate().flat_map(|(at, a)| distinct[..at].iter().map(move |b| far(a, b)));
            let (sum, count) = pairs.fold((0.0, 0usize), |(sum, count), far| (sum + far, count + 1));
            (count > 0).then(|| (part, sum / count as f64))
        });
        Distances { points, parts: parts.collect() }
    }

    /// k_p of two points, of every part that varies.
    fn between(&self, a: usize, b: usize) -> impl Iterator<Item = f64> + '_ {
        self.parts
            .iter()
            .map(move |&(part, length)| (-far(&self.points[a][part], &self.points[b][part]) / length).exp())
    }
}

fn far(a: &Features, b: &Features) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

impl Weights {
    fn initial(parts: usize) -> Weights {
        Weights { parts: vec![1.0 / parts.max(1) as f64; parts], pairs: 0.1, noise: 1e-3 }
    }

    /// The covariance from the kernels of the parts; `expected`: m of both.
    fn covariance(&self, kernels: impl Iterator<Item = f64>, expected: f64) -> f64 {
        // sum_{p<q} a_p a_q = ((sum a)^2 - sum a^2) / 2 with a_p = sqrt(w_p) k_p.
        let (mut single, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for (weight, kernel) in self.parts.iter().zip(kernels) {
            single += weight * kernel;
            sum += weight.sqrt() * kernel;
            squares += weight * kernel * kernel;
        }
        CONSTANT + single + self.pairs * 0.5 * (sum * sum - squares) + TRUST * expected
    }

    fn all(&mut self) -> Vec<&mut f64> {
        self.parts.iter_mut().chain([&mut self.pairs, &mut self.noise]).collect()
    }
}

/// What is believed of the points of a pool.
pub(super) struct Process<'a> {
    distances: Distances<'a>,
    weights: Weights,
    expected: &'a [f64],
    /// Observed points, in the order in which they were taken in.
    known: Vec<usize>,
    /// L^-1 K(known, point), a row an observation, a column a point.
    rows: Vec<Vec<f64>>,
    /// Standard deviation of the observations: results are in their unit.
    unit: f64,
    /// Means and variances of every point, in units.
    means: Vec<f64>,
    variances: Vec<f64>,
}

impl<'a> Process<'a> {
    /// Fits what was observed: places of points, each with its value. `expected` has a value for each point, in the
    /// same unit as the observations; the constant between them is free.
    pub(super) fn fit(
        points: &'a [Vec<Features>],
        expected: &'a [f64],
        observed: &[(usize, f64)],
    ) -> Process<'a> {
        let distances = Distances::of(points);
        let residuals: Vec<f64> = observed.iter().map(|&(at, y)| y - expected[at]).collect();
        let mean = residuals.iter().sum::<f64>() / residuals.len().max(1) as f64;
        let variance =
            residuals.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / residuals.len().max(1) as f64;
        let unit = variance.sqrt().max(1e-3);
        let values: Vec<f64> = residuals.iter().map(|r| (r - mean) / unit).collect();
        let known: Vec<usize> = observed.iter().map(|&(at, _)| at).collect();
        let scaled = |at: usize| expected[at] / unit;
        let weights = likeliest(&distances, &known, &scaled, &values);

        let mut process = Process {
            means: points.iter().enumerate().map(|(at, _)| (expected[at] + mean) / unit).collect(),
            variances: (0..points.len())
                .map(|at| weights.covariance(distances.between(at, at), scaled(at) * scaled(at)))
                .collect(),
            distances,
            weights,
            expected,
            known: Vec::new(),
            rows: Vec::new(),
            unit,
        };
        for (&at, &(_, y)) in known.iter().zip(observed) {
            process.take_in(at, Some(y));
        }
        process
    }

    /// Mean and standard deviation of a point.
    pub(super) fn belief(&self, at: usize) -> (f64, f64) {
        (self.means[at] * self.unit, self.variances[at].max(0.0).sqrt() * self.unit)
    }

    /// Takes the point as observed: with this value, or as it is expected to be, so that a batch does not hold the
    /// same guess twice. One step of a Cholesky factorisation that grows by a row.
    pub(super) fn take_in(&mut self, at: usize, value: Option<f64>) {
        let variance = self.variances[at] + self.weights.noise;
        if variance <= 1e-12 {
            return;
        }
        let deviation = variance.sqrt();
        let surprise = value.map_or(0.0, |y| (y / self.unit - self.means[at]) / deviation);
        let column: Vec<f64> = self.rows.iter().map(|row| row[at]).collect();
        let scaled = |at: usize| self.expected[at] / self.unit;
        let row: Vec<f64> = (0..self.means.len())
            .map(|other| {
                let covariance =
                    self.weights.covariance(self.distances.between(at, other), scaled(at) * scaled(other));
                let shared: f64 = self.rows.iter().zip(&column).map(|(row, own)| row[other] * own).sum();
                (covariance - shared) / deviation
            })
            .collect();
        for ((mean, variance), row) in self.means.iter_mut().zip(&mut self.variances).zip(&row) {
            *mean += row * surprise;
            *variance -= row * row;
        }
        self.rows.push(row);
        self.known.push(at);
    }
}

/// The weights under which the observations are likeliest.
fn likeliest(
    distances: &Distances<'_>,
    known: &[usize],
    expected: &impl Fn(usize) -> f64,
    values: &[f64],
) -> Weights {
    let mut weights = Weights::initial(distances.parts.len());
    if known.len() < 4 {
        return weights;
    }
    // The kernels of the parts, of every pair once.
    let kernels: Vec<(Vec<f64>, f64)> = known
        .iter()
        .enumerate()
        .flat_map(|(i, &a)| known[..=i].iter().map(move |&b| (a, b)))
        .map(|(a, b)| (distances.between(a, b).collect(), expected(a) * expected(b)))
        .collect();
    let initial: Vec<f64> = weights.all().into_iter().map(|w| *w).collect();
    let penalty = |weights: &mut Weights| -> f64 {
        let logs = weights.all().into_iter().zip(&initial).map(|(w, i)| (*w / i).ln() / PRIOR_DEVIATION);
        logs.map(|z| 0.5 * z * z).sum()
    };
    let score = |weights: &mut Weights| negative_log_likelihood(weights, &kernels, values) + penalty(weights);
    let mut best = score(&mut weights);
    for pass in 0..PASSES {
        let step = if pass == 0 { 8.0 } else { 2.5 };
        for place in 0..initial.len() {
            for factor in [step, 1.0 / step] {
                loop {
                    let mut moved = weights.clone();
                    if let Some(weight) = moved.all().into_iter().nth(place) {
                        *weight *= factor;
                    }
                    let found = score(&mut moved);
                    if found.is_nan() || found > best - 1e-6 {
                        break;
                    }
                    (weights, best) = (moved, found);
                }
            }
        }
    }
    weights
}

/// -log p(values), without its constant: Cholesky of the covariance, row by row.
fn negative_log_likelihood(weights: &Weights, kernels: &[(Vec<f64>, f64)], values: &[f64]) -> f64 {
    let count = values.len();
    let row = |i: usize| i * (i + 1) / 2;
    let mut lower = vec![0.0; row(count)];
    let mut solved = vec![0.0; count];
    let mut sum = 0.0;
    for i in 0..count {
        for j in 0..=i {
            let (parts, expected) = &kernels[row(i) + j];
            let covariance = weights.covariance(parts.iter().copied(), *expected);
            let (left, right) = (&lower[row(i)..row(i) + j], &lower[row(j)..row(j) + j]);
            let rest = covariance - left.iter().zip(right).map(|(a, b)| a * b).sum::<f64>();
            lower[row(i) + j] = match i == j {
                true => (rest + weights.noise).max(1e-12).sqrt(),
                false => rest / lower[row(j) + j],
            };
        }
        let own = &lower[row(i)..row(i) + i];
        let known: f64 = own.iter().zip(&solved).map(|(a, b)| a * b).sum();
        let diagonal = lower[row(i) + i];
        solved[i] = (values[i] - known) / diagonal;
        sum += 0.5 * solved[i] * solved[i] + diagonal.ln();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A grid of three parts of five values, and a function that is additive but for one pair.
    fn grid() -> (Vec<Vec<Features>>, Vec<f64>) {
        let points: Vec<Vec<Features>> =
            (0..125).map(|i| [i / 25, i / 5 % 5, i % 5].map(|x| vec![f64::from(x)]).into()).collect();
        let of = |p: &Vec<Features>| {
            let [x, y, z] = [p[0][0], p[1][0], p[2][0]];
            (x - 1.3).powi(2) * 0.1 + (y - 2.7).abs() * 0.2 + 0.05 * x * y + 0.01 * z
        };
        let values = points.iter().map(of).collect();
        (points, values)
    }

    fn observed(values: &[f64], step: usize) -> Vec<(usize, f64)> {
        values.iter().copied().enumerate().step_by(step).collect()
    }

    #[test]
    fn what_was_observed_is_believed_and_the_rest_is_predicted_within_its_deviation() {
        let (points, values) = grid();
        let expected = vec![0.0; 125];
        let process = Process::fit(&points, &expected, &observed(&values, 3));
        let mut errors = Vec::new();
        for (at, &value) in values.iter().enumerate() {
            let (mean, deviation) = process.belief(at);
            if at % 3 == 0 {
                assert!((mean - value).abs() < 0.02, "{at}: {mean}, {value}");
            } else {
                errors.push((mean - value).abs());
                assert!(
                    (mean - value).abs() < 5.0 * deviation + 0.02,
                    "{at}: {mean} +- {deviation}, {value}"
                );
            }
        }
        errors.sort_by(f64::total_cmp);
        assert!(errors[errors.len() / 2] < 0.03, "{errors:?}");
    }

    #[test]
    fn a_point_that_is_taken_as_expected_changes_no_mean_and_lowers_deviations() {
        let (points, values) = grid();
        let expected = vec![0.0; 125];
        let mut process = Process::fit(&points, &expected, &observed(&values, 10));
        let before: Vec<(f64, f64)> = (0..125).map(|at| process.belief(at)).collect();
        process.take_in(7, None);
        assert!((0..125).all(|at| (process.belief(at).0 - before[at].0).abs() < 1e-12));
        assert!((0..125).all(|at| process.belief(at).1 <= before[at].1 + 1e-9));
        assert!(process.belief(7).1 < 0.5 * before[7].1);
    }

    #[test]
    fn what_is_expected_holds_until_it_is_observed_otherwise() {
        let (points, values) = grid();
        // Right but for a constant: two observations suffice.
        let expected: Vec<f64> = values.iter().map(|v| v - 5.0).collect();
        let process = Process::fit(&points, &expected, &[(0, values[0]), (60, values[60])]);
        let best = (0..125).min_by(|&a, &b| process.belief(a).0.total_cmp(&process.belief(b).0)).unwrap();
        let truly = (0..125).min_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap();
        assert_eq!(best, truly);
    }

    #[test]
    fn the_factorisation_that_grows_agrees_with_the_whole_one() {
        let (points, values) = grid();
        let expected = vec![0.0; 125];
        let all = observed(&values, 7);
        let process = Process::fit(&points, &expected, &all);
        // The likelihood's surprises are those of the rows: the same matrix was factored.
        let deviation: f64 = (0..all.len()).map(|i| process.rows[i][all[i].0]).product();
        assert!(deviation > 0.0 && process.rows.len() == all.len());
        let (mean, _) = process.belief(all[3].0);
        assert!((mean - all[3].1).abs() < 0.02);
    }
}
