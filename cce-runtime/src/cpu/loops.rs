//! What the loops of both filters are made of: blocks of tokens, their logits, statistics and outputs, and
//! where dE goes.

use super::code::{ForwardCode, GradientCode, record};
use super::host::{HostCall, HostOutputs, Token};
use super::layout::Blocks;
use super::product::{Matrix, MatrixMut, Threads, product};
use super::stats::{self, Pass, Scratch};
use super::tensor::{Rows, RowsMut};
use cce_codegen::problem::GradientOutput;
use rayon::prelude::*;

/// The two large gradients on their way.
pub(crate) struct Large<'c> {
    pub(crate) hidden: Option<(RowsMut<'c>, GradientOutput)>,
    pub(crate) classifier: Option<(RowsMut<'c>, GradientOutput)>,
}

/// What every loop reads, and its steps.
pub(crate) struct Loops<'a, 'c> {
    pub(crate) forward: &'a ForwardCode,
    pub(crate) gradient: Option<&'a GradientCode>,
    pub(crate) blocks: &'a Blocks,
    /// Under the filter `Blocks`: strips are skipped where every probability is below this.
    pub(crate) skipped_below: Option<f64>,
    pub(crate) call: &'a HostCall<'c>,
}

impl Loops<'_, '_> {
    /// Opens records.
    pub(crate) fn begin(&self, records: &mut [f64]) {
        records.par_chunks_mut(self.forward.record()).for_each(|record| stats::begin(self.forward, record));
    }

    /// Delivers the reduced outputs.
    pub(crate) fn reduce(&self, outputs: &mut HostOutputs<'_>, sums: &[f64]) {
        for (reduced, sum) in outputs.reduced.iter_mut().zip(sums) {
            if let Some(reduced) = reduced {
                // A factor of 0 means that no token counts.
                reduced[0] = if self.call.factor == 0.0 { 0.0 } else { (sum * self.call.factor) as f32 };
            }
        }
    }

    /// The forward's row slots of a token.
    pub(crate) fn slots_of(&self, token: u32, scratch: &mut Scratch) -> Vec<f32> {
        let inputs = self.call.row_inputs(token, &[]);
        let Scratch { slots, values, .. } = scratch;
        self.forward.slots.run(&inputs, values, |at, value| slots[at] = value as f32);
        slots.clone()
    }

    /// The blocks of tokens, each with its targets (none in a program without).
    pub(crate) fn blocks_of<'t>(
        &self,
        tokens: &'t [u32],
        targets: &'t [u32],
    ) -> impl Iterator<Item = (&'t [u32], &'t [u32])> + use<'t> {
        let size = self.blocks.tokens;
        tokens.chunks(size).enumerate().map(move |(at, block)| {
            let first = at * size;
            (block, if targets.is_empty() { targets } else { &targets[first..first + block.len()] })
        })
    }

    /// The logits of a block over a range of columns, row-major in `tile`.
    pub(crate) fn logits(
        &self,
        tile: &mut [f32],
        e: &[f32],
        columns: std::ops::Range<usize>,
        panel: &mut [f32],
    ) {
        let (d, width) = (self.call.hidden, columns.len());
        let rows = e.len() / d;
        let e = Matrix::new(e, rows, d, d);
        let matrix = MatrixMut::new(tile, rows, width, width);
        match self.call.c.as_f32() {
            Some((c, stride)) => {
                // Tasks of their own, because the crate's parallel product packs all of an operand at once.
                let ranges = matrix.column_ranges(PRODUCT_COLUMNS);
                ranges.into_par_iter().for_each(|(first, range)| {
                    let width = PRODUCT_COLUMNS.min(width - first);
                    let c = &c[(columns.start + first) * stride..];
                    product(range, false, e, Matrix::new(c, width, d, stride).transposed(), Threads::One);
                });
            }
            None => {
                for (first, range) in matrix.column_ranges(self.blocks.panel) {
                    let count = self.blocks.panel.min(width - first);
                    let panel = convert(&self.call.c, columns.start + first, count, d, panel);
                    product(range, false, e, Matrix::new(panel, count, d, d).transposed(), Threads::All);
                }
            }
        }
    }

    /// Adds a tile to its tokens' records; `maxima`: `decided_strips` values a token.
    pub(crate) fn statistics(
        &self,
        tile: &[f32],
        first: usize,
        tokens: &[u32],
        targets: &[u32],
        records: &mut [f64],
        maxima: &mut [f32],
    ) {
        let (code, call, strip) = (self.forward, self.call, self.blocks.strip);
        let width = tile.len() / tokens.len();
        let maxima: Vec<&mut [f32]> = match self.decided_strips() {
            0 => tokens.iter().map(|_| &mut [][..]).collect(),
            strips => maxima.chunks_mut(strips).collect(),
        };
        let rows = tile.par_chunks(width).zip(records.par_chunks_mut(code.record())).zip(tokens).zip(maxima);
        rows.enumerate().for_each_init(
            || Scratch::new(code, strip),
            |scratch, (row, (((logits, record), &token), maxima))| {
                let inputs = call.row_inputs(token, &[]);
                let Scratch { slots, values, .. } = scratch;
                code.slots.run(&inputs, values, |at, value| slots[at] = value as f32);
                let target = targets.get(row).map(|&y| y as usize);
                call.arch.dispatch(Pass {
                    code,
                    scratch,
                    logits,
                    first,
                    target,
                    cols: &call.cols,
                    strip,
                    record,
                    maxima,
                });
            },
        );
    }

    /// Closes a block's records and delivers its outputs.
    pub(crate) fn finish(
        &self,
        tokens: &[u32],
        targets: &[u32],
        records: &mut [f64],
        outputs: &mut HostOutputs<'_>,
        sums: &mut [f64],
        values: &mut [f64],
    ) {
        let (code, call) = (self.forward, self.call);
        let width = code.outputs.roots();
        let values = &mut values[..tokens.len() * width];
        let rows = records.par_chunks_mut(code.record()).zip(values.par_chunks_mut(width.max(1))).zip(tokens);
        rows.enumerate().for_each_init(Vec::new, |scratch, (row, ((record, values), &token))| {
            let target = targets.get(row).map(|&y| y as usize);
            stats::finish(code, record, target, &call.inputs, call.vocab);
            let inputs = call.row_inputs(token, &record[record::STATS..]);
            code.outputs.run(&inputs, scratch, |at, value| values[at] = value);
        });
        for (&token, values) in tokens.iter().zip(values.chunks(width.max(1))) {
            for (at, &value) in values.iter().enumerate() {
                sums[at] += value;
                if let Some(rows) = &mut outputs.rows[at] {
                    rows[token as usize] = value as f32;
                }
            }
        }
    }

    /// Outputs of tokens that are ignored (0) or out of range (NaN).
    pub(crate) fn outputs_of_others(&self, outputs: &mut HostOutputs<'_>, sums: &mut [f64]) {
        for token in 0..self.call.tokens {
            let value = match self.call.token(token) {
                Token::Counts(_) => continue,
                Token::Ignored => 0.0,
                Token::OutOfRange => f32::NAN,
            };
            for (rows, sum) in outputs.rows.iter_mut().zip(sums.iter_mut()) {
                *sum += f64::from(value);
                if let Some(rows) = rows {
                    rows[token] = value;
                }
            }
        }
    }

    /// Rounds a block's dE into its tokens' rows.
    pub(crate) fn write_hidden(&self, de: &[f32], large: &mut Large<'_>, tokens: &[u32], add: bool) {
        let d = self.call.hidden;
        let Some((out, output)) = &mut large.hidden else { return };
        for (&token, row) in tokens.iter().zip(de.chunks(d)) {
            let token = token as usize;
            out.range(token * d..(token + 1) * d).write(row, output.accumulate || add);
        }
    }

    /// The rows of dE that belong to tokens that do not count.
    pub(crate) fn close_hidden(&self, large: &mut Large<'_>) {
        let d = self.call.hidden;
        let Some((out, output)) = &mut large.hidden else { return };
        for token in 0..self.call.tokens {
            let range = token * d..(token + 1) * d;
            match self.call.token(token) {
                Token::Counts(_) => {}
                Token::Ignored if output.accumulate => {}
                Token::Ignored => out.range(range).fill(0.0),
                Token::OutOfRange => out.range(range).fill(f32::NAN),
            }
        }
    }
}

/// Rows of the classifier in one product of a task.
pub(crate) const PRODUCT_COLUMNS: usize = 1024;

/// The rows of these tokens as f32, one behind the other.
pub(crate) fn pack<'e>(rows: &Rows<'_>, tokens: &[u32], d: usize, out: &'e mut [f32]) -> &'e [f32] {
    let out = &mut out[..tokens.len() * d];
    out.par_chunks_mut(d).zip(tokens).for_each(|(out, &token)| rows.read(token as usize, out));
    out
}

/// Consecutive rows as f32.
pub(crate) fn convert<'p>(
    rows: &Rows<'_>,
    first: usize,
    count: usize,
    d: usize,
    out: &'p mut [f32],
) -> &'p [f32] {
    let out = &mut out[..count * d];
    out.par_chunks_mut(d).enumerate().for_each(|(at, out)| rows.read(first + at, out));
    out
}
