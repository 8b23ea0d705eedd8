//! What the sampled backward evaluates: the softmax part alone, the uniform part as factors.

use super::super::code::GradientCode;
use super::super::row::RowCode;
use super::super::strip::StripCode;
use cce_codegen::diff::{Lowered, NotRankOne, Parts, RankOne};
use cce_codegen::ir::{ExprId, Graph};

/// Factors of a uniform part: `B_ij = row_i * col_j`.
#[derive(Clone, Debug)]
pub(crate) struct Uniform {
    /// Position of the row factor among the roots of [`SampledCode::uniform_rows`].
    pub(crate) row: usize,
    /// The column factor over the vocabulary.
    pub(crate) col: StripCode,
    /// Its row slots, which are Scalars.
    pub(crate) col_slots: RowCode,
}

/// A lowered program for the sampled backward.
#[derive(Clone, Debug)]
pub(crate) struct SampledCode {
    /// Hot columns: everything but the uniform part.
    pub(crate) hot: GradientCode,
    /// A of every part at gathered entries.
    pub(crate) entries: StripCode,
    pub(crate) entry_slots: RowCode,
    /// By part, in the order of `GradientCode::parts`: the position of its A among the results of `entries`.
    pub(crate) softmax: Vec<Option<usize>>,
    /// By part: the factors of its uniform part.
    pub(crate) uniform: Vec<Option<Uniform>>,
    pub(crate) uniform_rows: RowCode,
}

/// The parts in the order of `GradientCode::parts`.
fn parts(lowered: &Lowered, logit: bool) -> impl Iterator<Item = &Parts> {
    logit.then_some(&lowered.logit).into_iter().chain(lowered.cols.iter().map(|(_, parts)| parts))
}

impl SampledCode {
    pub(crate) fn compile(mut lowered: Lowered, logit: bool) -> Result<SampledCode, NotRankOne> {
        let factors = lowered.uniform_factors(logit)?;
        let mut roots: Vec<ExprId> = Vec::new();
        let softmax: Vec<Option<usize>> = parts(&lowered, logit)
            .map(|parts| {
                parts.softmax.map(|a| {
                    roots.push(a);
                    roots.len() - 1
                })
            })
            .collect();
        let entries = StripCode::compile(&lowered.graph, &roots);
        let (mut rows, mut uniform) = (Vec::new(), Vec::new());
        for factors in factors {
            uniform.push(factors.map(|RankOne { row, col }| {
                rows.push(row);
                let col = StripCode::compile(&lowered.graph, &[col]);
                Uniform { row: rows.len() - 1, col_slots: compile(&lowered.graph, &[], col.row_slots()), col }
            }));
        }
        let stats = lowered.stats.clone();
        let entry_slots = compile(&lowered.graph, &stats, entries.row_slots());
        let uniform_rows = compile(&lowered.graph, &stats, &rows);
        lowered.logit.uniform = None;
        for (_, parts) in &mut lowered.cols {
            parts.uniform = None;
        }
        let hot = GradientCode::compile(&lowered, logit);
        Ok(SampledCode { hot, entries, entry_slots, softmax, uniform, uniform_rows })
    }

    /// Whether an entry must keep its raw logit.
    pub(crate) fn needs_logits(&self) -> bool {
        self.entries.reads_logits()
    }
}

fn compile(graph: &Graph, stats: &[ExprId], roots: &[ExprId]) -> RowCode {
    RowCode::compile(graph, stats, roots)
}
