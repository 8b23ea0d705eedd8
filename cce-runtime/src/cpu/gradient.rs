//! The backward's pass: a tile of logits becomes the tile of dL/dx, in place; Col gradients are summed on the
//! way.
//!
//! A task owns a range of columns over all rows of the tile, so that sums over tokens have one order and no
//! lock.

use super::code::{GradientCode, PartCode, record};
use super::host::HostCall;
use super::math;
use super::product::MatrixMut;
use super::stats::finite_reference;
use super::strip::{Registers, StripCode, StripInputs, Values, zip};
use rayon::prelude::*;

/// What the pass over the vocabulary reads of each token of a tile.
pub(crate) struct Coefficients<'a> {
    /// `GradientCode::coefficients` values a token.
    pub(crate) values: &'a [f32],
    /// The targets' columns; empty if the program has none.
    pub(crate) targets: &'a [u32],
}

/// Computes the coefficients of consecutive active tokens from their records.
pub(crate) fn coefficients(
    code: &GradientCode,
    call: &HostCall<'_>,
    tokens: &[u32],
    records: &[f64],
    out: &mut [f32],
) {
    let (width, size) = (code.coefficients(), records.len() / tokens.len().max(1));
    if tokens.is_empty() {
        return;
    }
    let work = out.par_chunks_mut(width).zip(records.par_chunks(size)).zip(tokens);
    work.for_each_init(Vec::new, |scratch: &mut Vec<f64>, ((out, record), &token)| {
        let inputs = call.row_inputs(token, &record[record::STATS..]);
        let mut at_target = vec![0.0; 2 * code.parts().count()];
        out[0] = record[record::REFERENCE] as f32;
        out[1] = record[record::SUM] as f32;
        let slots = code.slots;
        code.row.run(&inputs, scratch, |at, value| {
            if at < slots {
                out[2 + at] = value as f32;
            } else if let Some(place) = at_target.get_mut(at - slots) {
                *place = value;
            }
        });
        for (at, part) in code.parts().enumerate() {
            out[2 + slots + at] = target_value(part, &at_target, record) as f32;
        }
    });
}

/// What the target column gets besides the uniform part: `rest - (1 - p_y) A_y`.
pub(crate) fn target_value(part: &PartCode, roots: &[f64], record: &[f64]) -> f64 {
    let rest = part.rest_at_target.map_or(0.0, |at| roots[at]);
    let softmax = part.softmax_at_target.map_or(0.0, |at| record[record::TARGET] * roots[at]);
    rest - softmax
}

/// A tile of logits: rows of consecutive active tokens, columns `first..`.
pub(crate) struct Tile<'a> {
    pub(crate) matrix: MatrixMut<'a>,
    pub(crate) first: usize,
}

/// Turns logits into dL/dx (if the code wants it) and adds the Col gradients to `col_sums`, whole columns of
/// V sums a wanted input.
pub(crate) fn gradient_tile(
    code: &GradientCode,
    call: &HostCall<'_>,
    tile: Tile<'_>,
    coefficients: &Coefficients<'_>,
    col_sums: &mut [&mut [f64]],
    strip: usize,
) {
    let first = tile.first;
    let ranges = tile.matrix.column_ranges(strip);
    let mut sums: Vec<Vec<&mut [f64]>> = ranges.iter().map(|_| Vec::new()).collect();
    for of_input in col_sums.iter_mut() {
        for (list, piece) in sums.iter_mut().zip(of_input[first..].chunks_mut(strip)) {
            list.push(piece);
        }
    }
    ranges.into_par_iter().zip(sums).for_each_init(
        || (Registers::new(&code.strip, strip), vec![0.0f32; strip], vec![0.0f32; strip]),
        |(registers, weights, result), ((offset, matrix), sums)| {
            call.arch.dispatch(StripPass {
                code,
                call,
                first: first + offset,
                matrix,
                coefficients,
                sums,
                registers,
                weights,
                result,
            });
        },
    );
}

struct StripPass<'a, 'b> {
    code: &'a GradientCode,
    call: &'a HostCall<'a>,
    first: usize,
    matrix: MatrixMut<'a>,
    coefficients: &'a Coefficients<'a>,
    sums: Vec<&'a mut [f64]>,
    registers: &'b mut Registers,
    weights: &'b mut Vec<f32>,
    result: &'b mut Vec<f32>,
}

impl pulp::NullaryFnOnce for StripPass<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let StripPass { code, call, first, mut matrix, coefficients, mut sums, registers, weights, result } =
            self;
        let width = code.coefficients();
        for row in 0..matrix.rows() {
            let of_row = &coefficients.values[row * width..(row + 1) * width];
            let logits = matrix.row(row);
            let len = logits.len();
            let inputs = StripInputs { logits, cols: &call.cols, first, rows: &of_row[2..2 + code.slots] };
            code.strip.run(registers, &inputs);
            let (reference, inverse) = (finite_reference(of_row[0]), of_row[1]);
            if let Some(z) = code.softmax {
                let z = code.strip.value(z, registers, &inputs);
                zip(&mut weights[..len], z, Values::Same(reference), |z, reference| math::exp(z - reference));
            }
            let target = coefficients
                .targets
                .get(row)
                .and_then(|&y| (y as usize).checked_sub(first))
                .filter(|&y| y < len);
            let own = code.logit.is_some() as usize;
            for (at, part) in code.parts().enumerate().skip(own) {
                let values = Part { code: &code.strip, part, inverse, vocab: call.vocab };
                values.combine(registers, &inputs, &weights[..len], &mut result[..len]);
                if let Some(y) = target {
                    result[y] = of_row[2 + code.slots + at] + values.uniform_at(registers, &inputs, y);
                }
                for (sum, &value) in sums[at - own].iter_mut().zip(result.iter()) {
                    *sum += f64::from(value);
                }
            }
            if let Some(part) = &code.logit {
                let values = Part { code: &code.strip, part, inverse, vocab: call.vocab };
                values.combine(registers, &inputs, &weights[..len], &mut result[..len]);
                if let Some(y) = target {
                    result[y] = of_row[2 + code.slots] + values.uniform_at(registers, &inputs, y);
                }
                matrix.row(row).copy_from_slice(&result[..len]);
            }
        }
    }
}

/// One part of one token.
struct Part<'a> {
    code: &'a StripCode,
    part: &'a PartCode,
    inverse: f32,
    vocab: usize,
}

impl Part<'_> {
    /// `out = weights A / sum + B / V`.
    #[inline(always)]
    fn combine(&self, registers: &Registers, inputs: &StripInputs<'_>, weights: &[f32], out: &mut [f32]) {
        match self.part.softmax.map(|at| self.code.value(at, registers, inputs)) {
            Some(Values::Same(a)) => {
                zip(out, Values::Each(weights), Values::Same(a * self.inverse), |w, a| w * a);
            }
            Some(Values::Each(a)) => {
                let inverse = self.inverse;
                zip(out, Values::Each(weights), Values::Each(a), |w, a| w * inverse * a);
            }
            None => out.fill(0.0),
        }
        let share = 1.0 / self.vocab as f32;
        match self.part.uniform.map(|at| self.code.value(at, registers, inputs)) {
            Some(Values::Same(b)) => {
                for out in out.iter_mut() {
                    *out += b * share;
                }
            }
            Some(Values::Each(b)) => {
                for (out, b) in out.iter_mut().zip(b) {
                    *out += b * share;
                }
            }
            None => {}
        }
    }

    #[inline(always)]
    fn uniform_at(&self, registers: &Registers, inputs: &StripInputs<'_>, column: usize) -> f32 {
        match self.part.uniform.map(|at| self.code.value(at, registers, inputs)) {
            Some(Values::Same(b)) => b / self.vocab as f32,
            Some(Values::Each(b)) => b[column] / self.vocab as f32,
            None => 0.0,
        }
    }
}
