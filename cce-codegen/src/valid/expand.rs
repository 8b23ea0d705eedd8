//! What to write instead of a reduction of an expression that contains a reduction.
//!
//! `at`, `mean` and `expect` are linear and keep constants: values that do not vary over the
//! vocabulary come out of them, sums and products are distributed. `at` commutes with everything.
//! `lse`, `max` and `argmax` commute with a shift.

use super::reductions::{Reduction, inner_reduction};
use crate::ir::{BinaryOp, ExprId, Graph, Node, UnaryOp};

/// Distributing products doubles terms: beyond this depth a hint would be no help.
const DEPTH: usize = 8;

/// An expression equal to the reduction of `f` in which no reduction contains another, if the rules
/// above find one.
pub(super) fn expanded(graph: &mut Graph, reduction: Reduction, f: ExprId) -> Option<ExprId> {
    expand(graph, reduction, f, DEPTH)
}

/// The `z` of a subexpression `exp(z - lse(z))` of `f`.
pub(super) fn probability(graph: &Graph, f: ExprId) -> Option<ExprId> {
    graph.reachable(&[f]).into_iter().find_map(|id| {
        let Node::Unary(UnaryOp::Exp, exponent) = graph.get(id) else {
            return None;
        };
        let Node::Binary(BinaryOp::Sub, z, lse) = graph.get(exponent) else {
            return None;
        };
        (graph.get(lse) == Node::Lse(z)).then_some(z)
    })
}

fn expand(graph: &mut Graph, reduction: Reduction, f: ExprId, depth: usize) -> Option<ExprId> {
    let varies = |graph: &Graph, id| graph.kind(id).varies_over_vocab();
    if !varies(graph, f) {
        return reduction.averages().then_some(f);
    }
    if inner_reduction(graph, f).is_none() {
        return Some(graph.node(reduction.of(f)));
    }
    let depth = depth.checked_sub(1)?;
    if reduction == Reduction::At {
        let node = graph.get(f);
        let mut whole = true;
        let node = node.map_operands(|operand| {
            expand(graph, reduction, operand, depth).unwrap_or_else(|| {
                whole = false;
                operand
            })
        });
        return if whole { Some(graph.node(node)) } else { None };
    }
    match (graph.get(f), reduction.averages()) {
        (Node::Unary(UnaryOp::Neg, a), true) => {
            let a = expand(graph, reduction, a, depth)?;
            Some(graph.unary(UnaryOp::Neg, a))
        }
        (Node::Binary(op @ (BinaryOp::Add | BinaryOp::Sub), a, b), true) => {
            let (a, b) = (expand(graph, reduction, a, depth)?, expand(graph, reduction, b, depth)?);
            Some(graph.binary(op, a, b))
        }
        (Node::Binary(BinaryOp::Mul, a, b), true) if !varies(graph, a) => {
            let b = expand(graph, reduction, b, depth)?;
            Some(graph.binary(BinaryOp::Mul, a, b))
        }
        (Node::Binary(op @ (BinaryOp::Mul | BinaryOp::Div), a, b), true) if !varies(graph, b) => {
            let a = expand(graph, reduction, a, depth)?;
            Some(graph.binary(op, a, b))
        }
        (Node::Binary(op @ (BinaryOp::Mul | BinaryOp::Div), a, b), true) => {
            let distributed = distribute(graph, op, a, b)?;
            expand(graph, reduction, distributed, depth)
        }
        (Node::Select { cmp, lhs, rhs, then, otherwise }, true)
            if !varies(graph, lhs) && !varies(graph, rhs) =>
        {
            let then = expand(graph, reduction, then, depth)?;
            let otherwise = expand(graph, reduction, otherwise, depth)?;
            Some(graph.node(Node::Select { cmp, lhs, rhs, then, otherwise }))
        }
        (Node::Binary(op @ (BinaryOp::Add | BinaryOp::Sub), a, shift), false) if !varies(graph, shift) => {
            let a = expand(graph, reduction, a, depth)?;
            Some(if reduction == Reduction::Argmax { a } else { graph.binary(op, a, shift) })
        }
        (Node::Binary(BinaryOp::Add, shift, b), false) if !varies(graph, shift) => {
            let b = expand(graph, reduction, b, depth)?;
            Some(if reduction == Reduction::Argmax { b } else { graph.binary(BinaryOp::Add, shift, b) })
        }
        _ => None,
    }
}

/// `(a1 + a2) op b` as `a1 op b + a2 op b`, and the same on the right of a product.
fn distribute(graph: &mut Graph, op: BinaryOp, a: ExprId, b: ExprId) -> Option<ExprId> {
    if let Node::Binary(sum @ (BinaryOp::Add | BinaryOp::Sub), a1, a2) = graph.get(a) {
        let (a1, a2) = (graph.binary(op, a1, b), graph.binary(op, a2, b));
        return Some(graph.binary(sum, a1, a2));
    }
    match (op, graph.get(b)) {
        (BinaryOp::Mul, Node::Binary(sum @ (BinaryOp::Add | BinaryOp::Sub), b1, b2)) => {
            let (b1, b2) = (graph.binary(op, a, b1), graph.binary(op, a, b2));
            Some(graph.binary(sum, b1, b2))
        }
        _ => None,
    }
}
