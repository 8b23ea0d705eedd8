//! Terms back to expressions, in an order of operations that suits the vocabulary loop.

use super::simplify::Algebra;
use super::terms::Term;
use crate::ir::{BinaryOp, ExprId, Kind, UnaryOp};

impl Algebra<'_> {
    /// The sum of these terms, in their order; subtractions where a coefficient is negative.
    pub fn sum_of_terms(&mut self, terms: &[Term]) -> ExprId {
        // Starts with a positive term, if there is one: b - a instead of -a + b.
        let first = terms.iter().position(|term| term.coef > 0.0).unwrap_or(0);
        let Some(start) = terms.get(first) else { return self.constant(0.0) };
        let mut sum = self.product_of_factors(start);
        for (at, term) in terms.iter().enumerate() {
            if at == first {
                continue;
            }
            let (op, magnitude) = if term.coef < 0.0 {
                (BinaryOp::Sub, self.product_of_factors(&term.scaled(-1.0)))
            } else {
                (BinaryOp::Add, self.product_of_factors(term))
            };
            sum = self.binary_as_is(op, sum, magnitude);
        }
        sum
    }

    /// The product as an expression: what is known a token first, then what varies over the vocabulary, so
    /// that each group is one subexpression. Within a group: factors by id, one division.
    pub fn product_of_factors(&mut self, term: &Term) -> ExprId {
        if term.coef == 0.0 {
            return self.constant(0.0);
        }
        let mut product: Option<ExprId> = None;
        let mut coef = term.coef;
        for kinds in [&[Kind::Scalar, Kind::Row][..], &[Kind::Col], &[Kind::Logit]].into_iter().rev() {
            let mut group = [None, None];
            for kind in kinds {
                for &(factor, exponent) in &term.factors {
                    if self.graph.kind(factor) == *kind {
                        let power = self.power(factor, exponent.unsigned_abs());
                        let side = &mut group[usize::from(exponent < 0)];
                        *side = Some(self.times_as_is(*side, power));
                    }
                }
            }
            if kinds[0] == Kind::Scalar && coef.abs() != 1.0 {
                let number = self.constant(coef);
                coef = 1.0;
                group[0] = Some(match group[0] {
                    Some(numerator) => self.times_as_is(Some(number), numerator),
                    None => number,
                });
            }
            let value = match group {
                [None, None] => continue,
                [Some(numerator), None] => numerator,
                [numerator, Some(denominator)] => {
                    let numerator = match numerator {
                        Some(numerator) => numerator,
                        None => self.constant(1.0),
                    };
                    self.graph.binary(BinaryOp::Div, numerator, denominator)
                }
            };
            // The sign goes to what is known a token, so that the vocabulary loop does not see it.
            let value = if kinds[0] == Kind::Scalar && coef == -1.0 {
                coef = 1.0;
                self.graph.unary(UnaryOp::Neg, value)
            } else {
                value
            };
            product = Some(match product {
                Some(rest) => self.times_as_is(Some(value), rest),
                None => value,
            });
        }
        match product {
            Some(product) if coef < 0.0 => self.graph.unary(UnaryOp::Neg, product),
            Some(product) => product,
            None => self.constant(coef),
        }
    }

    fn times_as_is(&mut self, a: Option<ExprId>, b: ExprId) -> ExprId {
        match a {
            Some(a) if a.index() > b.index() => self.graph.binary(BinaryOp::Mul, b, a),
            Some(a) => self.graph.binary(BinaryOp::Mul, a, b),
            None => b,
        }
    }

    /// `base^exponent` for a positive exponent, by squaring.
    fn power(&mut self, base: ExprId, exponent: u32) -> ExprId {
        let (mut square, mut left, mut product) = (base, exponent, None);
        while left > 0 {
            if left & 1 == 1 {
                product = Some(self.times_as_is(product, square));
            }
            left >>= 1;
            if left > 0 {
                square = self.times_as_is(Some(square), square);
            }
        }
        product.unwrap_or(base)
    }
}
