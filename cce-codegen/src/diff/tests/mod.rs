//! Tests of lowering, and what they share: a token's values, and gradients taken both ways.

mod canonical;
mod extremes;
mod normal_form;
mod random;
mod simplifier;
mod table;

use super::*;
use crate::interp::{Bound, Interp, LoweredInterp, Token};

/// Numbers in (-1, 1) from a counter.
pub(super) fn noise(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    ((*seed >> 11) as f64 / (1u64 << 52) as f64) - 1.0
}

/// One token's values for a program's inputs.
#[derive(Clone)]
pub(super) struct Case {
    pub logits: Vec<f64>,
    pub target: Option<usize>,
    pub ones: Vec<f64>,
    pub cols: Vec<Vec<f64>>,
    pub upstream: Vec<f64>,
}

impl Case {
    pub fn new(program: &Program, vocab: usize, scale: f64, seed: u64) -> Case {
        let mut seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5555;
        let mut positive = || 1.25 + 0.75 * noise(&mut seed);
        let ones = program.inputs().iter().map(|_| positive()).collect();
        let cols = program.inputs().iter().map(|_| (0..vocab).map(|_| positive()).collect()).collect();
        let upstream = program.outputs().iter().map(|_| positive()).collect();
        let logits = (0..vocab).map(|_| scale * noise(&mut seed)).collect();
        let target = program.has_target().then_some(seed as usize % vocab);
        Case { logits, target, ones, cols, upstream }
    }

    fn bound<'a>(&'a self, program: &Program) -> Vec<Bound<'a>> {
        let inputs = program.inputs().iter().enumerate();
        inputs
            .map(|(at, input)| match input.kind {
                InputKind::Row | InputKind::Scalar => Bound::One(self.ones[at]),
                InputKind::Col => Bound::Col(&self.cols[at]),
                InputKind::Logit | InputKind::Target => Bound::Token,
            })
            .collect()
    }

    /// Calls `read` with the token that these values make.
    pub fn token<R>(&self, program: &Program, read: impl FnOnce(&Token<'_>) -> R) -> R {
        let inputs = self.bound(program);
        read(&Token { logits: &self.logits, target: self.target, inputs: &inputs })
    }

    /// Upstream times output, summed.
    fn objective(&self, program: &Program, interp: &Interp) -> f64 {
        let outputs = self.token(program, |token| interp.outputs(token));
        let differentiable =
            program.outputs().iter().map(|output| f64::from(u8::from(output.differentiable)));
        outputs
            .iter()
            .zip(&self.upstream)
            .zip(differentiable)
            .map(|((o, u), d)| if d > 0.0 { o * u } else { 0.0 })
            .sum()
    }
}

/// Every value that a gradient may be taken of, by input.
pub(super) fn wants_all(program: &Program) -> Wanted {
    let inputs = (0..program.inputs().len()).map(|at| InputId(at as u16)).collect();
    Wanted { logit: true, inputs }
}

/// One derivative, taken both ways.
pub(super) struct Pair {
    pub label: String,
    /// By the normal form.
    pub derived: f64,
    /// By central differences of the program as it was written, at two steps: they differ at a kink.
    pub numeric: [f64; 2],
}

impl std::fmt::Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Pair { label, derived, numeric } = self;
        write!(f, "the derivative by {label} is {derived}, by differences {numeric:?}")
    }
}

/// The gradient with respect to everything, by the normal form and by central differences.
pub(super) fn both_gradients(program: &Program, case: &Case) -> Vec<Pair> {
    let interp = Interp::new(program);
    let lowered = LoweredInterp::new(lower(program, &wants_all(program)));
    let gradient = case.token(program, |token| lowered.gradient(token, &case.upstream));
    let mut pairs = Vec::new();
    let mut compare = |label: String, derived: f64, variable: &dyn Fn(&mut Case) -> &mut f64| {
        let shifted = |by: f64| {
            let mut other = case.clone();
            *variable(&mut other) += by;
            other.objective(program, &interp)
        };
        // Fourth order: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h.
        let numeric = [1e-3, 0.7e-3].map(|h| {
            (8.0 * (shifted(h) - shifted(-h)) - (shifted(2.0 * h) - shifted(-2.0 * h))) / (12.0 * h)
        });
        pairs.push(Pair { label, derived, numeric });
    };
    for (j, &derived) in gradient.logit.iter().enumerate() {
        compare(format!("x[{j}]"), derived, &|case| &mut case.logits[j]);
    }
    for (id, values) in &gradient.cols {
        for (j, &derived) in values.iter().enumerate() {
            let name = &program.inputs()[id.index()].name;
            compare(format!("{name}[{j}]"), derived, &|case| &mut case.cols[id.index()][j]);
        }
    }
    for (id, derived) in gradient.rows.iter().chain(&gradient.scalars) {
        let name = program.inputs()[id.index()].name.to_string();
        compare(name, *derived, &|case| &mut case.ones[id.index()]);
    }
    pairs
}
