//! The head of a real model on the CPU device, against the references in its file. `CCE_TEST_HEAD` names the
//! file; it has to be right if it is named.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
mod support;

use cce::DType;
use support::{Bench, Choice, Mode, Reduction, Report, head, programs, run};

#[test]
fn the_whole_head_has_the_loss_and_the_gradients_of_its_file() {
    let Some(path) = head::path() else { return };
    let head = head::load(&path);
    let bench = Bench::cpu();
    let dtype = head.dtype();
    let case = head::case(&head, dtype);
    let data = head::data(&case, &head);
    let plan = case.plan(&bench, Choice::Selected).expect("a plan");
    let found = run::run(&bench, &case, &data, &plan, Mode::Step).expect("a result");
    let mut report = Report { cases: 1, ..Report::default() };
    head::compare_all(&mut report, &format!("cpu {case}"), &head, &found, dtype);
    println!("{}", report.worst());
    report.assert();
}

/// Some of its tokens, in fp32, where every digit counts. A row of dE needs no token but its own: it belongs
/// to the mean over all tokens of the file, so the sum is divided by their number.
#[test]
fn some_tokens_of_the_head_in_fp32_have_its_losses_and_rows_of_de() {
    let Some(path) = head::path() else { return };
    let whole = head::load(&path);
    let part = whole.first_tokens(64).converted(DType::F32);
    let bench = Bench::cpu();
    let case = head::case(&part, DType::F32).with(|case| {
        case.reduction = Reduction::DividedBy;
        case.classifier_gradient = None;
    });
    let mut data = head::data(&case, &part);
    data.divisor = whole.tokens as f32;
    let plan = case.plan(&bench, Choice::Selected).expect("a plan");
    let found = run::run(&bench, &case, &data, &plan, Mode::Apart).expect("a result");
    let mut report = Report { cases: 1, ..Report::default() };
    let label = format!("cpu {case}");
    head::compare_losses(&mut report, &label, &whole, found.outputs[0].as_deref().unwrap_or_default());
    let gradient = found.hidden.as_deref().unwrap_or_default();
    head::compare_hidden(&mut report, &label, &whole, gradient, DType::F32);
    println!("{}", report.worst());
    report.assert();
}

#[test]
fn every_loss_is_right_on_tokens_of_the_head() {
    let Some(path) = head::path() else { return };
    let (bench, head) = (Bench::cpu(), head::some_tokens(&path, DType::F32));
    let mut report = Report::default();
    for program in programs::all() {
        report.add(head::check_loss(&bench, &head, &program, Choice::Selected));
    }
    println!("{}", report.worst());
    report.assert();
}
