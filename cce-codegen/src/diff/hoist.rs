//! Which values a vocabulary loop reads once a token.

use crate::ir::{ExprId, Graph, Kind, Node};
use std::collections::HashMap;

/// Expressions for a vocabulary loop, and the Row values that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hoisted {
    /// The Row expression behind each slot: `coefs[k]` is what [`Node::Coef`]`(k)` stands for.
    pub coefs: Vec<ExprId>,
    /// The expressions given, in their order, with [`Node::Coef`] in place of every maximal Row
    /// subexpression.
    pub exprs: Vec<ExprId>,
}

/// Takes out of `exprs` (of any kind) the maximal subexpressions of kind Row, each once, numbered in the
/// order in which the expressions meet them. An expression that is itself a Row value becomes one slot.
/// Scalar subexpressions stay: they are the same for the whole call, and a back end computes them in front
/// of its loop.
pub fn hoist(graph: &mut Graph, exprs: &[ExprId]) -> Hoisted {
    let mut coefs = Vec::new();
    let mut new: HashMap<ExprId, ExprId> = HashMap::new();
    for &root in exprs {
        for id in vocabulary_part(graph, root) {
            if new.contains_key(&id) {
                continue;
            }
            let replacement = match graph.kind(id) {
                Kind::Row => {
                    let slot = Node::Coef(coefs.len() as u16);
                    coefs.push(id);
                    graph.node(slot)
                }
                Kind::Scalar => id,
                Kind::Col | Kind::Logit => {
                    let node = graph.get(id).map_operands(|operand| new[&operand]);
                    graph.node(node)
                }
            };
            new.insert(id, replacement);
        }
    }
    Hoisted { coefs, exprs: exprs.iter().map(|root| new[root]).collect() }
}

/// What `root` is computed from, operands first, not entering what does not vary over the vocabulary.
fn vocabulary_part(graph: &Graph, root: ExprId) -> Vec<ExprId> {
    let mut seen = vec![false; root.index() + 1];
    seen[root.index()] = true;
    for at in (0..=root.index()).rev() {
        let id = ExprId(at as u32);
        if seen[at] && graph.kind(id).varies_over_vocab() {
            for operand in graph.get(id).operands() {
                seen[operand.index()] = true;
            }
        }
    }
    (0..=root.index()).filter(|&at| seen[at]).map(|at| ExprId(at as u32)).collect()
}
