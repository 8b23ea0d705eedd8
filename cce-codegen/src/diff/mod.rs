//! From a program to what back ends compute: canonical reductions, derivatives, the gradient normal form.
//!
//! Differentiating an output with respect to the raw logit gives, for every program of the language,
//!
//! ```text
//! dL/dx_ij = p_ij * A_i(x_ij, col_j) + [j = y_i] * T_i + B_i(x_ij, col_j) / V
//! ```
//!
//! with A, B expressions over Row values, the raw logit and Col inputs, and T a Row value. The same three parts exist for every Col
//! input. Derivatives with respect to Row and Scalar inputs are Row values (expectations that the forward accumulates).
//! Upstream gradients enter as [`Node::Upstream`] leaves.

use crate::ir::{ExprId, Graph, InputId, Program};

/// The gradient normal form for one variable (the raw logit, or a Col input).
#[derive(Clone, Debug)]
pub struct Parts {
    /// `A`: the softmax part's factor. Kind up to Logit. `None` where it is zero.
    pub softmax: Option<ExprId>,
    /// `T`: the target part. Kind up to Row. `None` where it is zero.
    pub target: Option<ExprId>,
    /// `B`: the uniform part, to be divided by V. Kind up to Logit. `None` where it is zero.
    pub uniform: Option<ExprId>,
    /// `A` at the target column, a Row value. `None` where `A` is or there is no target.
    pub softmax_at_target: Option<ExprId>,
    /// `A(x_y, col_y) + T`, simplified: what the target column gets besides `-(1 - p_y) A(x_y)` and the uniform part. `None` where it is zero
    /// (as for every function of the negative log-likelihood), so that nothing cancels:
    /// `p_y A_y + T = (A_y + T) - (1 - p_y) A_y`.
    pub target_rest: Option<ExprId>,
}

/// A program, ready for a back end.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The arena of all expressions below.
    pub graph: Graph,
    /// The logits of the program's one softmax, if it has one. Kind Logit.
    pub softmax: Option<ExprId>,
    /// Every Row leaf that the forward must deliver, for outputs and gradients together: nodes `Lse`, `Nll`, `Mean`, `Expect`, `Max`,
    /// `Argmax`, `TargetValue`, each once, in a fixed order. `At` never remains: it is pushed down to `TargetValue` leaves.
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

/// Which gradients besides those of hidden states and classifier a caller wants, and whether any is wanted at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Whether dL/dx is wanted (for dE or dC).
    pub logit: bool,
    /// Row, Col and Scalar inputs whose gradients are wanted.
    pub inputs: Vec<InputId>,
}

/// Lowers a program. Cannot fail: a program is valid, and inputs that are not Row, Col or Scalar are ignored in `wanted`.
pub fn lower(program: &Program, wanted: &Wanted) -> Lowered {
    let _ = (program, wanted);
    unimplemented!()
}
