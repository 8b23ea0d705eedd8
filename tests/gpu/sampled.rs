//! The sampled filter on a GPU: nothing lost with a step below every probability, the same bits from the same
//! seed, no bias where steps and quotas bind, and what must survive: ignored tokens, targets out of range,
//! NaN, logits far apart.

use crate::support::compare::distance;
use crate::support::gpu::Test;
use crate::support::run::Found;
use crate::support::seeds::{self, check_mean, under_seeds};
use crate::support::{Bench, Case, Choice, Reduction, Report, bins, compare, programs};
use cce::{DType, Filter, IndexType};
use rayon::prelude::*;

/// Small enough to keep every column, and room for all of them.
const ALL: Filter = Filter::Sampled { eps: 1e-12, max_entries: 1 << 14 };

pub const TESTS: &[Test] = &[
    ("sampled::small_and_ragged", small),
    ("sampled::with_a_step_below_every_probability_nothing_is_lost", nothing_is_lost),
    ("sampled::the_same_seed_gives_the_same_bits_and_another_one_does_not", bits_follow_the_seed),
    ("sampled::rows_of_every_kind_are_finite_and_without_bias", rows_of_every_kind),
    ("sampled::rows_without_a_number_end_and_spoil_nothing_else", numberless_rows_end),
    ("sampled::no_size_of_probability_has_a_bias", no_size_has_a_bias),
    ("sampled::the_mean_over_seeds_approaches_the_exact_gradient", no_bias),
];

/// The families that this GPU has for a case's type and shape, the fastest first.
fn families(bench: &Bench, case: &Case) -> Vec<Choice> {
    let gpu = bench.gpu().expect("these tests run on a GPU");
    gpu.families(&case.problem()).into_iter().map(Choice::Family).collect()
}

fn collect(reports: Vec<Report>) -> Report {
    let mut all = Report::default();
    reports.into_iter().for_each(|report| all.add(report));
    all
}

fn named(name: &str, shape: [usize; 3], dtype: DType, filter: Filter) -> Case {
    Case::new(&programs::named(name), shape, dtype).with(|case| {
        case.filter = filter;
        // These need more of the softmax than its normaliser: expectations.
        case.input_gradients.retain(|name| !["scale", "cap", "slope"].contains(&name.as_str()));
    })
}

/// The case as the caller may vary it.
fn variants(case: &Case) -> Vec<Case> {
    let dtype = case.dtype;
    let with = |change: &dyn Fn(&mut Case)| case.clone().with(change);
    vec![
        case.clone(),
        with(&|case| (case.ignored, case.index) = (Some(0.4), IndexType::I64)),
        with(&|case| case.ignored = None).gradients(DType::F32, true),
        with(&|case| case.padding = [8, 64]).gradients(dtype, true),
        with(&|case| case.classifier_gradient = None),
        with(&|case| case.hidden_gradient = None),
        with(&|case| (case.reduction, case.ignored) = (Reduction::Sum, Some(1.0))),
    ]
}

fn nothing_is_lost(bench: &Bench) -> Report {
    let mut cases = Vec::new();
    for (place, (name, shape)) in [
        ("cross_entropy", [300, 136, 1000]),
        ("cross_entropy", [1, 64, 4099]),
        ("cross_entropy", [5, 8, 2048]),
        ("cross_entropy", [1300, 64, 4099]),
        ("focal", [129, 64, 1000]),
        ("z_loss", [127, 576, 1537]),
        ("token_weights", [128, 72, 3000]),
        ("scaled", [300, 72, 1537]),
        ("softcapped", [129, 64, 4099]),
        ("cross_entropy_with_bias", [127, 136, 3000]),
        ("piecewise", [1300, 64, 2047]),
        ("token_logprob", [129, 72, 1000]),
        ("gemma2", [300, 64, 4099]),
        ("label_smoothing", [129, 72, 4099]),
        ("class_weights", [129, 64, 1000]),
        ("smoothed_with_bias", [300, 64, 4099]),
        // A column of more tokens than shared memory orders.
        ("cross_entropy_with_bias", [2100, 8, 700]),
        // Rows that begin at any element.
        ("cross_entropy", [129, 123, 4099]),
        ("label_smoothing", [300, 123, 1537]),
    ]
    .into_iter()
    .enumerate()
    {
        for (of_type, dtype) in [DType::Bf16, DType::F16, DType::F32].into_iter().enumerate() {
            let variants = variants(&named(name, shape, dtype, ALL));
            for (at, case) in variants.iter().enumerate() {
                let choices = families(bench, case);
                // All of the fastest family that multiplies 16 bits; of the others each variant in its turn.
                let turn = (place + 2 * of_type) % variants.len() == at;
                let (first, others) = choices.split_first().expect("simt runs everything");
                let first = (turn || dtype != DType::F32).then_some(first);
                let others = others.iter().filter(|_| turn);
                cases.extend(first.into_iter().chain(others).map(|&choice| (case.clone(), choice)));
            }
        }
    }
    collect(cases.par_iter().map(|(case, choice)| compare::check(bench, case, *choice)).collect())
}

/// One case of every kernel, small and ragged, for tools that run a kernel a thousand times slower.
fn small(bench: &Bench) -> Report {
    let mut all = Report::default();
    for (name, dtype) in [("cross_entropy", DType::Bf16), ("softcapped", DType::F16)] {
        let case = named(name, [129, 72, 1537], dtype, ALL).with(|case| case.ignored = Some(0.4));
        for choice in families(bench, &case) {
            all.add(compare::check(bench, &case, choice));
        }
    }
    all
}

/// A vocabulary of which an eighth is hot, and a softmax that a step of 2^-6 thins.
fn thinned(name: &str, tokens: usize, filter: Filter) -> Case {
    named(name, [tokens, 64, 6000], DType::Bf16, filter)
        .gradients(DType::F32, false)
        .with(|case| case.spread = 2.0)
}

fn bits_follow_the_seed(bench: &Bench) -> Report {
    let mut report = Report::default();
    let seeds: Vec<u64> = (0..21).map(|run| if run < 20 { 7 } else { 8 }).collect();
    for max_entries in [384, 8] {
        let case = thinned("cross_entropy", 1300, Filter::Sampled { eps: 1.0 / 64.0, max_entries });
        for choice in families(bench, &case) {
            let label = format!("{}: {case}", choice.name());
            report.cases += 1;
            match under_seeds(bench, choice, &case, &case.data(), &seeds) {
                Err(error) => report.fail(&label, error),
                Ok(found) => {
                    for other in &found[1..20] {
                        if let Err(error) = found[0].same_bits(other) {
                            report.fail(&label, format!("the same seed again: {error}"));
                        }
                    }
                    if found[0].same_bits(&found[20]).is_ok() {
                        report.fail(&label, "another seed gives the same bits".to_owned());
                    }
                }
            }
        }
    }
    report
}

/// A test that takes a family, of the families that this GPU has for 16-bit types, up to `most` of them.
fn on_each(bench: &Bench, most: usize, test: fn(&Bench, Choice) -> Report) -> Report {
    let case = named("cross_entropy", [70, 64, 6000], DType::Bf16, ALL);
    collect(families(bench, &case).into_iter().take(most).map(|choice| test(bench, choice)).collect())
}

fn rows_of_every_kind(bench: &Bench) -> Report {
    on_each(bench, 3, seeds::rows_of_every_kind)
}

fn numberless_rows_end(bench: &Bench) -> Report {
    on_each(bench, 3, seeds::numberless_rows_end)
}

fn no_size_has_a_bias(bench: &Bench) -> Report {
    on_each(bench, 2, bins::without_bias)
}

/// The distance to the exact gradient of one seed's, and of the mean over many: 1 / sqrt(seeds) of it.
fn no_bias(bench: &Bench) -> Report {
    let sampled = |eps: f32, max_entries| Filter::Sampled { eps, max_entries };
    let mut report = Report::default();
    for (name, spread, filter, families_of_it) in [
        ("cross_entropy", 2.0, sampled(1.0 / 64.0, 384), 3),
        // The quota binds: steps are raised, and thinning raises them again.
        ("cross_entropy", 2.0, sampled(1.0 / 1024.0, 16), 3),
        ("cross_entropy", 0.01, sampled(1.0 / 1024.0, 64), 1),
        ("cross_entropy", 8.0, sampled(1.0 / 16.0, 384), 1),
        // Entries keep their logits.
        ("softcapped", 4.0, sampled(1.0 / 64.0, 384), 2),
        ("label_smoothing", 2.0, sampled(1.0 / 64.0, 384), 1),
        ("token_logprob", 2.0, sampled(1.0 / 64.0, 384), 1),
        ("cross_entropy_with_bias", 2.0, sampled(1.0 / 64.0, 384), 2),
        ("smoothed_with_bias", 2.0, sampled(1.0 / 64.0, 64), 3),
    ] {
        let case = thinned(name, 70, filter).with(|case| case.spread = spread);
        for choice in families(bench, &case).into_iter().take(families_of_it) {
            approaches(bench, choice, &case, &mut report);
        }
    }
    report
}

fn approaches(bench: &Bench, choice: Choice, case: &Case, report: &mut Report) {
    const SEEDS: u64 = 256;
    let (data, expected) = case.prepare();
    let label = format!("{}: {case}", choice.name());
    report.cases += 1;
    let seeds: Vec<u64> = (0..SEEDS).map(|seed| case.seed.wrapping_add(seed)).collect();
    let found = match under_seeds(bench, choice, case, &data, &seeds) {
        Ok(found) => found,
        Err(error) => return report.fail(&label, error),
    };
    let error = |found: &Found| distance(found.hidden.as_ref().expect("dE"), &expected.hidden, 0.0);
    if error(&found[0]) < 1e-2 {
        report.fail(&label, "nothing was sampled");
    }
    // Rounding of G to bf16 in the hot columns stays.
    check_mean(report, &label, &expected, &found, (1.3, 2e-3));
}
