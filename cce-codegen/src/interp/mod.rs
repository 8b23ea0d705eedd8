//! The oracle: programs and their gradients evaluated in f64 on materialised logits.
//!
//! Everything else is tested against this module, so it is written for being right by inspection, not for
//! speed:
//! - [`Interp`] evaluates the *program* as it was written, knowing nothing of canonical forms or
//!   derivatives. Central differences of it are what a derivative must be.
//! - [`LoweredInterp`] evaluates the gradient normal form, for one token.
//! - [`mod@reference`] runs the whole computation, from hidden states and classifier to losses and gradients.
//!
//! A token's value is a number; a value that varies over the vocabulary is a vector of V numbers.

mod eval;
mod lowered;
pub mod reference;
#[cfg(test)]
mod tests;

pub use eval::{Bound, Interp, Leaves, Token, Value, evaluate};
pub use lowered::{LoweredInterp, TokenGradient};
