//! Forms of the negative log-likelihood that users write.

use super::super::sketch::{Sketch, program};
use super::{Case, wants_all};
use crate::diff::{Lowered, Wanted, lower};
use crate::interp::{Interp, LoweredInterp};
use crate::ir::{ExprId, Node, Program, UnaryOp};

fn lowered(body: impl FnOnce(&mut Sketch) -> ExprId) -> (Program, Lowered) {
    let program = program("written", body);
    let lowered = lower(&program, &Wanted::default());
    same_value(&program, &lowered);
    (program, lowered)
}

fn same_value(program: &Program, lowered: &Lowered) {
    let interp = LoweredInterp::new(lowered.clone());
    let case = Case::new(program, 6, 3.0, 5);
    let (a, b) = case.token(program, |token| (Interp::new(program).outputs(token), interp.outputs(token)));
    assert!((a[0] - b[0]).abs() <= 1e-12 * (1.0 + a[0].abs()), "{a:?} {b:?}");
}

/// The names of the stats that are left.
fn stats(lowered: &Lowered) -> Vec<&'static str> {
    let name = |id: &ExprId| match lowered.graph.get(*id) {
        Node::Lse(_) => "lse",
        Node::Nll(_) => "nll",
        Node::At(_) => "at",
        Node::TargetValue(_) => "target value",
        Node::Mean(_) => "mean",
        Node::Expect { .. } => "expect",
        Node::Max(_) => "max",
        Node::Argmax(_) => "argmax",
        _ => "other",
    };
    let mut names: Vec<_> = lowered.stats.iter().map(name).collect();
    names.sort_unstable();
    names
}

type Form = (&'static str, fn(&mut Sketch) -> ExprId);

/// A sum of `lse(z)` and `at(z, y)`, and how it is written.
type PairForm = (&'static str, fn(&mut Sketch, ExprId, ExprId) -> ExprId);

/// Transforms `z`; the pair must be found whatever `z` is.
fn transforms() -> Vec<Form> {
    vec![
        ("x", |s| s.x()),
        ("x + bias", |s| {
            let (x, bias) = (s.x(), s.col("bias"));
            s.add(x, bias)
        }),
        ("x / temperature", |s| {
            let (x, temperature) = (s.x(), s.row("temperature"));
            s.div(x, temperature)
        }),
        ("cap * tanh(x / cap)", |s| {
            let cap = s.scalar("cap");
            s.softcapped(cap)
        }),
        ("-x", |s| {
            let x = s.x();
            s.neg(x)
        }),
        ("0.5 * x - bias", |s| {
            let (x, bias, half) = (s.x(), s.col("bias"), s.num(0.5));
            let x = s.mul(half, x);
            s.sub(x, bias)
        }),
    ]
}

#[test]
fn every_form_of_lse_minus_at_is_the_nll() {
    let forms: Vec<PairForm> = vec![
        ("l - at", |s, l, at| s.sub(l, at)),
        ("at - l", |s, l, at| s.sub(at, l)),
        ("-(at - l)", |s, l, at| {
            let log_p = s.sub(at, l);
            s.neg(log_p)
        }),
        ("-at + l", |s, l, at| {
            let minus = s.neg(at);
            s.add(minus, l)
        }),
        ("l + w - at", |s, l, at| {
            let w = s.row("w");
            let sum = s.add(l, w);
            s.sub(sum, at)
        }),
        ("(w - at) + l", |s, l, at| {
            let w = s.row("w");
            let sum = s.sub(w, at);
            s.add(sum, l)
        }),
        ("w * l - w * at", |s, l, at| {
            let w = s.row("w");
            let (l, at) = (s.mul(w, l), s.mul(at, w));
            s.sub(l, at)
        }),
        ("l / w - at / w", |s, l, at| {
            let w = s.row("w");
            let (l, at) = (s.div(l, w), s.div(at, w));
            s.sub(l, at)
        }),
        ("0.3 * l - 0.3 * at", |s, l, at| {
            let share = s.num(0.3);
            let (l, at) = (s.mul(share, l), s.mul(share, at));
            s.sub(l, at)
        }),
        ("l - at - at + l", |s, l, at| {
            let once = s.sub(l, at);
            let twice = s.sub(once, at);
            s.add(twice, l)
        }),
        ("(l - at) * w", |s, l, at| {
            let (w, nll) = (s.row("w"), s.sub(l, at));
            s.mul(nll, w)
        }),
    ];
    for (transform, z) in transforms() {
        for (form, body) in &forms {
            let (_, lowered) = lowered(|s| {
                let z = z(s);
                let (l, at) = (s.lse(z), s.at(z));
                body(s, l, at)
            });
            assert_eq!(stats(&lowered), ["nll"], "{form} with z = {transform}");
        }
    }
}

#[test]
fn a_target_logit_written_in_parts_is_found() {
    let (_, lowered) = lowered(|s| {
        let (x, bias, scale) = (s.x(), s.col("bias"), s.scalar("scale"));
        let biased = s.add(x, bias);
        let z = s.mul(scale, biased);
        let (l, x, bias) = (s.lse(z), s.at(x), s.at(bias));
        let sum = s.add(x, bias);
        let at = s.mul(sum, scale);
        s.sub(l, at)
    });
    assert_eq!(stats(&lowered), ["nll"]);
}

#[test]
fn a_sum_over_the_biased_logit_in_two_terms_is_found() {
    let (_, lowered) = lowered(|s| {
        let (x, bias) = (s.x(), s.col("bias"));
        let z = s.add(x, bias);
        let (l, x, bias) = (s.lse(z), s.at(x), s.at(bias));
        let rest = s.sub(l, x);
        s.sub(rest, bias)
    });
    assert_eq!(stats(&lowered), ["nll"]);
}

#[test]
fn an_unequal_pair_keeps_what_is_left_over() {
    let (program, lowered) = lowered(|s| {
        let (x, share) = (s.x(), s.num(0.9));
        let (l, at) = (s.lse(x), s.at(x));
        let at = s.mul(share, at);
        s.sub(l, at)
    });
    assert_eq!(stats(&lowered), ["lse", "nll"]);
    // 0.9 nll + 0.1 lse: at the target a tenth is left of the upstream gradient.
    let gradient = lower(&program, &wants_all(&program));
    let rest = gradient.logit.target_rest.unwrap();
    let case = Case::new(&program, 4, 1.0, 0);
    let leaves = crate::interp::Leaves { upstream: &[1.0], coefs: &[] };
    let value =
        case.token(&program, |token| crate::interp::evaluate(&gradient.graph, &[rest], token, &leaves));
    assert!((value[0].at(0) - 0.1).abs() < 1e-15);
}

#[test]
fn terms_with_different_factors_are_left_alone() {
    let (_, lowered) = lowered(|s| {
        let (x, v, w) = (s.x(), s.row("v"), s.row("w"));
        let (l, at) = (s.lse(x), s.at(x));
        let (l, at) = (s.mul(v, l), s.mul(w, at));
        s.sub(l, at)
    });
    assert_eq!(stats(&lowered), ["lse", "target value"]);
}

#[test]
fn terms_with_the_same_sign_are_left_alone() {
    let (_, lowered) = lowered(|s| {
        let x = s.x();
        let (l, at) = (s.lse(x), s.at(x));
        s.add(l, at)
    });
    assert_eq!(stats(&lowered), ["lse", "target value"]);
}

#[test]
fn at_of_another_value_is_left_alone() {
    let (_, lowered) = lowered(|s| {
        let (x, bias) = (s.x(), s.col("bias"));
        let z = s.add(x, bias);
        let (l, at) = (s.lse(z), s.at(x));
        s.sub(l, at)
    });
    assert_eq!(stats(&lowered), ["lse", "target value"]);
}

#[test]
fn at_is_pushed_down_to_inputs() {
    let (program, lowered) = lowered(|s| {
        let (x, bias, r) = (s.x(), s.col("bias"), s.row("r"));
        let biased = s.add(x, bias);
        let product = s.mul(biased, r);
        let tanh = s.un(UnaryOp::Tanh, product);
        s.at(tanh)
    });
    assert_eq!(stats(&lowered), ["target value", "target value"]);
    assert!(lowered.softmax.is_none());
    let gradient = lower(&program, &wants_all(&program));
    assert!(gradient.logit.softmax.is_none() && gradient.logit.uniform.is_none());
    assert_eq!(gradient.logit.target, gradient.logit.target_rest);
}

#[test]
fn one_minus_p_is_formed_from_the_nll() {
    let (_, lowered) = lowered(|s| {
        let x = s.x();
        let (l, at, one) = (s.lse(x), s.at(x), s.num(1.0));
        let log_p = s.sub(at, l);
        let p = s.un(UnaryOp::Exp, log_p);
        s.sub(one, p)
    });
    let graph = &lowered.graph;
    let Node::Unary(UnaryOp::Neg, inner) = graph.get(lowered.outputs[0]) else { panic!("no negation") };
    let Node::Unary(UnaryOp::Expm1, inner) = graph.get(inner) else { panic!("no expm1") };
    let Node::Unary(UnaryOp::Neg, inner) = graph.get(inner) else { panic!("no negated nll") };
    assert!(matches!(graph.get(inner), Node::Nll(_)));
}
