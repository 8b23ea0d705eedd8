//! dC: entries and targets sorted by column, then one sum a column, rounded once.

use super::super::loops::{Large, Loops};
use super::SampledBuffers;
use super::entries::{Gather, entry_starts};
use super::layout::Shape;
use rayon::prelude::*;

/// Computes dC of all columns; the hot ones' product stands in the workspace.
pub(crate) fn classifier(
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
