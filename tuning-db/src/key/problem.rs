//! Shapes and features of a problem, and the rounding of the number of tokens.

use serde::{Deserialize, Serialize};

/// The exact shape of a call or a measurement: N tokens, hidden size D, vocabulary V.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Shape {
    /// N, rows of E.
    pub tokens: u64,
    /// D, columns of E and C.
    pub hidden: u64,
    /// V, rows of C.
    pub vocab: u64,
}

impl Shape {
    /// A shape from N, D, V.
    #[must_use]
    pub fn new(tokens: u64, hidden: u64, vocab: u64) -> Self {
        Self { tokens, hidden, vocab }
    }

    /// Euclidean distance of (log2 N, log2 D, log2 V): 1 is a factor of two in one dimension. A size of 0
    /// counts as 1.
    #[must_use]
    pub fn distance(&self, other: &Self) -> f64 {
        let d = |a: u64, b: u64| (a.max(1) as f64).log2() - (b.max(1) as f64).log2();
        let (n, h, v) =
            (d(self.tokens, other.tokens), d(self.hidden, other.hidden), d(self.vocab, other.vocab));
        (n * n + h * h + v * v).sqrt()
    }
}

/// The part of a key that describes the call: shape bucket, gradients, features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Problem {
    /// N rounded to the nearest power of two on a log scale; 0 stays 0.
    pub tokens_bucket: u64,
    /// D, exact.
    pub hidden: u64,
    /// V, exact.
    pub vocab: u64,
    /// Which gradients are wanted.
    pub gradients: Gradients,
    /// Whether the call may contain ignored tokens.
    pub ignored: bool,
    /// Whether gradients are accumulated into their buffers instead of overwriting them.
    pub accumulate: bool,
}

impl Problem {
    /// The problem of a shape, without gradients, ignored tokens or accumulation.
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        Self {
            tokens_bucket: nearest_power_of_two(shape.tokens),
            hidden: shape.hidden,
            vocab: shape.vocab,
            gradients: Gradients::NONE,
            ignored: false,
            accumulate: false,
        }
    }

    /// States which gradients are wanted.
    #[must_use]
    pub fn with_gradients(mut self, gradients: Gradients) -> Self {
        self.gradients = gradients;
        self
    }

    /// States whether tokens may be ignored.
    #[must_use]
    pub fn with_ignored(mut self, possible: bool) -> Self {
        self.ignored = possible;
        self
    }

    /// States whether gradients are accumulated into their buffers.
    #[must_use]
    pub fn with_accumulate(mut self, accumulate: bool) -> Self {
        self.accumulate = accumulate;
        self
    }

    /// The shape that stands for the bucket.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape::new(self.tokens_bucket, self.hidden, self.vocab)
    }
}

/// Which gradients a call computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gradients {
    /// dE.
    pub hidden: bool,
    /// dC.
    pub classifier: bool,
    /// Bit i: the gradient of the program's i-th Scalar, Row or Col input.
    pub inputs: u64,
}

impl Gradients {
    /// None: the loss alone.
    pub const NONE: Self = Self { hidden: false, classifier: false, inputs: 0 };
    /// dE and dC.
    pub const BOTH: Self = Self { hidden: true, classifier: true, inputs: 0 };

    /// dE and dC, each wanted or not.
    #[must_use]
    pub fn new(hidden: bool, classifier: bool) -> Self {
        Self { hidden, classifier, inputs: 0 }
    }

    /// Adds gradients of program inputs, as a bit mask in the order of the program's inputs.
    #[must_use]
    pub fn with_inputs(mut self, inputs: u64) -> Self {
        self.inputs = inputs;
        self
    }
}

/// Rounds to the nearest power of two in log space; a value on the geometric mean goes up.
pub(crate) fn nearest_power_of_two(n: u64) -> u64 {
    let Some(exponent) = n.checked_ilog2() else { return 0 };
    let low = 1_u64 << exponent;
    let (wide_n, wide_low) = (u128::from(n), u128::from(low));
    if wide_n * wide_n >= 2 * wide_low * wide_low { low.checked_mul(2).unwrap_or(low) } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_rounded_to_the_nearest_power_of_two() {
        let cases =
            [(0, 0), (1, 1), (2, 2), (3, 4), (5, 4), (6, 8), (1448, 1024), (1449, 2048), (8193, 8192)];
        for (n, bucket) in cases {
            assert_eq!(nearest_power_of_two(n), bucket, "{n}");
        }
        assert_eq!(nearest_power_of_two(u64::MAX), 1 << 63);
    }

    #[test]
    fn a_factor_of_two_in_one_dimension_is_a_distance_of_one() {
        let a = Shape::new(4096, 2304, 256_000);
        assert_eq!(a.distance(&a), 0.0);
        assert!((a.distance(&Shape::new(8192, 2304, 256_000)) - 1.0).abs() < 1e-12);
        assert!(a.distance(&Shape::new(0, 0, 0)).is_finite());
    }
}
