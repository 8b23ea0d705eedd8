//! Where differences of rounded numbers would lose everything.

use super::super::sketch::losses;
use super::{Case, wants_all};
use crate::diff::lower;
use crate::interp::{LoweredInterp, TokenGradient};
use crate::ir::Program;

fn loss(name: &str) -> Program {
    losses().into_iter().find(|program| program.name() == name).unwrap()
}

/// Loss and gradient of a token whose target is column 0 with a logit `gap` above all others, which are 0.
fn with_gap(name: &str, gap: f64, vocab: usize) -> (f64, TokenGradient) {
    let program = loss(name);
    let interp = LoweredInterp::new(lower(&program, &wants_all(&program)));
    let mut case = Case::new(&program, vocab, 0.0, 0);
    case.logits = vec![0.0; vocab];
    case.logits[0] = gap;
    case.target = Some(0);
    case.ones.fill(2.0);
    case.cols.iter_mut().for_each(|col| col.fill(0.0));
    case.token(&program, |token| (interp.outputs(token)[0], interp.gradient(token, &[1.0])))
}

fn assert_relative(found: f64, expected: f64, what: &str) {
    assert!((found / expected - 1.0).abs() < 1e-12, "{what}: {found}, expected {expected}");
}

#[test]
fn one_minus_p_keeps_its_relative_precision() {
    for gap in [1.0_f64, 20.0, 40.0, 300.0] {
        let others = 9.0 * (-gap).exp();
        let (value, gradient) = with_gap("cross_entropy", gap, 10);
        assert_relative(value, others.ln_1p(), "nll");
        assert_relative(gradient.logit[0], -others / (1.0 + others), "p_y - 1");
        assert_relative(gradient.logit[1], (-gap).exp() / (1.0 + others), "p_j");
    }
}

#[test]
fn focal_loss_keeps_its_relative_precision_near_certainty() {
    // gamma = 2: (1 - p)^2 nll = u^3 to first order in u = 1 - p, and its derivative by the nll is 3 u^2.
    let (value, gradient) = with_gap("focal", 40.0, 10);
    let u = 9.0 * (-40.0_f64).exp();
    assert_relative(value, u.powi(3), "focal");
    assert_relative(gradient.logit[0], -3.0 * u.powi(3), "gradient");
}

#[test]
fn unlikelihood_is_exact_on_both_sides() {
    // p close to 1: -ln(1 - p) is about the gap less ln 9; its gradient at the target is p.
    let (value, gradient) = with_gap("unlikelihood", 40.0, 10);
    assert_relative(value, 40.0 - 9.0_f64.ln() + (9.0 * (-40.0_f64).exp()).ln_1p(), "certain");
    assert_relative(gradient.logit[0], 1.0 / (1.0 + 9.0 * (-40.0_f64).exp()), "gradient");
    // p close to 0: -ln(1 - p) is p.
    let (value, gradient) = with_gap("unlikelihood", -40.0, 10);
    let p = (-40.0_f64).exp() / 9.0;
    assert_relative(value, p, "impossible");
    assert_relative(gradient.logit[0], p, "gradient");
}

#[test]
fn gradients_of_functions_of_the_nll_sum_to_zero_in_their_own_size() {
    for name in ["cross_entropy", "focal", "unlikelihood", "class_weighted", "weighted"] {
        for gap in [-40.0, -3.0, 0.0, 3.0, 40.0] {
            let (_, gradient) = with_gap(name, gap, 6);
            let (sum, size) =
                gradient.logit.iter().fold((0.0, 0.0), |(sum, size), g| (sum + g, size + f64::abs(*g)));
            assert!(f64::abs(sum) <= 1e-12 * size, "{name} at {gap}: {:?}", gradient.logit);
        }
    }
}

#[test]
fn large_logits_neither_overflow_nor_lose_the_sum() {
    for name in ["cross_entropy", "z_loss", "focal", "plain_entropy", "smoothed"] {
        for gap in [-700.0, -80.0, 80.0, 700.0, 5000.0] {
            let (value, gradient) = with_gap(name, gap, 5);
            assert!(value.is_finite(), "{name} at {gap}");
            assert!(gradient.logit.iter().all(|g| g.is_finite()), "{name} at {gap}: {:?}", gradient.logit);
        }
    }
}

#[test]
fn focal_loss_of_a_certain_token_has_a_finite_gradient_for_every_exponent() {
    // exp(-5000) underflows: the nll is exactly 0.
    for gamma in [0.0, 0.5, 1.0, 2.0] {
        let program = loss("focal");
        let interp = LoweredInterp::new(lower(&program, &wants_all(&program)));
        let mut case = Case::new(&program, 3, 0.0, 0);
        case.logits = vec![5000.0, 0.0, 0.0];
        case.target = Some(0);
        case.ones.fill(gamma);
        let gradient = case.token(&program, |token| interp.gradient(token, &[1.0]));
        assert!(gradient.logit.iter().all(|&g| g == 0.0), "{gamma}: {:?}", gradient.logit);
        assert!(gradient.scalars.iter().all(|entry| entry.1 == 0.0));
    }
}

#[test]
fn a_logit_that_is_not_a_number_reaches_the_outputs_and_gradients() {
    let program = loss("cross_entropy");
    let interp = LoweredInterp::new(lower(&program, &wants_all(&program)));
    let mut case = Case::new(&program, 4, 1.0, 0);
    case.target = Some(0);
    case.logits[2] = f64::NAN;
    case.token(&program, |token| {
        assert!(interp.outputs(token)[0].is_nan());
        assert!(interp.gradient(token, &[1.0]).logit.iter().any(|g| g.is_nan()));
    });
}
