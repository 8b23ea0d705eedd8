//! Whether the uniform part is a rank-1 update.

use super::Lowered;
use super::gradient::split;
use super::simplify::Algebra;
use crate::ir::{ExprId, Graph, Kind};

/// `B_ij = row_i * col_j`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankOne {
    /// Kind up to Row.
    pub row: ExprId,
    /// Kind up to Col.
    pub col: ExprId,
}

/// Why a uniform part has no factors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRankOne {
    /// A factor depends on the logit itself, as in `mean(z * z)` or under a softcap.
    #[error(
        "the gradient of a mean over the vocabulary varies from logit to logit (as under a softcap, or in \
         mean(z * z)), expected a token's value times a vocabulary entry's"
    )]
    VariesByLogit {
        /// The factor.
        factor: ExprId,
    },
    /// A sum of products with different Col factors.
    #[error(
        "the gradient of the means over the vocabulary is a sum of {terms} products of a token's value and a \
         vocabulary entry's, expected one"
    )]
    SeveralProducts {
        /// How many.
        terms: usize,
    },
}

impl Lowered {
    /// The factors of every uniform part, dL/dx's first if it is wanted, then those of Col inputs; the graph
    /// grows.
    ///
    /// # Errors
    /// Why one of them has none.
    pub fn uniform_factors(&mut self, logit: bool) -> Result<Vec<Option<RankOne>>, NotRankOne> {
        let of_logit = logit.then_some(self.logit.uniform);
        let of_cols = self.cols.iter().map(|(_, parts)| parts.uniform);
        let uniforms: Vec<Option<ExprId>> = of_logit.into_iter().chain(of_cols).collect();
        uniforms
            .into_iter()
            .map(|uniform| uniform.map(|b| uniform_factors(&mut self.graph, b)).transpose())
            .collect()
    }
}

/// Factors a uniform part, an expression of kind up to Logit, into a Row value times a Col value.
pub fn uniform_factors(graph: &mut Graph, b: ExprId) -> Result<RankOne, NotRankOne> {
    let mut algebra = Algebra::for_derivatives(graph);
    match algebra.graph.kind(b) {
        Kind::Scalar | Kind::Row => {
            let col = algebra.constant(1.0);
            return Ok(RankOne { row: b, col });
        }
        Kind::Col => {
            let row = algebra.constant(1.0);
            return Ok(RankOne { row, col: b });
        }
        Kind::Logit => {}
    }
    let product = algebra.reader.product(algebra.graph, b);
    let (row, col) = split(&algebra, &product);
    for &(factor, _) in &col.factors {
        if algebra.graph.kind(factor) == Kind::Logit {
            let terms = algebra.reader.sum(algebra.graph, factor);
            let each_is_a_product = terms.iter().all(|term| {
                term.factors.iter().all(|&(factor, _)| algebra.graph.kind(factor) != Kind::Logit)
            });
            return Err(if terms.len() > 1 && each_is_a_product {
                NotRankOne::SeveralProducts { terms: terms.len() }
            } else {
                NotRankOne::VariesByLogit { factor }
            });
        }
    }
    let (row, col) = (algebra.product_of_factors(&row), algebra.product_of_factors(&col));
    Ok(RankOne { row, col })
}
