//! Whole computations on the CPU device against the f64 reference: every loss, type and ragged shape, every
//! subset of gradients, every option of a caller. `gpu/losses.rs` does the same on a GPU.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
mod support;

use cce::{DType, IndexType};
use rayon::prelude::*;
use support::{
    Bench, Budget, Case, Choice, Reduction, Report, Upstreams, bins, check, programs, scenarios, seeds,
    skipped,
};

const TYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

fn check_all(cases: &[(Case, Choice)]) {
    let bench = Bench::cpu();
    let reports: Vec<Report> = cases.par_iter().map(|(case, choice)| check(&bench, case, *choice)).collect();
    let mut all = Report::default();
    reports.into_iter().for_each(|report| all.add(report));
    println!("{}", all.worst());
    all.assert();
}

/// Losses that are infinite, or whose gradients are, for a vocabulary of one.
fn needs_two_entries(case: &Case) -> bool {
    ["unlikelihood", "focal"].contains(&case.program.name())
}

#[test]
fn every_loss_in_every_type_and_shape_matches_the_reference() {
    let mut cases = Vec::new();
    for program in programs::all() {
        for dtype in TYPES {
            for (at, shape) in [
                [1, 1, 2],
                [1, 64, 1000],
                [5, 123, 507],
                [37, 64, 507],
                [37, 123, 1000],
                [37, 1, 507],
                [5, 64, 1],
                [37, 123, 2],
                [0, 64, 7],
            ]
            .into_iter()
            .enumerate()
            {
                let case = Case::new(&program, shape, dtype).with(|case| {
                    case.upstreams = [Upstreams::Both, Upstreams::Scalars, Upstreams::Rows][at % 3];
                    case.ignored = Some([0.0, 0.3][at % 2]);
                });
                if case.vocab == 1 && needs_two_entries(&case) {
                    continue;
                }
                let choice = if at % 2 == 0 { Choice::small_blocks() } else { Choice::Selected };
                cases.push((case, choice));
            }
        }
    }
    check_all(&cases);
}

#[test]
fn every_subset_of_gradients_is_right() {
    let mut cases = Vec::new();
    for name in ["cross_entropy", "gemma2", "label_smoothing", "class_weights", "statistics", "expected_bias"]
    {
        let case = Case::new(&programs::named(name), [37, 64, 507], DType::F32).with(|case| {
            case.ignored = Some(0.2);
            case.upstreams = Upstreams::Both;
        });
        let names = case.input_names();
        for subset in 0..1usize << (2 + names.len()) {
            let has = |bit: usize| subset & (1 << bit) != 0;
            let part = case.clone().with(|case| {
                case.hidden_gradient = case.hidden_gradient.filter(|_| has(0));
                case.classifier_gradient = case.classifier_gradient.filter(|_| has(1));
                let wanted = names.iter().enumerate().filter(|(at, _)| has(2 + at));
                case.input_gradients = wanted.map(|(_, name)| name.clone()).collect();
            });
            let choice = if subset % 2 == 0 { Choice::small_blocks() } else { Choice::Selected };
            cases.push((part, choice));
        }
    }
    check_all(&cases);
}

#[test]
fn every_option_of_a_caller_is_obeyed() {
    let mut cases = Vec::new();
    for (dtype, shape) in
        [(DType::F32, [37, 64, 507]), (DType::Bf16, [37, 123, 1000]), (DType::F16, [37, 64, 7])]
    {
        for name in ["cross_entropy", "gemma2", "class_weights"] {
            let base = || Case::new(&programs::named(name), shape, dtype);
            let size = dtype.bytes();
            let mut options = vec![
                base().with(|case| case.index = IndexType::I64),
                base().with(|case| case.ignored = None),
                base().with(|case| (case.ignored, case.index) = (Some(0.5), IndexType::I64)),
                base().with(|case| case.ignored = Some(1.0)),
                base().with(|case| case.padding = [8, 0]),
                base().with(|case| (case.padding, case.align) = ([1, 3], [size, size])),
                base().gradients(dtype, true),
                base().gradients(DType::F32, false),
                base().gradients(DType::F32, true).with(|case| case.ignored = Some(0.5)),
                base().with(|case| case.budget = Budget::Smallest),
                base().gradients(dtype, true).with(|case| case.budget = Budget::Smallest),
                base().with(|case| (case.budget, case.ignored) = (Budget::Half, Some(0.3))),
                base().with(|case| case.rows = false),
                base().with(|case| case.upstreams = Upstreams::First),
                base().with(|case| case.spread = 12.0),
                base().with(|case| case.spread = 0.01),
            ];
            let reductions = [Reduction::None, Reduction::Sum, Reduction::DividedBy, Reduction::MeanByTarget];
            for reduction in reductions {
                if reduction != Reduction::MeanByTarget || name == "class_weights" {
                    options.push(base().with(|case| {
                        (case.reduction, case.upstreams) = (reduction, Upstreams::Both);
                        case.ignored = Some(0.3);
                    }));
                }
            }
            for (at, case) in options.into_iter().enumerate() {
                // A budget chooses the blocks itself.
                let choice = if at % 2 == 0 { Choice::small_blocks() } else { Choice::Selected };
                cases.push((case, choice));
            }
        }
    }
    check_all(&cases);
}

#[test]
fn all_tokens_ignored_is_zero_under_every_reduction() {
    let bench = Bench::cpu();
    for reduction in [Reduction::Sum, Reduction::Mean, Reduction::MeanByTarget] {
        let case = Case::new(&programs::named("class_weights"), [5, 8, 7], DType::F32).with(|case| {
            case.ignored = Some(1.0);
            case.reduction = reduction;
        });
        let data = case.data();
        let plan = case.plan(&bench, Choice::Selected).expect("a plan");
        let found = support::run::run(&bench, &case, &data, &plan, support::Mode::Step).expect("a result");
        assert!(found.bits.iter().all(|&byte| byte == 0), "{reduction:?}: {found:?}");
    }
}

fn every_type(scenario: impl Fn(&Bench, &Case, Choice) -> Report, name: &str, shape: [usize; 3]) {
    let bench = Bench::cpu();
    let mut all = Report::default();
    for dtype in TYPES {
        for choice in [Choice::Selected, Choice::small_blocks()] {
            all.add(scenario(&bench, &Case::new(&programs::named(name), shape, dtype), choice));
        }
    }
    println!("{}", all.worst());
    all.assert();
}

#[test]
fn targets_out_of_range_spoil_their_own_tokens_only() {
    for name in ["cross_entropy", "gemma2", "label_smoothing"] {
        every_type(scenarios::out_of_range_targets, name, [37, 64, 123]);
        let wide = |bench: &Bench, case: &Case, choice: Choice| {
            scenarios::out_of_range_targets(
                bench,
                &case.clone().with(|case| case.index = IndexType::I64),
                choice,
            )
        };
        every_type(wide, name, [37, 64, 123]);
    }
}

#[test]
fn nan_and_infinity_reach_their_own_tokens_only() {
    every_type(scenarios::values_that_are_not_finite, "cross_entropy", [37, 64, 123]);
}

#[test]
fn sure_targets_keep_their_digits() {
    every_type(scenarios::sure_targets, "cross_entropy", [37, 64, 507]);
}

#[test]
fn host_data_go_in_and_come_out() {
    for name in ["cross_entropy", "gemma2", "statistics"] {
        let case = Case::new(&programs::named(name), [37, 64, 123], DType::F32);
        scenarios::run_on_host_data(&Bench::cpu(), &case, Choice::Selected).assert();
    }
    for reduction in [Reduction::Sum, Reduction::DividedBy, Reduction::MeanByTarget] {
        let case = Case::new(&programs::named("class_weights"), [37, 64, 123], DType::F32)
            .with(|case| (case.reduction, case.ignored) = (reduction, Some(0.2)));
        scenarios::run_on_host_data(&Bench::cpu(), &case, Choice::Selected).assert();
    }
}

#[test]
fn sampled_rows_of_every_kind_are_finite_and_without_bias() {
    let report = seeds::rows_of_every_kind(&Bench::cpu(), Choice::Selected);
    println!("{}", report.worst());
    report.assert();
}

#[test]
fn no_size_of_probability_has_a_bias_when_sampled() {
    let report = bins::without_bias(&Bench::cpu(), Choice::Selected);
    println!("{}", report.worst());
    report.assert();
}

#[test]
fn sampled_rows_without_a_number_end_and_spoil_nothing_else() {
    seeds::numberless_rows_end(&Bench::cpu(), Choice::Selected).assert();
}

/// Losses whose tiles can be skipped.
const SKIPPABLE: [&str; 6] = ["cross_entropy", "focal", "z_loss", "softcapped", "token_logprob", "gemma2"];

fn all_of(reports: Vec<Report>) {
    let mut all = Report::default();
    reports.into_iter().for_each(|report| all.add(report));
    println!("{}", all.worst());
    all.assert();
}

#[test]
fn exactly_the_tiles_without_targets_and_large_probabilities_are_skipped() {
    let mut cases = Vec::new();
    for name in SKIPPABLE {
        for dtype in TYPES {
            let case = Case::new(&programs::named(name), [150, 24, 507], dtype);
            cases.push(case.clone());
            cases.push(case.clone().with(|case| (case.ignored, case.index) = (Some(0.4), IndexType::I64)));
            cases.push(case.clone().with(|case| case.ignored = None).gradients(DType::F32, true));
            cases.push(case.clone().gradients(dtype, true).with(|case| case.padding = [8, 5]));
            cases.push(case.clone().with(|case| case.classifier_gradient = None));
            cases.push(case.clone().with(|case| case.hidden_gradient = None));
        }
    }
    let bench = Bench::cpu();
    let checked = |case: &Case| skipped::check_skipping(&bench, case, Choice::small_blocks());
    all_of(cases.par_iter().map(checked).collect());
}

#[test]
fn with_nothing_to_skip_the_bits_are_those_of_exact_and_with_all_to_skip_targets_are_left() {
    let cases = SKIPPABLE.map(|name| Case::new(&programs::named(name), [150, 24, 507], DType::Bf16));
    let bench = Bench::cpu();
    let checked = |case: &Case| skipped::check_extremes(&bench, case, Choice::small_blocks());
    all_of(cases.par_iter().map(checked).collect());
}

#[test]
fn what_is_skipped_is_no_larger_than_the_threshold_says() {
    let case = Case::new(&programs::named("cross_entropy"), [150, 24, 507], DType::F32);
    let thresholds = [-6.0f32, -8.0, -10.0].map(f32::exp2);
    let bench = Bench::cpu();
    let checked = |&eps: &f32| skipped::check_bound(&bench, &case, Choice::small_blocks(), eps);
    all_of(thresholds.par_iter().map(checked).collect());
}
