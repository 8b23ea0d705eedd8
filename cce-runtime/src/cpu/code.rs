//! A lowered program compiled for the host: what the forward's and the backward's passes over the vocabulary
//! evaluate.

use super::row::RowCode;
use super::strip::StripCode;
use cce_codegen::diff::{Lowered, Parts};
use cce_codegen::ir::{ExprId, InputId, InputKind, Node};

/// A token's record: what the forward keeps of it, in f64. Three values of the softmax, then the statistics.
///
/// While the forward runs, the three are the reference R (the largest logit so far), the sum of `exp(z - R)`
/// over all columns but the target, and the target's logit; afterwards R, 1 / (the whole sum), and 1 - p of
/// the target.
pub(crate) mod record {
    /// R.
    pub(crate) const REFERENCE: usize = 0;
    /// The sum, then its inverse.
    pub(crate) const SUM: usize = 1;
    /// The target's logit, then 1 - p of the target.
    pub(crate) const TARGET: usize = 2;
    /// The first statistic.
    pub(crate) const STATS: usize = 3;
}

/// How a statistic is accumulated; `usize` is the position of its argument among the strip code's results.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stat {
    Lse,
    Nll,
    Mean(usize),
    Expect(usize),
    Max(usize),
    Argmax(usize),
    /// The raw logit at the target.
    TargetLogit,
    /// A Col input at the target, by its position among the inputs.
    TargetCol(usize),
}

/// The forward's pass.
#[derive(Clone, Debug)]
pub(crate) struct ForwardCode {
    /// The softmax's logits (if any) and the statistics' arguments.
    pub(crate) strip: StripCode,
    /// Its row slots.
    pub(crate) slots: RowCode,
    /// Position of the softmax's logits among the results.
    pub(crate) softmax: Option<usize>,
    pub(crate) stats: Vec<Stat>,
    /// The outputs, from statistics and inputs.
    pub(crate) outputs: RowCode,
}

/// One gradient that varies over the vocabulary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartCode {
    /// Positions of A and B among the strip code's results.
    pub(crate) softmax: Option<usize>,
    pub(crate) uniform: Option<usize>,
    /// Positions, among the row code's roots behind the row slots, of A at the target and of what the target
    /// gets besides.
    pub(crate) softmax_at_target: Option<usize>,
    pub(crate) rest_at_target: Option<usize>,
}

/// The backward's pass.
#[derive(Clone, Debug)]
pub(crate) struct GradientCode {
    /// The softmax's logits and every part's A and B.
    pub(crate) strip: StripCode,
    /// The strip code's row slots, then what the parts need at the target.
    pub(crate) row: RowCode,
    /// How many of the row code's roots are row slots.
    pub(crate) slots: usize,
    pub(crate) softmax: Option<usize>,
    /// dL/dx, if dE or dC is wanted.
    pub(crate) logit: Option<PartCode>,
    /// dL/dcol of each wanted Col input.
    pub(crate) cols: Vec<(InputId, PartCode)>,
    /// Row values: the gradients of the wanted Row inputs, then of the wanted Scalar inputs.
    pub(crate) inputs: RowCode,
    pub(crate) rows: Vec<InputId>,
    pub(crate) scalars: Vec<InputId>,
}

/// Collects roots, each once.
#[derive(Default)]
struct Roots(Vec<ExprId>);

impl Roots {
    fn add(&mut self, id: ExprId) -> usize {
        self.0.iter().position(|&root| root == id).unwrap_or_else(|| {
            self.0.push(id);
            self.0.len() - 1
        })
    }
}

impl ForwardCode {
    pub(crate) fn compile(lowered: &Lowered) -> ForwardCode {
        let graph = &lowered.graph;
        let mut roots = Roots::default();
        // A softmax that no statistic names is still needed by gradients.
        let softmax = lowered.softmax.map(|z| roots.add(z));
        let stats = lowered
            .stats
            .iter()
            .map(|&id| match graph.get(id) {
                Node::Lse(_) => Stat::Lse,
                Node::Mean(f) => Stat::Mean(roots.add(f)),
                Node::Expect { f, .. } => Stat::Expect(roots.add(f)),
                Node::Max(f) => Stat::Max(roots.add(f)),
                Node::Argmax(f) => Stat::Argmax(roots.add(f)),
                Node::TargetValue(input) => match graph.inputs()[input.index()].kind {
                    InputKind::Col => Stat::TargetCol(input.index()),
                    _ => Stat::TargetLogit,
                },
                // Lowering lists nothing else.
                _ => Stat::Nll,
            })
            .collect();
        let strip = StripCode::compile(graph, &roots.0);
        ForwardCode {
            slots: RowCode::compile(graph, &[], strip.row_slots()),
            softmax,
            stats,
            outputs: RowCode::compile(graph, &lowered.stats, &lowered.outputs),
            strip,
        }
    }

    /// Values in a token's record: behind the statistics stand the largest values that `Argmax` has met, one
    /// each.
    pub(crate) fn record(&self) -> usize {
        let argmax = self.stats.iter().filter(|stat| matches!(stat, Stat::Argmax(_))).count();
        record::STATS + self.stats.len() + argmax
    }
}

impl GradientCode {
    pub(crate) fn compile(lowered: &Lowered, logit_wanted: bool) -> GradientCode {
        let graph = &lowered.graph;
        let (mut strip_roots, mut row_roots) = (Roots::default(), Roots::default());
        let mut part = |parts: &Parts| PartCode {
            softmax: parts.softmax.map(|a| strip_roots.add(a)),
            uniform: parts.uniform.map(|b| strip_roots.add(b)),
            softmax_at_target: parts.softmax_at_target.map(|a| row_roots.add(a)),
            rest_at_target: match parts.softmax {
                Some(_) => parts.target_rest,
                None => parts.target,
            }
            .map(|t| row_roots.add(t)),
        };
        let logit = logit_wanted.then(|| part(&lowered.logit));
        let cols: Vec<_> = lowered.cols.iter().map(|(id, parts)| (*id, part(parts))).collect();
        let uses_softmax = logit.iter().chain(cols.iter().map(|(_, part)| part)).any(|p| p.softmax.is_some());
        let softmax = lowered.softmax.filter(|_| uses_softmax).map(|z| strip_roots.add(z));
        let strip = StripCode::compile(graph, &strip_roots.0);
        let slots = strip.row_slots().len();
        let roots: Vec<ExprId> = strip.row_slots().iter().chain(&row_roots.0).copied().collect();
        let inputs: Vec<ExprId> =
            lowered.rows.iter().chain(&lowered.scalars).map(|(_, expr)| *expr).collect();
        GradientCode {
            row: RowCode::compile(graph, &lowered.stats, &roots),
            slots,
            softmax,
            logit,
            cols,
            inputs: RowCode::compile(graph, &lowered.stats, &inputs),
            rows: lowered.rows.iter().map(|(id, _)| *id).collect(),
            scalars: lowered.scalars.iter().map(|(id, _)| *id).collect(),
            strip,
        }
    }

    /// Whether the backward walks the vocabulary at all.
    pub(crate) fn walks(&self) -> bool {
        self.logit.is_some() || !self.cols.is_empty()
    }

    /// The parts: dL/dx first if it is wanted, then the Col inputs'.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &PartCode> + Clone {
        self.logit.iter().chain(self.cols.iter().map(|(_, part)| part))
    }

    /// f32 values a token that the pass over the vocabulary reads: R, the inverse sum, the row slots, and a
    /// value at the target for each part.
    pub(crate) fn coefficients(&self) -> usize {
        2 + self.slots + self.parts().count()
    }
}
