//! The normal form against central differences of the program as it was written.

use super::sketch::losses;
use super::*;
use crate::interp::{Bound, Interp, LoweredInterp, Token};
use crate::ir::Kind;

/// Numbers in (-1, 1) from a counter.
pub(super) fn noise(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    ((*seed >> 11) as f64 / (1u64 << 52) as f64) - 1.0
}

/// One token's values for a program's inputs.
pub(super) struct Case {
    pub logits: Vec<f64>,
    pub target: Option<usize>,
    ones: Vec<f64>,
    cols: Vec<Vec<f64>>,
    upstream: Vec<f64>,
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

/// The gradient by the normal form, and by central differences, of everything; pairs with a label.
pub(super) fn both_gradients(program: &Program, case: &Case) -> Vec<(String, f64, f64)> {
    let interp = Interp::new(program);
    let lowered = LoweredInterp::new(lower(program, &wants_all(program)));
    let gradient = case.token(program, |token| lowered.gradient(token, &case.upstream));
    let mut pairs = Vec::new();
    let mut compare = |label: String, derived: f64, at: &dyn Fn(&mut Case) -> &mut f64| {
        // Fourth order: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h.
        let shifted = |by: f64| {
            let mut other = Case {
                ones: case.ones.clone(),
                cols: case.cols.clone(),
                logits: case.logits.clone(),
                upstream: case.upstream.clone(),
                ..*case
            };
            *at(&mut other) += by;
            other.objective(program, &interp)
        };
        let h = 1e-3;
        let numeric =
            (8.0 * (shifted(h) - shifted(-h)) - (shifted(2.0 * h) - shifted(-2.0 * h))) / (12.0 * h);
        pairs.push((label, derived, numeric));
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

#[test]
fn gradients_of_all_losses_are_central_differences() {
    for program in losses() {
        for seed in 0..4 {
            let case = Case::new(&program, 7, 2.0, seed);
            for (label, derived, numeric) in both_gradients(&program, &case) {
                let error = (derived - numeric).abs();
                assert!(
                    error <= 1e-8 * (1.0 + numeric.abs()),
                    "{} {label}: {derived} derived, {numeric} by differences",
                    program.name()
                );
            }
        }
    }
}

#[test]
fn outputs_are_those_of_the_program_as_written() {
    for program in losses() {
        let interp = Interp::new(&program);
        let lowered = LoweredInterp::new(lower(&program, &Wanted::default()));
        for seed in 0..4 {
            let case = Case::new(&program, 9, 8.0, seed);
            let (direct, lowered) =
                case.token(&program, |token| (interp.outputs(token), lowered.outputs(token)));
            for (a, b) in direct.iter().zip(&lowered) {
                assert!((a - b).abs() <= 1e-12 * (1.0 + a.abs()), "{}: {a} {b}", program.name());
            }
        }
    }
}

#[test]
fn functions_of_the_nll_leave_nothing_at_the_target() {
    for program in losses() {
        let lowered = lower(&program, &wants_all(&program));
        let of_nll = ["cross_entropy", "weighted", "class_weighted", "softcapped", "focal", "unlikelihood"];
        let also = ["with_bias_and_temperature", "temperature_a_token", "class_weighted_smoothing"];
        if of_nll.contains(&program.name()) || also.contains(&program.name()) {
            assert_eq!(lowered.logit.target_rest, None, "{}", program.name());
            assert!(lowered.logit.target.is_some(), "{}", program.name());
        }
    }
}

#[test]
fn a_vocabulary_loop_reads_few_values_a_token() {
    let expected = [
        ("cross_entropy", 1),
        ("weighted", 1),
        ("softcapped", 1),
        ("z_loss", 1),
        ("focal", 1),
        ("unlikelihood", 1),
        ("plain_entropy", 2),
        ("entropy", 2),
        ("gemma2", 2),
    ];
    for (name, coefs) in expected {
        let program = losses().into_iter().find(|program| program.name() == name).unwrap();
        let mut lowered = lower(&program, &wants_all(&program));
        let softmax = lowered.logit.softmax.unwrap();
        let hoisted = hoist(&mut lowered.graph, &[softmax]);
        assert_eq!(hoisted.coefs.len(), coefs, "{name}");
        assert!(hoisted.coefs.iter().all(|&coef| lowered.graph.kind(coef) == Kind::Row));
    }
}
