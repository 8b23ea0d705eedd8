//! Cold entries of a token: dL/dx of each, and their part of dE.

use super::super::code::record;
use super::super::host::HostCall;
use super::super::loops::Loops;
use super::super::strip::{Registers, StripInputs, Values};
use super::super::tensor::Rows;
use super::SampledCode;
use super::layout::Shape;
use super::stream::ROWS;
use rayon::prelude::*;

/// The first entry of each token of a block.
pub(crate) fn entry_starts(shape: &Shape, counts: &[u32], first: usize, rows: usize) -> Vec<usize> {
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

/// The entries of a block of tokens.
pub(crate) struct EntryPass<'a> {
    pub(crate) loops: &'a Loops<'a, 'a>,
    pub(crate) code: &'a SampledCode,
    pub(crate) shape: &'a Shape,
    pub(crate) tokens: &'a [u32],
    /// The targets' columns; empty if the program has none.
    pub(crate) targets: &'a [u32],
    pub(crate) records: &'a [f64],
    /// The block's first token in the list of those that count.
    pub(crate) first: usize,
    /// The first entry of each token.
    pub(crate) starts: &'a [usize],
}

/// By token, by Col input, by entry: the gradient.
pub(crate) type OfCols = Vec<Vec<Vec<f32>>>;

impl EntryPass<'_> {
    /// Computes every entry's dL/dx into the gradients' buffer and adds entries and cold targets to the
    /// block's dE. `at_target(row, part)` is what a target gets. Returns the entries' gradients of Col
    /// inputs.
    pub(crate) fn run(
        &self,
        columns: &[u32],
        (weights, logits): (&[f32], &[f32]),
        counts: &[u32],
        gradients: &mut [f32],
        de: Option<&mut [f32]>,
        at_target: &(dyn Fn(usize, usize) -> f32 + Sync),
    ) -> OfCols {
        let d = self.loops.call.hidden;
        let rows = self.tokens.len();
        let own = usize::from(self.code.hot.logit.is_some());
        // Each token has its own part of the gradients' buffer.
        let mut work = Vec::with_capacity(rows);
        let (mut rest, mut at) = (gradients, 0);
        for (row, &start) in self.starts.iter().enumerate() {
            let count = counts[self.first + row] as usize;
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
        let de_rows: Vec<Option<&mut [f32]>> = match de {
            Some(de) => de.chunks_mut(d).map(Some).collect(),
            None => (0..rows).map(|_| None).collect(),
        };
        let size = self.loops.forward.record();
        let entries = Entries { code: self.code, call: self.loops.call, columns, weights, logits };
        let of_rows = work.into_par_iter().zip(de_rows).map(|((row, range, mine), de)| {
            let record = &self.records[row * size..(row + 1) * size];
            let of_parts = entries.gradients(self.tokens[row], range.clone(), record);
            if own == 1 {
                mine.copy_from_slice(&of_parts[0]);
            }
            if let (Some(de), 1) = (de, own) {
                let target = self.targets.get(row).filter(|&&y| y as usize >= self.shape.hot);
                let pairs = columns[range].iter().copied().zip(of_parts[0].iter().copied());
                let list: Vec<(u32, f32)> = pairs.chain(target.map(|&y| (y, at_target(row, 0)))).collect();
                let call = self.loops.call;
                call.arch.dispatch(Gather { rows: &call.c, list: &list, out: de });
            }
            of_parts.into_iter().skip(own).collect()
        });
        of_rows.collect()
    }
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
        let inputs = call.row_inputs(token, &record[record::STATS..]);
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
pub(crate) struct Gather<'a, 'b> {
    pub(crate) rows: &'a Rows<'a>,
    pub(crate) list: &'a [(u32, f32)],
    pub(crate) out: &'b mut [f32],
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
