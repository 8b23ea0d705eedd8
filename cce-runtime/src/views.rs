//! Views of a caller's buffers: element type, length, place.
//!
//! A [`View`] is a pointer with its element type and its place, so that one signature serves host slices and
//! device pointers. Shapes are the plan's; a view only says how many elements there are. Safe constructors
//! borrow host slices; device pointers cannot be checked and need `unsafe`.

use cce_codegen::problem::{DType, IndexType};
use std::fmt;
use std::marker::PhantomData;

/// The type of a buffer's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
}

impl Element {
    /// Size in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F16 | Element::Bf16 => 2,
            Element::F32 | Element::I32 => 4,
            Element::I64 => 8,
        }
    }

    /// `f32`, `f16`, `bf16`, `i32`, `i64`.
    pub const fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::Bf16 => "bf16",
            Element::I32 => "i32",
            Element::I64 => "i64",
        }
    }
}

impl From<DType> for Element {
    fn from(dtype: DType) -> Element {
        match dtype {
            DType::F32 => Element::F32,
            DType::F16 => Element::F16,
            DType::Bf16 => Element::Bf16,
        }
    }
}

impl From<IndexType> for Element {
    fn from(index: IndexType) -> Element {
        match index {
            IndexType::I32 => Element::I32,
            IndexType::I64 => Element::I64,
        }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that is an [`Element`]: `f32`, `half::f16`, `half::bf16`, `i32`, `i64`.
pub trait HostElement: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The element it is.
    const ELEMENT: Element;
}

macro_rules! host_elements {
    ($($rust:ty => $element:ident),*) => {$(
        impl sealed::Sealed for $rust {}
        impl HostElement for $rust {
            const ELEMENT: Element = Element::$element;
        }
    )*};
}

host_elements!(f32 => F32, half::f16 => F16, half::bf16 => Bf16, i32 => I32, i64 => I64);

/// Where a buffer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The host's memory.
    Host,
    /// The memory of the CUDA device with this ordinal.
    Cuda(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Host => f.write_str("the host"),
            Place::Cuda(ordinal) => write!(f, "CUDA device {ordinal}"),
        }
    }
}

/// A pointer, how many elements are behind it, and of which type. Whoever holds one was promised by the view
/// it came from that the memory stays valid (and, from a [`ViewMut`], unaliased) during the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawView {
    pub(crate) address: *mut u8,
    pub(crate) len: usize,
    pub(crate) element: Element,
}

// SAFETY: a RawView is an address with a length. Dereferencing it is unsafe and up to its user, who relies on
// the views' contract, which no thread can change.
unsafe impl Send for RawView {}
// SAFETY: as above.
unsafe impl Sync for RawView {}

/// A buffer that a call reads.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) raw: RawView,
    pub(crate) place: Place,
    life: PhantomData<&'a [u8]>,
}

impl<'a> View<'a> {
    /// A host slice.
    pub fn host<T: HostElement>(slice: &'a [T]) -> View<'a> {
        let raw =
            RawView { address: slice.as_ptr().cast_mut().cast(), len: slice.len(), element: T::ELEMENT };
        View { raw, place: Place::Host, life: PhantomData }
    }

    /// Host memory behind a raw pointer, for callers that have no slice of the right type.
    ///
    /// # Safety
    /// `address` is valid for reads of `len` elements, aligned to their size, and nothing writes to it during
    /// `'a`.
    pub unsafe fn host_raw(address: *const u8, len: usize, element: Element) -> View<'a> {
        let raw = RawView { address: address.cast_mut(), len, element };
        View { raw, place: Place::Host, life: PhantomData }
    }

    /// Device memory of the CUDA device `ordinal`.
    ///
    /// # Safety
    /// `address` is valid for reads of `len` elements on that device until the work that reads it has
    /// finished on the call's stream, and nothing writes to it meanwhile.
    pub unsafe fn device(address: u64, len: usize, element: Element, ordinal: usize) -> View<'a> {
        let raw = RawView { address: std::ptr::without_provenance_mut(address as usize), len, element };
        View { raw, place: Place::Cuda(ordinal), life: PhantomData }
    }

    /// The type of its elements.
    pub fn element(&self) -> Element {
        self.raw.element
    }

    /// The number of its elements.
    pub fn len(&self) -> usize {
        self.raw.len
    }

    /// Whether it holds no element.
    pub fn is_empty(&self) -> bool {
        self.raw.len == 0
    }

    /// Where it lives.
    pub fn place(&self) -> Place {
        self.place
    }
}

/// A buffer that a call writes (or, where a gradient is accumulated, adds to).
#[derive(Debug)]
pub struct ViewMut<'a> {
    pub(crate) raw: RawView,
    pub(crate) place: Place,
    life: PhantomData<&'a mut [u8]>,
}

impl<'a> ViewMut<'a> {
    /// A host slice.
    pub fn host<T: HostElement>(slice: &'a mut [T]) -> ViewMut<'a> {
        let raw = RawView { address: slice.as_mut_ptr().cast(), len: slice.len(), element: T::ELEMENT };
        ViewMut { raw, place: Place::Host, life: PhantomData }
    }

    /// Host memory behind a raw pointer.
    ///
    /// # Safety
    /// `address` is valid for reads and writes of `len` elements, aligned to their size, and nothing else
    /// touches it during `'a`.
    pub unsafe fn host_raw(address: *mut u8, len: usize, element: Element) -> ViewMut<'a> {
        ViewMut { raw: RawView { address, len, element }, place: Place::Host, life: PhantomData }
    }

    /// Device memory of the CUDA device `ordinal`.
    ///
    /// # Safety
    /// `address` is valid for reads and writes of `len` elements on that device until the work that writes it
    /// has finished on the call's stream, and nothing else touches it meanwhile.
    pub unsafe fn device(address: u64, len: usize, element: Element, ordinal: usize) -> ViewMut<'a> {
        let raw = RawView { address: std::ptr::without_provenance_mut(address as usize), len, element };
        ViewMut { raw, place: Place::Cuda(ordinal), life: PhantomData }
    }

    /// The type of its elements.
    pub fn element(&self) -> Element {
        self.raw.element
    }

    /// The number of its elements.
    pub fn len(&self) -> usize {
        self.raw.len
    }

    /// Whether it holds no element.
    pub fn is_empty(&self) -> bool {
        self.raw.len == 0
    }

    /// Where it lives.
    pub fn place(&self) -> Place {
        self.place
    }
}
