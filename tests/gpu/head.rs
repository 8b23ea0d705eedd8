//! The head of a real model on a GPU, against the references in its file: the loss to 1e-5, gradients to the
//! rounding of their type. `CCE_TEST_HEAD` names the file; it has to be right if it is named.

use crate::support::case::Budget;
use crate::support::gpu::Test;
use crate::support::run::run;
use crate::support::{Bench, Case, Choice, Mode, Report, head, programs};
use cce::{DType, IndexType, Program};
use cce_tune::data::{Head, IGNORED};
use rayon::prelude::*;

pub const TESTS: &[Test] = &[
    ("head::bf16_on_every_family", bf16_on_every_family),
    ("head::f32_on_simt", f32_on_simt),
    ("head::f32_gradients_and_a_small_workspace", f32_gradients_and_a_small_workspace),
    ("head::some_tokens_ignored", some_tokens_ignored),
    ("head::every_loss_on_tokens_of_the_head", every_loss_on_tokens_of_the_head),
];

/// Runs a case on the head's data, on every family that can, and compares everything that the file has.
fn check(bench: &Bench, change: impl FnOnce(&Head) -> (Head, Case)) -> Report {
    let mut report = Report::default();
    let Some(path) = head::path() else { return report };
    let (head, case) = change(&head::load(&path));
    for choice in families(bench, &case) {
        report.add(check_on(bench, choice, &head, &case));
    }
    report
}

fn families(bench: &Bench, case: &Case) -> Vec<Choice> {
    let gpu = bench.gpu().expect("these tests run on a GPU");
    gpu.families(&case.problem()).into_iter().map(Choice::Family).collect()
}

fn check_on(bench: &Bench, choice: Choice, head: &Head, case: &Case) -> Report {
    let mut report = Report { cases: 1, ..Report::default() };
    let label = format!("{} real head {case}", choice.name());
    let data = head::data(case, head);
    let found = case.plan(bench, choice).and_then(|plan| {
        let step = run(bench, case, &data, &plan, Mode::Step)?;
        let apart = run(bench, case, &data, &plan, Mode::Apart)?;
        step.same_bits(&apart)?;
        Ok(step)
    });
    match found {
        Ok(found) => head::compare_all(&mut report, &label, head, &found, case.dtype),
        Err(error) => report.fail(&label, error),
    }
    report
}

fn bf16_on_every_family(bench: &Bench) -> Report {
    check(bench, |head| (head.clone(), head::case(head, head.dtype())))
}

fn f32_on_simt(bench: &Bench) -> Report {
    check(bench, |head| {
        let head = head.converted(DType::F32);
        let case = head::case(&head, DType::F32);
        (head, case)
    })
}

fn f32_gradients_and_a_small_workspace(bench: &Bench) -> Report {
    check(bench, |head| {
        let case = head::case(head, head.dtype()).gradients(DType::F32, false).with(|case| {
            case.budget = Budget::Smallest;
            case.index = IndexType::I64;
        });
        (head.clone(), case)
    })
}

/// The file's other targets, of which some are ignored: the losses of the rest stay what they are, their mean
/// is over them.
fn some_tokens_ignored(bench: &Bench) -> Report {
    let mut report = Report::default();
    let Some(path) = head::path() else { return report };
    let whole = head::load(&path);
    let head = match Head::load_with_targets(&path, "targets_ignored") {
        Ok(head) => Head { references: whole.references, ..head },
        Err(error) => panic!("CCE_TEST_HEAD names {path}, which cannot be used: {error}"),
    };
    let case = head::case(&head, head.dtype());
    for choice in families(bench, &case) {
        report.add(some_ignored_on(bench, choice, &head, &case));
    }
    report
}

fn some_ignored_on(bench: &Bench, choice: Choice, head: &Head, case: &Case) -> Report {
    let mut report = Report { cases: 1, ..Report::default() };
    let label = format!("{} real head, some tokens ignored {case}", choice.name());
    let data = head::data(case, head);
    let found = case.plan(bench, choice).and_then(|plan| run(bench, case, &data, &plan, Mode::Step));
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            report.fail(&label, error);
            return report;
        }
    };
    let loss = head.references.loss.as_deref().unwrap_or_default();
    let counted: Vec<usize> = (0..head.tokens).filter(|&i| head.targets.get(i) != IGNORED).collect();
    assert!(counted.len() < head.tokens, "some of the file's `targets_ignored` are ignored");
    let mean = counted.iter().map(|&i| loss[i]).sum::<f64>() / counted.len() as f64;
    let value = found.reduced[0].expect("a mean loss");
    report.check("real head, mean loss", (value - mean).abs() / mean, 1e-5, &label);
    head::compare_losses(&mut report, &label, head, found.outputs[0].as_deref().unwrap_or_default());
    let gradient = found.hidden.as_deref().unwrap_or_default();
    let is_zero = |i: &usize| gradient[i * head.width..][..head.width].iter().all(|&x| x == 0.0);
    if let Some(token) = (0..head.tokens).filter(|i| !counted.contains(i)).find(|i| !is_zero(i)) {
        report.fail(&label, format!("the row of dE of the ignored token {token} is not zero"));
    }
    // The mean is over fewer tokens, and of one that counts nothing else changes.
    let scale = head.tokens as f64 / counted.len() as f64;
    let rows = head.references.hidden_gradient.as_deref().unwrap_or_default();
    let rows = rows.chunks(head.width).enumerate().filter(|(token, _)| counted.contains(token));
    let (mut found_rows, mut expected_rows) = (Vec::new(), Vec::new());
    for (token, row) in rows {
        expected_rows.extend(row.iter().map(|&x| scale * f64::from(x)));
        found_rows.extend_from_slice(&gradient[token * head.width..][..head.width]);
    }
    let error = crate::support::compare::distance(&found_rows, &expected_rows, 0.0);
    report.check("real head, de_rows", error, head::gradient_tolerance(case.dtype), &label);
    report
}

fn every_loss_on_tokens_of_the_head(bench: &Bench) -> Report {
    let Some(path) = head::path() else { return Report::default() };
    let programs = programs::all();
    let heads = [DType::Bf16, DType::F32].map(|dtype| head::some_tokens(&path, dtype));
    let cases: Vec<_> = heads
        .iter()
        .flat_map(|head| {
            let choices = families(bench, &head::case(head, head.dtype()));
            choices.into_iter().map(move |choice| (head, choice))
        })
        .flat_map(|of| programs.iter().map(move |program| (of, program)))
        .collect();
    let check = |&((head, choice), program): &((&Head, Choice), &Program)| {
        head::check_loss(bench, head, program, choice)
    };
    let mut all = Report::default();
    cases.par_iter().map(check).collect::<Vec<_>>().into_iter().for_each(|report| all.add(report));
    all
}
