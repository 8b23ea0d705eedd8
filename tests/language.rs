//! Everything that the language has compiles without a warning.

#![deny(warnings, missing_docs)]

use cce::{Col, Logit, Loss, LossFunction, OutputFields, Row, Scalar, Target};

/// Outputs.
#[derive(cce::Outputs)]
pub struct All {
    /// A loss.
    pub loss: Row,
    lse: Row,
    entropy: Row,
    guess: Row,
}

/// Everything at once.
///
/// In two paragraphs.
#[cce::loss]
pub fn everything(x: Logit, y: Target, bias: Col, weight: Row, cap: Scalar, r#type: cce::Scalar) -> All {
    let z: Logit = cap * tanh((x + bias) / cap);
    let l = lse(z);
    let l: Row = l + 0.0;
    let target = y;
    let nll = l - at(z, target);
    let p = exp(-nll);
    let focal = pow(max(1 - p, 0.0), 2.5) * nll;
    let clamped = if nll < 1e-3 {
        let small = nll * nll;
        small
    } else if (nll >= 20.0) {
        20.0
    } else {
        -expm1(-nll) + abs(log1p(p)) + sqrt(min(p, 1.0)) + ln(p + 1.0)
    };
    let squashed = sigmoid(nll) + log_sigmoid(nll) + softplus(nll);
    let entropy = { l - expect(z, z) };
    All {
        loss: weight * (focal + clamped + squashed) + r#type * mean(max(z, bias)) - at(bias, y),
        lse: l,
        entropy,
        guess: argmax(z) + 0 * max(z),
    }
}

mod private {
    /// A private loss of a private module.
    #[cce::loss]
    pub(super) fn shorter(x: cce::Logit, y: cce::Target) -> cce::Loss {
        cce::Loss { loss: lse(x) - at(x, y) }
    }
}

#[cce::loss]
#[cfg(any())]
fn never_compiled(x: Logit, y: Target) -> Loss {
    lse(x) - at(x, y)
}

#[allow(unused_imports)]
use private::shorter;

#[test]
fn what_the_language_has_becomes_a_program() {
    // A name that is also a loss's can be bound.
    let shorter = private::shorter::program();
    assert_eq!(shorter.outputs()[0].name, "loss");
    let program = everything::program();
    assert_eq!(program.name(), "everything");
    assert_eq!(program.doc(), "Everything at once.\n\nIn two paragraphs.");
    assert_eq!(program.inputs().last().unwrap().name, "type");
    assert_eq!(program, <everything as LossFunction>::program());
    assert_eq!(<everything as LossFunction>::Outputs::NAMES, ["loss", "lse", "entropy", "guess"]);
    assert_eq!(<Loss as OutputFields>::NAMES, ["loss"]);
    assert_eq!(cce::Program::load(&program.save()).unwrap(), program);
}
