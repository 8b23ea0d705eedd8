//! Sums and products as lists: the normal forms in which like terms meet and equal factors cancel.
//!
//! Invariants: a [`Term`]'s factors are sorted by id, each once, with a non-zero exponent; its coefficient
//! is finite. A sum is a list of terms of which no two have the same factors and none has the coefficient
//! 0; their order is that in which they were written, because reordering a sum can change what cancels in
//! it.

use crate::ir::{BinaryOp, ExprId, Graph, Node, UnaryOp};

/// A sum of more terms than this is a factor like any other: no program of interest has one, and it bounds
/// the work.
const LONGEST_SUM: usize = 32;

/// A product of more factors than this is not taken apart.
const LONGEST_PRODUCT: usize = 64;

/// The largest exponent that is collected.
const LARGEST_EXPONENT: i32 = 1 << 20;

/// `coef * product of factor^exponent`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Term {
    pub coef: f64,
    pub factors: Vec<(ExprId, i32)>,
}

impl Term {
    /// A number.
    pub fn constant(value: f64) -> Term {
        Term { coef: value, factors: Vec::new() }
    }

    /// An expression as it is.
    pub fn atom(expr: ExprId) -> Term {
        Term { coef: 1.0, factors: vec![(expr, 1)] }
    }

    /// The product of two terms; `None` where a number would leave its range.
    pub fn times(&self, other: &Term) -> Option<Term> {
        let coef = self.coef * other.coef;
        if !coef.is_finite() {
            return None;
        }
        let mut factors = self.factors.clone();
        for &(expr, exponent) in &other.factors {
            match factors.binary_search_by_key(&expr, |factor| factor.0) {
                Ok(at) => {
                    factors[at].1 += exponent;
                    if factors[at].1.abs() > LARGEST_EXPONENT {
                        return None;
                    }
                    if factors[at].1 == 0 {
                        factors.remove(at);
                    }
                }
                Err(at) => factors.insert(at, (expr, exponent)),
            }
        }
        (factors.len() <= LONGEST_PRODUCT).then_some(Term { coef, factors })
    }

    /// `1 / self`; `None` where a number would leave its range.
    pub fn inverse(&self) -> Option<Term> {
        let coef = 1.0 / self.coef;
        let factors = self.factors.iter().map(|&(expr, exponent)| (expr, -exponent)).collect();
        coef.is_normal().then_some(Term { coef, factors })
    }

    /// The factors with positive exponents that both products have.
    pub fn shared_with(&self, other: &Term) -> Term {
        let factors = self
            .factors
            .iter()
            .map(|&(expr, exponent)| (expr, exponent.min(other.exponent(expr))))
            .filter(|factor| factor.1 > 0)
            .collect();
        Term { coef: 1.0, factors }
    }

    /// The product without factors that it shares with another.
    pub fn over(&self, shared: &Term) -> Term {
        let factors = self
            .factors
            .iter()
            .map(|&(expr, exponent)| (expr, exponent - shared.exponent(expr)))
            .filter(|factor| factor.1 != 0)
            .collect();
        Term { coef: self.coef, factors }
    }

    fn exponent(&self, expr: ExprId) -> i32 {
        self.factors.binary_search_by_key(&expr, |factor| factor.0).map_or(0, |at| self.factors[at].1)
    }

    /// `value * self`.
    pub fn scaled(&self, value: f64) -> Term {
        Term { coef: self.coef * value, factors: self.factors.clone() }
    }

    /// The term without one factor, whatever its exponent.
    pub fn without(&self, expr: ExprId) -> Term {
        let factors = self.factors.iter().copied().filter(|factor| factor.0 != expr).collect();
        Term { coef: self.coef, factors }
    }
}

/// Adds a term to a sum, merging it with its like.
pub(super) fn push_term(sum: &mut Vec<Term>, term: Term) {
    match sum.iter().position(|other| other.factors == term.factors) {
        Some(at) => {
            let coef = sum[at].coef + term.coef;
            if coef == 0.0 {
                sum.remove(at);
            } else {
                sum[at].coef = coef;
            }
        }
        None if term.coef == 0.0 => {}
        None => sum.push(term),
    }
}

/// Reads expressions as products and sums. Reads the arena in its order, each node once, so that neither
/// depth nor sharing costs.
#[derive(Debug, Default)]
pub(super) struct TermReader {
    products: Vec<Term>,
    sums: Vec<Option<Vec<Term>>>,
}

impl TermReader {
    /// The expression as one product.
    pub fn product(&mut self, graph: &Graph, expr: ExprId) -> Term {
        self.read_to(graph, expr);
        self.products[expr.index()].clone()
    }

    /// The expression as a sum of products.
    pub fn sum(&mut self, graph: &Graph, expr: ExprId) -> Vec<Term> {
        self.read_to(graph, expr);
        self.sum_read(expr)
    }

    fn sum_read(&self, expr: ExprId) -> Vec<Term> {
        match &self.sums[expr.index()] {
            Some(sum) => sum.clone(),
            None => {
                let mut sum = Vec::new();
                push_term(&mut sum, self.products[expr.index()].clone());
                sum
            }
        }
    }

    fn read_to(&mut self, graph: &Graph, expr: ExprId) {
        for at in self.products.len()..=expr.index() {
            let id = ExprId(at as u32);
            let product = self.read_product(graph, id).unwrap_or_else(|| Term::atom(id));
            self.products.push(product);
            let sum = self.read_sum(graph, id);
            self.sums.push(sum);
        }
    }

    fn read_product(&self, graph: &Graph, expr: ExprId) -> Option<Term> {
        let product = |operand: ExprId| &self.products[operand.index()];
        match graph.get(expr) {
            Node::Const(number) => Some(Term::constant(number.value())),
            Node::Unary(UnaryOp::Neg, a) => Some(product(a).scaled(-1.0)),
            Node::Binary(BinaryOp::Mul, a, b) => product(a).times(product(b)),
            Node::Binary(BinaryOp::Div, a, b) => product(a).times(&product(b).inverse()?),
            _ => None,
        }
    }

    /// `None` for what is no sum, and for one that is too long.
    fn read_sum(&self, graph: &Graph, expr: ExprId) -> Option<Vec<Term>> {
        let parts = match graph.get(expr) {
            Node::Binary(BinaryOp::Add, a, b) => vec![(a, 1.0), (b, 1.0)],
            Node::Binary(BinaryOp::Sub, a, b) => vec![(a, 1.0), (b, -1.0)],
            Node::Unary(UnaryOp::Neg, a) => vec![(a, -1.0)],
            _ => return None,
        };
        let mut sum = Vec::new();
        for (part, sign) in parts {
            for term in self.sum_read(part) {
                push_term(&mut sum, term.scaled(sign));
            }
        }
        (sum.len() <= LONGEST_SUM).then_some(sum)
    }
}
