//! What a call delivers and what it is given back: outputs by field, upstream gradients by field, gradients.

use crate::call::ScalarArg;
use crate::views::{View, ViewMut};

/// Where the forward puts its outputs. A field may be asked for token by token, reduced, both, or not at all.
#[derive(Debug, Default)]
pub struct Outputs<'a> {
    pub(crate) rows: Vec<(String, ViewMut<'a>)>,
    pub(crate) reduced: Vec<(String, ViewMut<'a>)>,
}

impl<'a> Outputs<'a> {
    /// None yet.
    pub fn new() -> Outputs<'a> {
        Outputs::default()
    }

    /// The field token by token: f32 \[N\]; 0 for ignored tokens, NaN for targets out of range.
    #[must_use]
    pub fn row(mut self, field: &str, values: ViewMut<'a>) -> Outputs<'a> {
        self.rows.push((field.to_owned(), values));
        self
    }

    /// The field under the call's token reduction: one f32.
    #[must_use]
    pub fn reduced(mut self, field: &str, value: ViewMut<'a>) -> Outputs<'a> {
        self.reduced.push((field.to_owned(), value));
        self
    }
}

/// The upstream gradients, by field. A field may be given both ways: they add up. A field that is not named
/// has none.
#[derive(Clone, Debug, Default)]
pub struct Upstream<'a> {
    pub(crate) scalars: Vec<(String, ScalarArg<'a>)>,
    pub(crate) rows: Vec<(String, View<'a>)>,
}

impl<'a> Upstream<'a> {
    /// None yet.
    pub fn new() -> Upstream<'a> {
        Upstream::default()
    }

    /// The gradient of the field's *reduced* value: the reduction's factor is applied to it.
    #[must_use]
    pub fn scalar(mut self, field: &str, gradient: impl Into<ScalarArg<'a>>) -> Upstream<'a> {
        self.scalars.push((field.to_owned(), gradient.into()));
        self
    }

    /// The gradient of the field token by token: f32 \[N\].
    #[must_use]
    pub fn rows(mut self, field: &str, gradients: View<'a>) -> Upstream<'a> {
        self.rows.push((field.to_owned(), gradients));
        self
    }
}

/// Which of the two large gradients a plan computes, in the inputs' own type and overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gradients {
    /// dE.
    pub hidden: bool,
    /// dC.
    pub classifier: bool,
}

impl Gradients {
    /// Both: training a whole model.
    pub const fn both() -> Gradients {
        Gradients { hidden: true, classifier: true }
    }

    /// Neither: evaluation, or gradients of the program's own inputs alone.
    pub const fn none() -> Gradients {
        Gradients { hidden: false, classifier: false }
    }

    /// dE alone: the head is frozen.
    pub const fn hidden() -> Gradients {
        Gradients { hidden: true, classifier: false }
    }

    /// dC alone: the trunk is frozen.
    pub const fn classifier() -> Gradients {
        Gradients { hidden: false, classifier: true }
    }
}

/// Where a backward puts its gradients: exactly those that the plan was built for.
#[derive(Debug, Default)]
pub struct GradientViews<'a> {
    pub(crate) hidden: Option<ViewMut<'a>>,
    pub(crate) classifier: Option<ViewMut<'a>>,
    pub(crate) inputs: Vec<(String, ViewMut<'a>)>,
}

impl<'a> GradientViews<'a> {
    /// None yet.
    pub fn new() -> GradientViews<'a> {
        GradientViews::default()
    }

    /// dE [N, D], contiguous, of the type that the plan was built for.
    #[must_use]
    pub fn hidden(mut self, gradient: ViewMut<'a>) -> GradientViews<'a> {
        self.hidden = Some(gradient);
        self
    }

    /// dC [V, D], contiguous, of the type that the plan was built for.
    #[must_use]
    pub fn classifier(mut self, gradient: ViewMut<'a>) -> GradientViews<'a> {
        self.classifier = Some(gradient);
        self
    }

    /// The gradient of a Row \[N\], Col \[V\] or Scalar \[1\] input: f32, overwritten.
    #[must_use]
    pub fn input(mut self, name: &str, gradient: ViewMut<'a>) -> GradientViews<'a> {
        self.inputs.push((name.to_owned(), gradient));
        self
    }
}
