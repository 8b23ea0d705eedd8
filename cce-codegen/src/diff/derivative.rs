//! The derivative of every operation, one table row each, and the chain rule over elementwise expressions.
//!
//! # Conventions at points without a derivative
//! - `abs` at 0: 0.
//! - `min`, `max` at ties: the first argument's.
//! - `sqrt` at 0, and `pow(a, b)` at `a = 0` for `b < 1`: 0 (the one-sided derivative is infinite, and would
//!   turn into NaN where the chain multiplies it by 0).
//! - `pow(a, b)` with respect to `b` at `a = 0`: 0.
//! - Comparisons carry no gradient: a selection's derivative is that of the branch taken. It is taken *as a
//!   selection*, never by a factor 0 or 1, so that an infinite derivative in the other branch does no harm.
//!
//! The chain rule runs forward, from the variable to the root, for the same reason: a selection then stands
//! outside of its branches' factors.

use super::simplify::Algebra;
use crate::ir::{BinaryOp, Cmp, ExprId, Graph, Node, UnaryOp};
use std::collections::HashMap;

/// An operation on one value: where it is differentiable, and its derivative.
pub(super) struct UnaryRule {
    pub op: UnaryOp,
    /// The open interval on which the operation is defined (the value in f64 is [`UnaryOp::eval`]).
    pub domain: (f64, f64),
    /// The derivative at `x`, given also the value `y = op(x)`.
    pub derivative: fn(&mut Algebra<'_>, x: ExprId, y: ExprId) -> ExprId,
}

/// The operands of a binary operation, its value, and the derivatives of the operands (`None`: zero).
#[derive(Clone, Copy)]
pub(super) struct Tangents {
    pub a: ExprId,
    pub b: ExprId,
    pub y: ExprId,
    pub da: Option<ExprId>,
    pub db: Option<ExprId>,
}

/// An operation on two values.
pub(super) struct BinaryRule {
    pub op: BinaryOp,
    /// The open intervals on which the operation is defined (the value in f64 is [`BinaryOp::eval`]).
    pub domain: [(f64, f64); 2],
    /// The derivative of the value along those of the operands.
    pub derivative: fn(&mut Algebra<'_>, Tangents) -> Option<ExprId>,
}

const INF: f64 = f64::INFINITY;
const REALS: (f64, f64) = (-INF, INF);
const POSITIVE: (f64, f64) = (0.0, INF);

const fn unary(
    op: UnaryOp,
    domain: (f64, f64),
    derivative: fn(&mut Algebra<'_>, ExprId, ExprId) -> ExprId,
) -> UnaryRule {
    UnaryRule { op, domain, derivative }
}

const fn binary(
    op: BinaryOp,
    domain: [(f64, f64); 2],
    derivative: fn(&mut Algebra<'_>, Tangents) -> Option<ExprId>,
) -> BinaryRule {
    BinaryRule { op, domain, derivative }
}

/// Short for the table.
type K<'g> = Algebra<'g>;

/// In the order of [`UnaryOp::ALL`].
#[rustfmt::skip]
pub(super) static UNARY: [UnaryRule; UnaryOp::ALL.len()] = [
    unary(UnaryOp::Neg,        REALS,       |k, _, _| k.constant(-1.0)),
    unary(UnaryOp::Exp,        REALS,       |_, _, y| y),
    unary(UnaryOp::Expm1,      REALS,       |k, x, _| k.unary(UnaryOp::Exp, x)),
    unary(UnaryOp::Ln,         POSITIVE,    |k, x, _| k.inverse(x)),
    unary(UnaryOp::Log1p,      (-1.0, INF), |k, x, _| k.inverse_of_one_plus(x)),
    unary(UnaryOp::Tanh,       REALS,       |k, _, y| k.one_minus_square(y)),
    unary(UnaryOp::Sigmoid,    REALS,       |k, x, y| k.sigmoid_slope(x, y)),
    unary(UnaryOp::LogSigmoid, REALS,       |k, x, _| k.sigmoid_of_minus(x)),
    unary(UnaryOp::Softplus,   REALS,       |k, x, _| k.unary(UnaryOp::Sigmoid, x)),
    unary(UnaryOp::Sqrt,       POSITIVE,    |k, x, y| k.sqrt_slope(x, y)),
    unary(UnaryOp::Abs,        REALS,       |k, x, _| k.sign(x)),
];

/// In the order of [`BinaryOp::ALL`].
#[rustfmt::skip]
pub(super) static BINARY: [BinaryRule; BinaryOp::ALL.len()] = [
    binary(BinaryOp::Add, [REALS, REALS],    |k, t| k.sum_of(t.da, t.db)),
    binary(BinaryOp::Sub, [REALS, REALS],    |k, t| k.difference_of(t.da, t.db)),
    binary(BinaryOp::Mul, [REALS, REALS],    |k, t| k.chain(t, |_, t| t.b, |_, t| t.a)),
    binary(BinaryOp::Div, [REALS, POSITIVE], |k, t| k.chain(t, K::div_by_dividend, K::div_by_divisor)),
    binary(BinaryOp::Pow, [POSITIVE, REALS], |k, t| k.chain(t, K::pow_by_base, K::pow_by_exponent)),
    binary(BinaryOp::Min, [REALS, REALS],    |k, t| k.selected(Cmp::Lt, t.b, t.a, t.db, t.da)),
    binary(BinaryOp::Max, [REALS, REALS],    |k, t| k.selected(Cmp::Gt, t.b, t.a, t.db, t.da)),
];

fn unary_rule(op: UnaryOp) -> &'static UnaryRule {
    let rule = &UNARY[op as usize];
    debug_assert_eq!(rule.op, op);
    rule
}

fn binary_rule(op: BinaryOp) -> &'static BinaryRule {
    let rule = &BINARY[op as usize];
    debug_assert_eq!(rule.op, op);
    rule
}

/// The open interval on which an operation is defined.
pub fn unary_domain(op: UnaryOp) -> (f64, f64) {
    unary_rule(op).domain
}

/// The open intervals, of each operand, on which an operation is defined. (`a / b` is also defined for `b <
/// 0`.)
pub fn binary_domain(op: BinaryOp) -> [(f64, f64); 2] {
    binary_rule(op).domain
}

impl Algebra<'_> {
    fn inverse(&mut self, a: ExprId) -> ExprId {
        let one = self.constant(1.0);
        self.div(one, a)
    }

    fn inverse_of_one_plus(&mut self, a: ExprId) -> ExprId {
        let one = self.constant(1.0);
        let sum = self.add(one, a);
        self.div(one, sum)
    }

    fn one_minus_square(&mut self, a: ExprId) -> ExprId {
        let one = self.constant(1.0);
        let square = self.mul(a, a);
        self.sub(one, square)
    }

    /// `sigmoid(x) (1 - sigmoid(x))`.
    fn sigmoid_slope(&mut self, x: ExprId, y: ExprId) -> ExprId {
        let rest = self.sigmoid_of_minus(x);
        self.mul(y, rest)
    }

    /// `1 - sigmoid(x)`, exact where sigmoid is close to 1.
    fn sigmoid_of_minus(&mut self, x: ExprId) -> ExprId {
        let minus = self.neg(x);
        self.unary(UnaryOp::Sigmoid, minus)
    }

    /// 1, -1, 0 at 0, NaN at NaN.
    fn sign(&mut self, x: ExprId) -> ExprId {
        let (zero, one, minus_one) = (self.constant(0.0), self.constant(1.0), self.constant(-1.0));
        let not_positive = self.select(Cmp::Lt, x, zero, minus_one, x);
        self.select(Cmp::Gt, x, zero, one, not_positive)
    }

    fn sqrt_slope(&mut self, x: ExprId, y: ExprId) -> ExprId {
        let (zero, half) = (self.constant(0.0), self.constant(0.5));
        let slope = self.div(half, y);
        self.select(Cmp::Eq, x, zero, zero, slope)
    }

    /// `1 / b`.
    fn div_by_dividend(&mut self, t: Tangents) -> ExprId {
        self.inverse(t.b)
    }

    /// `-(a / b) / b`.
    fn div_by_divisor(&mut self, t: Tangents) -> ExprId {
        let quotient = self.div(t.y, t.b);
        self.neg(quotient)
    }

    /// `b a^(b - 1)`.
    fn pow_by_base(&mut self, t: Tangents) -> ExprId {
        let (zero, one) = (self.constant(0.0), self.constant(1.0));
        let lower = self.sub(t.b, one);
        let power = self.binary(BinaryOp::Pow, t.a, lower);
        let slope = self.mul(t.b, power);
        match self.graph.as_const(t.b) {
            Some(exponent) if exponent >= 1.0 => slope,
            Some(_) => self.select(Cmp::Eq, t.a, zero, zero, slope),
            None => {
                let at_zero = self.select(Cmp::Eq, t.b, one, one, zero);
                self.select(Cmp::Eq, t.a, zero, at_zero, slope)
            }
        }
    }

    /// `a^b ln(a)`.
    fn pow_by_exponent(&mut self, t: Tangents) -> ExprId {
        let zero = self.constant(0.0);
        let ln = self.unary(UnaryOp::Ln, t.a);
        let slope = self.mul(t.y, ln);
        self.select(Cmp::Eq, t.a, zero, zero, slope)
    }

    /// The sum of two derivatives; `None`: zero.
    pub fn sum_of(&mut self, a: Option<ExprId>, b: Option<ExprId>) -> Option<ExprId> {
        match (a, b) {
            (Some(a), Some(b)) => {
                let sum = self.add(a, b);
                self.nonzero(sum)
            }
            (a, b) => a.or(b),
        }
    }

    /// The difference of two derivatives; `None`: zero.
    fn difference_of(&mut self, a: Option<ExprId>, b: Option<ExprId>) -> Option<ExprId> {
        let minus_b = b.map(|b| self.neg(b));
        self.sum_of(a, minus_b)
    }

    fn chain(
        &mut self,
        t: Tangents,
        by_a: impl FnOnce(&mut Self, Tangents) -> ExprId,
        by_b: impl FnOnce(&mut Self, Tangents) -> ExprId,
    ) -> Option<ExprId> {
        let a = t.da.map(|da| {
            let slope = by_a(self, t);
            self.mul(slope, da)
        });
        let b = t.db.map(|db| {
            let slope = by_b(self, t);
            self.mul(slope, db)
        });
        let (a, b) = (a.and_then(|a| self.nonzero(a)), b.and_then(|b| self.nonzero(b)));
        self.sum_of(a, b)
    }

    /// `if lhs cmp rhs { then } else { otherwise }` on derivatives.
    fn selected(
        &mut self,
        cmp: Cmp,
        lhs: ExprId,
        rhs: ExprId,
        then: Option<ExprId>,
        otherwise: Option<ExprId>,
    ) -> Option<ExprId> {
        if then.is_none() && otherwise.is_none() {
            return None;
        }
        let zero = self.constant(0.0);
        let selected = self.select(cmp, lhs, rhs, then.unwrap_or(zero), otherwise.unwrap_or(zero));
        self.nonzero(selected)
    }
}

/// Derivatives with respect to one leaf (an input, or a reduction taken as a variable of its own).
pub(super) struct Derivative {
    variable: ExprId,
    known: HashMap<ExprId, Option<ExprId>>,
}

impl Derivative {
    pub fn with_respect_to(variable: ExprId) -> Derivative {
        Derivative { variable, known: HashMap::new() }
    }

    /// The derivative of `expr`, reductions held fixed; `None` where it is zero.
    pub fn of(&mut self, algebra: &mut Algebra<'_>, expr: ExprId) -> Option<ExprId> {
        for at in elementwise_order(algebra.graph, expr) {
            if !self.known.contains_key(&at) {
                let tangent = self.step(algebra, at);
                self.known.insert(at, tangent);
            }
        }
        self.known.get(&expr).copied().flatten()
    }

    fn step(&self, algebra: &mut Algebra<'_>, expr: ExprId) -> Option<ExprId> {
        if expr == self.variable {
            return Some(algebra.constant(1.0));
        }
        let tangent = |operand: ExprId| self.known.get(&operand).copied().flatten();
        match algebra.graph.get(expr) {
            Node::Unary(op, a) => {
                let da = tangent(a)?;
                let rule = unary_rule(op);
                let slope = (rule.derivative)(algebra, a, expr);
                let product = algebra.mul(slope, da);
                algebra.nonzero(product)
            }
            Node::Binary(op, a, b) => {
                let (da, db) = (tangent(a), tangent(b));
                if da.is_none() && db.is_none() {
                    return None;
                }
                let rule = binary_rule(op);
                (rule.derivative)(algebra, Tangents { a, b, y: expr, da, db })
            }
            Node::Select { cmp, lhs, rhs, then, otherwise } => {
                algebra.selected(cmp, lhs, rhs, tangent(then), tangent(otherwise))
            }
            _ => None,
        }
    }
}

/// What `root` is computed from by elementwise operations: operands first, not entering reductions'
/// arguments.
pub(super) fn elementwise_order(graph: &Graph, root: ExprId) -> Vec<ExprId> {
    let mut seen = vec![false; root.index() + 1];
    seen[root.index()] = true;
    for at in (0..=root.index()).rev() {
        let node = graph.nodes()[at];
        if seen[at] && !node.is_reduction() {
            for operand in node.operands() {
                seen[operand.index()] = true;
            }
        }
    }
    (0..=root.index()).filter(|&at| seen[at]).map(|at| ExprId(at as u32)).collect()
}
