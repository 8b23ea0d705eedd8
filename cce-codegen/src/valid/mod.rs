//! Every check of the language, in one place.
//!
//! A [`ProgramBuilder`] is the only way to make a [`Program`](crate::ir::Program): `#[cce::loss]`
//! drives it while the user compiles, [`Program::load`](crate::ir::Program::load) drives it with a
//! file, and a front end in another language may drive it at run time. All three get the same
//! checks and the same messages.
//!
//! # What a back end may assume of a program
//! - Exactly one Logit input, at most one Target; every input is read by some output; names are
//!   ASCII identifiers and differ.
//! - Nodes are interned, stand in topological order, and are all reachable from the outputs; none
//!   of the derived ones occurs.
//! - Literals are finite.
//! - Every reduction's argument varies over the vocabulary and contains no reduction.
//! - All `lse` and `expect` are over one and the same `z`, which depends on the logit.
//! - There is at least one output; outputs are of kind Row or Scalar, and have different names.
//! - `differentiable` is right for each output, and true for one named `loss`.
//!
//! # Errors
//! A mistake makes a [`Diagnostic`] and a *poisoned* value; what is computed from a poisoned value
//! is poisoned silently, so that one mistake is reported once, and all mistakes of a program are
//! reported together. What a program lacks (a Logit, an output, an input's use) is said only when no
//! mistake can be the reason: of an input's use and an output, when nothing else is wrong.

mod builder;
mod expand;
mod finish;
mod functions;
mod reductions;
#[cfg(test)]
mod tests;

pub use builder::{ProgramBuilder, Value};
pub use functions::{FUNCTIONS, Function};

use std::fmt;

/// A place in the user's source, as the caller of the builder numbers them: the macro maps it to a
/// span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site(pub u32);

/// One mistake in a program.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// Where it is.
    pub site: Site,
    /// Where the other half of it is: an earlier definition, the reduction inside the reduction.
    pub related: Option<Site>,
    /// What is wrong, in the user's words.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\nhelp: {help}")?;
        }
        Ok(())
    }
}

impl Diagnostic {
    pub(crate) fn new(site: Site, message: impl Into<String>) -> Diagnostic {
        Diagnostic { site, related: None, message: message.into(), help: None }
    }

    #[must_use]
    pub(crate) fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub(crate) fn related(mut self, site: Option<Site>) -> Diagnostic {
        self.related = site;
        self
    }
}
