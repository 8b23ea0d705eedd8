//! Vectors of elements whose type is known at run time.

use super::IGNORED;
use cce_codegen::problem::DType;
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements of hidden states or of a classifier.
#[derive(Clone, Debug, PartialEq)]
pub enum Elements {
    /// IEEE single precision.
    F32(Vec<f32>),
    /// IEEE half precision.
    F16(Vec<f16>),
    /// bfloat16.
    Bf16(Vec<bf16>),
}

/// One of the three element types.
pub(super) trait Element: Copy + Send + Sync + Default {
    fn of(value: f32) -> Self;
    fn value(self) -> f32;
    fn wrap(elements: Vec<Self>) -> Elements;
}

impl Element for f32 {
    fn of(value: f32) -> f32 {
        value
    }
    fn value(self) -> f32 {
        self
    }
    fn wrap(elements: Vec<f32>) -> Elements {
        Elements::F32(elements)
    }
}

impl Element for f16 {
    fn of(value: f32) -> f16 {
        f16::from_f32(value)
    }
    fn value(self) -> f32 {
        self.to_f32()
    }
    fn wrap(elements: Vec<f16>) -> Elements {
        Elements::F16(elements)
    }
}

impl Element for bf16 {
    fn of(value: f32) -> bf16 {
        bf16::from_f32(value)
    }
    fn value(self) -> f32 {
        self.to_f32()
    }
    fn wrap(elements: Vec<bf16>) -> Elements {
        Elements::Bf16(elements)
    }
}

fn convert<A: Element, B: Element>(from: &[A]) -> Elements {
    B::wrap(from.par_iter().with_min_len(1 << 14).map(|&x| B::of(x.value())).collect())
}

impl Elements {
    /// Their type.
    pub fn dtype(&self) -> DType {
        match self {
            Elements::F32(_) => DType::F32,
            Elements::F16(_) => DType::F16,
            Elements::Bf16(_) => DType::Bf16,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Elements::F32(v) => v.len(),
            Elements::F16(v) => v.len(),
            Elements::Bf16(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same values in another type, each rounded to nearest, ties to even.
    #[must_use]
    pub fn converted(&self, dtype: DType) -> Elements {
        match (self, dtype) {
            (same, dtype) if same.dtype() == dtype => same.clone(),
            (Elements::F32(v), DType::F16) => convert::<f32, f16>(v),
            (Elements::F32(v), DType::Bf16) => convert::<f32, bf16>(v),
            (Elements::F16(v), DType::Bf16) => convert::<f16, bf16>(v),
            (Elements::F16(v), _) => convert::<f16, f32>(v),
            (Elements::Bf16(v), DType::F16) => convert::<bf16, f16>(v),
            (Elements::Bf16(v), _) => convert::<bf16, f32>(v),
            (Elements::F32(v), DType::F32) => Elements::F32(v.clone()),
        }
    }

    /// The values as f32, exact for each of the types.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Elements::F32(v) => v.clone(),
            Elements::F16(v) => v.par_iter().with_min_len(1 << 14).map(|x| x.to_f32()).collect(),
            Elements::Bf16(v) => v.par_iter().with_min_len(1 << 14).map(|x| x.to_f32()).collect(),
        }
    }

    /// Row `row` of a matrix of rows of `width`; empty outside.
    pub(crate) fn row_f64(&self, row: usize, width: usize) -> Vec<f64> {
        let range = row * width..(row + 1) * width;
        match self {
            Elements::F32(v) => v.get(range).unwrap_or_default().iter().map(|&x| f64::from(x)).collect(),
            Elements::F16(v) => v.get(range).unwrap_or_default().iter().map(|x| x.to_f64()).collect(),
            Elements::Bf16(v) => v.get(range).unwrap_or_default().iter().map(|x| x.to_f64()).collect(),
        }
    }

    pub(super) fn rotate(&mut self, by: usize) {
        match self {
            Elements::F32(v) => v.rotate_left(by),
            Elements::F16(v) => v.rotate_left(by),
            Elements::Bf16(v) => v.rotate_left(by),
        }
    }

    pub(super) fn first(&self, len: usize) -> Elements {
        match self {
            Elements::F32(v) => Elements::F32(v[..len].to_vec()),
            Elements::F16(v) => Elements::F16(v[..len].to_vec()),
            Elements::Bf16(v) => Elements::Bf16(v[..len].to_vec()),
        }
    }
}

/// Targets: the index of each token's next token, or [`IGNORED`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// 32-bit.
    I32(Vec<i32>),
    /// 64-bit.
    I64(Vec<i64>),
}

impl Targets {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Targets::I32(v) => v.len(),
            Targets::I64(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The target of one token; [`IGNORED`] past the end.
    pub fn get(&self, token: usize) -> i64 {
        match self {
            Targets::I32(v) => v.get(token).map_or(IGNORED, |&t| i64::from(t)),
            Targets::I64(v) => v.get(token).copied().unwrap_or(IGNORED),
        }
    }

    /// How many count.
    pub fn counted(&self) -> usize {
        (0..self.len()).filter(|&token| self.get(token) != IGNORED).count()
    }

    /// The same targets in 32 bits. Every valid target fits: V is far below 2^31.
    #[must_use]
    pub fn to_i32(&self) -> Vec<i32> {
        (0..self.len()).map(|token| self.get(token) as i32).collect()
    }

    /// The same targets in 64 bits.
    #[must_use]
    pub fn to_i64(&self) -> Vec<i64> {
        (0..self.len()).map(|token| self.get(token)).collect()
    }

    /// The first `len` of them; all, if there are fewer.
    #[must_use]
    pub fn first(&self, len: usize) -> Targets {
        let len = len.min(self.len());
        match self {
            Targets::I32(v) => Targets::I32(v[..len].to_vec()),
            Targets::I64(v) => Targets::I64(v[..len].to_vec()),
        }
    }

    pub(super) fn rotate(&mut self, by: usize) {
        match self {
            Targets::I32(v) => v.rotate_left(by),
            Targets::I64(v) => v.rotate_left(by),
        }
    }

    /// Takes targets beyond `vocab` modulo it.
    pub(super) fn wrap(&mut self, vocab: usize) {
        for token in 0..self.len() {
            let target = self.get(token);
            if target >= vocab as i64 && vocab > 0 {
                match self {
                    Targets::I32(v) => v[token] = (target % vocab as i64) as i32,
                    Targets::I64(v) => v[token] = target % vocab as i64,
                }
            }
        }
    }

    pub(super) fn ignore(&mut self, ignored: impl Fn(usize) -> bool) {
        for token in (0..self.len()).filter(|&token| ignored(token)) {
            match self {
                Targets::I32(v) => v[token] = IGNORED as i32,
                Targets::I64(v) => v[token] = IGNORED,
            }
        }
    }
}
