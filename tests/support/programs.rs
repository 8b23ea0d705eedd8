//! Losses beside those that ship, for what these do not use: no target, extrema, conditions, a uniform part
//! without factors.

use cce::prelude::*;
use cce::{Program, losses};

/// Statistics of the logits of a token; there is no target.
#[derive(cce::Outputs)]
pub struct Statistics {
    /// Log-sum-exp of the scaled logits.
    pub lse: Row,
    /// Mean of their squares.
    pub square: Row,
    /// The largest.
    pub largest: Row,
    /// Where it is.
    pub place: Row,
}

/// Without a target: the log-sum, the mean of squares, the largest logit and its column.
#[cce::loss]
pub fn statistics(x: Logit, scale: Scalar) -> Statistics {
    let z = scale * x;
    Statistics { lse: lse(z), square: mean(z * z), largest: max(z), place: argmax(z) }
}

/// Conditions, extrema of two values and the steeper functions, on a Logit, a Row and a Col.
#[cce::loss]
pub fn piecewise(x: Logit, y: Target, bias: Col, weight: Row, slope: Scalar) -> Loss {
    let leaky = if x < 0.0 { slope * x } else { x };
    let z = max(min(leaky + bias, 20.0), -20.0);
    let nll = lse(z) - at(z, y);
    weight * sqrt(1.0 + nll * nll) + abs(weight) * log1p(exp(-nll))
}

/// A softmax-weighted mean of something that is not the logit, and smoothing under a softcap.
#[cce::loss]
pub fn expected_bias(x: Logit, y: Target, bias: Col, smoothing: Scalar) -> Loss {
    let z = 10.0 * tanh(x / 10.0);
    let l = lse(z);
    (1.0 - smoothing) * (l - at(z, y)) + smoothing * (l - mean(z)) + expect(z, bias * sigmoid(x))
}

/// Smoothing of logits with a bias, whose gradient has a uniform part of its own.
#[cce::loss]
pub fn smoothed_with_bias(x: Logit, y: Target, bias: Col, smoothing: Scalar) -> Loss {
    let z = x + bias;
    let l = lse(z);
    (1.0 - smoothing) * (l - at(z, y)) + smoothing * (l - mean(z))
}

/// Shipped and others, by name.
pub fn all() -> Vec<Program> {
    let shipped = losses::ALL.iter().map(|(_, program)| program());
    let others = [
        statistics::program(),
        piecewise::program(),
        expected_bias::program(),
        smoothed_with_bias::program(),
    ];
    shipped.chain(others).collect()
}

/// The one of this name.
pub fn named(name: &str) -> Program {
    all().into_iter().find(|program| program.name() == name).expect("a program of this name")
}
