//! The intermediate representation of a loss: a scalar expression DAG with kinds.
//!
//! # Evaluation
//! A program describes, for one token `i`, values over three index spaces. The [`Kind`] of an expression says
//! on what it depends: nothing ([`Kind::Scalar`]), the token ([`Kind::Row`]), the vocabulary entry
//! ([`Kind::Col`]), or both ([`Kind::Logit`]). Kinds form a lattice, Scalar below Row and Col, these below
//! Logit; an operation's kind is the join of its operands' kinds. A *reduction* turns a value that varies
//! over the vocabulary into a Row value. Row values combine freely afterwards; a reduction never stands
//! inside another reduction's argument, so that one pass over the vocabulary computes them all. All
//! expressions are pure, so that order of evaluation does not matter; both branches of a [`Node::Select`] may
//! be evaluated.
//!
//! # Identity
//! Nodes live in one arena and are interned: equal nodes have equal [`ExprId`]s, and an operand's id is
//! smaller than its user's, so that arena order is a topological order.
//!
//! # Nodes that users cannot write
//! [`Node::TargetValue`], [`Node::Nll`], [`Node::Upstream`] and [`Node::Coef`] are introduced by lowering and
//! differentiation ([`crate::diff`]). They share the enum so that one simplifier, one interpreter and one
//! emitter serve both.

mod dump;
mod graph;
mod number;
mod ops;
mod program;
mod saved;
pub mod text;

pub use dump::Level;
pub use graph::Graph;
pub use number::Number;
pub use ops::{BinaryOp, Cmp, UnaryOp};
pub use program::{Input, InputKind, Output, Program};
pub use saved::{Place, ProgramError, SCHEMA};

use serde::{Deserialize, Serialize};

/// Index of a node in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ExprId(pub u32);

impl ExprId {
    /// The position in the arena.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Index of an input in a program's list of inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InputId(pub u16);

impl InputId {
    /// The position in the list of inputs.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a value varies over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// One value for the whole call.
    Scalar,
    /// One value a token.
    Row,
    /// One value a vocabulary entry.
    Col,
    /// One value a (token, vocabulary entry) pair.
    Logit,
}

impl Kind {
    /// The smallest kind that both fit in.
    pub const fn join(self, other: Kind) -> Kind {
        match (self, other) {
            (Kind::Scalar, k) | (k, Kind::Scalar) => k,
            (Kind::Row, Kind::Row) => Kind::Row,
            (Kind::Col, Kind::Col) => Kind::Col,
            _ => Kind::Logit,
        }
    }

    /// Whether the value differs from one vocabulary entry to the next.
    pub const fn varies_over_vocab(self) -> bool {
        matches!(self, Kind::Col | Kind::Logit)
    }

    /// The name that users write and read.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Scalar => "Scalar",
            Kind::Row => "Row",
            Kind::Col => "Col",
            Kind::Logit => "Logit",
        }
    }
}

/// One node of the DAG.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Node {
    /// A literal. Kind: Scalar.
    Const(Number),
    /// An input. Kind: the input's; the Logit input is the raw logit `x_ij = E_i . C_j`. Never the Target
    /// input.
    Input(InputId),
    /// `op(a)`. Kind: that of `a`.
    Unary(UnaryOp, ExprId),
    /// `op(a, b)`. Kind: the join.
    Binary(BinaryOp, ExprId, ExprId),
    /// `if lhs cmp rhs { then } else { otherwise }`. Kind: the join of all four.
    Select {
        /// The comparison.
        cmp: Cmp,
        /// Left operand of the comparison.
        lhs: ExprId,
        /// Right operand of the comparison.
        rhs: ExprId,
        /// The value where the comparison holds.
        then: ExprId,
        /// The value where it does not (NaN operands included).
        otherwise: ExprId,
    },
    /// `log sum_j exp(z_ij)`; `z` of kind Logit. Kind: Row.
    Lse(ExprId),
    /// `f_{i, y_i}`: a Logit or Col value read at the target. Kind: Row.
    At(ExprId),
    /// `sum_j f_ij / V`; Logit or Col. Kind: Row.
    Mean(ExprId),
    /// `sum_j p_ij f_ij` with `p = softmax(z)`; `f` of kind Logit or Col. Kind: Row.
    Expect {
        /// The logits of the softmax.
        z: ExprId,
        /// The value whose expectation is taken.
        f: ExprId,
    },
    /// `max_j f_ij`; carries no gradient. Kind: Row.
    Max(ExprId),
    /// The smallest `j` at which `f_ij` is largest, as a number; carries no gradient. Kind: Row.
    Argmax(ExprId),
    /// Derived: a Logit or Col *input* read at the target column. Kind: Row.
    TargetValue(InputId),
    /// Derived: `lse(z) - at(z, y)`, the negative log-likelihood, computed as `log1p(S')` with
    /// `S' = sum_{j != y} exp(z_j - z_y)`: exact where p_y is close to 1, where the difference is not. Kind:
    /// Row.
    Nll(ExprId),
    /// Derived: the upstream gradient of an output (its index). Kind: Row.
    Upstream(u16),
    /// Derived: a Row value computed once a token and read by the vocabulary loop (its slot). Kind: Row.
    Coef(u16),
}

impl Node {
    /// The operands, in order.
    pub fn operands(&self) -> impl Iterator<Item = ExprId> + use<> {
        let list: [Option<ExprId>; 4] = match *self {
            Node::Unary(_, a)
            | Node::Lse(a)
            | Node::At(a)
            | Node::Mean(a)
            | Node::Max(a)
            | Node::Argmax(a)
            | Node::Nll(a) => [Some(a), None, None, None],
            Node::Binary(_, a, b) | Node::Expect { z: a, f: b } => [Some(a), Some(b), None, None],
            Node::Select { lhs, rhs, then, otherwise, .. } => {
                [Some(lhs), Some(rhs), Some(then), Some(otherwise)]
            }
            Node::Const(_) | Node::Input(_) | Node::TargetValue(_) | Node::Upstream(_) | Node::Coef(_) => {
                [None; 4]
            }
        };
        list.into_iter().flatten()
    }

    /// The same node over other operands.
    #[must_use]
    pub fn map_operands(self, mut f: impl FnMut(ExprId) -> ExprId) -> Node {
        match self {
            Node::Unary(op, a) => Node::Unary(op, f(a)),
            Node::Binary(op, a, b) => Node::Binary(op, f(a), f(b)),
            Node::Select { cmp, lhs, rhs, then, otherwise } => {
                Node::Select { cmp, lhs: f(lhs), rhs: f(rhs), then: f(then), otherwise: f(otherwise) }
            }
            Node::Lse(a) => Node::Lse(f(a)),
            Node::At(a) => Node::At(f(a)),
            Node::Mean(a) => Node::Mean(f(a)),
            Node::Expect { z, f: g } => Node::Expect { z: f(z), f: f(g) },
            Node::Max(a) => Node::Max(f(a)),
            Node::Argmax(a) => Node::Argmax(f(a)),
            Node::Nll(a) => Node::Nll(f(a)),
            leaf => leaf,
        }
    }

    /// Whether this is a reduction over the vocabulary (or one derived from such).
    pub const fn is_reduction(&self) -> bool {
        matches!(
            self,
            Node::Lse(_)
                | Node::At(_)
                | Node::Mean(_)
                | Node::Expect { .. }
                | Node::Max(_)
                | Node::Argmax(_)
                | Node::Nll(_)
        )
    }
}
