//! The uniform part `row_i col_j / V`: a rank-1 update of dE, dC and Col gradients.

use super::super::code::record;
use super::super::host::HostCall;
use super::super::strip::{Registers, StripInputs, Values};
use super::super::tensor::Rows;
use super::SampledCode;
use super::code::Uniform;
use rayon::prelude::*;

/// Column factors of the uniform parts.
pub(crate) struct Uniforms<'w> {
    /// By part.
    cols: Vec<Option<&'w [f32]>>,
}

impl<'w> Uniforms<'w> {
    pub(crate) fn new(code: &SampledCode, call: &HostCall<'_>, memory: &'w mut [f32]) -> Uniforms<'w> {
        let mut rest = memory;
        let mut cols = Vec::new();
        for uniform in &code.uniform {
            cols.push(uniform.as_ref().map(|uniform| {
                let (mine, tail) = std::mem::take(&mut rest).split_at_mut(call.vocab);
                rest = tail;
                let mut slots = vec![0.0f32; uniform.col.row_slots().len()];
                // They depend on no token.
                let inputs = call.row_inputs(0, &[]);
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

    pub(crate) fn of(&self, part: usize) -> Option<&'w [f32]> {
        self.cols.get(part).copied().flatten()
    }
}

/// Row factors of the uniform parts, summed over tokens.
pub(crate) struct UniformRows {
    /// By part.
    pub(crate) sums: Vec<f64>,
    /// Of dL/dx, over V, times the token's hidden states.
    pub(crate) hidden: Vec<f64>,
}

impl UniformRows {
    /// The row factors of a token, by part; added to the sums.
    pub(crate) fn add(
        &mut self,
        code: &SampledCode,
        call: &HostCall<'_>,
        token: u32,
        record: &[f64],
    ) -> Vec<f64> {
        let inputs = call.row_inputs(token, &record[record::STATS..]);
        let mut roots = vec![0.0; code.uniform_rows.roots()];
        code.uniform_rows.run(&inputs, &mut Vec::new(), |at, value| roots[at] = value);
        let of_part = |uniform: &Option<Uniform>| uniform.as_ref().map_or(0.0, |u| roots[u.row]);
        let factors: Vec<f64> = code.uniform.iter().map(of_part).collect();
        for (sum, factor) in self.sums.iter_mut().zip(&factors) {
            *sum += factor;
        }
        factors
    }
}

/// `sum_j factor_j C_j` in f64, in an order that depends on V only.
pub(crate) fn weighted_sum(rows: &Rows<'_>, call: &HostCall<'_>, factors: &[f32]) -> Vec<f64> {
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
