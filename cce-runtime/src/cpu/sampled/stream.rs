//! The sampling rule: a walk over the cold columns of a group of 16 tokens that share one bounded stream of
//! entries.
//!
//! # The rule
//! Within a row, thresholds stand on the running sum of the weights `exp(z - R)` at a step `c`, the first at
//! a uniform phase. A column is kept iff a threshold falls inside its interval; it then counts as
//! `max(weight, c)`. A column heavier than `c` is always kept, with its own weight; a lighter one is kept
//! with probability `weight / c`. So the expected weight is the true one, for any step that depends on sums
//! of weights only and not on draws. A row has four lanes with a phase each: the columns of a tile are dealt
//! to them in pairs, as the fragments of a tensor-core product are.
//!
//! The step of a row in a tile is `c = f eps B`. B is the hot columns' sum, plus what the walk has seen, this
//! tile included. f is a power of two for the whole group and tile: the smallest for which the *demand* of
//! the tile, the sum over its groups of 8 columns of `min(a / c, 8)` with `a` the group's weight, stays
//! within the pace. Demand is made of sums, so nothing that was drawn is ever dropped, and nothing is biased.
//!
//! # The bound
//! Let a tile admit demand `m`. The pace never admits more than the rest of the quota or, once that is
//! smaller, [`FLOOR`]; so over T tiles the demand is `M <= quota + FLOOR T`. Count phases in steps: a lane's
//! distance `f` to its next threshold lies in [0, 1], whatever the step. A group of weight `a = d c` passes
//! `k` thresholds with `f_after = f_before - d + k`, and emits `n <= min(k, 8)` entries, one a column at
//! most.
//! - If d <= 8: `n <= k = d + f_after - f_before`.
//! - If d > 8 (a heavy group): `n <= 8 = min(d, 8)`.
//!
//! Summed over everything, the distances telescope but for heavy groups, each of which spoils at most 1:
//! `entries <= M + lanes + heavy groups`, and a heavy group's demand is 8, so `heavy groups <= M / 8`. Hence
//!
//! ```text
//! entries <= 9/8 (quota + FLOOR T) + 64
//! ```
//!
//! which is [`capacity`] (with one more against rounding).

use super::philox::{philox, uniform};
use cce_codegen::problem::Filter;

/// Tokens that share a stream.
pub(crate) const ROWS: usize = 16;
/// Columns of a tile.
pub(crate) const TILE: usize = 256;
/// Lanes of a row.
const LANES: usize = 4;
/// Groups of 8 columns of a lane in a tile.
const GROUPS: usize = TILE / LANES / 8;
/// Demand that every tile may have, so that a stream whose quota is used up still sees what comes.
const FLOOR: f64 = ROWS as f64 * 0.25;
/// How far ahead of an even distribution the demand may run. A stream here is a whole row's walk; on a row of
/// 45056 columns, log-normal at 1.6, twice leaves noise of 4.1 % of the mass, while a pace that lets every
/// tile take a twentieth of the rest spends most of the quota on the first tiles and leaves 10 %. On the real
/// head of SmolLM2-135M both leave the same error, 7.4e-3 of dE at 2^-10.
const PACE: f64 = 2.0;

/// Demand that a walk admits besides the floors.
fn quota(rows: usize, max_entries: u32) -> f64 {
    Filter::EMITTED_PER_KEPT * rows as f64 * f64::from(max_entries)
}

/// The weights of one tile, by row; 0 behind the last column and for missing rows.
pub(crate) type Weights = [[f32; TILE]; ROWS];

/// The most entries that a walk can emit.
pub(crate) fn capacity(rows: usize, columns: usize, max_entries: u32) -> usize {
    let quota = quota(rows, max_entries);
    let tiles = columns.div_ceil(TILE) as f64;
    let bound = (9.0 / 8.0 * (quota + FLOOR * tiles)) as usize + ROWS * LANES + 1;
    bound.min(rows * columns)
}

/// A kept column: 28 bits of column (counted from the first cold one), 4 of row.
pub(crate) fn key(row: usize, column: usize) -> u32 {
    (row as u32) << 28 | column as u32
}

/// Row and column of a key.
pub(crate) fn row_and_column(key: u32) -> (usize, usize) {
    ((key >> 28) as usize, (key & 0x0fff_ffff) as usize)
}

/// What a group's walk is given.
pub(crate) struct Walk<'a> {
    /// The tokens of the group, at most 16: they key the draws.
    pub(crate) tokens: &'a [u32],
    /// By row, the weight outside the walk: hot columns and target.
    pub(crate) base: &'a [f64],
    pub(crate) eps: f64,
    pub(crate) max_entries: u32,
    pub(crate) seed: u64,
    pub(crate) tiles: usize,
}

/// What a walk has done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Walked {
    /// Entries emitted.
    pub(crate) count: usize,
    /// The largest power of two by which steps were raised.
    pub(crate) raised: f64,
}

/// The column of a tile at position `at` of a lane.
const fn column(lane: usize, at: usize) -> usize {
    lane * 2 + at / 2 * (2 * LANES) + at % 2
}

impl Walk<'_> {
    /// Walks all tiles; `tile(t, weights)` fills the weights of tile t, which must be finite and not
    /// negative. Kept columns go to `keys` and `weights`, which hold [`capacity`] entries.
    pub(crate) fn run(
        &self,
        mut tile: impl FnMut(usize, &mut Weights),
        keys: &mut [u32],
        weights: &mut [f32],
    ) -> Walked {
        let rows = self.tokens.len();
        let quota = quota(rows, self.max_entries);
        let mut phases = [[0.0f64; LANES]; ROWS];
        for (phases, &token) in phases.iter_mut().zip(self.tokens) {
            *phases = philox(self.seed, [token, 0, 0, 0]).map(uniform);
        }
        let mut seen = [0.0f64; ROWS];
        let mut values: Box<Weights> = Box::new([[0.0; TILE]; ROWS]);
        let mut groups = [[[0.0f64; GROUPS]; LANES]; ROWS];
        let mut walked = Walked { count: 0, raised: 1.0 };
        let mut admitted = 0.0;
        for t in 0..self.tiles {
            tile(t, &mut values);
            let mut steps = [0.0; ROWS];
            for row in 0..rows {
                let mut sum = 0.0;
                for (lane, groups) in groups[row].iter_mut().enumerate() {
                    for (g, group) in groups.iter_mut().enumerate() {
                        *group = (0..8).map(|at| f64::from(values[row][column(lane, g * 8 + at)])).sum();
                        sum += *group;
                    }
                }
                seen[row] += sum;
                steps[row] = self.eps * (self.base[row] + seen[row]);
            }
            let left = self.tiles - t;
            let rest = (quota - admitted).max(0.0);
            let pace = if left == 1 { rest } else { (rest * 0.5).min(rest / left as f64 * PACE) };
            let allowed = pace.max(FLOOR);
            let mut factor = 1.0;
            let demand = loop {
                let demand = demand(&groups[..rows], &steps[..rows], factor);
                if demand <= allowed {
                    break demand;
                }
                factor *= 2.0;
            };
            walked.raised = walked.raised.max(factor);
            admitted += demand;
            for row in 0..rows {
                let step = factor * steps[row];
                if step <= 0.0 {
                    continue;
                }
                for lane in 0..LANES {
                    let mut threshold = phases[row][lane] * step;
                    let mut sum = 0.0;
                    for (g, group) in groups[row][lane].iter().enumerate() {
                        let end = sum + group;
                        if end >= threshold {
                            for at in g * 8..g * 8 + 8 {
                                let column = column(lane, at);
                                let weight = values[row][column];
                                sum += f64::from(weight);
                                // A weight of 0 is no column, or one that nothing can be added for.
                                if sum >= threshold && weight > 0.0 {
                                    keys[walked.count] = key(row, t * TILE + column);
                                    weights[walked.count] = (f64::from(weight).max(step)) as f32;
                                    walked.count += 1;
                                    threshold += step * (((sum - threshold) / step).floor() + 1.0);
                                }
                            }
                        }
                        sum = end;
                    }
                    phases[row][lane] = ((threshold - sum) / step).clamp(0.0, 1.0);
                }
            }
        }
        walked
    }
}

/// The sum over groups of `min(a / (factor * step), 8)`.
fn demand(groups: &[[[f64; GROUPS]; LANES]], steps: &[f64], factor: f64) -> f64 {
    let mut total = 0.0;
    for (groups, &step) in groups.iter().zip(steps) {
        if step > 0.0 {
            let inverse = 1.0 / (factor * step);
            let of = |group: &f64| (group * inverse).min(8.0);
            total += groups.iter().flatten().map(of).sum::<f64>();
        }
    }
    total
}

#[cfg(test)]
mod tests;
