//! Every row of the table against central differences over its domain.

use super::super::derivative::{BINARY, Derivative, UNARY};
use super::super::simplify::Algebra;
use crate::interp::{Bound, Leaves, Token, evaluate};
use crate::ir::{BinaryOp, ExprId, Graph, Input, InputId, InputKind, Node, UnaryOp};

/// Points inside a domain: near its ends, and around 0 and 1.
fn points(domain: (f64, f64)) -> Vec<f64> {
    let candidates = [-30.0, -3.7, -1.2, -0.99, -0.4, -0.02, 0.02, 0.3, 0.9, 1.1, 2.5, 7.0, 30.0];
    candidates.into_iter().filter(|&x| x - 0.01 > domain.0 && x + 0.01 < domain.1).collect()
}

/// The derivatives of `op(a, b)` by `a` and `b` at a point.
fn derived(build: &dyn Fn(&mut Graph, ExprId, ExprId) -> ExprId, a: f64, b: f64) -> [f64; 2] {
    let input = |name: &'static str| Input { name: name.into(), kind: InputKind::Row };
    let mut graph = Graph::new(vec![input("a"), input("b")]);
    let operands = [0, 1].map(|at| graph.node(Node::Input(InputId(at))));
    let expr = build(&mut graph, operands[0], operands[1]);
    operands.map(|operand| {
        let mut algebra = Algebra::for_derivatives(&mut graph);
        let slope = Derivative::with_respect_to(operand).of(&mut algebra, expr);
        let token = Token { logits: &[], target: None, inputs: &[Bound::One(a), Bound::One(b)] };
        slope.map_or(0.0, |slope| evaluate(&graph, &[slope], &token, &Leaves::default())[0].at(0))
    })
}

fn differences(f: impl Fn(f64) -> f64, x: f64) -> f64 {
    let h = 1e-3 * x.abs().clamp(0.01, 1.0);
    (8.0 * (f(x + h) - f(x - h)) - (f(x + 2.0 * h) - f(x - 2.0 * h))) / (12.0 * h)
}

fn assert_close(derived: f64, numeric: f64, what: &str) {
    let error = (derived - numeric).abs();
    assert!(error <= 1e-7 * (1.0 + numeric.abs()), "{what}: {derived} derived, {numeric} by differences");
}

#[test]
fn the_tables_have_one_row_an_operation_in_order() {
    assert!(UNARY.iter().map(|rule| rule.op).eq(UnaryOp::ALL));
    assert!(BINARY.iter().map(|rule| rule.op).eq(BinaryOp::ALL));
}

#[test]
fn unary_derivatives_are_central_differences() {
    for rule in &UNARY {
        let tested = points(rule.domain);
        assert!(tested.len() >= 6, "{}", rule.op.name());
        for x in tested {
            let [slope, _] = derived(&|graph, a, _| graph.unary(rule.op, a), x, 0.0);
            assert_close(slope, differences(|x| rule.op.eval(x), x), &format!("{}({x})", rule.op.name()));
        }
    }
}

#[test]
fn binary_derivatives_are_central_differences() {
    for rule in &BINARY {
        for a in points(rule.domain[0]) {
            for b in points(rule.domain[1]) {
                if a == b && matches!(rule.op, BinaryOp::Min | BinaryOp::Max) {
                    continue;
                }
                let value = rule.op.eval(a, b).abs();
                if !(1e-6..1e6).contains(&value) && rule.op == BinaryOp::Pow {
                    continue;
                }
                let what = format!("{}({a}, {b})", rule.op.name());
                let [by_a, by_b] = derived(&|graph, a, b| graph.binary(rule.op, a, b), a, b);
                let numeric_a = differences(|a| rule.op.eval(a, b), a);
                let scale = 1.0 + value + numeric_a.abs();
                assert_close(by_a / scale, numeric_a / scale, &what);
                assert_close(by_b / scale, differences(|b| rule.op.eval(a, b), b) / scale, &what);
            }
        }
    }
}

#[test]
fn quotients_are_differentiated_for_negative_divisors_too() {
    let [by_a, by_b] = derived(&|graph, a, b| graph.binary(BinaryOp::Div, a, b), 3.0, -2.0);
    assert_eq!([by_a, by_b], [-0.5, -0.75]);
}

#[test]
fn constant_exponents_take_the_same_derivatives() {
    for exponent in [-1.0, -0.3, 0.0, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0] {
        for a in [0.2, 1.0, 2.5] {
            let build = |graph: &mut Graph, a, _| {
                let exponent = graph.constant(exponent);
                graph.binary(BinaryOp::Pow, a, exponent)
            };
            let [slope, _] = derived(&build, a, 0.0);
            assert_close(slope, exponent * a.powf(exponent - 1.0), &format!("pow({a}, {exponent})"));
        }
    }
}

#[test]
fn abs_has_the_derivative_zero_at_its_kink_and_nan_at_nan() {
    let abs = |graph: &mut Graph, a, _| graph.unary(UnaryOp::Abs, a);
    assert_eq!(derived(&abs, 0.0, 0.0)[0], 0.0);
    assert_eq!(derived(&abs, -0.0, 0.0)[0], 0.0);
    assert!(derived(&abs, f64::NAN, 0.0)[0].is_nan());
}

#[test]
fn min_and_max_give_ties_to_the_first_argument() {
    for op in [BinaryOp::Min, BinaryOp::Max] {
        assert_eq!(derived(&|graph, a, b| graph.binary(op, a, b), 2.0, 2.0), [1.0, 0.0]);
    }
}

#[test]
fn roots_and_powers_have_finite_derivatives_at_zero() {
    let sqrt = |graph: &mut Graph, a, _| graph.unary(UnaryOp::Sqrt, a);
    assert_eq!(derived(&sqrt, 0.0, 0.0)[0], 0.0);
    let pow = |graph: &mut Graph, a, b| graph.binary(BinaryOp::Pow, a, b);
    for (exponent, slope) in [(0.0, 0.0), (0.5, 0.0), (1.0, 1.0), (1.5, 0.0), (2.0, 0.0)] {
        assert_eq!(derived(&pow, 0.0, exponent), [slope, 0.0], "pow(0, {exponent})");
    }
}

#[test]
fn an_infinite_derivative_in_the_branch_not_taken_does_no_harm() {
    // if a > 0 { a * ln(a) } else { a * b } at a = 0, where ln's derivative is infinite.
    let build = |graph: &mut Graph, a, b| {
        let ln = graph.unary(UnaryOp::Ln, a);
        let then = graph.binary(BinaryOp::Mul, a, ln);
        let otherwise = graph.binary(BinaryOp::Mul, a, b);
        let zero = graph.constant(0.0);
        graph.node(Node::Select { cmp: crate::ir::Cmp::Gt, lhs: a, rhs: zero, then, otherwise })
    };
    assert_eq!(derived(&build, 0.0, 5.0), [5.0, 0.0]);
}

#[test]
fn derivatives_of_saturated_sigmoids_keep_their_relative_precision() {
    let sigmoid = |graph: &mut Graph, a, _| graph.unary(UnaryOp::Sigmoid, a);
    let expected = (-40.0_f64).exp();
    for x in [40.0, -40.0] {
        let slope = derived(&sigmoid, x, 0.0)[0];
        assert!((slope / expected - 1.0).abs() < 1e-12, "{slope} {expected}");
    }
}
