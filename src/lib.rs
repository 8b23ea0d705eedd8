//! The loss of a language model's head and its gradients, without ever writing the logits to memory.

extern crate self as cce;

mod function;
mod kinds;
pub mod losses;

pub use cce_codegen::ir::Program;
pub use cce_macros::{Outputs, loss};
pub use function::{LossFunction, OutputFields};
pub use kinds::{Col, Logit, Loss, Row, Scalar, Target};

/// What the code written by the macros uses. Not part of the interface.
#[doc(hidden)]
pub mod __private {
    pub use cce_codegen::ir::{
        BinaryOp, Cmp, ExprId, Input, InputId, InputKind, Node, Number, Output, Program, UnaryOp,
    };
    pub use std::borrow::Cow;

    /// A value of any type, in code that is checked and never run.
    pub fn value<T>() -> T {
        unreachable!()
    }

    /// Reads a name, in code that is checked and never run.
    pub fn used<T>(_: T) {}
}
