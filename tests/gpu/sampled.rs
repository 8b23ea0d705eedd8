//! The sampled filter on a GPU: nothing lost with a step below every probability, the same bits from the same
//! seed, no bias where steps and quotas bind, and what must survive: ignored tokens, targets out of range,
//! NaN, logits far apart.

use crate::support::compare::distance;
use crate::support::gpu::Test;
use crate::support::run::Found;
use crate::support::seeds::{self, check_mean, under_seeds};
use crate::support::{Bench, Case, Choice, Reduction, Report, bins, compare, programs};
use cce::{DType, Filter, IndexType};
use cce_codegen::schedule::Family;
use rayon::prelude::*;

const WGMMA: Choice = Choice::Family(Family::Wgmma);

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

fn has_wgmma(bench: &Bench) -> bool {
    let gpu = bench.gpu().expect("these tests run on a GPU");
    if !gpu.facts.has_wgmma() {
        println!("no family samples on this GPU");
    }
    gpu.facts.has_wgmma()
}

fn named(name: &str, shape: [usize; 3], dtype: DType, filter: Filter) -> Case {
    Case::new(&programs::named(name), shape, dtype).with(|case| {
        case.filter = filter;
        // These need more of the softmax than its normaliser: column sums, expectations.
        case.input_gradients
            .retain(|name| !["bias", "class", "scale", "cap", "slope"].contains(&name.as_str()));
    })
}

fn nothing_is_lost(bench: &Bench) -> Report {
    let mut all = Report::default();
    if !has_wgmma(bench) {
        return all;
    }
    let mut cases = Vec::new();
    for dtype in [DType::Bf16, DType::F16] {
        for (name, shape) in [
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
        ] {
            let case = named(name, shape, dtype, ALL);
            cases.push(case.clone());
            cases.push(case.clone().with(|case| (case.ignored, case.index) = (Some(0.4), IndexType::I64)));
            cases.push(case.clone().with(|case| case.ignored = None).gradients(DType::F32, true));
            cases.push(case.clone().gradients(dtype, true).with(|case| case.padding = [8, 64]));
            cases.push(case.clone().with(|case| case.classifier_gradient = None));
            cases.push(case.clone().with(|case| case.hidden_gradient = None));
            cases.push(case.with(|case| (case.reduction, case.ignored) = (Reduction::Sum, Some(1.0))));
        }
    }
    let reports: Vec<Report> = cases.par_iter().map(|case| compare::check(bench, case, WGMMA)).collect();
    reports.into_iter().for_each(|report| all.add(report));
    all
}

/// One case of every kernel, small and ragged, for tools that run a kernel a thousand times slower.
fn small(bench: &Bench) -> Report {
    let mut all = Report::default();
    if has_wgmma(bench) {
        for (name, dtype) in [("cross_entropy", DType::Bf16), ("softcapped", DType::F16)] {
            let case = named(name, [129, 72, 1537], dtype, ALL);
            all.add(compare::check(bench, &case.with(|case| case.ignored = Some(0.4)), WGMMA));
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
    if !has_wgmma(bench) {
        return report;
    }
    let seeds: Vec<u64> = (0..21).map(|run| if run < 20 { 7 } else { 8 }).collect();
    for max_entries in [384, 8] {
        let case = thinned("cross_entropy", 1300, Filter::Sampled { eps: 1.0 / 64.0, max_entries });
        report.cases += 1;
        match under_seeds(bench, WGMMA, &case, &case.data(), &seeds) {
            Err(error) => report.fail(&case.to_string(), error),
            Ok(found) => {
                for other in &found[1..20] {
                    if let Err(error) = found[0].same_bits(other) {
                        report.fail(&case.to_string(), format!("the same seed again: {error}"));
                    }
                }
                if found[0].same_bits(&found[20]).is_ok() {
                    report.fail(&case.to_string(), "another seed gives the same bits".to_owned());
                }
            }
        }
    }
    report
}

fn rows_of_every_kind(bench: &Bench) -> Report {
    if has_wgmma(bench) { seeds::rows_of_every_kind(bench, WGMMA) } else { Report::default() }
}

fn numberless_rows_end(bench: &Bench) -> Report {
    if has_wgmma(bench) { seeds::numberless_rows_end(bench, WGMMA) } else { Report::default() }
}

fn no_size_has_a_bias(bench: &Bench) -> Report {
    if has_wgmma(bench) { bins::without_bias(bench, WGMMA) } else { Report::default() }
}

/// The distance to the exact gradient of one seed's, and of the mean over many: 1 / sqrt(seeds) of it.
fn no_bias(bench: &Bench) -> Report {
    const SEEDS: usize = 256;
    let mut report = Report::default();
    if !has_wgmma(bench) {
        return report;
    }
    for (name, spread, filter) in [
        ("cross_entropy", 2.0, Filter::Sampled { eps: 1.0 / 64.0, max_entries: 384 }),
        // The quota binds: steps are raised, and thinning raises them again.
        ("cross_entropy", 2.0, Filter::Sampled { eps: 1.0 / 1024.0, max_entries: 16 }),
        ("cross_entropy", 0.01, Filter::Sampled { eps: 1.0 / 1024.0, max_entries: 64 }),
        ("cross_entropy", 8.0, Filter::Sampled { eps: 1.0 / 16.0, max_entries: 384 }),
        // Entries keep their logits.
        ("softcapped", 4.0, Filter::Sampled { eps: 1.0 / 64.0, max_entries: 384 }),
        ("label_smoothing", 2.0, Filter::Sampled { eps: 1.0 / 64.0, max_entries: 384 }),
        ("token_logprob", 2.0, Filter::Sampled { eps: 1.0 / 64.0, max_entries: 384 }),
    ] {
        let case = thinned(name, 70, filter).with(|case| case.spread = spread);
        let (data, expected) = case.prepare();
        report.cases += 1;
        let seeds: Vec<u64> = (0..SEEDS as u64).map(|seed| case.seed.wrapping_add(seed)).collect();
        let found = match under_seeds(bench, WGMMA, &case, &data, &seeds) {
            Ok(found) => found,
            Err(error) => {
                report.fail(&case.to_string(), error);
                continue;
            }
        };
        let error = |found: &Found| distance(found.hidden.as_ref().expect("dE"), &expected.hidden, 0.0);
        if error(&found[0]) < 1e-2 {
            report.fail(&case.to_string(), "nothing was sampled");
        }
        // Rounding of G to bf16 in the hot columns stays.
        check_mean(&mut report, &case.to_string(), &expected, &found, (1.3, 2e-3));
    }
    report
}
