//! What one call adds to its inputs: token reduction, seed, stream, checks.

use crate::views::Place;
use std::marker::PhantomData;

/// A value that a call takes from the host, or reads on the device when the work runs: no synchronisation,
/// and a replayed graph sees what stands there then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arg<'a, T> {
    pub(crate) source: ArgSource<T>,
    life: PhantomData<&'a T>,
}

/// Where an [`Arg`] comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ArgSource<T> {
    /// A value given by the host.
    Host(T),
    /// An address on a CUDA device.
    Device { address: u64, place: Place },
}

/// A Scalar input, a scalar upstream gradient, or a divisor: one f32.
pub type ScalarArg<'a> = Arg<'a, f32>;

/// A seed: one u64.
pub type SeedArg<'a> = Arg<'a, u64>;

impl<T> Arg<'_, T> {
    /// A value known now.
    pub fn host(value: T) -> Self {
        Arg { source: ArgSource::Host(value), life: PhantomData }
    }

    /// A value that lies on the CUDA device `ordinal`.
    ///
    /// # Safety
    /// `address` is aligned and valid for reading one `T` on that device until the work of every call that it
    /// is given to has finished.
    pub unsafe fn device(address: u64, ordinal: usize) -> Self {
        Arg { source: ArgSource::Device { address, place: Place::Cuda(ordinal) }, life: PhantomData }
    }
}

impl From<f32> for ScalarArg<'_> {
    fn from(value: f32) -> Self {
        Arg::host(value)
    }
}

impl From<f64> for ScalarArg<'_> {
    /// Rounds to f32, which is what a Scalar is.
    fn from(value: f64) -> Self {
        Arg::host(value as f32)
    }
}

impl From<u64> for SeedArg<'_> {
    fn from(value: u64) -> Self {
        Arg::host(value)
    }
}

/// How per-token values become one number.
///
/// The factor of the reduction also multiplies every scalar upstream gradient, which is the gradient of the
/// *reduced* value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TokenReduction<'a> {
    /// No reduced outputs; a scalar upstream gradient goes to every token as it is.
    None,
    /// The sum over the tokens that count.
    Sum,
    /// The mean over the tokens that count; 0 if none does.
    #[default]
    Mean,
    /// The sum divided by this.
    DividedBy(ScalarArg<'a>),
    /// The sum divided by the sum, over the tokens that count, of this Col input at their targets: PyTorch's
    /// mean under class weights. 0 if the weights sum to nothing, as where no token counts.
    MeanByTarget(String),
}

/// The settings of one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Call<'a> {
    pub(crate) reduction: TokenReduction<'a>,
    pub(crate) seed: SeedArg<'a>,
    pub(crate) stream: Option<u64>,
    pub(crate) check_targets: bool,
}

impl Default for Call<'_> {
    fn default() -> Self {
        Call { reduction: TokenReduction::default(), seed: Arg::host(0), stream: None, check_targets: false }
    }
}

impl<'a> Call<'a> {
    /// Mean over the tokens that count, seed 0, the device's default stream, targets not checked.
    pub fn new() -> Call<'a> {
        Call::default()
    }

    /// The token reduction.
    #[must_use]
    pub fn reduction(mut self, reduction: TokenReduction<'a>) -> Call<'a> {
        self.reduction = reduction;
        self
    }

    /// The seed of the sampled filter. Give another one every step, and the same one to recompute the same
    /// numbers.
    #[must_use]
    pub fn seed(mut self, seed: impl Into<SeedArg<'a>>) -> Call<'a> {
        self.seed = seed.into();
        self
    }

    /// The CUDA stream to work on, as the driver's raw handle. A CPU plan refuses one.
    #[must_use]
    pub fn stream(mut self, raw: u64) -> Call<'a> {
        self.stream = Some(raw);
        self
    }

    /// Looks at every target first and fails with the first row whose target is out of range. On a GPU this
    /// waits for the device.
    #[must_use]
    pub fn check_targets(mut self, check: bool) -> Call<'a> {
        self.check_targets = check;
        self
    }
}
