//! `Blocks`: what of a tile is skipped. When the forward has finished a block of tokens, it decides by the largest
//! logit of each token in each strip of columns: a strip is left out in which no target of theirs lies and none of
//! their probabilities reaches `eps`. Its logits are not computed again.

use super::code::record;
use super::layout::Regions;
use super::loops::Loops;
use super::memory::Carver;
use crate::workspace::RawWorkspace;
use std::ops::Range;

/// Consecutive strips of a tile that are all computed, or all skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) columns: Range<usize>,
    pub(crate) is_live: bool,
}

impl Loops<'_, '_> {
    /// Strips of the vocabulary that are decided about; 0: nothing is skipped.
    pub(crate) fn decided_strips(&self) -> usize {
        self.skipped_below.map_or(0, |_| self.call.vocab.div_ceil(self.blocks.strip))
    }

    fn strip(&self, at: usize) -> Range<usize> {
        let first = at * self.blocks.strip;
        first..(first + self.blocks.strip).min(self.call.vocab)
    }

    /// Decides about a block of tokens from their finished records: `live` gets, by strip, how many elements are
    /// computed.
    pub(crate) fn decide(&self, records: &[f64], maxima: &[f32], targets: &[u32], live: &mut [u32]) {
        let (Some(eps), size) = (self.skipped_below, self.forward.record()) else { return };
        let strips = live.len();
        for (at, live) in live.iter_mut().enumerate() {
            let strip = self.strip(at);
            let has_target = targets.iter().any(|&target| strip.contains(&(target as usize)));
            let is_small = |(record, maxima): (&[f64], &[f32])| {
                // NaN is not small.
                (f64::from(maxima[at]) - record[record::REFERENCE]).exp() * record[record::SUM] < eps
            };
            let tokens = records.len() / size;
            let is_live = has_target || !records.chunks(size).zip(maxima.chunks(strips)).all(is_small);
            *live = if is_live { (tokens * strip.len()) as u32 } else { 0 };
        }
    }

    /// A chunk's columns in runs, for a block of tokens that was decided about.
    pub(crate) fn runs(&self, live: &[u32], index: usize, columns: Range<usize>) -> Vec<Run> {
        let strips = self.decided_strips();
        if strips == 0 {
            return vec![Run { columns, is_live: true }];
        }
        let mut runs: Vec<Run> = Vec::new();
        for at in columns.start / self.blocks.strip..columns.end.div_ceil(self.blocks.strip) {
            let (strip, is_live) = (self.strip(at), live[index * strips + at] > 0);
            match runs.last_mut() {
                Some(run) if run.is_live == is_live => run.columns.end = strip.end,
                _ => runs.push(Run { columns: strip, is_live }),
            }
        }
        runs
    }
}

/// How many elements the forward decided to compute.
///
/// # Safety
/// As for [`Carver::new`].
pub(crate) unsafe fn kept_entries(regions: &Regions, workspace: RawWorkspace) -> u64 {
    // SAFETY: the caller's promise, passed on.
    let mut carver = unsafe { Carver::new(workspace) };
    carver.lend(regions.live).iter().map(|&count| u64::from(count)).sum()
}
