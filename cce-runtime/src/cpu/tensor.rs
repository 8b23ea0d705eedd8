//! Matrices in the caller's element type: read as f32, written with one rounding.

use crate::executor::ResolvedInputs;
use crate::views::{Element, HostElement, RawView};
use cce_codegen::problem::Layout;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A slice in one of the types of hidden states, classifier and gradients.
#[derive(Clone, Copy)]
pub(crate) enum Tensor<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

/// The elements behind a view.
///
/// # Safety
/// The view's memory is valid for reads during `'a`, aligned, and nothing writes to it.
pub(crate) unsafe fn slice<'a, T: HostElement>(view: RawView) -> &'a [T] {
    debug_assert_eq!(view.element, T::ELEMENT);
    if view.len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise; element type and alignment were validated with the call.
    unsafe { std::slice::from_raw_parts(view.address.cast(), view.len) }
}

/// The elements behind a view, to be written.
///
/// # Safety
/// The view's memory is valid for reads and writes during `'a`, aligned, and nothing else touches it.
pub(crate) unsafe fn slice_mut<'a, T: HostElement>(view: RawView) -> &'a mut [T] {
    debug_assert_eq!(view.element, T::ELEMENT);
    if view.len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise; element type and alignment were validated with the call.
    unsafe { std::slice::from_raw_parts_mut(view.address.cast(), view.len) }
}

/// A matrix that is read.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    data: Tensor<'a>,
    cols: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    /// # Safety
    /// As for [`slice`].
    pub(crate) unsafe fn new(view: RawView, cols: usize, layout: Layout) -> Rows<'a> {
        // SAFETY: the caller's promise, passed on.
        let data = unsafe {
            match view.element {
                Element::F16 => Tensor::F16(slice(view)),
                Element::Bf16 => Tensor::Bf16(slice(view)),
                _ => Tensor::F32(slice(view)),
            }
        };
        Rows { data, cols, stride: layout.row_stride }
    }

    /// The elements and the row stride, if they are f32.
    pub(crate) fn as_f32(&self) -> Option<(&'a [f32], usize)> {
        match self.data {
            Tensor::F32(data) => Some((data, self.stride)),
            _ => None,
        }
    }

    /// One row as f32.
    pub(crate) fn read(&self, row: usize, out: &mut [f32]) {
        let range = row * self.stride..row * self.stride + self.cols;
        match self.data {
            Tensor::F32(data) => out.copy_from_slice(&data[range]),
            Tensor::F16(data) => data[range].convert_to_f32_slice(out),
            Tensor::Bf16(data) => {
                for (out, value) in out.iter_mut().zip(&data[range]) {
                    *out = f32::from_bits(u32::from(value.to_bits()) << 16);
                }
            }
        }
    }

    /// `out += factor * row`, in f32.
    #[inline(always)]
    pub(crate) fn add_scaled(&self, row: usize, factor: f32, out: &mut [f32]) {
        let range = row * self.stride..row * self.stride + self.cols;
        match self.data {
            Tensor::F32(data) => {
                for (out, &value) in out.iter_mut().zip(&data[range]) {
                    *out += factor * value;
                }
            }
            Tensor::F16(data) => {
                for (out, value) in out.iter_mut().zip(&data[range]) {
                    *out += factor * value.to_f32();
                }
            }
            Tensor::Bf16(data) => {
                for (out, value) in out.iter_mut().zip(&data[range]) {
                    *out += factor * f32::from_bits(u32::from(value.to_bits()) << 16);
                }
            }
        }
    }
}

/// A contiguous matrix that is written.
pub(crate) enum RowsMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [f16]),
    Bf16(&'a mut [bf16]),
}

impl<'a> RowsMut<'a> {
    /// # Safety
    /// As for [`slice_mut`].
    pub(crate) unsafe fn new(view: RawView) -> RowsMut<'a> {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match view.element {
                Element::F16 => RowsMut::F16(slice_mut(view)),
                Element::Bf16 => RowsMut::Bf16(slice_mut(view)),
                _ => RowsMut::F32(slice_mut(view)),
            }
        }
    }

    /// A range of elements.
    pub(crate) fn range(&mut self, range: std::ops::Range<usize>) -> RowsMut<'_> {
        match self {
            RowsMut::F32(data) => RowsMut::F32(&mut data[range]),
            RowsMut::F16(data) => RowsMut::F16(&mut data[range]),
            RowsMut::Bf16(data) => RowsMut::Bf16(&mut data[range]),
        }
    }

    /// Cuts into pieces of `len` elements; the last may be shorter.
    pub(crate) fn pieces(self, len: usize) -> Vec<RowsMut<'a>> {
        match self {
            RowsMut::F32(data) => data.chunks_mut(len).map(RowsMut::F32).collect(),
            RowsMut::F16(data) => data.chunks_mut(len).map(RowsMut::F16).collect(),
            RowsMut::Bf16(data) => data.chunks_mut(len).map(RowsMut::Bf16).collect(),
        }
    }

    /// Sets every element.
    pub(crate) fn fill(&mut self, value: f32) {
        match self {
            RowsMut::F32(data) => data.fill(value),
            RowsMut::F16(data) => data.fill(f16::from_f32(value)),
            RowsMut::Bf16(data) => data.fill(bf16::from_f32(value)),
        }
    }

    /// Writes f32 values, added to what is there under `accumulate`; one rounding.
    pub(crate) fn write(&mut self, values: &[f32], accumulate: bool) {
        match self {
            RowsMut::F32(data) => {
                if accumulate {
                    for (out, value) in data.iter_mut().zip(values) {
                        *out += value;
                    }
                } else {
                    data.copy_from_slice(values);
                }
            }
            RowsMut::F16(data) => {
                if accumulate {
                    for (out, value) in data.iter_mut().zip(values) {
                        *out = f16::from_f32(out.to_f32() + value);
                    }
                } else {
                    data.convert_from_f32_slice(values);
                }
            }
            RowsMut::Bf16(data) => {
                for (out, &value) in data.iter_mut().zip(values) {
                    let value = if accumulate { out.to_f32() + value } else { value };
                    *out = bf16::from_f32(value);
                }
            }
        }
    }
}

/// The targets.
#[derive(Clone, Copy)]
pub(crate) enum Targets<'a> {
    /// The program has none.
    None,
    I32(&'a [i32]),
    I64(&'a [i64]),
}

impl<'a> Targets<'a> {
    /// # Safety
    /// As for [`slice`].
    pub(crate) unsafe fn new(inputs: &ResolvedInputs) -> Targets<'a> {
        match inputs.targets {
            None => Targets::None,
            // SAFETY: the caller's promise, passed on.
            Some(view) if view.element == Element::I64 => Targets::I64(unsafe { slice(view) }),
            // SAFETY: as above.
            Some(view) => Targets::I32(unsafe { slice(view) }),
        }
    }

    /// The token's target.
    pub(crate) fn get(&self, token: usize) -> Option<i64> {
        match self {
            Targets::None => None,
            Targets::I32(targets) => Some(i64::from(targets[token])),
            Targets::I64(targets) => Some(targets[token]),
        }
    }
}
