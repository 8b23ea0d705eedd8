//! The sampled filter under many seeds: what their mean approaches.

use super::compare::{Report, distance};
use super::expected::Expected;
use super::run::{Buffers, Found, stream};
use super::{Bench, Case, Choice, Data, Mode, programs};
use cce::{DType, Filter};

/// The results of one plan under several seeds, one after the other.
pub fn each_seed(
    bench: &Bench,
    choice: Choice,
    case: &Case,
    data: &Data,
    seeds: &[u64],
    mut take: impl FnMut(Found),
) -> Result<(), String> {
    let plan = case.plan(bench, choice)?;
    let stream = stream(bench)?;
    for &seed in seeds {
        let mut buffers = Buffers::new(bench, case, data, &plan)?;
        buffers.put(stream.as_ref())?;
        buffers
            .call(bench, case, &plan, Mode::Step, stream.as_ref(), |call| call.seed(seed))
            .map_err(|error| error.to_string())?;
        take(buffers.found(stream.as_ref())?);
    }
    Ok(())
}

/// All of them together.
pub fn under_seeds(
    bench: &Bench,
    choice: Choice,
    case: &Case,
    data: &Data,
    seeds: &[u64],
) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    each_seed(bench, choice, case, data, seeds, |one| found.push(one))?;
    Ok(found)
}

/// A logit over its scale, by its column and the size of the vocabulary.
type LogitOf = fn(usize, usize) -> f64;

/// Logits of every row by column, the scale in its hidden state and the rest in the classifier, each a number
/// that bf16 has: shapes that a bound or an estimate could fail on.
/// The walk goes over tiles of 256 columns, dealt to four lanes in pairs; the first 768 are hot.
const ROWS: [(&str, f64, LogitOf); 7] = [
    ("all equal", 1.0, |_, _| 3.0),
    ("the mass in the last tile", 1.0, |column, vocab| if column + 200 > vocab { 6.0 } else { 0.0 }),
    ("the mass in one lane", 1.0, |column, _| if column % 8 / 2 == 1 { 5.0 } else { -5.0 }),
    ("growing by a factor of a million a tile", 1.0, |column, _| (column / 256 * 14) as f64),
    (
        "one entry far above the rest",
        1.0,
        |column, _| if column == 5000 { 9984.0 } else { (column % 5) as f64 },
    ),
    ("200 above what is hot", 1.0, |column, _| if column < 768 { -200.0 } else { (column % 3) as f64 }),
    ("everything far below zero", 64.0, |column, _| -156.0 - (column % 2) as f64),
];

/// Rows of such logits: finite, and right in the mean over seeds.
pub fn rows_of_every_kind(bench: &Bench, choice: Choice) -> Report {
    const SEEDS: u64 = 64;
    let mut report = Report::default();
    for (kind, scale, of_classifier) in ROWS {
        for max_entries in [384, 16] {
            let case =
                Case::new(&programs::named("cross_entropy"), [70, 8, 6000], DType::Bf16).with(|case| {
                    case.filter = Filter::Sampled { eps: 1.0 / 64.0, max_entries };
                    case.spread = 1.0;
                });
            let case = case.gradients(DType::F32, false);
            let mut data = case.data();
            for (token, row) in data.hidden.chunks_mut(case.hidden).enumerate() {
                row.fill(0.0);
                row[0] = scale;
                data.targets[token] = (token * 977 % case.vocab) as i64;
            }
            for (column, row) in data.classifier.chunks_mut(case.hidden).enumerate() {
                row[0] = of_classifier(column, case.vocab);
            }
            let expected = Expected::of(&case, &data);
            let label = format!("{}, {kind}: {case}", choice.name());
            report.cases += 1;
            let seeds: Vec<u64> = (0..SEEDS).map(|seed| case.seed.wrapping_add(seed)).collect();
            match under_seeds(bench, choice, &case, &data, &seeds) {
                // All of a row's error lies along one direction: its mean over seeds is a single normal variable,
                // of which four standard deviations are allowed. Targets far below the largest logit leave
                // nothing but these to dE and dC: rounding of G.
                Ok(found) => check_mean(&mut report, &label, &expected, &found, (4.0, 4e-3)),
                Err(error) => report.fail(&label, error),
            }
        }
    }
    report
}

/// Whether the mean of what several seeds gave is nearer to the exact gradients than one of them (the root of
/// their mean square), by the root of their number, give or take the factor `within`; `rounding` of the whole
/// stays.
pub fn check_mean(
    report: &mut Report,
    label: &str,
    expected: &Expected,
    found: &[Found],
    (within, rounding): (f64, f64),
) {
    let large = |of: fn(&Found) -> &Option<Vec<f64>>| -> Vec<&Vec<f64>> {
        found.iter().map(|found| of(found).as_ref().expect("a gradient")).collect()
    };
    let mut gradients = vec![
        ("dE", &expected.hidden, large(|found| &found.hidden)),
        ("dC", &expected.classifier, large(|found| &found.classifier)),
    ];
    for (at, (_, exact)) in expected.inputs.iter().enumerate() {
        gradients.push(("inputs", exact, found.iter().map(|found| &found.inputs[at].1).collect()));
    }
    for (what, exact, values) in gradients {
        let seeds = values.len() as f64;
        let squares = values.iter().map(|one| distance(one, exact, 0.0).powi(2)).sum::<f64>();
        let one = (squares / seeds).sqrt();
        let mean: Vec<f64> =
            (0..exact.len()).map(|at| values.iter().map(|one| one[at]).sum::<f64>() / seeds).collect();
        let many = distance(&mean, exact, 0.0);
        report.check(what, (many - rounding).max(0.0), within / seeds.sqrt() * one, label);
    }
}

/// What has no number still comes to an end, and spoils nothing else: logits too far apart for fp32, and a
/// group of 16 tokens whose targets are all out of range on a softmax that the quota cuts.
pub fn numberless_rows_end(bench: &Bench, choice: Choice) -> Report {
    let mut report = Report::default();
    let filter = Filter::Sampled { eps: 1.0 / 1024.0, max_entries: 16 };
    let case = Case::new(&programs::named("cross_entropy"), [70, 64, 6000], DType::Bf16)
        .gradients(DType::F32, false)
        .with(|case| (case.filter, case.ignored, case.spread) = (filter, None, 0.01));
    let far_apart = {
        let mut data = case.data();
        data.hidden.iter_mut().for_each(|x| *x = x.signum() * 2f64.powi(24));
        data.classifier.iter_mut().for_each(|x| *x = x.signum() * 512.0);
        data
    };
    let out_of_range = {
        let mut data = case.data();
        data.targets[..32].fill(case.vocab as i64 + 5);
        data
    };
    for (kind, data, numbers_from) in
        [("logits far apart", far_apart, case.tokens), ("targets out of range", out_of_range, 32)]
    {
        let label = format!("{}, {kind}: {case}", choice.name());
        report.cases += 1;
        let run = each_seed(bench, choice, &case, &data, &[case.seed], |found| {
            let rows = found.hidden.as_deref().expect("dE");
            let columns = found.classifier.as_deref().expect("dC");
            let whole = numbers_from < case.tokens;
            if rows[numbers_from * case.hidden..].iter().any(|x| !x.is_finite()) {
                report.fail(&label, "a row of dE of another token is no number".to_owned());
            }
            if whole && columns.iter().any(|x| !x.is_finite()) {
                report.fail(&label, "dC is no number".to_owned());
            }
        });
        if let Err(error) = run {
            report.fail(&label, error);
        }
    }
    report
}
