//! Candidates divided among machines, so that each share is a small picture of the whole.
//!
//! A search learns from the values of knobs: a share in which a value never occurs says nothing of it. Every k-th of a
//! grid may be just that, where k and a knob's period in the grid have a factor in common.
//!
//! Invariants: each candidate is in one share, the shares' sizes differ by one at most, and a value that occurs often
//! enough, twice a share, is in every share, as far as exchanges of two candidates can bring it there. The same
//! candidates are divided alike on every machine, whatever their order.

use crate::knobs;
use crate::search::Candidate;
use std::collections::{BTreeMap, BTreeSet};

/// The share of each candidate, from 0 to below `of`.
///
/// Candidates are dealt in the order of their hashes, those with the rarest value first, each to the share that has the
/// fewest of its values beside how many there are. What a share still lacks then comes to it by exchanges.
pub(crate) fn shares(candidates: &[Candidate], of: usize) -> Vec<usize> {
    let of = of.max(1);
    let values = |candidate: &Candidate| -> Vec<(String, String)> {
        let knobs = knobs::grouped(&candidate.config).into_iter();
        knobs.map(|knob| (knob.name, knobs::text(&knob.value))).collect()
    };
    // Numbered in their own order, which is that of no list of candidates.
    let distinct: BTreeSet<(String, String)> = candidates.iter().flat_map(values).collect();
    let numbers: BTreeMap<_, usize> = distinct.into_iter().zip(0..).collect();
    let points: Vec<Vec<usize>> = candidates
        .iter()
        .map(|candidate| values(candidate).iter().filter_map(|value| numbers.get(value).copied()).collect())
        .collect();
    let mut total = vec![0usize; numbers.len()];
    points.iter().flatten().for_each(|&value| total[value] += 1);
    let mut order: Vec<usize> = (0..points.len()).collect();
    let rarest = |at: usize| points[at].iter().map(|&value| total[value]).min();
    order.sort_by_key(|&at| (rarest(at), candidates[at].config.hash()));

    let mut dealt = Dealt { counts: vec![vec![0; total.len()]; of], shares: vec![0; points.len()], points };
    let mut sizes = vec![0usize; of];
    for at in order.iter().copied() {
        let fewest = sizes.iter().copied().min().unwrap_or(0);
        let parts = |share: usize| -> f64 {
            let values = dealt.points[at].iter();
            values.map(|&value| dealt.counts[share][value] as f64 / total[value] as f64).sum()
        };
        // Only those that are not ahead: sizes stay alike.
        let open = (0..of).filter(|&share| sizes[share] == fewest);
        let share = open.min_by(|&a, &b| parts(a).total_cmp(&parts(b))).unwrap_or(0);
        sizes[share] += 1;
        dealt.put(at, share);
    }
    // A value that is common enough to be everywhere, rarest first, is brought to where it is not.
    let mut values: Vec<usize> = (0..total.len()).filter(|&value| total[value] >= 2 * of).collect();
    values.sort_by_key(|&value| total[value]);
    for value in values {
        for share in 0..of {
            if dealt.counts[share][value] == 0 {
                dealt.bring(value, share, &order);
            }
        }
    }
    dealt.shares
}

/// Candidates, their values by number, their shares, and how often each share has each value.
struct Dealt {
    points: Vec<Vec<usize>>,
    shares: Vec<usize>,
    counts: Vec<Vec<usize>>,
}

impl Dealt {
    fn put(&mut self, at: usize, share: usize) {
        self.shares[at] = share;
        self.points[at].iter().for_each(|&value| self.counts[share][value] += 1);
    }

    fn take(&mut self, at: usize) {
        let share = self.shares[at];
        self.points[at].iter().for_each(|&value| self.counts[share][value] -= 1);
    }

    /// Exchanges a candidate with this value for one of the share's, where no share loses the last of a value by it.
    fn bring(&mut self, value: usize, share: usize, order: &[usize]) {
        let missing =
            |dealt: &Dealt| -> usize { dealt.counts.iter().flatten().filter(|&&count| count == 0).count() };
        let before = missing(self);
        for &with in order.iter().filter(|&&at| self.points[at].contains(&value)).collect::<Vec<_>>() {
            let from = self.shares[with];
            for &without in order {
                if self.shares[without] != share {
                    continue;
                }
                self.take(with);
                self.take(without);
                self.put(with, share);
                self.put(without, from);
                if missing(self) < before {
                    return;
                }
                self.take(with);
                self.take(without);
                self.put(with, from);
                self.put(without, share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::{SEARCHED, Space};
    use cce_codegen::problem::{DType, Filter, Problem};
    use cce_codegen::schedule::Gpu;
    use std::collections::HashMap;

    fn spaces() -> Vec<Space> {
        let program = cce::losses::named("cross_entropy").unwrap();
        let of = |filter, tokens, hidden, vocab, dtype, gpu: &Gpu| {
            let problem = Problem { filter, ..Problem::new(tokens, hidden, vocab, dtype) };
            Space::gpu(&program, &problem, gpu, SEARCHED).unwrap()
        };
        let (h100, ampere) = (Gpu::h100(), Gpu::of_capability(8, 6));
        vec![
            of(Filter::SAMPLED, 8192, 2304, 256_000, DType::Bf16, &h100),
            of(Filter::Exact, 8192, 2304, 256_000, DType::Bf16, &h100),
            of(Filter::Exact, 2048, 576, 49_152, DType::F32, &h100),
            of(Filter::SAMPLED, 8192, 576, 49_152, DType::F16, &ampere),
            Space::cpu(&Problem::new(4096, 576, 49_152, DType::F32)).unwrap(),
        ]
    }

    fn values(candidate: &Candidate) -> Vec<(String, String)> {
        knobs::grouped(&candidate.config).into_iter().map(|k| (k.name, knobs::text(&k.value))).collect()
    }

    #[test]
    fn each_share_sees_every_value_of_every_knob_that_is_there_often_enough() {
        for space in spaces() {
            let mut total: HashMap<(String, String), usize> = HashMap::new();
            space.candidates.iter().flat_map(values).for_each(|value| *total.entry(value).or_default() += 1);
            for of in [1, 2, 3, 4, 5, 6, 7, 8, 12, 16] {
                let shares = shares(&space.candidates, of);
                let mut seen = vec![BTreeSet::new(); of];
                let mut sizes = vec![0; of];
                for (candidate, &share) in space.candidates.iter().zip(&shares) {
                    seen[share].extend(values(candidate));
                    sizes[share] += 1;
                }
                assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{sizes:?}");
                for (value, count) in total.iter().filter(|(_, count)| **count >= 2 * of) {
                    let without = seen.iter().filter(|seen| !seen.contains(value)).count();
                    assert_eq!(without, 0, "{value:?}, {count} times, lacks in {without} of {of} shares");
                }
            }
        }
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter() {
        let space = spaces().remove(0);
        let mut backwards = space.candidates.clone();
        backwards.reverse();
        let mut other = shares(&backwards, 7);
        other.reverse();
        assert_eq!(other, shares(&space.candidates, 7));
    }

    #[test]
    fn every_kth_of_the_grid_would_miss_values() {
        // What the shares are for: in a grid of the CPU device every fifth candidate has the same strip.
        let space = spaces().pop().unwrap();
        let strips = |shares: &dyn Fn(usize) -> usize| -> BTreeSet<String> {
            let mine = space.candidates.iter().enumerate().filter(|(at, _)| shares(*at) == 1);
            mine.flat_map(|(_, c)| values(c)).filter(|(name, _)| name == "strip").map(|(_, v)| v).collect()
        };
        let divided = shares(&space.candidates, 5);
        assert!(strips(&|at| at % 5).len() < strips(&|at| divided[at]).len());
    }
}
