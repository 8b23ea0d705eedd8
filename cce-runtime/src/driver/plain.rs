//! Types that are nothing but their bytes.

use super::memory::DevicePtr;

/// A type without padding, of which every bit pattern is a value: what can be copied to and from a device.
///
/// # Safety
/// No padding, no pointers to host memory, no invalid bit patterns, and the same layout on host and device.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

macro_rules! plain {
    ($($type:ty),*) => {
        $(
            // SAFETY: a number (or a newtype of one): no padding and no invalid bit patterns.
            unsafe impl Plain for $type {}
        )*
    };
}

plain!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, half::f16, half::bf16, DevicePtr);

// SAFETY: an array has no padding between elements that have none.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// The bytes of a value.
pub(super) fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: a `Plain` value has no padding, so all its bytes are initialised, and they live as long as
    // the reference.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
