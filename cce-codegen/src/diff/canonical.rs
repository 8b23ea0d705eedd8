//! What the user wrote, simplified, in the reductions that back ends know.
//!
//! - `at(f, y)` is pushed down to the leaves: a Row expression over [`Node::TargetValue`].
//! - `lse(z) - at(z, y)`, in whatever form, becomes [`Node::Nll`]: the terms are found in a sum with equal
//!   factors and opposite signs (`w * l - w * at`, `at - l`, `l + c - at`, `l - 0.9 * at`).
//! - With it `exp(at - lse)` is `exp(-nll)`, and the simplifier's `1 - exp(u) = -expm1(u)` makes `1 - p_y`
//!   exact.

use super::simplify::Algebra;
use super::terms::{Term, push_term};
use crate::ir::{BinaryOp, ExprId, Graph, InputKind, Kind, Node};

/// Rebuilds `roots` in canonical form, in the same arena.
pub(super) fn canonicalise(graph: &mut Graph, roots: &[ExprId]) -> Vec<ExprId> {
    // While `at(z, y)` is one node it is found in a sum whatever z is; after that, also where the user
    // wrote it in parts.
    let roots = rebuild(graph, roots, |_, node| node);
    rebuild(graph, &roots, |algebra, node| match node {
        Node::At(f) => {
            let value = at_target(algebra, f);
            algebra.graph.get(value)
        }
        other => other,
    })
}

fn rebuild(
    graph: &mut Graph,
    roots: &[ExprId],
    lower: impl Fn(&mut Algebra<'_>, Node) -> Node,
) -> Vec<ExprId> {
    let order = graph.reachable(roots);
    let mut new: Vec<ExprId> = (0..graph.nodes().len()).map(|at| ExprId(at as u32)).collect();
    let mut algebra = Algebra::for_values(graph);
    for id in order {
        let node = algebra.graph.get(id).map_operands(|operand| new[operand.index()]);
        let node = lower(&mut algebra, node);
        let mut rebuilt = algebra.rebuild(node);
        while let Some(paired) = pair_nll(&mut algebra, rebuilt) {
            rebuilt = paired;
        }
        new[id.index()] = rebuilt;
    }
    roots.iter().map(|root| new[root.index()]).collect()
}

/// The value of `expr` at the target column: Logit and Col inputs are read there, what is known a token
/// stays.
pub(super) fn at_target(algebra: &mut Algebra<'_>, expr: ExprId) -> ExprId {
    let order = super::derivative::elementwise_order(algebra.graph, expr);
    let mut new: Vec<ExprId> = (0..=expr.index()).map(|at| ExprId(at as u32)).collect();
    for id in order {
        if algebra.graph.kind(id).varies_over_vocab() {
            new[id.index()] = match algebra.graph.get(id) {
                Node::Input(input) => algebra.graph.node(Node::TargetValue(input)),
                node => {
                    let node = node.map_operands(|operand| new[operand.index()]);
                    algebra.rebuild(node)
                }
            };
        }
    }
    new[expr.index()]
}

/// A sum in which `c * lse(z)` and `-c * at(z, y)` stand, with `c * nll(z)` in their place. `None` if they
/// do not.
fn pair_nll(algebra: &mut Algebra<'_>, expr: ExprId) -> Option<ExprId> {
    let is_sum = matches!(algebra.graph.get(expr), Node::Binary(BinaryOp::Add | BinaryOp::Sub, ..));
    if !is_sum || algebra.graph.kind(expr) != Kind::Row {
        return None;
    }
    algebra.graph.input_of_kind(InputKind::Target)?;
    let sum = algebra.reader.sum(algebra.graph, expr);
    for (position, term) in sum.iter().enumerate() {
        for &(factor, exponent) in &term.factors {
            if let Node::Lse(z) = algebra.graph.get(factor)
                && exponent == 1
                && let Some((share, rest)) = without_target(algebra, &sum, position, factor, z)
            {
                let nll = Term::atom(algebra.graph.node(Node::Nll(z)));
                let nll = term.without(factor).scaled(share).times(&nll)?;
                let mut paired = Vec::new();
                // The pair goes where the normaliser stood.
                for (at, term) in rest.into_iter().enumerate() {
                    if at == position {
                        push_term(&mut paired, nll.clone());
                    }
                    push_term(&mut paired, term);
                }
                return Some(algebra.sum_of_terms(&paired));
            }
        }
    }
    None
}

/// Takes `-c * at(z, y)` out of the sum for the term `c * lse(z)` at `position`. Returns the share of that
/// term that found its partner (a fraction where the numbers differ: `l - 0.9 at`), and the sum that is
/// left, with terms of coefficient 0 still in their places.
fn without_target(
    algebra: &mut Algebra<'_>,
    sum: &[Term],
    position: usize,
    lse: ExprId,
    z: ExprId,
) -> Option<(f64, Vec<Term>)> {
    let wanted = sum[position].without(lse).scaled(-1.0);
    let whole = algebra.graph.node(Node::At(z));
    let in_parts = at_target(algebra, z);
    let parts = algebra.reader.sum(algebra.graph, in_parts);
    let product = algebra.reader.product(algebra.graph, in_parts);
    for candidate in [vec![Term::atom(whole)], vec![product], parts] {
        let Some(partners) = candidate.iter().map(|part| part.times(&wanted)).collect::<Option<Vec<_>>>()
        else {
            continue;
        };
        let found: Option<Vec<usize>> = partners
            .iter()
            .map(|partner| sum.iter().position(|term| term.factors == partner.factors))
            .collect();
        let Some(found) = found else { continue };
        // The largest share of all of them that leaves no coefficient with the other sign.
        let share =
            partners.iter().zip(&found).map(|(partner, &at)| sum[at].coef / partner.coef).fold(1.0, f64::min);
        if share <= 0.0 || (partners.len() > 1 && share < 1.0) {
            continue;
        }
        let mut rest = sum.to_vec();
        for (partner, &at) in partners.iter().zip(&found) {
            // A whole share leaves exactly nothing, whatever the rounding of the coefficients.
            let left = rest[at].coef - share * partner.coef;
            rest[at].coef = if (left / partner.coef).abs() < 1e-12 { 0.0 } else { left };
        }
        let left = 1.0 - share;
        rest[position].coef *= if left < 1e-12 { 0.0 } else { left };
        return Some((share, rest));
    }
    None
}
