//! `#[cce::loss]`: a loss written as a Rust function becomes a checked program.
//!
//! ```text
//! fn item ──▶ signature ──▶ body ──▶ ProgramBuilder ──▶ emit
//!  (syn)      (inputs,      (syntax   (every check,     (const parts,
//!              outputs)      only)     cce-codegen)      rustc's own checks)
//! ```
//!
//! The macro knows the syntax and nothing else: what a program may say is checked by
//! `cce_codegen::valid`, so that a program built at run time gets the same messages. Mistakes
//! become `compile_error!`s at their spans, all at once; beside them the loss's type is emitted all
//! the same, so that the rest of the user's crate, and the editor, know it.

mod body;
mod emit;
mod outputs;
mod refused;
mod signature;
mod sites;

use proc_macro::TokenStream;

/// Turns a function into a loss: a type of the same name, with the program that plans are made from.
///
/// ```text
/// /// Cross entropy of softcapped logits.
/// #[cce::loss]
/// pub fn capped(x: Logit, y: Target, cap: Scalar) -> Loss {
///     let z = cap * tanh(x / cap);
///     lse(z) - at(z, y)
/// }
///
/// let program: cce::Program = capped::program();
/// ```
///
/// Inputs are of the kinds `Logit`, `Target`, `Row`, `Col` and `Scalar`. The body is `let`, arithmetic,
/// `if`, and calls of the language's functions; it ends with the loss, or with a struct that has
/// `#[derive(cce::Outputs)]`. The guide to the language is the module `cce::language`.
#[proc_macro_attribute]
pub fn loss(arguments: TokenStream, item: TokenStream) -> TokenStream {
    emit::loss(arguments.into(), item.into()).into()
}

/// Makes a struct, all fields of which are `Row`s, the outputs of losses.
///
/// ```text
/// #[derive(cce::Outputs)]
/// struct WithEntropy {
///     loss: Row,
///     entropy: Row,
/// }
/// ```
#[proc_macro_derive(Outputs)]
pub fn outputs(item: TokenStream) -> TokenStream {
    outputs::derive(item.into()).into()
}
