//! The loss of a language model's head and its gradients, without ever writing the logits to
//! memory.
//!
//! A head multiplies hidden states `E` \[N, D\] with a classifier `C` \[V, D\]; its logits \[N, V\]
//! are larger than everything else in the model. You write the loss of *one token* as a small Rust
//! function; this crate derives the gradient, emits kernels for one shape, type and device,
//! compiles them at run time, and never forms the logits. It runs on NVIDIA GPUs, and on the CPU.
//!
//! ```
//! use cce::prelude::*;
//!
//! /// Cross entropy of softcapped logits, with a z-loss.
//! #[cce::loss]
//! fn capped(x: Logit, y: Target, cap: Scalar) -> Loss {
//!     let z = cap * tanh(x / cap);
//!     let l = lse(z);
//!     l - at(z, y) + 1e-4 * l * l
//! }
//!
//! # fn main() -> cce::Result<()> {
//! # let (n, d, v) = (4, 8, 32);
//! # let hidden: Vec<f32> = (0..n * d).map(|i| (i as f32 * 0.7).sin()).collect();
//! # let classifier: Vec<f32> = (0..v * d).map(|i| (i as f32 * 0.3).cos()).collect();
//! # let targets: Vec<i32> = vec![3, 31, -100, 0];
//! // hidden: [n, d], classifier: [v, d], targets: [n], -100 where a token does not count.
//! let plan = Plan::builder(&capped::program(), n, d, v).build(&Device::auto()?)?;
//! let inputs = Inputs::new(View::host(&hidden), View::host(&classifier))
//!     .targets(View::host(&targets))
//!     .scalar("cap", 30.0);
//! let result = plan.run(&inputs, &Call::new())?;
//! println!("mean loss {}, first value of dE {}", result.loss, result.hidden_gradient[0]);
//! # assert!(result.loss.is_finite() && result.hidden_gradient.len() == n * d);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//! - [`language`] is the guide to what `#[cce::loss]` takes; [`losses`] are those that ship, each a
//!   function in it.
//! - [`Plan`] is a loss made ready for a shape and a [`Device`]. [`Plan::run`] takes host data;
//!   [`Plan::forward`] and [`Plan::backward`] take [`View`]s of your own memory, on the device too,
//!   without a copy.
//! - [`Filter`] says how the gradient's softmax part may be thinned: exactly computed, sampled
//!   without bias, or without the tiles in which it is small.
//! - [`Program`] is a loss as data: saved, loaded, printed, or built at run time with
//!   [`ProgramBuilder`].

extern crate self as cce;

mod function;
mod kinds;
pub mod losses;

pub use cce_codegen::ir::{InputKind, Level, Program, ProgramError};
pub use cce_codegen::problem::{DType, Filter, GradientOutput, IndexType, Layout, Problem};
pub use cce_codegen::schedule::Schedule;
pub use cce_codegen::valid::{Diagnostic, ProgramBuilder, Site, Value};
#[doc(inline)]
pub use cce_macros::{Outputs, loss};
pub use cce_runtime::{
    Arg, Call, Device, DeviceKind, DeviceProperties, Element, Error, GradientViews, Gradients,
    HOST_PART_ALIGN, HostElement, Inputs, Kernels, Outputs, Place, Plan, PlanBuilder, Result, RunResult,
    Saved, ScalarArg, SeedArg, TokenReduction, Upstream, View, ViewMut, WORKSPACE_ALIGN, Workspace,
    WorkspaceSize,
};
pub use function::{LossFunction, OutputFields};
pub use kinds::{Col, Logit, Loss, Row, Scalar, Target};

/// What most programs name: the kinds of a loss's inputs, and what it takes to run one.
pub mod prelude {
    pub use crate::{
        Call, Col, DType, Device, Filter, GradientViews, Gradients, Inputs, Logit, Loss, LossFunction,
        Outputs, Plan, Row, Scalar, Target, TokenReduction, Upstream, View, ViewMut,
    };
}

#[doc = include_str!("../docs/losses.md")]
pub mod language {}

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
