//! The losses that ship.
//!
//! Each is a type that `#[cce::loss]` has made of a function: `losses::cross_entropy::program()` is
//! what a plan is made from. The function is the whole of it: press *source* beside a loss to read
//! it, and copy it as the start of your own.
//!
//! All are per token. How tokens are reduced (not at all, sum, mean over those that count, a given
//! normaliser) is said in the call. In the formulas `z` are the logits after the loss's own
//! transform, `p = softmax(z)`, `y` the target, `V` the size of the vocabulary.

mod likelihood;
mod policy;
mod regularised;
mod weighted;

pub use likelihood::{cross_entropy, cross_entropy_with_bias, scaled, softcapped};
pub use policy::{TokenLogprob, token_logprob, unlikelihood};
pub use regularised::{Gemma2, gemma2, label_smoothing, z_loss};
pub use weighted::{class_weights, focal, token_weights};

use crate::Program;

/// A loss's name, and what makes its program.
pub type Shipped = (&'static str, fn() -> Program);

/// All of them, by name: what the command line's `--loss NAME` chooses from.
pub const ALL: &[Shipped] = &[
    ("cross_entropy", cross_entropy::program),
    ("cross_entropy_with_bias", cross_entropy_with_bias::program),
    ("scaled", scaled::program),
    ("softcapped", softcapped::program),
    ("label_smoothing", label_smoothing::program),
    ("z_loss", z_loss::program),
    ("gemma2", gemma2::program),
    ("focal", focal::program),
    ("class_weights", class_weights::program),
    ("token_weights", token_weights::program),
    ("token_logprob", token_logprob::program),
    ("unlikelihood", unlikelihood::program),
];

/// The shipped loss of this name.
pub fn named(name: &str) -> Option<Program> {
    ALL.iter().find(|(other, _)| *other == name).map(|(_, program)| program())
}
