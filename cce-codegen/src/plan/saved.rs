//! What the forward pass keeps for the backward pass: a few f32 a token.

use crate::diff::Lowered;
use crate::ir::{ExprId, InputKind, Node};

/// Slots of the saved values, each f32 `[N]`: the target's raw logit first (if the program has a target),
/// then statistics.
#[derive(Clone, Debug)]
pub(crate) struct SavedSlots {
    stats: Vec<ExprId>,
    lse: Option<ExprId>,
    nll: Option<ExprId>,
    has_target: bool,
}

impl SavedSlots {
    /// Adds what every gradient needs (the normaliser; the target's loss) to the statistics of the program
    /// itself.
    pub(crate) fn new(lowered: &mut Lowered) -> SavedSlots {
        let has_target = lowered.graph.input_of_kind(InputKind::Target).is_some();
        let mut lse = None;
        let mut nll = None;
        let mut stats: Vec<ExprId> = lowered
            .stats
            .iter()
            .copied()
            .filter(|&stat| !matches!(lowered.graph.get(stat), Node::TargetValue(_)))
            .collect();
        if let Some(z) = lowered.softmax {
            let id = lowered.graph.node(Node::Lse(z));
            lse = Some(id);
            stats.push(id);
            if has_target {
                let id = lowered.graph.node(Node::Nll(z));
                nll = Some(id);
                stats.push(id);
            }
        }
        stats.sort_unstable();
        stats.dedup();
        SavedSlots { stats, lse, nll, has_target }
    }

    /// Number of slots; at least one, so that buffers are never empty.
    pub(crate) fn len(&self) -> usize {
        (self.first_stat() + self.stats.len()).max(1)
    }

    /// The statistics, in slots `first_stat()` and up.
    pub(crate) fn stats(&self) -> &[ExprId] {
        &self.stats
    }

    pub(crate) fn first_stat(&self) -> usize {
        usize::from(self.has_target)
    }

    pub(crate) fn slot_of(&self, stat: ExprId) -> Option<usize> {
        self.stats.iter().position(|&s| s == stat).map(|at| at + self.first_stat())
    }

    pub(crate) fn lse(&self) -> Option<ExprId> {
        self.lse
    }

    pub(crate) fn nll(&self) -> Option<ExprId> {
        self.nll
    }
}
