//! Constructors that simplify.
//!
//! They serve two ends with different liberties:
//! - [`Algebra::for_values`] rebuilds what the user wrote. It keeps the kind of every expression (`0 * x`
//!   stays a Logit) and the order of every sum, and where it rewrites, the result is at least as accurate.
//! - [`Algebra::for_derivatives`] builds derivatives, where a zero is structural: `0 * x` is 0, equal terms
//!   cancel, products are flattened and regrouped by kind, so that `g * (w * f(x))` becomes `(g * w) *
//!   f(x)` and only one Row value is read a logit.

use super::terms::{TermReader, push_term};
use crate::ir::{BinaryOp, Cmp, ExprId, Graph, Kind, Node, UnaryOp};

/// A graph under construction, and what may be assumed of what is added.
#[derive(Debug)]
pub(super) struct Algebra<'g> {
    pub graph: &'g mut Graph,
    pub reader: TermReader,
    derivatives: bool,
}

impl<'g> Algebra<'g> {
    pub fn for_values(graph: &'g mut Graph) -> Algebra<'g> {
        Algebra { graph, reader: TermReader::default(), derivatives: false }
    }

    pub fn for_derivatives(graph: &'g mut Graph) -> Algebra<'g> {
        Algebra { graph, reader: TermReader::default(), derivatives: true }
    }

    pub fn constant(&mut self, value: f64) -> ExprId {
        self.graph.constant(value)
    }

    pub fn is_const(&self, expr: ExprId, value: f64) -> bool {
        self.graph.as_const(expr) == Some(value)
    }

    /// `None` for the literal 0: how sums of derivatives say that they are empty.
    pub fn nonzero(&self, expr: ExprId) -> Option<ExprId> {
        (!self.is_const(expr, 0.0)).then_some(expr)
    }

    fn varies_over_vocab(&self, expr: ExprId) -> bool {
        self.graph.kind(expr).varies_over_vocab()
    }

    /// The simplified node, unless values are being rebuilt and its kind is not that of the plain node.
    fn settle(&mut self, plain: Node, simplified: Option<ExprId>) -> ExprId {
        if let Some(simplified) = simplified {
            let kind =
                plain.operands().fold(Kind::Scalar, |kind, operand| kind.join(self.graph.kind(operand)));
            if self.derivatives || self.graph.kind(simplified) == kind {
                return simplified;
            }
        }
        self.graph.node(plain)
    }

    fn folded(&mut self, value: f64) -> Option<ExprId> {
        value.is_finite().then(|| self.constant(value))
    }

    /// Rebuilds a node with other operands, simplifying.
    pub fn rebuild(&mut self, node: Node) -> ExprId {
        match node {
            Node::Unary(op, a) => self.unary(op, a),
            Node::Binary(op, a, b) => self.binary(op, a, b),
            Node::Select { cmp, lhs, rhs, then, otherwise } => self.select(cmp, lhs, rhs, then, otherwise),
            other => self.graph.node(other),
        }
    }

    /// `-(r * v)` is `(-r) * v` where `r` is known a token.
    fn negated_product(&mut self, a: ExprId) -> Option<ExprId> {
        if self.derivatives {
            let product = self.reader.product(self.graph, a).scaled(-1.0);
            return Some(self.product_of_factors(&product));
        }
        match self.row_and_rest(a) {
            (Some(row), Some(rest)) => {
                let minus = self.neg(row);
                Some(self.mul(minus, rest))
            }
            _ => None,
        }
    }

    pub fn neg(&mut self, a: ExprId) -> ExprId {
        self.unary(UnaryOp::Neg, a)
    }

    pub fn unary(&mut self, op: UnaryOp, a: ExprId) -> ExprId {
        let simplified = self.simplified_unary(op, a);
        self.settle(Node::Unary(op, a), simplified)
    }

    fn simplified_unary(&mut self, op: UnaryOp, a: ExprId) -> Option<ExprId> {
        if let Some(value) = self.graph.as_const(a) {
            return self.folded(op.eval(value));
        }
        match (op, self.graph.get(a)) {
            (UnaryOp::Neg, Node::Unary(UnaryOp::Neg, b)) => Some(b),
            (UnaryOp::Neg, Node::Binary(BinaryOp::Sub, b, c)) => Some(self.sub(c, b)),
            (UnaryOp::Neg, Node::Binary(BinaryOp::Mul | BinaryOp::Div, ..)) => self.negated_product(a),
            (UnaryOp::Abs, Node::Unary(UnaryOp::Neg, b)) => Some(self.unary(UnaryOp::Abs, b)),
            (UnaryOp::Abs, Node::Unary(UnaryOp::Abs, _)) => Some(a),
            (UnaryOp::Ln, Node::Unary(UnaryOp::Exp, u)) => Some(u),
            (UnaryOp::Ln, Node::Unary(UnaryOp::Sigmoid, u)) => Some(self.unary(UnaryOp::LogSigmoid, u)),
            (UnaryOp::Log1p, Node::Unary(UnaryOp::Exp, u)) => Some(self.unary(UnaryOp::Softplus, u)),
            (UnaryOp::Log1p, Node::Unary(UnaryOp::Expm1, u)) => Some(u),
            (UnaryOp::Ln, Node::Unary(UnaryOp::Neg, b)) => match self.graph.get(b) {
                Node::Unary(UnaryOp::Expm1, u) => self.log1mexp(u),
                _ => None,
            },
            (UnaryOp::Log1p, Node::Unary(UnaryOp::Neg, b)) => match self.graph.get(b) {
                Node::Unary(UnaryOp::Exp, u) => self.log1mexp(u),
                _ => None,
            },
            _ => None,
        }
    }

    /// `ln(1 - e^u)` for a negative `u`, relatively exact on both sides: `ln(-expm1(u))` where `e^u` is
    /// close to 1, `log1p(-e^u)` where it is small (Mächler, "Accurately computing log(1 - exp(-|a|))",
    /// 2012). Only once a token: in the vocabulary loop it would be two evaluations for what the user wrote
    /// as one.
    fn log1mexp(&mut self, u: ExprId) -> Option<ExprId> {
        if self.varies_over_vocab(u) {
            return None;
        }
        let expm1 = self.unary(UnaryOp::Expm1, u);
        let one_minus = self.neg(expm1);
        let close = self.graph.unary(UnaryOp::Ln, one_minus);
        let exp = self.unary(UnaryOp::Exp, u);
        let minus_exp = self.neg(exp);
        let small = self.graph.unary(UnaryOp::Log1p, minus_exp);
        let edge = self.constant(-std::f64::consts::LN_2);
        Some(self.select(Cmp::Gt, u, edge, close, small))
    }

    pub fn binary(&mut self, op: BinaryOp, a: ExprId, b: ExprId) -> ExprId {
        // Commutative operands stand in the order of their ids, so that a + b and b + a are one node. Min
        // and max are not: the first counts at ties.
        let (a, b) = if matches!(op, BinaryOp::Add | BinaryOp::Mul) && a.index() > b.index() {
            (b, a)
        } else {
            (a, b)
        };
        let folded = match (self.graph.as_const(a), self.graph.as_const(b)) {
            (Some(x), Some(y)) => self.folded(op.eval(x, y)),
            _ => None,
        };
        let simplified = folded.or_else(|| match op {
            BinaryOp::Add => self.simplified_add(a, b),
            BinaryOp::Sub => self.simplified_sub(a, b),
            BinaryOp::Mul => self.simplified_mul(a, b),
            BinaryOp::Div => self.simplified_div(a, b),
            BinaryOp::Pow => self.simplified_pow(a, b),
            BinaryOp::Min | BinaryOp::Max => (a == b).then_some(a),
        });
        self.settle(Node::Binary(op, a, b), simplified)
    }

    pub fn add(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.binary(BinaryOp::Add, a, b)
    }

    pub fn sub(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.binary(BinaryOp::Sub, a, b)
    }

    pub fn mul(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.binary(BinaryOp::Mul, a, b)
    }

    pub fn div(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.binary(BinaryOp::Div, a, b)
    }

    fn as_neg(&self, expr: ExprId) -> Option<ExprId> {
        match self.graph.get(expr) {
            Node::Unary(UnaryOp::Neg, a) => Some(a),
            _ => None,
        }
    }

    /// The exponent of `e^u`, if it is computed once a token.
    fn as_row_exp(&self, expr: ExprId, op: UnaryOp) -> Option<ExprId> {
        match self.graph.get(expr) {
            Node::Unary(found, u) if found == op && !self.varies_over_vocab(u) => Some(u),
            _ => None,
        }
    }

    /// The sum of both with like terms merged, where there are any. Where there are none the operands stay
    /// as they are: a sum taken apart for nothing could cancel where it did not before.
    fn merged(&mut self, a: ExprId, b: ExprId, sign: f64) -> Option<ExprId> {
        if !self.derivatives {
            return None;
        }
        let mut sum = self.reader.sum(self.graph, a);
        let other = self.reader.sum(self.graph, b);
        let separate = sum.len() + other.len();
        for term in other {
            push_term(&mut sum, term.scaled(sign));
        }
        (sum.len() < separate).then(|| self.sum_of_terms(&sum))
    }

    fn simplified_add(&mut self, a: ExprId, b: ExprId) -> Option<ExprId> {
        if self.is_const(a, 0.0) {
            return Some(b);
        }
        if self.is_const(b, 0.0) {
            return Some(a);
        }
        if let Some(merged) = self.merged(a, b, 1.0) {
            return Some(merged);
        }
        if let Some(c) = self.as_neg(b) {
            return Some(self.sub(a, c));
        }
        if let Some(c) = self.as_neg(a) {
            return Some(self.sub(b, c));
        }
        for (one, other) in [(a, b), (b, a)] {
            if self.is_const(one, -1.0)
                && let Some(u) = self.as_row_exp(other, UnaryOp::Exp)
            {
                return Some(self.unary(UnaryOp::Expm1, u));
            }
            if self.is_const(one, 1.0)
                && let Some(u) = self.as_row_exp(other, UnaryOp::Expm1)
            {
                return Some(self.unary(UnaryOp::Exp, u));
            }
        }
        self.joined_selects(a, b)
    }

    /// `if c { a } else { 0 } + if c { 0 } else { b }`, as derivatives of selections come, is one selection.
    fn joined_selects(&mut self, a: ExprId, b: ExprId) -> Option<ExprId> {
        match (self.graph.get(a), self.graph.get(b)) {
            (
                Node::Select { cmp, lhs, rhs, then, otherwise },
                Node::Select { cmp: cmp2, lhs: lhs2, rhs: rhs2, then: then2, otherwise: otherwise2 },
            ) if self.derivatives && (cmp, lhs, rhs) == (cmp2, lhs2, rhs2) => {
                let then = self.add(then, then2);
                let otherwise = self.add(otherwise, otherwise2);
                Some(self.select(cmp, lhs, rhs, then, otherwise))
            }
            _ => None,
        }
    }

    fn simplified_sub(&mut self, a: ExprId, b: ExprId) -> Option<ExprId> {
        if a == b {
            return Some(self.constant(0.0));
        }
        if self.is_const(a, 0.0) {
            return Some(self.neg(b));
        }
        if self.is_const(b, 0.0) {
            return Some(a);
        }
        if let Some(merged) = self.merged(a, b, -1.0) {
            return Some(merged);
        }
        if let Some(c) = self.as_neg(b) {
            return Some(self.add(a, c));
        }
        if let Some(c) = self.as_neg(a) {
            let sum = self.add(c, b);
            return Some(self.neg(sum));
        }
        if self.is_const(a, 1.0)
            && let Some(u) = self.as_row_exp(b, UnaryOp::Exp)
        {
            let expm1 = self.unary(UnaryOp::Expm1, u);
            return Some(self.neg(expm1));
        }
        if self.is_const(b, 1.0)
            && let Some(u) = self.as_row_exp(a, UnaryOp::Exp)
        {
            return Some(self.unary(UnaryOp::Expm1, u));
        }
        None
    }

    fn simplified_mul(&mut self, a: ExprId, b: ExprId) -> Option<ExprId> {
        if self.derivatives {
            let (x, y) = (self.reader.product(self.graph, a), self.reader.product(self.graph, b));
            return x.times(&y).map(|term| self.product_of_factors(&term));
        }
        for (one, other) in [(a, b), (b, a)] {
            match self.graph.as_const(one) {
                Some(0.0) => return Some(self.constant(0.0)),
                Some(1.0) => return Some(other),
                Some(-1.0) => return Some(self.neg(other)),
                _ => {}
            }
        }
        if self.varies_over_vocab(a) || self.varies_over_vocab(b) {
            return self.grouped_product(a, b);
        }
        for (one, other) in [(a, b), (b, a)] {
            if let Some(c) = self.as_neg(one) {
                let product = self.mul(c, other);
                return Some(self.neg(product));
            }
        }
        None
    }

    /// `(r * v) * s = (r * s) * v` where `v` alone varies over the vocabulary: one product a logit instead
    /// of two.
    fn grouped_product(&mut self, a: ExprId, b: ExprId) -> Option<ExprId> {
        let ((r, v), (s, w)) = (self.row_and_rest(a), self.row_and_rest(b));
        let row = match (r, s) {
            (None, None) => return None,
            (Some(r), Some(s)) => self.mul(r, s),
            (r, s) => r.or(s)?,
        };
        let rest = match (v, w) {
            (Some(v), Some(w)) => self.mul(v, w),
            (v, w) => v.or(w)?,
        };
        let grouped = Node::Binary(BinaryOp::Mul, row.min(rest), row.max(rest));
        Some(self.graph.node(grouped))
    }

    /// An expression as a product of what is known a token and what varies over the vocabulary.
    fn row_and_rest(&mut self, expr: ExprId) -> (Option<ExprId>, Option<ExprId>) {
        if !self.varies_over_vocab(expr) {
            return (Some(expr), None);
        }
        match self.graph.get(expr) {
            Node::Binary(BinaryOp::Mul, a, b) if !self.varies_over_vocab(a) => (Some(a), Some(b)),
            Node::Binary(BinaryOp::Mul, a, b) if !self.varies_over_vocab(b) => (Some(b), Some(a)),
            Node::Unary(UnaryOp::Neg, a) => (Some(self.constant(-1.0)), Some(a)),
            _ => (None, Some(expr)),
        }
    }

    fn simplified_div(&mut self, a: ExprId, b: ExprId) -> Option<ExprId> {
        if self.derivatives {
            let (x, y) = (self.reader.product(self.graph, a), self.reader.product(self.graph, b));
            return y.inverse().and_then(|y| x.times(&y)).map(|term| self.product_of_factors(&term));
        }
        if let Some(value) = self.graph.as_const(b) {
            let inverse = 1.0 / value;
            if !inverse.is_normal() {
                return None;
            }
            let inverse = self.constant(inverse);
            return Some(self.mul(a, inverse));
        }
        if self.is_const(a, 0.0) {
            return Some(self.constant(0.0));
        }
        if let Some(c) = self.as_neg(a) {
            let quotient = self.div(c, b);
            return Some(self.neg(quotient));
        }
        // One division a token (or a call) instead of one a logit.
        if self.varies_over_vocab(a) && !self.varies_over_vocab(b) {
            let one = self.constant(1.0);
            let inverse = self.div(one, b);
            return Some(self.mul(a, inverse));
        }
        None
    }

    fn simplified_pow(&mut self, a: ExprId, b: ExprId) -> Option<ExprId> {
        if self.is_const(a, 1.0) {
            return Some(a);
        }
        match self.graph.as_const(b)? {
            0.0 => Some(self.constant(1.0)),
            0.5 => Some(self.unary(UnaryOp::Sqrt, a)),
            1.0 => Some(a),
            2.0 => Some(self.mul(a, a)),
            3.0 => {
                let square = self.mul(a, a);
                Some(self.mul(square, a))
            }
            -1.0 => {
                let one = self.constant(1.0);
                Some(self.div(one, a))
            }
            _ => None,
        }
    }

    pub fn select(&mut self, cmp: Cmp, lhs: ExprId, rhs: ExprId, then: ExprId, otherwise: ExprId) -> ExprId {
        // A branch that asks the same question again knows the answer.
        let mut branches = [then, otherwise];
        for (at, branch) in branches.iter_mut().enumerate() {
            if let Node::Select { cmp: cmp2, lhs: lhs2, rhs: rhs2, then, otherwise } = self.graph.get(*branch)
                && (cmp, lhs, rhs) == (cmp2, lhs2, rhs2)
            {
                *branch = if at == 0 { then } else { otherwise };
            }
        }
        let [then, otherwise] = branches;
        let known = match (self.graph.as_const(lhs), self.graph.as_const(rhs)) {
            (Some(x), Some(y)) => Some(if cmp.eval(x, y) { then } else { otherwise }),
            _ => (then == otherwise).then_some(then),
        };
        self.settle(Node::Select { cmp, lhs, rhs, then, otherwise }, known)
    }

    /// A sum's node without a second look for like terms, of which there are none.
    pub fn binary_as_is(&mut self, op: BinaryOp, a: ExprId, b: ExprId) -> ExprId {
        let derivatives = std::mem::replace(&mut self.derivatives, false);
        let sum = self.binary(op, a, b);
        self.derivatives = derivatives;
        sum
    }
}
