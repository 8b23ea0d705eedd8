//! The forward's pass: statistics of a token, accumulated strip by strip.

use super::code::{ForwardCode, Stat, record};
use super::math;
use super::row::HostInput;
use super::strip::{Registers, StripInputs, Values, zip};

/// What a thread needs.
pub(crate) struct Scratch {
    pub(crate) registers: Registers,
    weights: Vec<f32>,
    pub(crate) slots: Vec<f32>,
    pub(crate) values: Vec<f64>,
}

impl Scratch {
    pub(crate) fn new(code: &ForwardCode, strip: usize) -> Scratch {
        Scratch {
            registers: Registers::new(&code.strip, strip),
            weights: vec![0.0; strip],
            slots: vec![0.0; code.strip.row_slots().len()],
            values: Vec::new(),
        }
    }
}

/// The record before any column was seen.
pub(crate) fn begin(code: &ForwardCode, record: &mut [f64]) {
    record.fill(0.0);
    record[record::REFERENCE] = f64::NEG_INFINITY;
    for (stat, value) in code.stats.iter().zip(&mut record[record::STATS..]) {
        if matches!(stat, Stat::Max(_)) {
            *value = f64::NEG_INFINITY;
        }
        if matches!(stat, Stat::Argmax(_)) {
            *value = -1.0;
        }
    }
}

/// A vectorised pass over consecutive columns of one token.
pub(crate) struct Pass<'a, 'b> {
    pub(crate) code: &'a ForwardCode,
    pub(crate) scratch: &'b mut Scratch,
    /// The logits of columns `first..`.
    pub(crate) logits: &'a [f32],
    pub(crate) first: usize,
    pub(crate) target: Option<usize>,
    pub(crate) cols: &'a [&'a [f32]],
    pub(crate) strip: usize,
    pub(crate) record: &'b mut [f64],
    /// The largest logit of each strip of the vocabulary, where it is kept.
    pub(crate) maxima: &'b mut [f32],
}

impl pulp::NullaryFnOnce for Pass<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Pass { code, scratch, logits, first, target, cols, strip, record, maxima } = self;
        let (record, best) = record.split_at_mut(record::STATS + code.stats.len());
        for (at, logits) in logits.chunks(strip).enumerate() {
            let first = first + at * strip;
            let inputs = StripInputs { logits, cols, first, rows: &scratch.slots };
            code.strip.run(&mut scratch.registers, &inputs);
            let target = target.and_then(|y| y.checked_sub(first)).filter(|&y| y < logits.len());
            let weights = &mut scratch.weights[..logits.len()];
            if let Some(z) = code.softmax {
                let z = code.strip.value(z, &scratch.registers, &inputs);
                let largest = largest_of(z);
                if let Some(kept) = maxima.get_mut(first / strip) {
                    *kept = largest;
                }
                rescale(code, record, largest);
                let reference = finite_reference(record[record::REFERENCE] as f32);
                zip(weights, z, Values::Same(reference), |z, reference| math::exp(z - reference));
                if let (Some(y), Values::Each(z)) = (target, z) {
                    record[record::TARGET] = f64::from(z[y]);
                }
            }
            let mut argmax = 0;
            for (stat, value) in code.stats.iter().zip(&mut record[record::STATS..]) {
                let argument = |at: usize| code.strip.value(at, &scratch.registers, &inputs);
                match *stat {
                    Stat::Lse | Stat::Nll | Stat::TargetCol(_) => {}
                    Stat::Mean(f) => *value += sum(argument(f), logits.len()),
                    Stat::Expect(f) => *value += dot(weights, argument(f)),
                    Stat::Max(f) => {
                        let largest = f64::from(largest_of(argument(f)));
                        if largest > *value || largest.is_nan() {
                            *value = largest;
                        }
                    }
                    Stat::Argmax(f) => {
                        let values = argument(f);
                        let largest = f64::from(largest_of(values));
                        if *value < 0.0
                            || largest > best[argmax]
                            || largest.is_nan() && !best[argmax].is_nan()
                        {
                            best[argmax] = largest;
                            *value = (first + position(values, largest as f32)) as f64;
                        }
                        argmax += 1;
                    }
                    Stat::TargetLogit => {
                        if let Some(y) = target {
                            *value = f64::from(logits[y]);
                        }
                    }
                }
            }
            if code.softmax.is_some() {
                // The target stays out of the sum, so that 1 - p of the target is not a difference.
                if let Some(y) = target {
                    weights[y] = 0.0;
                }
                record[record::SUM] += sum_each(weights);
            }
        }
    }
}

/// Moves the reference up to `largest` and scales what was accumulated relative to it.
#[inline(always)]
fn rescale(code: &ForwardCode, record: &mut [f64], largest: f32) {
    let (old, new) = (record[record::REFERENCE], f64::from(largest));
    if new > old || new.is_nan() {
        let scale = if old == f64::NEG_INFINITY { 0.0 } else { (old - new).exp() };
        record[record::REFERENCE] = new;
        record[record::SUM] *= scale;
        for (stat, value) in code.stats.iter().zip(&mut record[record::STATS..]) {
            if matches!(stat, Stat::Expect(_)) {
                *value *= scale;
            }
        }
    }
}

/// A row whose logits are all -inf so far has weights 0, not `exp(-inf + inf)`.
#[inline(always)]
pub(crate) fn finite_reference(reference: f32) -> f32 {
    if reference == f32::NEG_INFINITY { 0.0 } else { reference }
}

/// Turns what was accumulated over all `vocab` columns into the record that outputs and gradients read.
pub(crate) fn finish(
    code: &ForwardCode,
    record: &mut [f64],
    target: Option<usize>,
    inputs: &[HostInput<'_>],
    vocab: usize,
) {
    let (reference, others) = (record[record::REFERENCE], record[record::SUM]);
    let finite = if reference == f64::NEG_INFINITY { 0.0 } else { reference };
    let at_target = record[record::TARGET];
    let own = if target.is_some() { (at_target - finite).exp() } else { 0.0 };
    let total = others + own;
    for (stat, value) in code.stats.iter().zip(&mut record[record::STATS..]) {
        match *stat {
            Stat::Lse => *value = finite + total.ln(),
            Stat::Nll => {
                let distance = finite - at_target;
                // log1p(S') with S' = others * e^distance; where the target is far below the rest, S' may
                // overflow and the plain form loses nothing.
                *value =
                    if distance > 30.0 { total.ln() + distance } else { (others * distance.exp()).ln_1p() };
            }
            Stat::Mean(_) => *value /= vocab as f64,
            Stat::Expect(_) => *value /= total,
            Stat::TargetCol(input) => {
                if let (HostInput::Col(col), Some(y)) = (inputs[input], target) {
                    *value = f64::from(col[y]);
                }
            }
            Stat::Max(_) | Stat::Argmax(_) | Stat::TargetLogit => {}
        }
    }
    record[record::REFERENCE] = finite;
    record[record::SUM] = 1.0 / total;
    record[record::TARGET] = others / total;
}

/// Lanes of the sums below: enough independent chains for two vector units of 16 lanes, and short enough
/// chains that a strip's rounding stays near that of one addition.
const LANES: usize = 32;

#[inline(always)]
fn lanes<const N: usize>(values: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    let mut lanes = [start; N];
    let mut chunks = values.chunks_exact(N);
    for chunk in &mut chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = f(*lane, value);
    }
    lanes
}

#[inline(always)]
pub(crate) fn sum_each(values: &[f32]) -> f64 {
    lanes::<LANES>(values, 0.0, |sum, value| sum + value).iter().map(|&lane| f64::from(lane)).sum()
}

#[inline(always)]
fn sum(values: Values<'_>, len: usize) -> f64 {
    match values {
        Values::Each(values) => sum_each(values),
        Values::Same(value) => f64::from(value) * len as f64,
    }
}

#[inline(always)]
fn dot(weights: &[f32], values: Values<'_>) -> f64 {
    match values {
        Values::Each(values) => {
            let mut lanes = [0.0f32; LANES];
            let (mut left, mut right) = (weights.chunks_exact(LANES), values.chunks_exact(LANES));
            for (weights, values) in (&mut left).zip(&mut right) {
                for ((lane, &weight), &value) in lanes.iter_mut().zip(weights).zip(values) {
                    *lane += weight * value;
                }
            }
            for ((lane, &weight), &value) in lanes.iter_mut().zip(left.remainder()).zip(right.remainder()) {
                *lane += weight * value;
            }
            lanes.iter().map(|&lane| f64::from(lane)).sum()
        }
        Values::Same(value) => f64::from(value) * sum_each(weights),
    }
}

/// The largest value; NaN if there is one.
#[inline(always)]
fn largest_of(values: Values<'_>) -> f32 {
    // A NaN lane stays: no comparison with it holds.
    let larger = |largest: f32, value: f32| if value > largest || value.is_nan() { value } else { largest };
    match values {
        Values::Each(values) => lanes::<LANES>(values, f32::NEG_INFINITY, larger)
            .into_iter()
            .fold(f32::NEG_INFINITY, |a, b| if a.is_nan() { a } else { larger(a, b) }),
        Values::Same(value) => value,
    }
}

/// The first position of `wanted` (of a NaN if it is one).
#[inline(always)]
fn position(values: Values<'_>, wanted: f32) -> usize {
    match values {
        Values::Each(values) => {
            values.iter().position(|&value| value == wanted || value.is_nan() && wanted.is_nan()).unwrap_or(0)
        }
        Values::Same(_) => 0,
    }
}
