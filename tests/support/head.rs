//! The head of a real model, from the file that `CCE_TEST_HEAD` names, with the references that it holds.

use super::case::Case;
use super::compare::{Report, check_with, distance};
use super::data::Data;
use super::device::{Bench, Choice};
use super::expected::Expected;
use super::run::Found;
use cce::{DType, Program};
use cce_tune::data::Head;
use std::collections::BTreeMap;
use std::io::Write;

/// The file's path; `None`, said on the standard error even where a test's output is captured, if the
/// variable is not set.
pub fn path() -> Option<String> {
    let path = std::env::var("CCE_TEST_HEAD").ok().filter(|path| !path.is_empty());
    if path.is_none() {
        let _ =
            writeln!(std::io::stderr(), "CCE_TEST_HEAD is not set: the tests of the real head are not run");
    }
    path
}

/// The head at a path. Panics with a sentence that says what is wrong with the file.
pub fn load(path: &str) -> Head {
    let head = match Head::load(path) {
        Ok(head) => head,
        Err(error) => panic!("CCE_TEST_HEAD names {path}, which cannot be used: {error}"),
    };
    let references = &head.references;
    for (name, present) in [
        ("loss", references.loss.is_some()),
        ("lse", references.lse.is_some()),
        ("de_rows", references.hidden_gradient.is_some()),
        ("dc_rows", references.classifier_gradient.is_some()),
    ] {
        assert!(present, "CCE_TEST_HEAD names {path}, which has no reference `{name}` to test with");
    }
    head
}

/// The head's values as a case's data, with an upstream gradient of 1.
pub fn data(case: &Case, head: &Head) -> Data {
    let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
    Data {
        hidden: wide(head.hidden.to_f32()),
        classifier: wide(head.classifier.to_f32()),
        targets: head.targets.to_i64(),
        inputs: BTreeMap::new(),
        scalars: case.program.outputs().iter().map(|_| Some(1.0)).collect(),
        rows: case.program.outputs().iter().map(|_| None).collect(),
        divisor: 8192.0,
        initial: [Vec::new(), Vec::new()],
    }
}

/// Cross entropy of the head in a type (of which the file's values are exact) or rounded to it.
pub fn case(head: &Head, dtype: DType) -> Case {
    let shape = [head.tokens, head.width, head.vocab];
    Case::new(&cce::losses::cross_entropy::program(), shape, dtype)
}

/// The head's first tokens, few enough for every loss to be computed in f64.
pub fn some_tokens(path: &str, dtype: DType) -> Head {
    load(path).first_tokens(6).converted(dtype)
}

/// A loss on some tokens of the head, its other inputs at random: outputs and all gradients against the f64
/// reference.
pub fn check_loss(bench: &Bench, head: &Head, program: &Program, choice: Choice) -> Report {
    let shape = [head.tokens, head.width, head.vocab];
    // The logits of this head run from -40 to 43.
    let case = Case::new(program, shape, head.dtype()).with(|case| case.spread = 11.0);
    let own = data(&case, head);
    let random = case.data();
    let values = Data { hidden: own.hidden, classifier: own.classifier, targets: own.targets, ..random };
    let expected = Expected::of(&case, &values);
    check_with(bench, &case, choice, &values, &expected)
}

/// How far a result may be from the references: the loss 1e-5; gradients by the rounding of their type.
pub fn gradient_tolerance(dtype: DType) -> f64 {
    match dtype {
        // The largest logits are near 43, where an fp32 product of 576 terms is off by some 1e-5.
        DType::F32 => 5e-5,
        DType::F16 => 1e-3,
        DType::Bf16 => 4e-3,
    }
}

/// Compares the losses of a result's tokens with the file's: of all that count together, relative to their
/// norm.
pub fn compare_losses(report: &mut Report, label: &str, head: &Head, found: &[f64]) {
    let loss = head.references.loss.as_deref().unwrap_or_default();
    let counts = |token: usize| head.targets.get(token) != cce_tune::data::IGNORED;
    let expected: Vec<f64> =
        (0..found.len()).map(|token| if counts(token) { loss[token] } else { 0.0 }).collect();
    report.check("real head, losses", distance(found, &expected, 0.0), 1e-5, label);
}

/// Compares the rows of dE that the file has.
pub fn compare_hidden(report: &mut Report, label: &str, head: &Head, found: &[f64], dtype: DType) {
    let expected = head.references.hidden_gradient.as_deref().unwrap_or_default();
    let expected: Vec<f64> = expected.iter().copied().map(f64::from).collect();
    let error = distance(&found[..expected.len()], &expected, 0.0);
    report.check("real head, de_rows", error, gradient_tolerance(dtype), label);
}

/// Compares the rows of dC that the file has.
pub fn compare_classifier(report: &mut Report, label: &str, head: &Head, found: &[f64], dtype: DType) {
    let Some((rows, expected)) = &head.references.classifier_gradient else { return };
    let expected: Vec<f64> = expected.iter().copied().map(f64::from).collect();
    let found: Vec<f64> =
        rows.iter().flat_map(|row| &found[row * head.width..][..head.width]).copied().collect();
    let error = distance(&found, &expected, 0.0);
    report.check("real head, dc_rows", error, gradient_tolerance(dtype), label);
}

/// Compares everything that the file says of the mean loss over all its tokens.
pub fn compare_all(report: &mut Report, label: &str, head: &Head, found: &Found, dtype: DType) {
    let mean = head.references.mean_loss().unwrap_or(f64::NAN);
    for value in found.reduced.iter().flatten() {
        report.check("real head, mean loss", (value - mean).abs() / mean, 1e-5, label);
    }
    for losses in found.outputs.iter().flatten() {
        compare_losses(report, label, head, losses);
    }
    if let Some(gradient) = &found.hidden {
        compare_hidden(report, label, head, gradient, dtype);
    }
    if let Some(gradient) = &found.classifier {
        compare_classifier(report, label, head, gradient, dtype);
    }
}
