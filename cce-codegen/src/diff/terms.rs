//! Sums and products as lists: the normal forms in which like terms meet and equal factors cancel.
//!
//! Invariants: a [`Term`]'s factors are sorted by id, each once, with a non-zero exponent; its coefficient is finite. A sum is a
//! list of terms of which no two have the same factors and none has the coefficient 0; their order is that in which they were
//! written, because reordering a sum can change what cancels in it.

use crate::ir::{BinaryOp, ExprId, Graph, Node, UnaryOp};
use std::collections::HashMap;

/// A sum of more terms than this is a factor like any other: no program of interest has one, and it bounds the work.
const LONGEST_SUM: usize = 32;

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
        Some(Term { coef, factors })
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

/// Reads expressions as products and sums; remembers what it has read, as expressions share their parts.
#[derive(Debug, Default)]
pub(super) struct TermReader {
    products: HashMap<ExprId, Term>,
    sums: HashMap<ExprId, Vec<Term>>,
}

impl TermReader {
    /// The expression as one product.
    pub fn product(&mut self, graph: &Graph, expr: ExprId) -> Term {
        if let Some(term) = self.products.get(&expr) {
            return term.clone();
        }
        let term = match graph.get(expr) {
            Node::Const(number) => Some(Term::constant(number.value())),
            Node::Unary(UnaryOp::Neg, a) => Some(self.product(graph, a).scaled(-1.0)),
            Node::Binary(BinaryOp::Mul, a, b) => {
                let (a, b) = (self.product(graph, a), self.product(graph, b));
                a.times(&b)
            }
            Node::Binary(BinaryOp::Div, a, b) => {
                let (a, b) = (self.product(graph, a), self.product(graph, b));
                b.inverse().and_then(|b| a.times(&b))
            }
            _ => None,
        }
        .unwrap_or_else(|| Term::atom(expr));
        self.products.insert(expr, term.clone());
        term
    }

    /// The expression as a sum of products.
    pub fn sum(&mut self, graph: &Graph, expr: ExprId) -> Vec<Term> {
        if let Some(sum) = self.sums.get(&expr) {
            return sum.clone();
        }
        let parts = match graph.get(expr) {
            Node::Binary(BinaryOp::Add, a, b) => vec![(a, 1.0), (b, 1.0)],
            Node::Binary(BinaryOp::Sub, a, b) => vec![(a, 1.0), (b, -1.0)],
            Node::Unary(UnaryOp::Neg, a) => vec![(a, -1.0)],
            _ => Vec::new(),
        };
        let mut sum = Vec::new();
        for &(part, sign) in &parts {
            for term in self.sum(graph, part) {
                push_term(&mut sum, term.scaled(sign));
            }
        }
        if parts.is_empty() || sum.len() > LONGEST_SUM {
            sum.clear();
            push_term(&mut sum, self.product(graph, expr));
        }
        self.sums.insert(expr, sum.clone());
        sum
    }
}
