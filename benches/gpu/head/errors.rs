//! Errors of gradients against family `simt` with fp32 gradients on the same inputs.

use super::Bench;
use super::arguments::What;
use super::input::TokenTargets;
use super::runner::{Role, Runner};
use cce::{DType, Filter};
use cce_runtime::driver::{Buffer, Plain};
use half::{bf16, f16};
use rayon::prelude::*;

/// Of one gradient.
#[derive(Clone, Copy)]
pub struct GradientError {
    /// ||difference|| / ||reference||.
    pub whole: f64,
    /// The same of the worst row that is not tiny.
    pub worst_row: f64,
}

/// dE and dC on the host.
pub type Gradients = [Vec<f32>; 2];

impl Bench<'_> {
    /// The gradients to compare with.
    pub fn reference(&self, tokens: usize, targets: &TokenTargets) -> Gradients {
        let mut reference = self.runner(tokens, What::Gradients(Filter::Exact), Role::Reference, targets);
        self.run(&mut reference, targets, 0);
        self.download(&reference).unwrap()
    }

    /// Errors of dE and dC; `None` without gradients.
    pub fn errors(
        &self,
        runner: &mut Runner,
        targets: &TokenTargets,
        reference: &Gradients,
    ) -> Option<[GradientError; 2]> {
        self.run(runner, targets, 0);
        let ours = self.download(runner)?;
        Some([0, 1].map(|at| error(&ours[at], &reference[at], self.input.width)))
    }

    fn download(&self, runner: &Runner) -> Option<Gradients> {
        let dtype = runner.plan.problem().hidden_gradient?.dtype;
        let gradients = runner.gradients.as_ref()?;
        Some(gradients.each_ref().map(|buffer| self.download_as_f32(buffer, dtype)))
    }

    fn download_as_f32(&self, buffer: &Buffer, dtype: DType) -> Vec<f32> {
        fn widened<T: Copy + Send + Sync + Into<f32>>(values: &[T]) -> Vec<f32> {
            values.par_iter().with_min_len(1 << 14).map(|&value| value.into()).collect()
        }
        let len = buffer.bytes() / dtype.bytes();
        match dtype {
            DType::F32 => self.downloaded(buffer, vec![0f32; len]),
            DType::F16 => widened(&self.downloaded(buffer, vec![f16::ZERO; len])),
            DType::Bf16 => widened(&self.downloaded(buffer, vec![bf16::ZERO; len])),
        }
    }

    fn downloaded<T: Plain>(&self, buffer: &Buffer, mut values: Vec<T>) -> Vec<T> {
        self.stream.download(buffer, 0, &mut values).unwrap();
        values
    }
}

fn error(ours: &[f32], exact: &[f32], width: usize) -> GradientError {
    let square = |x: f64| x * x;
    let rows: Vec<(f64, f64)> = ours
        .par_chunks(width)
        .zip(exact.par_chunks(width))
        .map(|(a, b)| {
            let difference = a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
            (difference, b.iter().map(|b| square(f64::from(*b))).sum())
        })
        .collect();
    let (difference, norm) = rows.iter().fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
    let floor = norm / rows.len() as f64 * 1e-6;
    let worst = rows.iter().filter(|row| row.1 > floor).map(|row| (row.0 / row.1).sqrt());
    GradientError {
        whole: (difference / norm).sqrt(),
        // `max` drops a NaN.
        worst_row: worst.fold(0.0, |a: f64, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }),
    }
}
