//! From a program to what back ends compute: canonical reductions, derivatives, the gradient normal form.
//!
//! Differentiating an output with respect to the raw logit gives, for every program of the language,
//!
//! ```text
//! dL/dx_ij = p_ij * A_i(x_ij, col_j) + [j = y_i] * T_i + B_i(x_ij, col_j) / V
//! ```
//!
//! with A, B expressions over Row values, the raw logit and Col inputs, and T a Row value. The same three
//! parts exist for every Col input. Derivatives with respect to Row and Scalar inputs are Row values
//! (expectations that the forward accumulates). Upstream gradients enter as [`Node::Upstream`] leaves.
//!
//! ```text
//! Program ── canonical ──▶ outputs over stats ── gradient ──▶ Parts ── hoist ──▶ a vocabulary loop
//!        (simplify, terms)                      (derivative)
//! ```

mod canonical;
mod derivative;
mod dump;
mod gradient;
mod hoist;
mod rank_one;
mod regroup;
mod simplify;
#[cfg(test)]
pub(crate) mod sketch;
mod terms;
#[cfg(test)]
mod tests;

pub use derivative::{binary_domain, unary_domain};
pub use hoist::{Hoisted, hoist};
pub use rank_one::{NotRankOne, RankOne, uniform_factors};

use crate::ir::{ExprId, Graph, InputId, InputKind, Node, Program};
use gradient::Gradients;
use simplify::Algebra;

/// The gradient normal form for one variable (the raw logit, or a Col input).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// `A`: the softmax part's factor. Kind up to Logit. `None` where it is zero.
    pub softmax: Option<ExprId>,
    /// `T`: the target part. Kind up to Row. `None` where it is zero.
    pub target: Option<ExprId>,
    /// `B`: the uniform part, to be divided by V. Kind up to Logit. `None` where it is zero.
    pub uniform: Option<ExprId>,
    /// `A` at the target column, a Row value. `None` where `A` is or there is no target.
    pub softmax_at_target: Option<ExprId>,
    /// `A(x_y, col_y) + T`, simplified: what the target column gets besides `-(1 - p_y) A(x_y)` and the
    /// uniform part. `None` where it is zero (as for every function of the negative log-likelihood), so
    /// that nothing cancels: `p_y A_y + T = (A_y + T) - (1 - p_y) A_y`.
    pub target_rest: Option<ExprId>,
}

/// A program, ready for a back end.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The arena of all expressions below.
    pub graph: Graph,
    /// The logits of the program's one softmax, if it has one. Kind Logit. Their normaliser, which `p` needs,
    /// is among the stats only where an expression reads it.
    pub softmax: Option<ExprId>,
    /// Every Row leaf that the forward must deliver, for outputs and gradients together: nodes `Lse`,
    /// `Nll`, `Mean`, `Expect`, `Max`, `Argmax`, `TargetValue`, each once, in a fixed order. `At` never
    /// remains: it is pushed down to `TargetValue` leaves.
    pub stats: Vec<ExprId>,
    /// The outputs' expressions over stats, Row and Scalar inputs; as many as the program has outputs.
    pub outputs: Vec<ExprId>,
    /// dL/dx.
    pub logit: Parts,
    /// dL/dcol for each wanted Col input.
    pub cols: Vec<(InputId, Parts)>,
    /// dL_i/drow for each wanted Row input: a Row value.
    pub rows: Vec<(InputId, ExprId)>,
    /// dL_i/ds for each wanted Scalar input: a Row value, to be summed over the tokens.
    pub scalars: Vec<(InputId, ExprId)>,
}

/// Which gradients besides those of hidden states and classifier a caller wants, and whether any is wanted
/// at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Whether dL/dx is wanted (for dE or dC).
    pub logit: bool,
    /// Row, Col and Scalar inputs whose gradients are wanted.
    pub inputs: Vec<InputId>,
}

/// Lowers a program. Cannot fail: a program is valid, and inputs that are not Row, Col or Scalar are
/// ignored in `wanted`.
pub fn lower(program: &Program, wanted: &Wanted) -> Lowered {
    let mut graph = program.graph();
    let roots: Vec<ExprId> = program.outputs().iter().map(|output| output.expr).collect();
    let outputs = canonical::canonicalise(&mut graph, &roots);
    let softmax = graph.reachable(&outputs).into_iter().find_map(|id| match graph.get(id) {
        Node::Lse(z) | Node::Nll(z) | Node::Expect { z, .. } => Some(z),
        _ => None,
    });

    let mut lowered = Lowered {
        graph: Graph::default(),
        softmax,
        stats: Vec::new(),
        outputs,
        logit: Parts::default(),
        cols: Vec::new(),
        rows: Vec::new(),
        scalars: Vec::new(),
    };
    differentiate(&mut graph, program, wanted, &mut lowered);
    lowered.compact(&graph);
    lowered
}

fn differentiate(graph: &mut Graph, program: &Program, wanted: &Wanted, lowered: &mut Lowered) {
    let mut algebra = Algebra::for_derivatives(graph);
    let mut outputs = Vec::new();
    for (index, (output, &expr)) in program.outputs().iter().zip(&lowered.outputs).enumerate() {
        if output.differentiable {
            outputs.push((expr, algebra.graph.node(Node::Upstream(index as u16))));
        }
    }
    let gradients = Gradients::new(&mut algebra, outputs);
    if wanted.logit
        && let Some(logit) = algebra.graph.input_of_kind(InputKind::Logit)
    {
        lowered.logit = gradients.parts(&mut algebra, logit, program.has_target());
    }
    for &input in &wanted.inputs {
        let Some(kind) = program.inputs().get(input.index()).map(|input| input.kind) else { continue };
        match kind {
            InputKind::Col => {
                lowered.cols.push((input, gradients.parts(&mut algebra, input, program.has_target())));
            }
            InputKind::Row => lowered.rows.push((input, gradients.of_row_value(&mut algebra, input))),
            InputKind::Scalar => lowered.scalars.push((input, gradients.of_row_value(&mut algebra, input))),
            InputKind::Logit | InputKind::Target => {}
        }
    }
}

impl Lowered {
    /// Every expression, in a fixed order.
    fn expressions(&mut self) -> Vec<&mut ExprId> {
        let mut all: Vec<&mut ExprId> = self.outputs.iter_mut().chain(&mut self.softmax).collect();
        all.extend(self.logit.expressions());
        all.extend(self.cols.iter_mut().flat_map(|(_, parts)| parts.expressions()));
        all.extend(self.rows.iter_mut().chain(&mut self.scalars).map(|entry| &mut entry.1));
        all
    }

    /// Copies what is needed into a new arena, and lists the stats in its order.
    fn compact(&mut self, full: &Graph) {
        let roots: Vec<ExprId> = self.expressions().into_iter().map(|expr| *expr).collect();
        let mut graph = Graph::new(full.inputs().to_vec());
        let mut new = vec![ExprId(0); full.nodes().len()];
        for id in full.reachable(&roots) {
            new[id.index()] = graph.node(full.get(id).map_operands(|operand| new[operand.index()]));
            if gradient::is_stat(&full.get(id)) {
                self.stats.push(new[id.index()]);
            }
        }
        for expr in self.expressions() {
            *expr = new[expr.index()];
        }
        self.graph = graph;
    }
}

impl Parts {
    fn expressions(&mut self) -> impl Iterator<Item = &mut ExprId> {
        let Parts { softmax, target, uniform, softmax_at_target, target_rest } = self;
        [softmax, target, uniform, softmax_at_target, target_rest].into_iter().flatten()
    }
}
