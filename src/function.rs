//! What `#[cce::loss]` and `#[derive(cce::Outputs)]` implement.

use crate::{Loss, Program};

/// A loss, as a type: implemented by what `#[cce::loss]` makes of a function.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a loss",
    note = "a loss is a function with `#[cce::loss]` on it"
)]
pub trait LossFunction {
    /// The struct that it returns.
    type Outputs: OutputFields;

    /// Its program: what plans are made from. Cheap: all parts are constants.
    fn program() -> Program;
}

/// A struct of outputs: implemented by `#[derive(cce::Outputs)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a struct of outputs",
    label = "a loss returns this",
    note = "put `#[derive(cce::Outputs)]` on it, and make its fields `Row`s"
)]
pub trait OutputFields {
    /// The fields' names, in order.
    const NAMES: &'static [&'static str];
}

impl OutputFields for Loss {
    const NAMES: &'static [&'static str] = &["loss"];
}
