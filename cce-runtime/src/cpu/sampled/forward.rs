//! The sampled forward: outputs as `Exact` computes them, and each token's entries.

use super::super::code::record;
use super::super::host::{HostCall, HostOutputs};
use super::super::loops::{Loops, pack};
use super::super::math;
use super::super::stats::{Scratch, finite_reference};
use super::super::strip::{StripInputs, Values, zip};
use super::layout::Shape;
use super::stream::{ROWS, TILE, Walk, Weights, row_and_column};
use super::thin::Thinning;
use super::{SampledBuffers, SampledCode};
use rayon::prelude::*;

/// Computes outputs and samples.
pub(crate) fn forward(
    loops: &Loops<'_, '_>,
    code: &SampledCode,
    shape: &Shape,
    buffers: &mut SampledBuffers<'_>,
    outputs: &mut HostOutputs<'_>,
) {
    let call = loops.call;
    let size = loops.forward.record();
    let mut sums = vec![0.0; outputs.reduced.len()];
    loops.outputs_of_others(outputs, &mut sums);
    let (tokens, targets) = (buffers.tokens, buffers.targets);
    // Tokens that do not count keep nothing.
    buffers.counts[tokens.len()..].fill(0);
    for (index, (block, targets)) in loops.blocks_of(tokens, targets).enumerate() {
        let first = index * loops.blocks.tokens;
        let e = pack(&call.e, block, call.hidden, buffers.e);
        let records = &mut buffers.records[first * size..(first + block.len()) * size];
        let tile = &mut buffers.tile[..block.len() * call.vocab];
        loops.begin(records);
        loops.logits(tile, e, 0..call.vocab, buffers.panel);
        loops.statistics(tile, 0, block, targets, records, &mut []);
        loops.finish(block, targets, records, outputs, &mut sums, buffers.values);
        if shape.hot == call.vocab {
            buffers.counts[first..first + block.len()].fill(0);
            continue;
        }
        let group = first / ROWS;
        let kept = group * shape.kept..;
        let slots = buffers.columns[kept.clone()]
            .par_chunks_mut(shape.kept)
            .zip(buffers.weights[kept.clone()].par_chunks_mut(shape.kept));
        let mut no_logits: Vec<&mut [f32]> = (0..block.len()).map(|_| &mut [][..]).collect();
        let logits: Vec<&mut [f32]> = if code.needs_logits() {
            buffers.logits[kept].chunks_mut(shape.kept).collect()
        } else {
            std::mem::take(&mut no_logits)
        };
        let emitted = buffers
            .emitted_keys
            .par_chunks_mut(shape.emitted)
            .zip(buffers.emitted_weights.par_chunks_mut(shape.emitted));
        let groups = tile
            .par_chunks(ROWS * call.vocab)
            .zip(records.par_chunks(ROWS * size))
            .zip(block.par_chunks(ROWS))
            .zip(buffers.counts[first..first + block.len()].par_chunks_mut(ROWS))
            .zip(slots)
            .zip(emitted)
            .zip(logits)
            .enumerate();
        groups.for_each(|(at, ((((((tile, records), tokens), counts), kept), emitted), logits))| {
            let group = Group {
                loops,
                shape,
                tile,
                records,
                tokens,
                targets: targets.get(at * ROWS..).map_or(&[], |rest| &rest[..tokens.len().min(rest.len())]),
            };
            group.sample(emitted, kept, logits, counts);
        });
    }
    loops.reduce(outputs, &sums);
}

/// A group of tokens whose records are closed.
struct Group<'a> {
    loops: &'a Loops<'a, 'a>,
    shape: &'a Shape,
    tile: &'a [f32],
    records: &'a [f64],
    tokens: &'a [u32],
    targets: &'a [u32],
}

impl Group<'_> {
    fn sample(
        &self,
        (keys, emitted): (&mut [u32], &mut [f32]),
        (columns, weights): (&mut [u32], &mut [f32]),
        logits: &mut [f32],
        counts: &mut [u32],
    ) {
        let (call, shape) = (self.loops.call, self.shape);
        let (vocab, size) = (call.vocab, self.loops.forward.record());
        let rows = self.tokens.len();
        let record = |row: usize| &self.records[row * size..(row + 1) * size];
        // A token whose sum is not finite has no entries: its NaN reaches the gradients through hot columns
        // and target.
        let alive: Vec<bool> = (0..rows)
            .map(|row| record(row)[record::SUM].is_finite() && record(row)[record::REFERENCE].is_finite())
            .collect();
        let mut scratch = Scratch::new(self.loops.forward, TILE.max(self.loops.blocks.strip));
        let slots: Vec<Vec<f32>> =
            self.tokens.iter().map(|&token| self.loops.slots_of(token, &mut scratch)).collect();
        let mut base = vec![0.0; rows];
        for row in (0..rows).filter(|&row| alive[row]) {
            let total = 1.0 / record(row)[record::SUM];
            let target =
                if self.targets.is_empty() { 0.0 } else { total * (1.0 - record(row)[record::TARGET]) };
            let mut hot = 0.0;
            let mut values = [0.0f32; TILE];
            for first in (0..shape.hot).step_by(TILE) {
                let len = TILE.min(shape.hot - first);
                self.weights(row, first, &mut values[..len], &slots[row], &mut scratch);
                hot += values[..len].iter().map(|&weight| f64::from(weight)).sum::<f64>();
            }
            // A target among the hot columns is in their sum already (its weight was left out just now).
            base[row] = hot + target;
        }
        let walk = Walk {
            tokens: self.tokens,
            base: &base,
            eps: shape.eps,
            max_entries: shape.max_entries,
            seed: call.seed,
            tiles: (vocab - shape.hot).div_ceil(TILE),
        };
        let walked = walk.run(
            |t, tile: &mut Weights| {
                let first = shape.hot + t * TILE;
                let len = TILE.min(vocab - first);
                for (row, values) in tile.iter_mut().enumerate().take(rows) {
                    values.fill(0.0);
                    if alive[row] {
                        self.weights(row, first, &mut values[..len], &slots[row], &mut scratch);
                    }
                }
            },
            keys,
            emitted,
        );
        let (keys, emitted) = (&keys[..walked.count], &emitted[..walked.count]);
        let steps: Vec<f64> = (0..rows).map(|row| shape.eps / record(row)[record::SUM]).collect();
        let most = (rows * shape.max_entries as usize).min(columns.len());
        let thinning = Thinning { tokens: self.tokens, steps: &steps, seed: call.seed, most };
        let mut at = 0;
        let kept = thinning.run(keys, emitted, |row, position, weight| {
            let column = shape.hot + row_and_column(keys[position]).1;
            (columns[at], weights[at]) = (column as u32, weight);
            if let Some(logit) = logits.get_mut(at) {
                *logit = self.tile[row * vocab + column];
            }
            at += 1;
        });
        counts.copy_from_slice(&kept[..rows]);
    }

    /// The weights of consecutive columns of a row, that of its target left out.
    fn weights(&self, row: usize, first: usize, out: &mut [f32], slots: &[f32], scratch: &mut Scratch) {
        let call = self.loops.call;
        let size = self.loops.forward.record();
        let reference = finite_reference(self.records[row * size + record::REFERENCE] as f32);
        let start = row * call.vocab + first;
        let logits = &self.tile[start..start + out.len()];
        call.arch.dispatch(WeightPass {
            loops: self.loops,
            call,
            logits,
            first,
            slots,
            reference,
            scratch,
            out,
        });
        if let Some(y) = self.targets.get(row).and_then(|&y| (y as usize).checked_sub(first))
            && y < out.len()
        {
            out[y] = 0.0;
        }
    }
}

struct WeightPass<'a, 'b> {
    loops: &'a Loops<'a, 'a>,
    call: &'a HostCall<'a>,
    logits: &'a [f32],
    first: usize,
    slots: &'a [f32],
    reference: f32,
    scratch: &'b mut Scratch,
    out: &'b mut [f32],
}

impl pulp::NullaryFnOnce for WeightPass<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let WeightPass { loops, call, logits, first, slots, reference, scratch, out } = self;
        let code = loops.forward;
        let Some(z) = code.softmax else { return };
        let inputs = StripInputs { logits, cols: &call.cols, first, rows: slots };
        code.strip.run(&mut scratch.registers, &inputs);
        let z = code.strip.value(z, &scratch.registers, &inputs);
        zip(out, z, Values::Same(reference), |z, reference| math::exp(z - reference));
    }
}
