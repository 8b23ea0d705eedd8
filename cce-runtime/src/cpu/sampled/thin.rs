//! Thinning: once a token's normaliser is known, its entries are sampled again, to the step that it allows.
//!
//! The walk's step rests on the part of the sum that it has seen, so early entries are finer than need be.
//! Here the step of a row is `eps Z`, times a factor for the group if that is needed to keep the group within
//! its mean of `max_entries` a token. Entries at least as heavy as the step are kept as they are; the lighter
//! ones are sampled systematically among themselves, at a phase of their own, and then count as the step.
//! Given the entries, the expected weights are theirs, for any step: so the whole is unbiased though the step
//! depends on what was drawn.
//!
//! The bound: light entries of weight L in all, at step t, leave at most `L / t + 1`. The factor is about the
//! smallest for which the sum over entries of `min(1, weight / t)`, and one for each row, is within `rows *
//! max_entries`; a group that has no more entries than that to begin with needs none.

use super::philox::{philox, uniform};
use super::stream::{ROWS, row_and_column};

/// A group's entries, and what its rows' steps are made of.
pub(crate) struct Thinning<'a> {
    pub(crate) tokens: &'a [u32],
    /// By row: eps times the normaliser.
    pub(crate) steps: &'a [f64],
    pub(crate) seed: u64,
    /// The most entries that the group may keep.
    pub(crate) most: usize,
}

impl Thinning<'_> {
    /// Goes through the entries row by row, in the order of their columns within a lane; `keep(row, position,
    /// weight)` is called for those that stay. Returns how many stay in each row.
    pub(crate) fn run(
        &self,
        keys: &[u32],
        weights: &[f32],
        mut keep: impl FnMut(usize, usize, f32),
    ) -> [u32; ROWS] {
        let row_of = |at: usize| row_and_column(keys[at]).0;
        let factor = self.factor(keys, weights);
        let mut starts = [0usize; ROWS + 1];
        for at in 0..keys.len() {
            starts[row_of(at) + 1] += 1;
        }
        for row in 0..ROWS {
            starts[row + 1] += starts[row];
        }
        let mut order = vec![0u32; keys.len()];
        let mut next = starts;
        for at in 0..keys.len() {
            let place = &mut next[row_of(at)];
            order[*place] = at as u32;
            *place += 1;
        }
        let mut counts = [0u32; ROWS];
        for (row, &token) in self.tokens.iter().enumerate() {
            let step = factor * self.steps[row];
            let mut threshold = uniform(philox(self.seed, [token, 1, 0, 0])[0]) * step;
            let mut sum = 0.0;
            for &at in &order[starts[row]..starts[row + 1]] {
                let weight = f64::from(weights[at as usize]);
                if weight >= step {
                    keep(row, at as usize, weight as f32);
                    counts[row] += 1;
                } else {
                    sum += weight;
                    if sum >= threshold {
                        keep(row, at as usize, step as f32);
                        counts[row] += 1;
                        threshold += step;
                    }
                }
            }
        }
        counts
    }

    /// By how much the steps are raised: 1, or just enough for the bound.
    fn factor(&self, keys: &[u32], weights: &[f32]) -> f64 {
        let fits = |factor: f64| {
            let kept = keys.iter().zip(weights).map(|(&key, &weight)| {
                (f64::from(weight) / (factor * self.steps[row_and_column(key).0])).min(1.0)
            });
            kept.sum::<f64>() + self.tokens.len() as f64 <= self.most as f64
        };
        if keys.len() <= self.most || fits(1.0) {
            return 1.0;
        }
        let mut high = 2.0;
        while !fits(high) {
            high *= 2.0;
        }
        let mut low = high / 2.0;
        for _ in 0..BISECTIONS {
            let middle = 0.5 * (low + high);
            if fits(middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        high
    }
}

/// Enough to leave less than a hundredth of the bound unused.
const BISECTIONS: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::stream::key;
    use super::*;

    #[test]
    fn thinning_keeps_expected_weights_and_its_bound() {
        let tokens: Vec<u32> = (0..3).collect();
        let count = 300;
        let keys: Vec<u32> = (0..count).map(|at| key(at % 3, at)).collect();
        let weights: Vec<f32> =
            (0..count).map(|at| 1e-3 * (1 + at % 7) as f32 + if at == 9 { 2.0 } else { 0.0 }).collect();
        let mut sums = vec![0.0f64; count];
        let seeds = 4000;
        for seed in 0..seeds {
            let steps = [4e-3, 1e-2, 2e-2];
            let most = 60;
            let thinning = Thinning { tokens: &tokens, steps: &steps, seed, most };
            let mut kept = 0;
            let mut last_row = 0;
            let counts = thinning.run(&keys, &weights, |row, at, weight| {
                assert!(row >= last_row, "rows in order");
                last_row = row;
                kept += 1;
                sums[at] += f64::from(weight);
            });
            assert!(kept <= most, "{kept}");
            assert_eq!(counts.iter().sum::<u32>() as usize, kept);
        }
        // Each mean within five of its standard errors, at most sqrt(step * weight / seeds).
        for (at, sum) in sums.iter().enumerate() {
            let (mean, weight) = (sum / seeds as f64, f64::from(weights[at]));
            let error = (0.2 * weight / seeds as f64).sqrt();
            assert!((mean - weight).abs() < 5.0 * error, "entry {at}: {mean} for {weight}");
        }
        assert!((sums[9] / seeds as f64 - f64::from(weights[9])).abs() < 1e-9, "a heavy entry always stays");
    }
}
