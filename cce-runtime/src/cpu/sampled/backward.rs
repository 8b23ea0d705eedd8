//! The sampled backward: hot columns dense and exact, cold columns by entries, the uniform part by factors.
//!
//! dE of a token is one sum in f32: the product over the hot columns, its entries, its target, the uniform
//! part. dC of a column is one sum in f32 too: the product over all tokens if it is hot, the entries of its
//! list in the order of the tokens, the uniform part. Each is rounded once.

use super::super::gradient::{Coefficients, Tile, coefficients, gradient_tile};
use super::super::loops::{Large, Loops, convert, pack};
use super::super::product::{Matrix, MatrixMut, Threads, product};
use super::classifier::classifier;
use super::entries::{EntryPass, entry_starts};
use super::layout::Shape;
use super::uniform::{UniformRows, Uniforms, weighted_sum};
use super::{SampledBuffers, SampledCode};

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
        let pass = EntryPass { loops, code, shape, tokens: block, targets, records, first, starts: &starts };
        let of_cols = pass.run(
            buffers.columns,
            (buffers.weights, buffers.logits),
            buffers.counts,
            buffers.entry_gradients,
            if large.hidden.is_some() { Some(&mut buffers.de[..rows * d]) } else { None },
            &at_target,
        );
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
                let kept = buffers.columns.len();
                buffers.entry_gradients[kept + first + row] = at_target(row, 0);
            }
            let factors = uniform_rows.add(code, call, token, &records[row * size..(row + 1) * size]);
            if let Some(u) = factors.first().copied().filter(|_| own == 1 && uniform.of(0).is_some()) {
                let share = u / call.vocab as f64;
                if let Some(cols) = &hidden_factor {
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
