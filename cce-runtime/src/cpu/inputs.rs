//! Gradients of the program's own inputs, after those of the vocabulary.

use super::code::{GradientCode, record};
use super::host::{HostGradients, Token};
use super::loops::Loops;
use cce_codegen::ir::InputId;

impl Loops<'_, '_> {
    /// Gradients of Row and Scalar inputs, and of Col inputs from their sums; `wanted` are the problem's
    /// `input_gradients`.
    pub(crate) fn input_gradients(
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
}
