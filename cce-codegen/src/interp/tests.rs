//! The oracle against sums written out by hand, and the whole computation against central differences.

use super::reference::{Reference, ReferenceError, ReferenceResult};
use super::{Bound, Interp, Token};
use crate::diff::sketch::{Sketch, gemma2, program};
use crate::ir::{Cmp, ExprId, Node, Program, UnaryOp};

fn numbers(count: usize, scale: f64, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        scale * ((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0)
    };
    (0..count).map(next).collect()
}

/// The value of one reduction of the logits `x` at the target 1.
fn value(body: impl FnOnce(&mut Sketch) -> ExprId, x: &[f64]) -> f64 {
    let program = program("one", body);
    let inputs: Vec<Bound<'_>> = program.inputs().iter().map(|_| Bound::Token).collect();
    Interp::new(&program).outputs(&Token { logits: x, target: Some(1), inputs: &inputs })[0]
}

#[test]
fn reductions_are_what_their_documentation_says() {
    let x = [0.5, -1.0, 2.0, 2.0];
    let sum: f64 = x.iter().map(|x| f64::exp(*x)).sum();
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-14, "{found} {expected}");
    close(
        value(
            |s| {
                let x = s.x();
                s.lse(x)
            },
            &x,
        ),
        sum.ln(),
    );
    close(
        value(
            |s| {
                let x = s.x();
                s.at(x)
            },
            &x,
        ),
        -1.0,
    );
    close(
        value(
            |s| {
                let x = s.x();
                s.mean(x)
            },
            &x,
        ),
        0.875,
    );
    let expected = x.iter().map(|x| x.exp() / sum * x).sum();
    close(
        value(
            |s| {
                let x = s.x();
                s.expect(x, x)
            },
            &x,
        ),
        expected,
    );
    close(
        value(
            |s| {
                let x = s.x();
                s.graph.node(Node::Max(x))
            },
            &x,
        ),
        2.0,
    );
    close(
        value(
            |s| {
                let x = s.x();
                s.graph.node(Node::Argmax(x))
            },
            &x,
        ),
        2.0,
    );
}

#[test]
fn both_branches_of_a_selection_are_chosen_from_element_by_element() {
    let clipped = |s: &mut Sketch| {
        let (x, zero) = (s.x(), s.num(0.0));
        let root = s.un(UnaryOp::Sqrt, x);
        let selected = s.select(Cmp::Gt, x, zero, root, zero);
        s.mean(selected)
    };
    assert_eq!(value(clipped, &[-4.0, 4.0, 9.0, -1.0]), 1.25);
}

#[test]
fn the_lse_of_large_logits_does_not_overflow() {
    let lse = |s: &mut Sketch| {
        let x = s.x();
        s.lse(x)
    };
    assert_eq!(value(lse, &[1000.0, 1000.0]), 1000.0 + 2.0_f64.ln());
    assert_eq!(value(lse, &[f64::NEG_INFINITY, 3.0]), 3.0);
    assert!(value(lse, &[f64::NAN, 3.0]).is_nan());
}

/// A whole call of a program with rows, columns and scalars.
struct Call {
    program: Program,
    hidden: usize,
    e: Vec<f64>,
    c: Vec<f64>,
    targets: Vec<Option<usize>>,
    named: Vec<(&'static str, Vec<f64>)>,
    upstream: Vec<Vec<f64>>,
}

impl Call {
    fn small() -> Call {
        let (tokens, hidden, vocab) = (4, 3, 5);
        let positive = |count, seed| numbers(count, 0.5, seed).iter().map(|x| x + 1.0).collect::<Vec<_>>();
        Call {
            program: gemma2(),
            hidden,
            e: numbers(tokens * hidden, 1.0, 1),
            c: numbers(vocab * hidden, 1.0, 2),
            targets: vec![Some(4), None, Some(0), Some(2)],
            named: vec![
                ("bias", numbers(vocab, 1.0, 3)),
                ("weight", positive(tokens, 4)),
                ("cap", vec![2.0]),
                ("zw", vec![0.1]),
            ],
            upstream: (0..3).map(|output| positive(tokens, 5 + output)).collect(),
        }
    }

    fn reference(&self) -> Reference<'_> {
        let reference = Reference::new(&self.program, self.hidden, &self.e, &self.c).unwrap();
        let reference = reference.targets(&self.targets).unwrap();
        self.named.iter().fold(reference, |reference, (name, values)| reference.input(name, values).unwrap())
    }

    fn run(&self) -> ReferenceResult {
        self.reference().run(&self.upstream, &["zw", "bias", "weight", "cap"]).unwrap()
    }

    fn objective(&self) -> f64 {
        let outputs = self.reference().outputs().unwrap();
        outputs.iter().flatten().zip(self.upstream.iter().flatten()).map(|(o, u)| o * u).sum()
    }

    fn assert_gradient(
        &mut self,
        what: &str,
        gradient: &[f64],
        variable: impl Fn(&mut Call) -> &mut Vec<f64>,
    ) {
        for (at, derived) in gradient.iter().enumerate() {
            let mut shifted = |by: f64| {
                variable(self)[at] += by;
                let objective = self.objective();
                variable(self)[at] -= by;
                objective
            };
            let h = 1e-3;
            let numeric =
                (8.0 * (shifted(h) - shifted(-h)) - (shifted(2.0 * h) - shifted(-2.0 * h))) / (12.0 * h);
            assert!((derived - numeric).abs() < 1e-8, "{what}[{at}]: {derived} {numeric}");
        }
    }
}

#[test]
fn all_gradients_of_a_whole_call_are_central_differences() {
    let mut call = Call::small();
    let result = call.run();
    call.assert_gradient("e", &result.hidden_gradient, |call| &mut call.e);
    call.assert_gradient("c", &result.classifier_gradient, |call| &mut call.c);
    assert_eq!(result.input_gradients.len(), 4);
    for (name, gradient) in &result.input_gradients {
        let position = call.named.iter().position(|entry| entry.0 == name).unwrap();
        assert_eq!(gradient.len(), call.named[position].1.len());
        call.assert_gradient(name, gradient, |call| &mut call.named[position].1);
    }
}

#[test]
fn ignored_tokens_have_no_outputs_and_no_gradients() {
    let call = Call::small();
    let result = call.run();
    assert!(result.outputs.iter().all(|output| output[1] == 0.0 && output[0] != 0.0));
    assert!(result.hidden_gradient[3..6].iter().all(|&g| g == 0.0));
    assert_eq!(call.reference().counted(), 3);
}

#[test]
fn cross_entropy_of_a_middling_problem_is_that_of_the_textbook_and_instant() {
    // Enough for several threads and several groups of tokens.
    let (tokens, hidden, vocab) = (40, 64, 3000);
    let program = program("cross_entropy", |s| {
        let x = s.x();
        s.nll(x)
    });
    let (e, c) = (numbers(tokens * hidden, 1.0, 1), numbers(vocab * hidden, 0.5, 2));
    let targets: Vec<Option<usize>> = (0..tokens).map(|i| Some(i * 7 % vocab)).collect();
    let start = std::time::Instant::now();
    let reference = Reference::new(&program, hidden, &e, &c).unwrap().targets(&targets).unwrap();
    let result = reference.run(&[vec![1.0; tokens]], &[]).unwrap();
    assert!(start.elapsed().as_secs_f64() < 2.0);
    let mut dc = vec![0.0; vocab * hidden];
    for i in 0..tokens {
        let row = &e[i * hidden..][..hidden];
        let exps: Vec<f64> = (0..vocab)
            .map(|j| c[j * hidden..][..hidden].iter().zip(row).map(|(a, b)| a * b).sum::<f64>().exp())
            .collect();
        let sum: f64 = exps.iter().sum();
        let y = targets[i].unwrap();
        assert!((result.outputs[0][i] - (sum / exps[y]).ln()).abs() < 1e-12);
        for j in 0..vocab {
            let g = exps[j] / sum - f64::from(u8::from(j == y));
            for d in 0..hidden {
                dc[j * hidden + d] += g * row[d];
            }
        }
    }
    for (found, expected) in result.classifier_gradient.iter().zip(&dc) {
        assert!((found - expected).abs() < 1e-12);
    }
}

#[test]
fn the_loss_of_a_token_that_is_all_but_certain_keeps_its_digits() {
    let program = program("cross_entropy", |s| {
        let x = s.x();
        s.nll(x)
    });
    // Log-odds of 50: `lse - at` would be 0, or a multiple of 7e-15.
    let reference = Reference::new(&program, 1, &[1.0], &[60.0, 10.0]).unwrap().targets(&[Some(0)]).unwrap();
    let nll = reference.outputs().unwrap()[0][0];
    assert!((nll / (-50.0f64).exp() - 1.0).abs() < 1e-12, "{nll:e}");
}

#[test]
fn no_tokens_give_empty_outputs_and_a_zero_classifier_gradient() {
    let program = program("cross_entropy", |s| {
        let x = s.x();
        s.nll(x)
    });
    let c = numbers(6, 1.0, 1);
    let result = Reference::new(&program, 2, &[], &c).unwrap().run(&[vec![]], &[]).unwrap();
    assert_eq!(result.outputs, [Vec::<f64>::new()]);
    assert_eq!(result.classifier_gradient, [0.0; 6]);
}

#[test]
fn what_does_not_fit_is_named() {
    let call = Call::small();
    let new = || Reference::new(&call.program, 3, &call.e, &call.c).unwrap();
    assert_eq!(new().outputs(), Err(ReferenceError::Missing("bias".to_owned())));
    let unknown = new().input("temperature", &[1.0]).unwrap_err();
    assert_eq!(unknown, ReferenceError::Unknown("temperature".to_owned()));
    let short = new().input("bias", &[1.0]).unwrap_err().to_string();
    assert_eq!(short, "the input `bias`: found 1 values, expected 5");
    let beyond = new().targets(&[Some(5), None, None, None]).unwrap_err();
    assert_eq!(beyond, ReferenceError::Target { token: 0, target: 5, vocab: 5 });
    let ragged = Reference::new(&call.program, 7, &call.e, &call.c).unwrap_err().to_string();
    assert_eq!(ragged, "the hidden states: found 12 values, expected 7");
}
