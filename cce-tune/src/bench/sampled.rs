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
//! Right is what is biased by no more than rounding and a third of its own noise. What is not the same in two runs
//! with one seed is no estimate at all; that is looked at where the noise is large enough to hide anything.

use super::Comparison;

/// Pairs of seeds at most: with noise in 40 directions, the mean of so many inner products deviates from the squared
/// bias by a fortieth of the noise's variance, a quarter of what is allowed.
pub(super) const MOST_PAIRS: usize = 32;

/// The bias that is allowed, as a part of the noise: less could not be seen on a small problem.
const OF_THE_NOISE: f64 = 1.0 / 3.0;

/// Noise above this, relative to the gradient's norm, is looked at twice.
pub(super) const LARGE: f64 = 0.2;

/// What is known of one gradient from so many pairs of seeds, relative to the reference's squared norm.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bias {
    squares: f64,
    variances: f64,
    pairs: usize,
}

impl Bias {
    /// Takes in a pair: each one's comparison with the reference, and with each other.
    pub(super) fn add(&mut self, a: Comparison, b: Comparison, between: Comparison) {
        // Of a reference that is zero, absolute.
        let scale = if a.norm > 0.0 { a.norm.powi(2) } else { 1.0 };
        let squared = |comparison: Comparison| comparison.difference.powi(2) / scale;
        self.squares += 0.5 * (squared(a) + squared(b) - squared(between));
        self.variances += 0.5 * squared(between);
        self.pairs += 1;
    }

    /// Why this is wrong, as far as is known, if it is: `what` names the gradient, `rounding` is what it may be off
    /// without noise.
    pub(super) fn judge(&self, what: &str, rounding: f64) -> Result<(), String> {
        let pairs = self.pairs.max(1) as f64;
        let (square, noise) = (self.squares / pairs, (self.variances / pairs).sqrt());
        let limit = rounding.hypot(OF_THE_NOISE * noise);
        // Not a number is no less than the limit either.
        if square <= limit * limit {
            return Ok(());
        }
        Err(format!(
            "{what} is off by {:.1e} in the mean over {} seeds, at most {limit:.1e} is rounding and noise ({noise:.1e} a \
             seed)",
            square.sqrt(),
            2 * self.pairs
        ))
    }
}
