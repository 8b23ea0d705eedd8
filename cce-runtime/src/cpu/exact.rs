//! `Exact`: every probability counts. Loops over tiles of logits, three products a tile.

use super::code::{ForwardCode, GradientCode, record};
use super::gradient::{Coefficients, Tile, coefficients, gradient_tile};
use super::host::{HostCall, HostGradients, HostOutputs, Token};
use super::layout::{Blocks, Order, Regions};
use super::memory::Carver;
use super::product::{Matrix, MatrixMut, Threads, product};
use super::stats::{self, Pass, Scratch};
use super::tensor::{Rows, RowsMut};
use crate::workspace::RawWorkspace;
use cce_codegen::ir::InputId;
use cce_codegen::problem::GradientOutput;
use rayon::prelude::*;

/// A lent workspace, cut up.
pub(crate) struct Buffers<'w> {
    pub(crate) records: &'w mut [f64],
    pub(crate) tokens: &'w [u32],
    pub(crate) targets: &'w [u32],
    e: &'w mut [f32],
    tile: &'w mut [f32],
    coefficients: &'w mut [f32],
    values: &'w mut [f64],
    panel: &'w mut [f32],
    de: &'w mut [f32],
    dc: &'w mut [f32],
    pub(crate) col_sums: &'w mut [f64],
}

impl<'w> Buffers<'w> {
    /// # Safety
    /// As for [`Carver::new`].
    pub(crate) unsafe fn new(regions: &Regions, workspace: RawWorkspace, call: &HostCall<'_>) -> Buffers<'w> {
        // SAFETY: the caller's promise, passed on.
        let mut carver = unsafe { Carver::new(workspace) };
        let records = carver.lend(regions.records);
        let (active, targets) = (carver.lend(regions.active), carver.lend(regions.targets));
        let (tokens, targets) = call.active(active, targets);
        Buffers {
            records,
            tokens,
            targets,
            e: carver.lend(regions.e),
            tile: carver.lend(regions.tile),
            coefficients: carver.lend(regions.coefficients),
            values: carver.lend(regions.values),
            panel: carver.lend(regions.panel),
            de: carver.lend(regions.de),
            dc: carver.lend(regions.dc),
            col_sums: carver.lend(regions.col_sums),
        }
    }
}

/// The two large gradients on their way.
pub(crate) struct Large<'c> {
    pub(crate) hidden: Option<(RowsMut<'c>, GradientOutput)>,
    pub(crate) classifier: Option<(RowsMut<'c>, GradientOutput)>,
}

/// What all loops share.
pub(crate) struct Walk<'a, 'c> {
    pub(crate) forward: &'a ForwardCode,
    pub(crate) gradient: Option<&'a GradientCode>,
    pub(crate) blocks: &'a Blocks,
    pub(crate) call: &'a HostCall<'c>,
}

impl Walk<'_, '_> {
    /// The forward. Under `large`, which needs fused blocks, the backward of each block follows from the same
    /// tile.
    pub(crate) fn forward(
        &self,
        buffers: &mut Buffers<'_>,
        outputs: &mut HostOutputs<'_>,
        mut large: Option<&mut Large<'_>>,
    ) {
        let (call, blocks) = (self.call, self.blocks);
        let size = self.forward.record();
        let mut sums = vec![0.0; outputs.reduced.len()];
        self.outputs_of_others(outputs, &mut sums);
        let (tokens, targets) = (buffers.tokens, buffers.targets);
        for (index, (block, targets)) in self.blocks_of(tokens, targets).enumerate() {
            let first = index * blocks.tokens;
            let e = pack(&call.e, block, call.hidden, buffers.e);
            let records = &mut buffers.records[first * size..(first + block.len()) * size];
            self.begin(records);
            for chunk in (0..call.vocab).step_by(blocks.chunk) {
                let width = blocks.chunk.min(call.vocab - chunk);
                let tile = &mut buffers.tile[..block.len() * width];
                self.logits(tile, e, chunk..chunk + width, buffers.panel);
                self.statistics(tile, chunk, block, targets, records);
            }
            self.finish(block, targets, records, outputs, &mut sums, buffers.values);
            if let (Some(code), Some(large)) = (self.gradient, large.as_deref_mut()) {
                coefficients(code, call, block, records, buffers.coefficients);
                self.gradient_of_tile(buffers, large, first..first + block.len(), 0);
                self.write_hidden(&buffers.de[..], large, block, false);
            }
        }
        self.reduce(outputs, &sums);
        if let Some(large) = large {
            self.close(buffers, large);
        }
    }

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

    /// dE, dC and Col gradients from the records of a forward.
    pub(crate) fn backward(&self, buffers: &mut Buffers<'_>, large: &mut Large<'_>) {
        let (call, blocks) = (self.call, self.blocks);
        let Some(code) = self.gradient.filter(|code| code.walks()) else { return };
        let size = self.forward.record();
        let tokens = buffers.tokens;
        let count = tokens.len().div_ceil(blocks.tokens);
        let chunks = call.vocab.div_ceil(blocks.chunk);
        let (outer, inner) = match blocks.order {
            Order::TokensOuter => (count, chunks),
            Order::VocabOuter => (chunks, count),
        };
        for outer in 0..outer {
            for inner in 0..inner {
                let (index, chunk) = match blocks.order {
                    Order::TokensOuter => (outer, inner),
                    Order::VocabOuter => (inner, outer),
                };
                let first = index * blocks.tokens;
                let last = (first + blocks.tokens).min(tokens.len());
                let block = &tokens[first..last];
                let start = chunk * blocks.chunk;
                let width = blocks.chunk.min(call.vocab - start);
                if chunk == 0 || blocks.order == Order::VocabOuter {
                    pack(&call.e, block, call.hidden, buffers.e);
                    let records = &buffers.records[first * size..last * size];
                    coefficients(code, call, block, records, buffers.coefficients);
                }
                let e = &buffers.e[..block.len() * call.hidden];
                let tile = &mut buffers.tile[..block.len() * width];
                self.logits(tile, e, start..start + width, buffers.panel);
                self.gradient_of_tile(buffers, large, first..last, start);
                if blocks.order == Order::TokensOuter && chunk + 1 == chunks {
                    self.write_hidden(&buffers.de[..], large, block, false);
                } else if blocks.order == Order::VocabOuter && !self.whole_hidden(large) {
                    self.write_hidden(&buffers.de[..], large, block, chunk > 0);
                }
            }
            if blocks.order == Order::VocabOuter {
                let start = outer * blocks.chunk;
                let width = blocks.chunk.min(call.vocab - start);
                if count > 0 {
                    self.write_classifier(&buffers.dc[..], large, start..start + width);
                }
            }
        }
        self.close(buffers, large);
    }

    /// Gradients of Row and Scalar inputs, and of Col inputs from their sums; `wanted` are the problem's
    /// `input_gradients`.
    pub(crate) fn inputs(
        &self,
        code: &GradientCode,
        (tokens, records, col_sums): (&[u32], &[f64], &[f64]),
        gradients: &mut HostGradients<'_>,
        wanted: &[InputId],
    ) {
        let size = self.forward.record();
        let place = |id| wanted.iter().position(|&other| other == id);
        let mut sums = vec![0.0f64; code.scalars.len()];
        for &row in &code.rows {
            if let Some(out) = place(row).map(|at| &mut gradients.inputs[at]) {
                for (token, value) in out.iter_mut().enumerate() {
                    let bad = self.call.token(token) == Token::OutOfRange;
                    *value = if bad { f32::NAN } else { 0.0 };
                }
            }
        }
        let mut scratch = Vec::new();
        if !code.rows.is_empty() || !code.scalars.is_empty() {
            for (at, &token) in tokens.iter().enumerate() {
                let record = &records[at * size..(at + 1) * size];
                let inputs = self.call.row_inputs(token, &record[record::STATS..]);
                code.inputs.run(&inputs, &mut scratch, |at, value| {
                    if let Some(&row) = code.rows.get(at) {
                        if let Some(place) = place(row) {
                            gradients.inputs[place][token as usize] = value as f32;
                        }
                    } else {
                        sums[at - code.rows.len()] += value;
                    }
                });
            }
        }
        for (&id, &sum) in code.scalars.iter().zip(&sums) {
            if let Some(place) = place(id) {
                gradients.inputs[place][0] = sum as f32;
            }
        }
        for (at, (id, _)) in code.cols.iter().enumerate() {
            if let Some(place) = place(*id) {
                let sums = &col_sums[at * self.call.vocab..(at + 1) * self.call.vocab];
                for (out, &sum) in gradients.inputs[place].iter_mut().zip(sums) {
                    *out = sum as f32;
                }
            }
        }
    }

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

    /// Adds a tile to its tokens' records.
    pub(crate) fn statistics(
        &self,
        tile: &[f32],
        first: usize,
        tokens: &[u32],
        targets: &[u32],
        records: &mut [f64],
    ) {
        let (code, call, strip) = (self.forward, self.call, self.blocks.strip);
        let width = tile.len() / tokens.len();
        let rows = tile.par_chunks(width).zip(records.par_chunks_mut(code.record())).zip(tokens).enumerate();
        rows.for_each_init(
            || Scratch::new(code, strip),
            |scratch, (row, ((logits, record), &token))| {
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

    /// Turns the tile of logits (tokens at `range` of the list, columns from `start`) into dL/dx and
    /// multiplies it out: dE into `de`, dC added to what it is accumulated in. The first chunk overwrites
    /// `de`, the first block dC.
    fn gradient_of_tile(
        &self,
        buffers: &mut Buffers<'_>,
        large: &mut Large<'_>,
        range: std::ops::Range<usize>,
        start: usize,
    ) {
        let Some(code) = self.gradient else { return };
        let (call, blocks) = (self.call, self.blocks);
        let (d, rows, first_block) = (call.hidden, range.len(), range.start == 0);
        let targets =
            if buffers.targets.is_empty() { buffers.targets } else { &buffers.targets[range.clone()] };
        let width = blocks.chunk.min(call.vocab - start);
        if first_block && start == 0 {
            buffers.col_sums.fill(0.0);
        }
        let tile = &mut buffers.tile[..rows * width];
        let values = &buffers.coefficients[..rows * code.coefficients()];
        let mut col_sums: Vec<&mut [f64]> = buffers.col_sums.chunks_mut(call.vocab).collect();
        gradient_tile(
            code,
            call,
            Tile { matrix: MatrixMut::new(tile, rows, width, width), first: start },
            &Coefficients { values, targets },
            &mut col_sums,
            blocks.strip,
        );
        if code.logit.is_none() {
            return;
        }
        let gradient = Matrix::new(tile, rows, width, width);
        if large.hidden.is_some() {
            let whole = self.whole_hidden(large);
            let overwrite = start == 0 || blocks.order == Order::VocabOuter && !whole;
            let first = if whole { range.start } else { 0 };
            let de = &mut buffers.de[first * d..(first + rows) * d];
            match call.c.as_f32() {
                Some((c, stride)) => {
                    let c = Matrix::new(&c[start * stride..], width, d, stride);
                    product(MatrixMut::new(de, rows, d, d), !overwrite, gradient, c, Threads::All);
                }
                None => {
                    for first in (0..width).step_by(blocks.panel) {
                        let count = blocks.panel.min(width - first);
                        let panel = convert(&call.c, start + first, count, d, buffers.panel);
                        let part = Matrix::new(&tile[first..], rows, count, width);
                        let panel = Matrix::new(panel, count, d, d);
                        let add = !overwrite || first > 0;
                        product(MatrixMut::new(de, rows, d, d), add, part, panel, Threads::All);
                    }
                }
            }
        }
        if let Some((out, output)) = &mut large.classifier {
            let (dc, accumulate) = match out {
                RowsMut::F32(out) => {
                    (&mut out[start * d..(start + width) * d], output.accumulate || !first_block)
                }
                _ => {
                    let first = if blocks.order == Order::TokensOuter { start } else { 0 };
                    (&mut buffers.dc[first * d..(first + width) * d], !first_block)
                }
            };
            let e = Matrix::new(&buffers.e[..rows * d], rows, d, d);
            let tile: &[f32] = tile;
            dc.par_chunks_mut(PRODUCT_COLUMNS * d).enumerate().for_each(|(at, dc)| {
                let first = at * PRODUCT_COLUMNS;
                let count = PRODUCT_COLUMNS.min(width - first);
                let part = Matrix::new(&tile[first..], rows, count, width).transposed();
                product(MatrixMut::new(dc, count, d, d), accumulate, part, e, Threads::One);
            });
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

    /// Whether dE of all tokens is accumulated in the workspace.
    fn whole_hidden(&self, large: &Large<'_>) -> bool {
        self.blocks.order == Order::VocabOuter
            && large.hidden.as_ref().is_some_and(|(out, _)| !matches!(out, RowsMut::F32(_)))
    }

    /// Rounds dC of a range of columns from where it was accumulated.
    fn write_classifier(&self, dc: &[f32], large: &mut Large<'_>, columns: std::ops::Range<usize>) {
        let d = self.call.hidden;
        match &mut large.classifier {
            // Accumulated where it belongs.
            None | Some((RowsMut::F32(_), _)) => {}
            Some((out, output)) => {
                let values = &dc[..columns.len() * d];
                out.range(columns.start * d..columns.end * d).write(values, output.accumulate);
            }
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

    /// What is left when every tile is done: rows of tokens that do not count, and what was accumulated in
    /// the workspace.
    fn close(&self, buffers: &mut Buffers<'_>, large: &mut Large<'_>) {
        if self.whole_hidden(large) {
            self.write_hidden(&buffers.de[..], large, buffers.tokens, false);
        }
        self.close_hidden(large);
        if buffers.tokens.is_empty() {
            buffers.col_sums.fill(0.0);
            if let Some((out, output)) = &mut large.classifier
                && !output.accumulate
            {
                out.fill(0.0);
            }
        } else if self.blocks.order == Order::TokensOuter {
            self.write_classifier(&buffers.dc[..], large, 0..self.call.vocab);
        }
    }
}

/// Rows of the classifier in one product of a task.
const PRODUCT_COLUMNS: usize = 1024;

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
