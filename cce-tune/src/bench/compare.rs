//! How close two results are.

use cce_codegen::problem::{DType, Filter};
use rayon::prelude::*;

/// The most that a result may differ from the reference: ||difference|| / ||reference||.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Of each output, as a vector over the tokens.
    pub outputs: f64,
    /// Of each gradient; of a sampled one beside its noise.
    pub gradients: f64,
}

impl Tolerance {
    /// Outputs come from products accumulated in fp32, in another order: a few times 1e-6, whatever the
    /// inputs' type. Gradients of 16-bit inputs are rounded twice on either side, once as a factor of a
    /// product and once as a result (2^-9 relative each at most in bf16). The noise of a sampled gradient is no
    /// constant: whether it is noise is told from several seeds.
    pub fn of(dtype: DType, filter: Filter) -> Tolerance {
        let rounding = match dtype {
            DType::F32 => 2e-4,
            DType::F16 => 4e-3,
            DType::Bf16 => 1.2e-2,
        };
        let gradients = match filter {
            Filter::Exact | Filter::Sampled { .. } => rounding,
            Filter::Blocks { eps } => rounding + 8.0 * f64::from(eps).sqrt(),
        };
        Tolerance { outputs: 1e-4, gradients }
    }
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// ||difference|| / ||reference||; the norm of the difference itself where the reference is zero; infinite
    /// where there is a NaN on either side.
    pub error: f64,
    /// ||difference||, of what is no NaN.
    pub difference: f64,
    /// ||reference||, of what is finite.
    pub norm: f64,
    /// Elements that are NaN, in the result or in the reference: nothing can be said of those.
    pub nan: usize,
    /// Elements of the reference that are infinite.
    pub infinite: usize,
}

impl Comparison {
    /// Compares two vectors. Where both are the same infinity, they agree; a NaN agrees with nothing.
    pub fn of(result: &[f32], reference: &[f32]) -> Comparison {
        if result.len() != reference.len() {
            return Comparison::of_other_lengths();
        }
        const CHUNK: usize = 1 << 16;
        let parts: Vec<Sums> = result
            .par_chunks(CHUNK)
            .zip(reference.par_chunks(CHUNK))
            .map(|(result, reference)| {
                let mut sums = Sums::default();
                for (&a, &b) in result.iter().zip(reference) {
                    if a.is_nan() || b.is_nan() {
                        sums.nan += 1;
                    } else if a != b {
                        sums.difference += (f64::from(a) - f64::from(b)).powi(2);
                    }
                    if b.is_finite() {
                        sums.norm += f64::from(b).powi(2);
                    }
                    sums.infinite += usize::from(b.is_infinite());
                }
                sums
            })
            .collect();
        // In the order of the chunks, so that the same numbers give the same error.
        let mut all = Sums::default();
        parts.into_iter().for_each(|part| all.add(part));
        all.comparison()
    }

    /// Vectors of different lengths, which have nothing to do with each other.
    pub(super) fn of_other_lengths() -> Comparison {
        Comparison { error: f64::INFINITY, difference: f64::INFINITY, norm: 0.0, nan: 0, infinite: 0 }
    }

    /// Why this is wrong, if it is: `what` names the vector.
    pub fn judge(&self, what: &str, limit: f64) -> Result<(), String> {
        self.judge_written(what)?;
        if self.error.is_nan() || self.error > limit {
            return Err(format!("{what} differs by {:.1e}, at most {limit:.1e} is rounding", self.error));
        }
        Ok(())
    }

    /// Which elements are NaN, if some are.
    pub(super) fn judge_written(&self, what: &str) -> Result<(), String> {
        if self.nan > 0 {
            let (elements, are) = if self.nan == 1 {
                ("1 element".to_owned(), "is")
            } else {
                (format!("{} elements", self.nan), "are")
            };
            return Err(format!("{what}: {elements} {are} NaN or not written"));
        }
        Ok(())
    }
}

/// What a comparison adds up: squares of differences, squares of the reference, elements that are NaN,
/// elements of the reference that are infinite.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) difference: f64,
    pub(super) norm: f64,
    pub(super) nan: usize,
    pub(super) infinite: usize,
}

impl Sums {
    pub(super) fn add(&mut self, part: Sums) {
        self.difference += part.difference;
        self.norm += part.norm;
        self.nan += part.nan;
        self.infinite += part.infinite;
    }

    pub(super) fn comparison(&self) -> Comparison {
        let (difference, norm) = (self.difference.sqrt(), self.norm.sqrt());
        let error = match (difference, norm) {
            _ if self.nan > 0 => f64::INFINITY,
            (difference, 0.0) => difference,
            (difference, norm) => difference / norm,
        };
        Comparison { error, difference, norm, nan: self.nan, infinite: self.infinite }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_to_the_reference() {
        let comparison = Comparison::of(&[3.0, 4.4], &[3.0, 4.0]);
        assert!((comparison.error - 0.08).abs() < 1e-6);
        assert!(comparison.judge("dE", 0.1).is_ok());
        let message = comparison.judge("dE", 0.01).unwrap_err();
        assert_eq!(message, "dE differs by 8.0e-2, at most 1.0e-2 is rounding");
    }

    #[test]
    fn an_element_that_was_not_written_is_wrong_whatever_the_rest() {
        let mut result = vec![1.0; 1_000_000];
        let reference = result.clone();
        result[777_777] = f32::NAN;
        let message = Comparison::of(&result, &reference).judge("dC", 1.0).unwrap_err();
        assert!(message.contains("1 element is NaN"), "{message}");
    }

    #[test]
    fn the_same_infinity_is_right_and_a_nan_is_wrong_even_where_the_reference_is_one() {
        let special = [f32::INFINITY, 2.0];
        assert!(Comparison::of(&special, &special).judge("lse", 1e-6).is_ok());
        assert!(Comparison::of(&[5.0, 2.0], &special).judge("lse", 1e-6).is_err());
        for (result, reference) in [(f32::NAN, f32::NAN), (1.0, f32::NAN), (f32::NAN, 1.0)] {
            let comparison = Comparison::of(&[result, 2.0], &[reference, 2.0]);
            assert!(comparison.judge("lse", f64::MAX).is_err());
            assert_eq!((comparison.error, comparison.nan), (f64::INFINITY, 1));
        }
        assert!(Comparison::of(&[0.0], &[0.0, 1.0]).judge("lse", 1e-6).is_err());
        assert_eq!(Comparison::of(&[1e-9], &[0.0]).error, f64::from(1e-9f32));
    }
}
