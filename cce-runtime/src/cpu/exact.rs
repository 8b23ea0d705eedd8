//! `Exact`: every probability counts. Loops over tiles of logits, three products a tile. And `Blocks`: the same
//! without the parts of tiles that it skips.

use super::gradient::{Coefficients, Tile, coefficients, gradient_tile};
use super::host::{HostCall, HostOutputs};
use super::layout::{Order, Regions};
use super::loops::{Large, Loops, PRODUCT_COLUMNS, convert, pack};
use super::memory::Carver;
use super::product::{Matrix, MatrixMut, Threads, product};
use super::skipped::Run;
use super::tensor::RowsMut;
use crate::workspace::RawWorkspace;
use rayon::prelude::*;
use std::ops::Range;

/// A lent workspace, cut up.
pub(crate) struct Buffers<'w> {
    pub(crate) records: &'w mut [f64],
    live: &'w mut [u32],
    pub(crate) tokens: &'w [u32],
    pub(crate) targets: &'w [u32],
    maxima: &'w mut [f32],
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
        let live = carver.lend(regions.live);
        let (active, targets) = (carver.lend(regions.active), carver.lend(regions.targets));
        let (tokens, targets) = call.active(active, targets);
        Buffers {
            records,
            live,
            tokens,
            targets,
            maxima: carver.lend(regions.maxima),
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

impl Loops<'_, '_> {
    /// The forward. Under `large`, which needs fused blocks, the backward of each block follows from the same
    /// tile.
    pub(crate) fn forward(
        &self,
        buffers: &mut Buffers<'_>,
        outputs: &mut HostOutputs<'_>,
        mut large: Option<&mut Large<'_>>,
    ) {
        let (call, blocks) = (self.call, self.blocks);
        let (size, strips) = (self.forward.record(), self.decided_strips());
        let mut sums = vec![0.0; outputs.reduced.len()];
        self.outputs_of_others(outputs, &mut sums);
        buffers.live.fill(0);
        if large.is_some() {
            buffers.col_sums.fill(0.0);
        }
        let (tokens, targets) = (buffers.tokens, buffers.targets);
        for (index, (block, targets)) in self.blocks_of(tokens, targets).enumerate() {
            let first = index * blocks.tokens;
            let e = pack(&call.e, block, call.hidden, buffers.e);
            let records = &mut buffers.records[first * size..(first + block.len()) * size];
            let maxima = &mut buffers.maxima[..block.len() * strips];
            self.begin(records);
            for chunk in (0..call.vocab).step_by(blocks.chunk) {
                let width = blocks.chunk.min(call.vocab - chunk);
                let tile = &mut buffers.tile[..block.len() * width];
                self.logits(tile, e, chunk..chunk + width, buffers.panel);
                self.statistics(tile, chunk, block, targets, records, maxima);
            }
            self.finish(block, targets, records, outputs, &mut sums, buffers.values);
            self.decide(records, maxima, targets, &mut buffers.live[index * strips..(index + 1) * strips]);
            if let (Some(code), Some(large)) = (self.gradient, large.as_deref_mut()) {
                coefficients(code, call, block, records, buffers.coefficients);
                self.gradient_of_tile(buffers, large, first..first + block.len(), 0..call.vocab, true);
                self.write_hidden(&buffers.de[..], large, block, false);
            }
        }
        self.reduce(outputs, &sums);
        if let Some(large) = large {
            self.close(buffers, large);
        }
    }

    /// dE, dC and Col gradients from the records of a forward.
    pub(crate) fn backward(&self, buffers: &mut Buffers<'_>, large: &mut Large<'_>) {
        let (call, blocks) = (self.call, self.blocks);
        let Some(code) = self.gradient.filter(|code| code.walks()) else { return };
        buffers.col_sums.fill(0.0);
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
                let mut overwrite =
                    chunk == 0 || blocks.order == Order::VocabOuter && !self.whole_hidden(large);
                for Run { columns, is_live } in self.runs(buffers.live, index, start..start + width) {
                    if is_live {
                        let e = &buffers.e[..block.len() * call.hidden];
                        let tile = &mut buffers.tile[..block.len() * columns.len()];
                        self.logits(tile, e, columns.clone(), buffers.panel);
                        self.gradient_of_tile(buffers, large, first..last, columns, overwrite);
                        overwrite = false;
                    } else if index == 0 {
                        self.no_classifier_gradient(buffers, large, columns);
                    }
                }
                if overwrite && large.hidden.is_some() {
                    self.hidden_sums(buffers.de, large, first..last).fill(0.0);
                }
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

    /// Turns the tile of logits (tokens at `range` of the list) into dL/dx and multiplies it out: dE into `de`,
    /// or added to it, dC added to what it is accumulated in, which the first block overwrites.
    fn gradient_of_tile(
        &self,
        buffers: &mut Buffers<'_>,
        large: &mut Large<'_>,
        range: Range<usize>,
        columns: Range<usize>,
        overwrite: bool,
    ) {
        let Some(code) = self.gradient else { return };
        let (call, blocks) = (self.call, self.blocks);
        let (d, rows, first_block) = (call.hidden, range.len(), range.start == 0);
        let targets =
            if buffers.targets.is_empty() { buffers.targets } else { &buffers.targets[range.clone()] };
        let (start, width) = (columns.start, columns.len());
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
            let de = self.hidden_sums(buffers.de, large, range);
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
        if let Some((dc, held)) = self.classifier_sums(buffers.dc, large, &columns) {
            let accumulate = held || !first_block;
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

    /// Where dE of these tokens is accumulated.
    fn hidden_sums<'b>(&self, de: &'b mut [f32], large: &Large<'_>, range: Range<usize>) -> &'b mut [f32] {
        let first = if self.whole_hidden(large) { range.start } else { 0 };
        &mut de[first * self.call.hidden..(first + range.len()) * self.call.hidden]
    }

    /// Where dC of these columns is accumulated, if it is wanted, and whether there is something to add to before
    /// the first block.
    fn classifier_sums<'b>(
        &self,
        dc: &'b mut [f32],
        large: &'b mut Large<'_>,
        columns: &Range<usize>,
    ) -> Option<(&'b mut [f32], bool)> {
        let d = self.call.hidden;
        let (out, output) = large.classifier.as_mut()?;
        Some(match out {
            RowsMut::F32(out) => (&mut out[columns.start * d..columns.end * d], output.accumulate),
            _ => {
                let first = match self.blocks.order {
                    Order::TokensOuter => columns.start,
                    Order::VocabOuter => columns.start % self.blocks.chunk,
                };
                (&mut dc[first * d..(first + columns.len()) * d], false)
            }
        })
    }

    /// dC of columns that the first block skips.
    fn no_classifier_gradient(
        &self,
        buffers: &mut Buffers<'_>,
        large: &mut Large<'_>,
        columns: Range<usize>,
    ) {
        if let Some((dc, false)) = self.classifier_sums(buffers.dc, large, &columns) {
            dc.fill(0.0);
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
