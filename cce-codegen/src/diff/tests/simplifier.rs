//! The simplifying constructors.

use super::super::simplify::Algebra;
use crate::ir::{BinaryOp, Cmp, ExprId, Graph, Input, InputId, InputKind, Kind, Node, UnaryOp};

struct Inputs {
    graph: Graph,
    x: ExprId,
    col: ExprId,
    row: ExprId,
    other: ExprId,
    scalar: ExprId,
}

fn inputs() -> Inputs {
    let kinds = [InputKind::Logit, InputKind::Col, InputKind::Row, InputKind::Row, InputKind::Scalar];
    let input = |kind: &InputKind| Input { name: kind.name().into(), kind: *kind };
    let mut graph = Graph::new(kinds.iter().map(input).collect());
    let [x, col, row, other, scalar] = [0, 1, 2, 3, 4].map(|at| graph.node(Node::Input(InputId(at))));
    Inputs { graph, x, col, row, other, scalar }
}

#[test]
fn literals_are_folded_unless_the_result_is_not_finite() {
    let mut graph = Graph::default();
    let mut k = Algebra::for_values(&mut graph);
    let (two, zero, three) = (k.constant(2.0), k.constant(0.0), k.constant(3.0));
    let product = k.mul(two, three);
    assert!(k.is_const(product, 6.0));
    let log = k.unary(UnaryOp::Ln, zero);
    assert_eq!(k.graph.as_const(log), None);
    let quotient = k.div(two, zero);
    assert_eq!(k.graph.as_const(quotient), None);
}

#[test]
fn neutral_operands_vanish() {
    let Inputs { mut graph, x, .. } = inputs();
    for mut k in [Algebra::for_values(&mut graph.clone()), Algebra::for_derivatives(&mut graph)] {
        let (zero, one) = (k.constant(0.0), k.constant(1.0));
        assert_eq!([k.add(x, zero), k.add(zero, x), k.sub(x, zero)], [x; 3]);
        assert_eq!([k.mul(x, one), k.mul(one, x), k.div(x, one)], [x; 3]);
        assert_eq!(k.binary(BinaryOp::Pow, x, one), x);
        let minus = k.neg(x);
        assert_eq!([k.neg(minus), k.sub(zero, minus)], [x; 2]);
    }
}

#[test]
fn operands_of_sums_and_products_have_one_order() {
    let Inputs { mut graph, x, col, .. } = inputs();
    let mut k = Algebra::for_values(&mut graph);
    assert_eq!(k.add(x, col), k.add(col, x));
    assert_eq!(k.mul(x, col), k.mul(col, x));
    assert_ne!(k.sub(x, col), k.sub(col, x));
    // The first argument counts at ties.
    assert_ne!(k.binary(BinaryOp::Max, x, col), k.binary(BinaryOp::Max, col, x));
}

#[test]
fn values_keep_their_kind_and_derivatives_need_not() {
    let Inputs { mut graph, x, .. } = inputs();
    let mut k = Algebra::for_values(&mut graph);
    let zero = k.constant(0.0);
    let (product, difference, power) = (k.mul(x, zero), k.sub(x, x), k.binary(BinaryOp::Pow, x, zero));
    for value in [product, difference, power] {
        assert_eq!(k.graph.kind(value), Kind::Logit);
    }
    let mut k = Algebra::for_derivatives(&mut graph);
    let (product, difference) = (k.mul(x, zero), k.sub(x, x));
    assert_eq!([product, difference], [zero; 2]);
}

#[test]
fn derivatives_merge_like_terms_and_cancel_equal_factors() {
    let Inputs { mut graph, row, other, scalar, .. } = inputs();
    let mut k = Algebra::for_derivatives(&mut graph);
    let product = k.mul(row, scalar);
    let again = k.mul(scalar, row);
    let twice = k.add(product, again);
    let minus = k.neg(product);
    let nothing = k.sum_of(Some(product), Some(minus));
    assert_eq!(nothing, None);
    let two = k.constant(2.0);
    assert_eq!(twice, k.mul(two, product));
    let quotient = k.div(product, scalar);
    assert_eq!(quotient, row);
    let sum = k.add(row, other);
    assert_eq!(k.sub(sum, row), other);
    let (a, b) = (k.div(row, sum), k.div(sum, row));
    let one = k.mul(a, b);
    assert!(k.is_const(one, 1.0));
}

#[test]
fn a_sum_is_not_reordered_where_nothing_merges() {
    let Inputs { mut graph, x, row, other, scalar, .. } = inputs();
    let mut k = Algebra::for_derivatives(&mut graph);
    let difference = k.sub(row, other);
    let sum = k.add(scalar, difference);
    let operands: Vec<_> = k.graph.get(sum).operands().collect();
    assert_eq!(operands, [scalar, difference]);
    let with_logit = k.add(x, difference);
    assert!(k.graph.get(with_logit).operands().any(|operand| operand == difference));
}

#[test]
fn products_are_grouped_by_what_they_vary_over() {
    let Inputs { mut graph, x, col, row, scalar, .. } = inputs();
    let mut k = Algebra::for_derivatives(&mut graph);
    let tanh = k.unary(UnaryOp::Tanh, x);
    let inner = k.mul(tanh, row);
    let middle = k.mul(inner, col);
    let product = k.mul(middle, scalar);
    let row_part = k.mul(row, scalar);
    assert!(k.graph.get(product).operands().any(|operand| operand == row_part));
}

#[test]
fn a_logit_takes_one_product_and_no_division() {
    let Inputs { mut graph, x, row, scalar, .. } = inputs();
    let mut k = Algebra::for_values(&mut graph);
    let scaled = k.mul(row, x);
    let negated = k.neg(scaled);
    let divided = k.div(negated, scalar);
    let Node::Binary(BinaryOp::Mul, a, b) = k.graph.get(divided) else { panic!("no product") };
    let kinds = [k.graph.kind(a), k.graph.kind(b)];
    assert!(kinds.contains(&Kind::Row) && (a == x || b == x), "{kinds:?}");
}

#[test]
fn powers_of_a_shared_square_stay_small() {
    let Inputs { mut graph, row, .. } = inputs();
    let mut k = Algebra::for_derivatives(&mut graph);
    let mut power = row;
    for _ in 0..40 {
        power = k.mul(power, power);
    }
    assert!(graph.nodes().len() < 2000);
}

#[test]
fn known_selections_are_taken() {
    let Inputs { mut graph, x, col, row, .. } = inputs();
    let mut k = Algebra::for_values(&mut graph);
    let (one, two) = (k.constant(1.0), k.constant(2.0));
    assert_eq!(k.select(Cmp::Lt, one, two, x, col), k.select(Cmp::Lt, one, two, x, row));
    let inner = k.select(Cmp::Lt, row, one, x, col);
    let outer = k.select(Cmp::Lt, row, one, inner, col);
    assert_eq!(outer, inner);
}

#[test]
fn logarithms_near_one_are_taken_without_forming_it() {
    let Inputs { mut graph, row, .. } = inputs();
    let mut k = Algebra::for_values(&mut graph);
    let exp = k.unary(UnaryOp::Exp, row);
    let one = k.constant(1.0);
    let minus_exp = k.neg(exp);
    let difference = k.sub(one, exp);
    let (a, b) = (k.unary(UnaryOp::Ln, difference), k.unary(UnaryOp::Log1p, minus_exp));
    assert_eq!(a, b);
    // Rebuilding it changes nothing.
    let node = k.graph.get(a);
    assert_eq!(k.rebuild(node), a);
    let softplus = k.unary(UnaryOp::Log1p, exp);
    assert_eq!(k.graph.get(softplus), Node::Unary(UnaryOp::Softplus, row));
}
