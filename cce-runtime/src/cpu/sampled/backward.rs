//! The sampled backward: hot columns dense and exact, cold columns by entries, the uniform part by factors.
//!
//! dE of a token is one sum in f32: the product over the hot columns, its entries, its target, the uniform
//! part. dC of a column is one sum in f32 too: the product over all tokens if it is hot, the entries of its
//! list in the order of the tokens, the uniform part. Each is rounded once.

use super::super::code::record;
use super::super::exact::{Large, Walk as Loops, convert, pack};
use super::super::gradient::{Coefficients, Tile, coefficients, gradient_tile};
use super::super::host::HostCall;
use super::super::product::{Matrix, MatrixMut, Threads, product};
use super::super::row::RowInputs;
use super::super::strip::{Registers, StripInputs, Values};
use super::super::tensor::Rows;
use super::layout::Shape;
use super::stream::ROWS;
use super::{SampledBuffers, SampledCode};
use rayon::prelude::*;

/// Computes dE, dC and the sums of Col gradients.
pub(crate) fn backward(
    loops: &Loops<'_, '_>,
    code: &SampledCode,
    shape: &Shape,
    buffers: &mut SampledBuffers<'_>,
    large: &mut Large<'_>,
) {
    let call = loops.call;
    let (d, hot, size) = (call.hidden, shape.hot, loops.forward.record());
    buffers.col_sums.fill(0.0);
    let parts = code.softmax.len();
    let own = usize::from(code.hot.logit.is_some());
    let uniform = Uniforms::new(code, call, std::mem::take(&mut buffers.uniform_cols));
    let hidden_factor =
        large.hidden.is_some().then(|| uniform.of(0).map(|cols| weighted_sum(&call.c, call, cols))).flatten();
    let mut uniform_rows = UniformRows { sums: vec![0.0; parts], hidden: vec![0.0; d] };
    let tokens = buffers.tokens;
    for (index, block) in tokens.chunks(loops.blocks.tokens).enumerate() {
        let first = index * loops.blocks.tokens;
        let rows = block.len();
        let range = first..first + rows;
        let targets = if buffers.targets.is_empty() { &[][..] } else { &buffers.targets[range.clone()] };
        let records = &buffers.records[first * size..(first + rows) * size];
        let e = pack(&call.e, block, d, buffers.e);
        let values = &mut buffers.coefficients[..rows * code.hot.coefficients()];
        coefficients(&code.hot, call, block, records, values);
        let values = &*values;
        let tile = &mut buffers.tile[..rows * hot];
        loops.logits(tile, e, 0..hot, buffers.panel);
        let mut col_sums: Vec<&mut [f64]> = buffers.col_sums.chunks_mut(call.vocab).collect();
        let matrix = MatrixMut::new(tile, rows, hot, hot);
        let of_targets = Coefficients { values, targets };
        let tile_of = Tile { matrix, first: 0 };
        gradient_tile(&code.hot, call, tile_of, &of_targets, &mut col_sums, loops.blocks.strip);
        let width = code.hot.coefficients();
        let at_target = |row: usize, part: usize| values[row * width + 2 + code.hot.slots + part];
        let starts: Vec<usize> = entry_starts(shape, buffers.counts, first, rows);
        if code.hot.logit.is_some() {
            let gradient = Matrix::new(tile, rows, hot, hot);
            if large.hidden.is_some() {
                let de = &mut buffers.de[..rows * d];
                hot_hidden(loops, gradient, hot, de, buffers.panel);
            }
            if large.classifier.is_some() {
                let e = Matrix::new(e, rows, d, d);
                hot_classifier(tile, e, (rows, hot, d), buffers.dc, index > 0);
            }
        }
        // The rows of the block's entries, each with its own part of the gradients' buffer.
        let kept = buffers.columns.len();
        let (of_entries, of_all_targets) = match buffers.entry_gradients.len() {
            0 => (&mut [][..], &mut [][..]),
            _ => buffers.entry_gradients.split_at_mut(kept),
        };
        let mut work = Vec::with_capacity(rows);
        let (mut rest, mut at) = (of_entries, 0);
        for (row, &start) in starts.iter().enumerate() {
            let count = buffers.counts[first + row] as usize;
            let mine = if own == 0 {
                &mut [][..]
            } else {
                let (_, tail) = std::mem::take(&mut rest).split_at_mut(start - at);
                let (mine, tail) = tail.split_at_mut(count);
                (rest, at) = (tail, start + count);
                mine
            };
            work.push((row, start..start + count, mine));
        }
        let entries = Entries {
            code,
            call,
            columns: buffers.columns,
            weights: buffers.weights,
            logits: buffers.logits,
        };
        let of_cols: Vec<Vec<Vec<f32>>> = {
            let de_rows: Vec<Option<&mut [f32]>> = match large.hidden {
                Some(_) => buffers.de[..rows * d].chunks_mut(d).map(Some).collect(),
                None => (0..rows).map(|_| None).collect(),
            };
            let of_rows = work.into_par_iter().zip(de_rows);
            of_rows
                .map(|((row, range, mine), de)| {
                    let record = &records[row * size..(row + 1) * size];
                    let of_parts = entries.gradients(block[row], range.clone(), record);
                    if own == 1 {
                        mine.copy_from_slice(&of_parts[0]);
                    }
                    if let (Some(de), 1) = (de, own) {
                        let target = targets.get(row).filter(|&&y| y as usize >= hot);
                        let columns = &buffers.columns[range];
                        let mut list: Vec<(u32, f32)> =
                            columns.iter().copied().zip(of_parts[0].iter().copied()).collect();
                        list.extend(target.map(|&y| (y, at_target(row, 0))));
                        call.arch.dispatch(Gather { rows: &call.c, list: &list, out: de });
                    }
                    of_parts.into_iter().skip(own).collect()
                })
                .collect()
        };
        // In the order of the tokens, on one thread: a column's sum has one order.
        for (row, &token) in block.iter().enumerate() {
            let start = starts[row];
            let columns = &buffers.columns[start..start + buffers.counts[first + row] as usize];
            let target = targets.get(row).map(|&y| y as usize).filter(|&y| y >= hot);
            for (part, sums) in buffers.col_sums.chunks_mut(call.vocab).enumerate() {
                for (&column, &g) in columns.iter().zip(&of_cols[row][part]) {
                    sums[column as usize] += f64::from(g);
                }
                if let Some(y) = target {
                    sums[y] += f64::from(at_target(row, own + part));
                }
            }
            if own == 1 {
                of_all_targets[first + row] = if target.is_some() { at_target(row, 0) } else { 0.0 };
            }
            let factors = uniform_rows.add(code, call, token, &records[row * size..(row + 1) * size]);
            if let Some(u) = factors.first().copied().filter(|_| own == 1 && uniform.of(0).is_some()) {
                let share = u / call.vocab as f64;
                if let (Some(cols), true) = (&hidden_factor, large.hidden.is_some()) {
                    for (out, sum) in buffers.de[row * d..(row + 1) * d].iter_mut().zip(cols) {
                        *out += (share * sum) as f32;
                    }
                }
                for (sum, &value) in uniform_rows.hidden.iter_mut().zip(&e[row * d..(row + 1) * d]) {
                    *sum += share * f64::from(value);
                }
            }
        }
        loops.write_hidden(&buffers.de[..], large, block, false);
    }
    for (part, sums) in buffers.col_sums.chunks_mut(call.vocab).enumerate() {
        if let Some(cols) = uniform.of(own + part) {
            let share = uniform_rows.sums[own + part] / call.vocab as f64;
            for (sum, &col) in sums.iter_mut().zip(cols) {
                *sum += share * f64::from(col);
            }
        }
    }
    loops.close_hidden(large);
    if large.classifier.is_some() && own == 1 {
        classifier(loops, shape, buffers, large, uniform.of(0), &uniform_rows.hidden);
    }
}

/// The first entry of each token of a block.
fn entry_starts(shape: &Shape, counts: &[u32], first: usize, rows: usize) -> Vec<usize> {
    let mut starts = Vec::with_capacity(rows);
    for row in first..first + rows {
        let start = match row % ROWS {
            0 => row / ROWS * shape.kept,
            _ => starts[row - first - 1] + counts[row - 1] as usize,
        };
        starts.push(start);
    }
    starts
}

/// `de = G C` over the hot columns.
fn hot_hidden(loops: &Loops<'_, '_>, gradient: Matrix<'_>, hot: usize, de: &mut [f32], panel: &mut [f32]) {
    let call = loops.call;
    let d = call.hidden;
    let rows = de.len() / d;
    match call.c.as_f32() {
        Some((c, stride)) => {
            let c = Matrix::new(c, hot, d, stride);
            product(MatrixMut::new(de, rows, d, d), false, gradient, c, Threads::All);
        }
        None => {
            for first in (0..hot).step_by(loops.blocks.panel) {
                let count = loops.blocks.panel.min(hot - first);
                let c = Matrix::new(convert(&call.c, first, count, d, panel), count, d, d);
                let part = gradient.columns(first, count);
                product(MatrixMut::new(de, rows, d, d), first > 0, part, c, Threads::All);
            }
        }
    }
}

/// `dc += G^T E` over the hot columns (`=` for the first block).
fn hot_classifier(
    tile: &[f32],
    e: Matrix<'_>,
    (rows, hot, d): (usize, usize, usize),
    dc: &mut [f32],
    accumulate: bool,
) {
    let gradient = Matrix::new(tile, rows, hot, hot).transposed();
    product(MatrixMut::new(dc, hot, d, d), accumulate, gradient, e, Threads::All);
}

/// Kept entries of all tokens.
struct Entries<'a> {
    code: &'a SampledCode,
    call: &'a HostCall<'a>,
    columns: &'a [u32],
    weights: &'a [f32],
    logits: &'a [f32],
}

impl Entries<'_> {
    /// By part: `weight A / sum` of a token's entries.
    fn gradients(&self, token: u32, range: std::ops::Range<usize>, record: &[f64]) -> Vec<Vec<f32>> {
        let (code, call) = (self.code, self.call);
        let (columns, weights) = (&self.columns[range.clone()], &self.weights[range.clone()]);
        let upstreams = call.upstreams(token as usize);
        let inputs = RowInputs {
            inputs: &call.inputs,
            token: token as usize,
            stats: &record[record::STATS..],
            upstreams: &upstreams,
        };
        let mut slots = vec![0.0f32; code.entries.row_slots().len()];
        code.entry_slots.run(&inputs, &mut Vec::new(), |at, value| slots[at] = value as f32);
        let gathered: Vec<Vec<f32>> = call
            .cols
            .iter()
            .map(|col| {
                let value = |&column: &u32| col[column as usize];
                if col.is_empty() { Vec::new() } else { columns.iter().map(value).collect() }
            })
            .collect();
        let cols: Vec<&[f32]> = gathered.iter().map(Vec::as_slice).collect();
        // Code that reads no logit takes from this slice its length only.
        let logits = if code.needs_logits() { &self.logits[range] } else { weights };
        let mut registers = Registers::new(&code.entries, weights.len());
        let inputs = StripInputs { logits, cols: &cols, first: 0, rows: &slots };
        code.entries.run(&mut registers, &inputs);
        let inverse = record[record::SUM] as f32;
        code.softmax
            .iter()
            .map(|softmax| match softmax.map(|at| code.entries.value(at, &registers, &inputs)) {
                Some(Values::Same(a)) => weights.iter().map(|&weight| weight * (a * inverse)).collect(),
                Some(Values::Each(a)) => {
                    weights.iter().zip(a).map(|(&weight, &a)| weight * inverse * a).collect()
                }
                None => vec![0.0; weights.len()],
            })
            .collect()
    }
}

/// `out += sum of factor * row`.
struct Gather<'a, 'b> {
    rows: &'a Rows<'a>,
    list: &'a [(u32, f32)],
    out: &'b mut [f32],
}

impl pulp::NullaryFnOnce for Gather<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for &(row, factor) in self.list {
            self.rows.add_scaled(row as usize, factor, self.out);
        }
    }
}

/// Column factors of the uniform parts.
struct Uniforms<'w> {
    /// By part.
    cols: Vec<Option<&'w [f32]>>,
}

impl<'w> Uniforms<'w> {
    fn new(code: &SampledCode, call: &HostCall<'_>, memory: &'w mut [f32]) -> Uniforms<'w> {
        let mut rest = memory;
        let mut cols = Vec::new();
        for uniform in &code.uniform {
            cols.push(uniform.as_ref().map(|uniform| {
                let (mine, tail) = std::mem::take(&mut rest).split_at_mut(call.vocab);
                rest = tail;
                let mut slots = vec![0.0f32; uniform.col.row_slots().len()];
                let inputs = RowInputs { inputs: &call.inputs, token: 0, stats: &[], upstreams: &[] };
                uniform.col_slots.run(&inputs, &mut Vec::new(), |at, value| slots[at] = value as f32);
                let mut registers = Registers::new(&uniform.col, 512);
                for (at, out) in mine.chunks_mut(512).enumerate() {
                    let lengths = [0.0f32; 512];
                    let inputs = StripInputs {
                        logits: &lengths[..out.len()],
                        cols: &call.cols,
                        first: at * 512,
                        rows: &slots,
                    };
                    uniform.col.run(&mut registers, &inputs);
                    match uniform.col.value(0, &registers, &inputs) {
                        Values::Same(value) => out.fill(value),
                        Values::Each(values) => out.copy_from_slice(values),
                    }
                }
                &*mine
            }));
        }
        Uniforms { cols }
    }

    fn of(&self, part: usize) -> Option<&'w [f32]> {
        self.cols.get(part).copied().flatten()
    }
}

/// Row factors of the uniform parts, summed over tokens.
struct UniformRows {
    /// By part.
    sums: Vec<f64>,
    /// Of dL/dx, over V, times the token's hidden states.
    hidden: Vec<f64>,
}

impl UniformRows {
    /// The row factors of a token, by part; added to the sums.
    fn add(&mut self, code: &SampledCode, call: &HostCall<'_>, token: u32, record: &[f64]) -> Vec<f64> {
        let upstreams = call.upstreams(token as usize);
        let inputs = RowInputs {
            inputs: &call.inputs,
            token: token as usize,
            stats: &record[record::STATS..],
            upstreams: &upstreams,
        };
        let mut roots = vec![0.0; code.uniform_rows.roots()];
        code.uniform_rows.run(&inputs, &mut Vec::new(), |at, value| roots[at] = value);
        let of_part = |uniform: &Option<super::code::Uniform>| uniform.as_ref().map_or(0.0, |u| roots[u.row]);
        let factors: Vec<f64> = code.uniform.iter().map(of_part).collect();
        for (sum, factor) in self.sums.iter_mut().zip(&factors) {
            *sum += factor;
        }
        factors
    }
}

/// `sum_j factor_j C_j` in f64, in an order that depends on V only.
fn weighted_sum(rows: &Rows<'_>, call: &HostCall<'_>, factors: &[f32]) -> Vec<f64> {
    const PIECES: usize = 16;
    let d = call.hidden;
    let piece = factors.len().div_ceil(PIECES);
    let sums: Vec<Vec<f64>> = factors
        .par_chunks(piece)
        .enumerate()
        .map(|(at, factors)| {
            let (mut row, mut sums) = (vec![0.0f32; d], vec![0.0f64; d]);
            for (column, &factor) in factors.iter().enumerate() {
                rows.read(at * piece + column, &mut row);
                for (sum, &value) in sums.iter_mut().zip(&row) {
                    *sum += f64::from(factor) * f64::from(value);
                }
            }
            sums
        })
        .collect();
    let mut total = vec![0.0; d];
    for sums in sums {
        for (total, sum) in total.iter_mut().zip(sums) {
            *total += sum;
        }
    }
    total
}

/// dC: entries and targets sorted by column, then each column's sum.
fn classifier(
    loops: &Loops<'_, '_>,
    shape: &Shape,
    buffers: &mut SampledBuffers<'_>,
    large: &mut Large<'_>,
    uniform_cols: Option<&[f32]>,
    uniform_hidden: &[f64],
) {
    let (call, d) = (loops.call, loops.call.hidden);
    let Some((out, output)) = &mut large.classifier else { return };
    let tokens = buffers.tokens;
    if tokens.is_empty() {
        if !output.accumulate {
            out.fill(0.0);
        }
        return;
    }
    let kept = buffers.columns.len();
    let starts = entry_starts(shape, buffers.counts, 0, tokens.len());
    // A counting sort, stable in the order of the tokens.
    let next = &mut *buffers.starts;
    next.fill(0);
    let (counts, columns, targets) = (&buffers.counts, &buffers.columns, buffers.targets);
    let cold = |at: usize| targets.get(at).map(|&y| y as usize).filter(|&y| y >= shape.hot);
    for at in 0..tokens.len() {
        for &column in &columns[starts[at]..starts[at] + counts[at] as usize] {
            next[column as usize + 1] += 1;
        }
        if let Some(y) = cold(at) {
            next[y + 1] += 1;
        }
    }
    for column in 0..call.vocab {
        next[column + 1] += next[column];
    }
    let mut put = |column: usize, token: u32, gradient: f32| {
        let place = next[column] as usize;
        buffers.sorted_tokens[place] = token;
        buffers.sorted_gradients[place] = gradient;
        next[column] += 1;
    };
    for at in 0..tokens.len() {
        let range = starts[at]..starts[at] + counts[at] as usize;
        for (&column, &gradient) in columns[range.clone()].iter().zip(&buffers.entry_gradients[range]) {
            put(column as usize, tokens[at], gradient);
        }
        if let Some(y) = cold(at) {
            put(y, tokens[at], buffers.entry_gradients[kept + at]);
        }
    }
    // After the sort, `next[j]` is the end of column j and `next[j - 1]` its start.
    let (ends, sorted_tokens, sorted) = (&*next, &*buffers.sorted_tokens, &*buffers.sorted_gradients);
    let dc = &*buffers.dc;
    let accumulate = output.accumulate;
    let whole = out.range(0..call.vocab * d);
    whole.pieces(CLASSIFIER_ROWS * d).into_par_iter().enumerate().for_each_init(
        || (vec![0.0f32; d], Vec::new()),
        |(sum, list), (piece, mut out)| {
            let first = piece * CLASSIFIER_ROWS;
            for column in first..(first + CLASSIFIER_ROWS).min(call.vocab) {
                match dc.get(column * d..(column + 1) * d).filter(|_| column < shape.hot) {
                    Some(hot) => sum.copy_from_slice(hot),
                    None => sum.fill(0.0),
                }
                let start = if column == 0 { 0 } else { ends[column - 1] as usize };
                let range = start..ends[column] as usize;
                list.clear();
                list.extend(sorted_tokens[range.clone()].iter().copied().zip(sorted[range].iter().copied()));
                call.arch.dispatch(Gather { rows: &call.e, list, out: sum });
                if let Some(cols) = uniform_cols {
                    for (sum, &hidden) in sum.iter_mut().zip(uniform_hidden) {
                        *sum += (f64::from(cols[column]) * hidden) as f32;
                    }
                }
                out.range((column - first) * d..(column - first + 1) * d).write(sum, accumulate);
            }
        },
    );
}

/// Rows of dC in one task.
const CLASSIFIER_ROWS: usize = 256;
