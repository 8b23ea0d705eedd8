//! `Blocks`: what of a tile is skipped. The forward keeps the largest logit of each token in each strip of
//! columns; a block of tokens leaves out a strip in which no target of theirs lies and none of their
//! probabilities reaches `eps`. Its logits are not computed again.

use super::code::record;
use super::exact::Buffers;
use super::loops::Loops;
use std::ops::Range;

/// Consecutive strips of a tile that are all computed, or all skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) columns: Range<usize>,
    pub(crate) is_live: bool,
}

impl Loops<'_, '_> {
    /// Strips of the vocabulary of which the forward keeps a token's largest logit; 0: nothing is skipped.
    pub(crate) fn kept_strips(&self) -> usize {
        self.skipped_below.map_or(0, |_| self.call.vocab.div_ceil(self.blocks.strip))
    }

    /// A chunk's columns in runs, for the block of tokens at `range` of the list.
    pub(crate) fn runs(&self, buffers: &Buffers<'_>, range: Range<usize>, columns: Range<usize>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for first in columns.clone().step_by(self.blocks.strip) {
            let strip = first..(first + self.blocks.strip).min(columns.end);
            let is_live =
                self.skipped_below.is_none_or(|eps| self.is_live(buffers, range.clone(), &strip, eps));
            match runs.last_mut() {
                Some(run) if run.is_live == is_live => run.columns.end = strip.end,
                _ => runs.push(Run { columns: strip, is_live }),
            }
        }
        runs
    }

    /// Whether a probability of these tokens reaches `eps` in the strip (NaN does), or a target lies there.
    fn is_live(&self, buffers: &Buffers<'_>, range: Range<usize>, strip: &Range<usize>, eps: f64) -> bool {
        let (size, strips) = (self.forward.record(), self.kept_strips());
        let at_target =
            |at: usize| buffers.targets.get(at).is_some_and(|&target| strip.contains(&(target as usize)));
        range.into_iter().any(|at| {
            let record = &buffers.records[at * size..];
            let largest = f64::from(buffers.maxima[at * strips + strip.start / self.blocks.strip]);
            let probability = (largest - record[record::REFERENCE]).exp() * record[record::SUM];
            let is_small = probability < eps;
            !is_small || at_target(at)
        })
    }
}
