//! The plainest program that has a softmax, for the tests of schedules and plans.

use crate::ir::{InputKind, Program};
use crate::valid::{ProgramBuilder, Site};

/// `loss = lse(x)`.
pub(crate) fn normaliser() -> Program {
    let here = Site(0);
    let mut b = ProgramBuilder::new(here, "normaliser");
    let x = b.input(here, "x", InputKind::Logit);
    let loss = b.lse(here, x);
    b.output(here, "loss", loss);
    b.finish().unwrap()
}
