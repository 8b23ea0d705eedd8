//! Every shipped loss against its formula, written here a second time and independently: values,
//! the gradient of every output with respect to the logits in closed form, and every gradient,
//! inputs' included, against central differences.
//!
//! What is tested is the program as the oracle evaluates it, and the gradient normal form that all
//! devices compute. Devices have tests of their own against the same oracle.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use cce::Program;
use cce::losses;
use cce_codegen::diff::{Wanted, lower};
use cce_codegen::interp::{Bound, Interp, LoweredInterp, Token, TokenGradient};
use cce_codegen::ir::{InputId, InputKind};
use std::collections::BTreeMap;

/// One token, its logits, its target and what else the loss reads.
#[derive(Clone, Debug)]
struct Given {
    x: Vec<f64>,
    y: usize,
    inputs: BTreeMap<&'static str, Vec<f64>>,
}

impl Given {
    fn one(&self, name: &str) -> f64 {
        self.inputs[name][0]
    }

    fn bound(&self, program: &Program) -> Vec<Bound<'_>> {
        let bind = |input: &cce_codegen::ir::Input| match input.kind {
            InputKind::Logit | InputKind::Target => Bound::Token,
            InputKind::Row | InputKind::Scalar => Bound::One(self.one(&input.name)),
            InputKind::Col => Bound::Col(&self.inputs[&*input.name]),
        };
        program.inputs().iter().map(bind).collect()
    }
}

/// A loss's formula and its gradient with respect to the logits: one entry for each output.
struct Formula {
    name: &'static str,
    /// The range of each input; a Col's values are drawn from it one by one.
    inputs: &'static [(&'static str, f64, f64)],
    value: fn(&Given) -> Vec<f64>,
    gradient: fn(&Given) -> Vec<Vec<f64>>,
}

/// `log sum_j exp z_j` over all but `skipped`.
fn log_sum_exp(z: &[f64], skipped: Option<usize>) -> f64 {
    let others = || z.iter().enumerate().filter(|&(j, _)| Some(j) != skipped).map(|(_, &z)| z);
    let max = others().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY { max } else { max + others().map(|z| (z - max).exp()).sum::<f64>().ln() }
}

fn lse(z: &[f64]) -> f64 {
    log_sum_exp(z, None)
}

/// `lse(z) - z_y` without the difference: `ln(1 + e^u)`, `u` the others' lse relative to the
/// target.
fn nll(z: &[f64], y: usize) -> f64 {
    let u = log_sum_exp(z, Some(y)) - z[y];
    u.max(0.0) + (-u.abs()).exp().ln_1p()
}

fn softmax(z: &[f64]) -> Vec<f64> {
    let l = lse(z);
    z.iter().map(|z| (z - l).exp()).collect()
}

/// `p_j - [j = y]`, and `1 - p_y` without the difference.
fn nll_gradient(z: &[f64], y: usize) -> Vec<f64> {
    let mut gradient = softmax(z);
    gradient[y] = (-nll(z, y)).exp_m1();
    gradient
}

fn entropy(z: &[f64]) -> f64 {
    let p = softmax(z);
    lse(z) - p.iter().zip(z).map(|(p, z)| if *p == 0.0 { 0.0 } else { p * z }).sum::<f64>()
}

fn entropy_gradient(z: &[f64]) -> Vec<f64> {
    let (h, l) = (entropy(z), lse(z));
    softmax(z).iter().zip(z).map(|(p, z)| -p * (z - l + h)).collect()
}

fn times(vector: Vec<f64>, factor: f64) -> Vec<f64> {
    vector.into_iter().map(|value| value * factor).collect()
}

fn each(a: Vec<f64>, b: &[f64], f: fn(f64, f64) -> f64) -> Vec<f64> {
    a.into_iter().zip(b).map(|(a, &b)| f(a, b)).collect()
}

/// `cap tanh(x / cap)` and its derivative `1 - tanh^2`.
fn capped(x: &[f64], cap: f64) -> (Vec<f64>, Vec<f64>) {
    let z = x.iter().map(|x| cap * (x / cap).tanh()).collect();
    // 1 / cosh^2: the difference 1 - tanh^2 would lose what is left of it at the cap.
    (z, x.iter().map(|x| (x / cap).cosh().powi(-2)).collect())
}

fn biased(given: &Given) -> Vec<f64> {
    each(given.x.clone(), &given.inputs["bias"], |x, bias| x + bias)
}

const FORMULAS: &[Formula] = &[
    Formula {
        name: "cross_entropy",
        inputs: &[],
        value: |t| vec![nll(&t.x, t.y)],
        gradient: |t| vec![nll_gradient(&t.x, t.y)],
    },
    Formula {
        name: "cross_entropy_with_bias",
        inputs: &[("bias", -2.0, 2.0)],
        value: |t| vec![nll(&biased(t), t.y)],
        gradient: |t| vec![nll_gradient(&biased(t), t.y)],
    },
    Formula {
        name: "scaled",
        inputs: &[("scale", 0.1, 2.0)],
        value: |t| vec![nll(&times(t.x.clone(), t.one("scale")), t.y)],
        gradient: |t| {
            let scale = t.one("scale");
            vec![times(nll_gradient(&times(t.x.clone(), scale), t.y), scale)]
        },
    },
    Formula {
        name: "softcapped",
        inputs: &[("cap", 5.0, 50.0)],
        value: |t| vec![nll(&capped(&t.x, t.one("cap")).0, t.y)],
        gradient: |t| {
            let (z, slope) = capped(&t.x, t.one("cap"));
            vec![each(nll_gradient(&z, t.y), &slope, |g, s| g * s)]
        },
    },
    Formula {
        name: "label_smoothing",
        inputs: &[("smoothing", 0.0, 0.3)],
        value: |t| {
            let (s, vocab) = (t.one("smoothing"), t.x.len() as f64);
            let uniform = t.x.iter().map(|x| lse(&t.x) - x).sum::<f64>() / vocab;
            vec![(1.0 - s) * nll(&t.x, t.y) + s * uniform]
        },
        gradient: |t| {
            let (s, vocab) = (t.one("smoothing"), t.x.len() as f64);
            let uniform = times(softmax(&t.x).iter().map(|p| p - 1.0 / vocab).collect(), s);
            vec![each(times(nll_gradient(&t.x, t.y), 1.0 - s), &uniform, |a, b| a + b)]
        },
    },
    Formula {
        name: "z_loss",
        inputs: &[("weight", 1e-5, 1e-2)],
        value: |t| vec![nll(&t.x, t.y) + t.one("weight") * lse(&t.x).powi(2)],
        gradient: |t| {
            let pull = times(softmax(&t.x), 2.0 * t.one("weight") * lse(&t.x));
            vec![each(nll_gradient(&t.x, t.y), &pull, |a, b| a + b)]
        },
    },
    Formula {
        name: "gemma2",
        inputs: &[("bias", -2.0, 2.0), ("weight", 0.1, 3.0), ("cap", 5.0, 50.0), ("zw", 1e-5, 1e-2)],
        value: |t| {
            let (z, _) = capped(&biased(t), t.one("cap"));
            let l = lse(&z);
            vec![t.one("weight") * (nll(&z, t.y) + t.one("zw") * l * l), l, entropy(&z)]
        },
        gradient: |t| {
            let (z, slope) = capped(&biased(t), t.one("cap"));
            let pull = times(softmax(&z), 2.0 * t.one("zw") * lse(&z));
            let loss = times(each(nll_gradient(&z, t.y), &pull, |a, b| a + b), t.one("weight"));
            [loss, softmax(&z), entropy_gradient(&z)].map(|g| each(g, &slope, |g, s| g * s)).to_vec()
        },
    },
    Formula {
        name: "focal",
        inputs: &[("gamma", 1.0, 4.0)],
        value: |t| {
            let nll = nll(&t.x, t.y);
            vec![(-(-nll).exp_m1()).powf(t.one("gamma")) * nll]
        },
        gradient: |t| {
            let (nll, gamma) = (nll(&t.x, t.y), t.one("gamma"));
            let rest = -(-nll).exp_m1();
            let slope = gamma * rest.powf(gamma - 1.0) * (-nll).exp() * nll + rest.powf(gamma);
            vec![times(nll_gradient(&t.x, t.y), slope)]
        },
    },
    Formula {
        name: "class_weights",
        inputs: &[("weight", 0.0, 3.0)],
        value: |t| vec![t.inputs["weight"][t.y] * nll(&t.x, t.y)],
        gradient: |t| vec![times(nll_gradient(&t.x, t.y), t.inputs["weight"][t.y])],
    },
    Formula {
        name: "token_weights",
        inputs: &[("weight", -3.0, 3.0)],
        value: |t| vec![t.one("weight") * nll(&t.x, t.y)],
        gradient: |t| vec![times(nll_gradient(&t.x, t.y), t.one("weight"))],
    },
    Formula {
        name: "token_logprob",
        inputs: &[],
        value: |t| vec![-nll(&t.x, t.y), entropy(&t.x)],
        gradient: |t| vec![times(nll_gradient(&t.x, t.y), -1.0), entropy_gradient(&t.x)],
    },
    Formula {
        name: "unlikelihood",
        inputs: &[],
        value: |t| {
            // 1 - p_y is the others' share.
            vec![lse(&t.x) - log_sum_exp(&t.x, Some(t.y))]
        },
        gradient: |t| {
            let nll = nll(&t.x, t.y);
            vec![times(nll_gradient(&t.x, t.y), -1.0 / nll.exp_m1())]
        },
    },
];

/// A small generator (splitmix64): the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn given(&mut self, formula: &Formula, program: &Program, x: Vec<f64>, y: usize) -> Given {
        let vocab = x.len();
        let lengths = |name: &str| {
            let input = program.inputs().iter().find(|input| input.name == name).expect("a declared input");
            if input.kind == InputKind::Col { vocab } else { 1 }
        };
        let draw = |&(name, low, high): &(&'static str, f64, f64)| {
            (name, (0..lengths(name)).map(|_| self.between(low, high)).collect())
        };
        Given { x, y, inputs: formula.inputs.iter().map(draw).collect() }
    }
}

fn program(formula: &Formula) -> Program {
    losses::named(formula.name).expect("a shipped loss")
}

/// Random tokens, from flat to peaked, over vocabularies of several sizes.
fn random(formula: &Formula) -> Vec<Given> {
    let (program, mut numbers) = (program(formula), Numbers(7));
    let mut all = Vec::new();
    for vocab in [2, 5, 17, 64] {
        for spread in [0.1, 1.0, 5.0, 12.0] {
            for _ in 0..4 {
                let x = (0..vocab).map(|_| numbers.between(-spread, spread)).collect();
                let y = numbers.below(vocab);
                all.push(numbers.given(formula, &program, x, y));
            }
        }
    }
    all
}

/// Tokens at the edges: a vocabulary of one, ties, a target sure or hopeless, logits far from zero.
fn extreme(formula: &Formula) -> Vec<Given> {
    let (program, mut numbers) = (program(formula), Numbers(11));
    let rows: [(Vec<f64>, usize); 9] = [
        (vec![3.0], 0),
        (vec![0.0; 8], 3),
        (vec![5.0, 5.0, -5.0, 5.0], 1),
        (vec![40.0, 0.0, 1.0, -1.0], 0),
        (vec![40.0, 0.0, 1.0, -1.0], 1),
        (vec![700.0, 0.0, 1.0], 0),
        (vec![700.0, 0.0, 1.0], 2),
        (vec![1000.0, 1001.0, 999.0], 0),
        (vec![-1000.0, -1001.0, -999.0], 2),
    ];
    rows.into_iter().map(|(x, y)| numbers.given(formula, &program, x, y)).collect()
}

#[track_caller]
fn assert_near(found: f64, expected: f64, tolerance: f64, what: &dyn Fn() -> String) {
    let same = found == expected || (found.is_nan() && expected.is_nan());
    assert!(
        same || (found - expected).abs() <= tolerance,
        "{}: found {found:e}, expected {expected:e}",
        what()
    );
}

fn lowered(program: &Program) -> LoweredInterp {
    let inputs = (0..program.inputs().len()).map(|at| InputId(at as u16)).collect();
    LoweredInterp::new(lower(program, &Wanted { logit: true, inputs }))
}

/// Rounding of a value computed from logits of this size.
fn rounding(given: &Given) -> f64 {
    let largest = given.x.iter().fold(1.0, |max: f64, x| max.max(x.abs()));
    1e-13 * largest * largest
}

#[test]
fn every_shipped_loss_has_a_formula_here_and_its_own_name() {
    let formulas: Vec<_> = FORMULAS.iter().map(|formula| formula.name).collect();
    let shipped: Vec<_> = losses::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(formulas, shipped);
    for (name, program) in losses::ALL {
        assert_eq!(program().name(), *name);
        assert!(!program().doc().is_empty());
        assert!(program().outputs().iter().all(|output| output.differentiable), "{name}");
    }
}

#[test]
fn values_are_the_formulas() {
    for formula in FORMULAS {
        let program = program(formula);
        let (written, lowered) = (Interp::new(&program), lowered(&program));
        for given in random(formula).iter().chain(&extreme(formula)) {
            let inputs = given.bound(&program);
            let token = Token { logits: &given.x, target: Some(given.y), inputs: &inputs };
            let expected = (formula.value)(given);
            let (written, lowered) = (written.outputs(&token), lowered.outputs(&token));
            assert_eq!(lowered.len(), expected.len());
            for (at, expected) in expected.into_iter().enumerate() {
                let what = || format!("{} output {at} of {given:?}", formula.name);
                assert_near(lowered[at], expected, rounding(given), &what);
                // As it is written, a loss near a sure target is a difference of rounded numbers:
                // that it is right there is the lowering's work. Elsewhere both are.
                if expected.is_finite()
                    && nll(&given.x, given.y) > 1e-2
                    && given.x.iter().all(|x| x.abs() < 30.0)
                {
                    assert_near(written[at], expected, 1e-9, &what);
                }
            }
        }
    }
}

#[test]
fn gradients_of_the_logits_are_the_closed_forms() {
    for formula in FORMULAS {
        let program = program(formula);
        let lowered = lowered(&program);
        for given in random(formula).iter().chain(&extreme(formula)) {
            let inputs = given.bound(&program);
            let token = Token { logits: &given.x, target: Some(given.y), inputs: &inputs };
            for (at, expected) in (formula.gradient)(given).into_iter().enumerate() {
                let mut upstream = vec![0.0; program.outputs().len()];
                upstream[at] = 1.0;
                let found = lowered.gradient(&token, &upstream).logit;
                for (j, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                    // An infinite loss (a sure token that was not to come) has no gradient.
                    if expected.is_finite() {
                        let what = || format!("{} output {at}, dx[{j}] of {given:?}", formula.name);
                        assert_near(found, expected, rounding(given), &what);
                    }
                }
            }
        }
    }
}

#[test]
fn the_loss_of_a_sure_target_keeps_its_digits() {
    let functions_of_nll =
        ["cross_entropy", "scaled", "class_weights", "token_weights", "focal", "token_logprob"];
    for formula in FORMULAS.iter().filter(|formula| functions_of_nll.contains(&formula.name)) {
        let (program, mut numbers) = (program(formula), Numbers(13));
        let lowered = lowered(&program);
        for gap in [10.0, 20.0, 36.0, 43.0, 60.0, 100.0] {
            let given =
                numbers.given(formula, &program, vec![43.0, 43.0 - gap, 42.0 - gap, 43.0 - 2.0 * gap], 0);
            let inputs = given.bound(&program);
            let token = Token { logits: &given.x, target: Some(0), inputs: &inputs };
            let mut upstream = vec![0.0; program.outputs().len()];
            upstream[0] = 1.0;
            let relative = |found: f64, expected: f64, part: &str| {
                let what = || format!("{}, gap {gap}, {part}", formula.name);
                assert!(expected != 0.0, "{}", what());
                assert_near(found / expected, 1.0, 1e-11, &what);
            };
            relative(lowered.outputs(&token)[0], (formula.value)(&given)[0], "value");
            let found = lowered.gradient(&token, &upstream).logit;
            for (j, expected) in (formula.gradient)(&given)[0].iter().enumerate() {
                relative(found[j], *expected, &format!("dx[{j}]"));
            }
        }
    }
}

/// The derivative of `f` at 0, by central differences of two steps, extrapolated.
fn derivative(f: impl Fn(f64) -> f64) -> f64 {
    let h = 1e-3;
    let central = |h: f64| (f(h) - f(-h)) / (2.0 * h);
    (4.0 * central(h / 2.0) - central(h)) / 3.0
}

#[test]
fn every_gradient_is_that_of_central_differences() {
    for formula in FORMULAS {
        let program = program(formula);
        let lowered = lowered(&program);
        let upstream: Vec<f64> = (0..program.outputs().len()).map(|at| 1.0 - 0.7 * at as f64).collect();
        let weighted = |given: &Given| -> f64 {
            (formula.value)(given).iter().zip(&upstream).map(|(value, weight)| value * weight).sum()
        };
        for given in random(formula) {
            let inputs = given.bound(&program);
            let token = Token { logits: &given.x, target: Some(given.y), inputs: &inputs };
            let TokenGradient { logit, cols, rows, scalars } = lowered.gradient(&token, &upstream);
            let check = |found: f64, moved: &dyn Fn(&mut Given, f64), part: &str| {
                let expected = derivative(|by| {
                    let mut given = given.clone();
                    moved(&mut given, by);
                    weighted(&given)
                });
                let what = || format!("{} {part} of {given:?}", formula.name);
                assert_near(found, expected, 1e-8 * (1.0 + expected.abs()), &what);
            };
            for (j, found) in logit.into_iter().enumerate() {
                check(found, &|given, by| given.x[j] += by, &format!("dx[{j}]"));
            }
            let mut checked = 0;
            let mut name = |id: InputId| {
                checked += 1;
                &*program.inputs()[id.index()].name
            };
            for (id, col) in &cols {
                let name = name(*id);
                for (j, &found) in col.iter().enumerate() {
                    check(found, &|given, by| input(given, name)[j] += by, &format!("d{name}[{j}]"));
                }
            }
            for &(id, found) in rows.iter().chain(&scalars) {
                let name = name(id);
                check(found, &|given, by| input(given, name)[0] += by, &format!("d{name}"));
            }
            assert_eq!(checked, formula.inputs.len(), "{}", formula.name);
        }
    }
}

fn input<'a>(given: &'a mut Given, name: &str) -> &'a mut Vec<f64> {
    given.inputs.get_mut(name).expect("a declared input")
}
