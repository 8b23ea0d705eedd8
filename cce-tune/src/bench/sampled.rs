//! Whether a sampled gradient is right: an estimate without bias, however large its noise.
//!
//! How large the noise is depends on loss and data, so no constant can tell a right estimate from a wrong one. Two
//! independent ones can: for estimates A and B of R with a bias b and noise of variance s^2,
//! ```text
//! E <A - R, B - R> = b^2,    <A - R, B - R> = (|A - R|^2 + |B - R|^2 - |A - B|^2) / 2,    E |A - B|^2 = 2 s^2,
//! ```
//! and the inner product deviates from b^2 by about s^2 over the square root of the number of directions that the noise
//! has: little for a large head, so that one pair of seeds decides. Where it does not, further pairs are averaged.
//!
//! Right is what is biased by no more than rounding and a third of its own noise. The test is sequential and has two
//! sides: after each pair it ends where the mean of the squared bias beyond what is allowed is clearly below zero or
//! clearly above, and after [`MOST_PAIRS`] by its sign. How far a mean may be off is told from the pairs themselves:
//! from how they differ, and from (|A - R|^2 - |B - R|^2) / 2, which has mean zero and, for noise that is normal, the
//! inner product's own variance, so that one pair says something too. n pairs have 2 n - 1 degrees of freedom.
//!
//! How many are refused, and after how many pairs in the mean, simulated with normal noise (the tests below):
//!
//! | bias, of the noise | noise in 10 directions | in 40 directions |
//! | --- | --- | --- |
//! | none | 0.1 %, 51 pairs | 0.1 %, 15 pairs |
//! | 0.4 | 89 %, 124 pairs | 97 %, 124 pairs |
//! | 0.5 | 98 %, 122 pairs | 99 %, 57 pairs |
//! | 2 | all, 4 pairs | all, 3 pairs |
//!
//! With noise in thousands of directions two pairs do, in a hundred thousand mostly one.
//!
//! What is not the same in two runs with one seed is no estimate at all; that is looked at where the noise is large
//! enough to hide anything.

use super::Comparison;

/// Pairs of seeds at most.
const MOST_PAIRS: usize = 128;

/// The bias that is allowed, as a part of the noise: less could not be seen on a small problem.
const OF_THE_NOISE: f64 = 1.0 / 3.0;

/// Noise above this, relative to the gradient's norm, is looked at twice.
pub(super) const LARGE: f64 = 0.2;

/// Standard errors below what is allowed at which a mean is right: the 99 % points of Student's t for 1, 3, ... degrees
/// of freedom. The last is for all that are more.
const RIGHT: [f64; 6] = [31.82, 4.54, 3.37, 3.00, 2.82, 2.72];

/// Standard errors above it at which a mean is wrong: the 99.99 % points, as what is wrong stays out for good.
const WRONG: [f64; 6] = [3183.0, 22.20, 9.68, 7.06, 6.01, 5.45];

/// What so many pairs say.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// Biased by no more than what is allowed.
    Right,
    /// Why it is wrong.
    Wrong(String),
    /// Another pair is needed.
    Open,
}

/// What is known of one gradient from so many pairs of seeds, relative to the reference's squared norm.
#[derive(Clone, Debug, Default)]
pub(super) struct Bias {
    /// Of each pair: its inner product.
    squares: Vec<f64>,
    /// Its noise's variance.
    variances: Vec<f64>,
    /// What deviates from zero as the inner product does from the squared bias.
    halves: Vec<f64>,
}

impl Bias {
    /// Takes in a pair: each one's comparison with the reference, and with each other.
    pub(super) fn add(&mut self, a: Comparison, b: Comparison, between: Comparison) {
        // Of a reference that is zero, absolute.
        let scale = if a.norm > 0.0 { a.norm.powi(2) } else { 1.0 };
        let squared = |comparison: Comparison| comparison.difference.powi(2) / scale;
        self.squares.push(0.5 * (squared(a) + squared(b) - squared(between)));
        self.variances.push(0.5 * squared(between));
        self.halves.push(0.5 * (squared(a) - squared(b)));
    }

    /// What is known so far: `what` names the gradient, `rounding` is what it may be off without noise.
    pub(super) fn judge(&self, what: &str, rounding: f64) -> Verdict {
        let count = self.squares.len();
        let pairs = count as f64;
        let allowed = |variance: f64| rounding.powi(2) + OF_THE_NOISE.powi(2) * variance;
        let excesses =
            self.squares.iter().zip(&self.variances).map(|(square, variance)| square - allowed(*variance));
        let excesses: Vec<f64> = excesses.collect();
        let excess = excesses.iter().sum::<f64>() / pairs;
        let deviations = excesses.iter().map(|one| one - excess).chain(self.halves.iter().copied());
        let freedom = (2 * count).saturating_sub(1) as f64;
        let error = (deviations.map(|deviation| deviation.powi(2)).sum::<f64>() / freedom / pairs).sqrt();
        let at = count.clamp(1, RIGHT.len()) - 1;
        let (right, wrong) = match count {
            MOST_PAIRS.. => (0.0, 0.0),
            _ => (RIGHT[at] * error, WRONG[at] * error),
        };
        if excess + right <= 0.0 {
            return Verdict::Right;
        }
        // Not a number is no less than what is allowed either.
        if excess - wrong <= 0.0 {
            return Verdict::Open;
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / pairs;
        let (square, variance) = (mean(&self.squares), mean(&self.variances));
        Verdict::Wrong(format!(
            "{what} is off by {:.1e} in the mean over {} seeds, at most {:.1e} is rounding and noise ({:.1e} a seed)",
            square.sqrt(),
            2 * count,
            allowed(variance).sqrt(),
            variance.sqrt()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::{Purpose, Stream};

    /// What an estimate is off by: biased in one direction, with noise of variance 1 in all.
    fn estimate(noise: &mut Stream, bias: f64, directions: usize) -> Vec<f64> {
        let each = 1.0 / (directions as f64).sqrt();
        let in_one = |at| each * f64::from(noise.normal()) + if at == 0 { bias } else { 0.0 };
        (0..directions).map(in_one).collect()
    }

    fn off_by(differences: impl Iterator<Item = f64>) -> Comparison {
        let difference = differences.map(|x| x * x).sum::<f64>().sqrt();
        Comparison { error: difference, difference, norm: 1.0, nan: 0, infinite: 0 }
    }

    /// How a test of estimates with this bias, in units of the noise, ends, and after how many pairs.
    fn tested(bias: f64, directions: usize, noise: &mut Stream) -> (bool, usize) {
        let mut known = Bias::default();
        for pairs in 1.. {
            let [a, b] = [estimate(noise, bias, directions), estimate(noise, bias, directions)];
            let between = off_by(a.iter().zip(&b).map(|(a, b)| a - b));
            known.add(off_by(a.iter().copied()), off_by(b.iter().copied()), between);
            match known.judge("dE", 1e-4) {
                Verdict::Right => return (true, pairs),
                Verdict::Wrong(_) => return (false, pairs),
                Verdict::Open => {}
            }
        }
        unreachable!()
    }

    /// Of so many tests: the part that refuses, and the pairs that they take, in the mean and at most.
    fn refused(bias: f64, directions: usize, tests: usize) -> (f64, f64, usize) {
        let mut noise = Stream::new(1, Purpose::Search, directions as u64);
        let ends: Vec<(bool, usize)> = (0..tests).map(|_| tested(bias, directions, &mut noise)).collect();
        let refused = ends.iter().filter(|end| !end.0).count() as f64 / tests as f64;
        let pairs = ends.iter().map(|end| end.1).sum::<usize>() as f64 / tests as f64;
        let most = ends.iter().map(|end| end.1).max().unwrap();
        println!("bias {bias}, {directions} directions: {refused} refused, {pairs} pairs, at most {most}");
        (refused, pairs, most)
    }

    #[test]
    fn how_often_a_bias_is_refused_is_what_is_said_of_it() {
        for (bias, directions, parts) in [
            (0.0, 10, 0.0..=0.002),
            (0.0, 40, 0.0..=0.002),
            (0.4, 10, 0.86..=0.92),
            (0.4, 40, 0.95..=0.99),
            (0.5, 10, 0.97..=1.0),
            (0.5, 40, 0.985..=1.0),
        ] {
            let (refused, _, most) = refused(bias, directions, 4000);
            assert!(parts.contains(&refused), "bias {bias}, {directions} directions: {refused} refused");
            assert!(most <= MOST_PAIRS, "{most} pairs");
        }
    }

    #[test]
    fn what_is_clear_takes_few_pairs() {
        for directions in [10, 40, 1000] {
            let (refused, pairs, most) = refused(2.0, directions, 500);
            assert!(refused == 1.0 && pairs < 5.0 && most <= 8, "{refused}, {pairs}, {most}");
        }
        for (directions, few) in [(1000, 3.5), (5000, 2.5), (100_000, 1.7)] {
            let (refused, pairs, _) = refused(0.0, directions, 100);
            assert!(refused == 0.0 && pairs < few, "{directions} directions: {refused}, {pairs}");
        }
    }

    #[test]
    fn an_error_without_noise_and_one_that_is_no_number_are_wrong_after_one_pair_and_rounding_is_right() {
        let of = |off: f64, between: f64| {
            let mut known = Bias::default();
            let off = off_by(std::iter::once(off));
            known.add(off, off, off_by(std::iter::once(between)));
            known.judge("dE", 1e-2)
        };
        assert_eq!(of(9e-3, 0.0), Verdict::Right);
        let Verdict::Wrong(reason) = of(0.05, 0.0) else { panic!("{:?}", of(0.05, 0.0)) };
        assert!(reason.contains("dE is off by 5.0e-2 in the mean over 2 seeds"), "{reason}");
        for (off, between) in [(f64::INFINITY, f64::INFINITY), (f64::INFINITY, 0.0), (0.1, f64::INFINITY)] {
            assert!(!matches!(of(off, between), Verdict::Right), "{off}, {between}");
        }
    }
}
