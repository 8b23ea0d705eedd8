//! The inputs of a call, by name.

use crate::call::ScalarArg;
use crate::views::View;

/// Hidden states, classifier, targets, and the program's own inputs by their names in its signature.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    pub(crate) hidden: View<'a>,
    pub(crate) classifier: View<'a>,
    pub(crate) targets: Option<View<'a>>,
    pub(crate) rows: Vec<(String, View<'a>)>,
    pub(crate) cols: Vec<(String, View<'a>)>,
    pub(crate) scalars: Vec<(String, ScalarArg<'a>)>,
}

impl<'a> Inputs<'a> {
    /// Hidden states [N, D] and classifier [V, D], both of the plan's type and layouts.
    pub fn new(hidden: View<'a>, classifier: View<'a>) -> Inputs<'a> {
        Inputs { hidden, classifier, targets: None, rows: Vec::new(), cols: Vec::new(), scalars: Vec::new() }
    }

    /// Targets \[N\], of the plan's index type.
    #[must_use]
    pub fn targets(mut self, targets: View<'a>) -> Inputs<'a> {
        self.targets = Some(targets);
        self
    }

    /// A Row input: f32 \[N\].
    #[must_use]
    pub fn row(mut self, name: &str, values: View<'a>) -> Inputs<'a> {
        self.rows.push((name.to_owned(), values));
        self
    }

    /// A Col input: f32 \[V\].
    #[must_use]
    pub fn col(mut self, name: &str, values: View<'a>) -> Inputs<'a> {
        self.cols.push((name.to_owned(), values));
        self
    }

    /// A Scalar input.
    #[must_use]
    pub fn scalar(mut self, name: &str, value: impl Into<ScalarArg<'a>>) -> Inputs<'a> {
        self.scalars.push((name.to_owned(), value.into()));
        self
    }
}
