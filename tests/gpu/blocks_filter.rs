//! The filter that skips tiles on a GPU, every family: exactly the tiles of the schedule in which no target falls and
//! no probability reaches the threshold are left out, on the way of every option; with nothing to skip the bits
//! are those of `Exact`.

use crate::support::gpu::Test;
use crate::support::skipped::{check_bound, check_extremes, check_skipping};
use crate::support::{Bench, Budget, Case, Choice, Report, programs};
use cce::{DType, IndexType, Schedule};
use cce_codegen::schedule::{Family, GpuSchedule};
use rayon::prelude::*;

pub const TESTS: &[Test] = &[
    ("blocks_filter::small_and_ragged", small),
    ("blocks_filter::exactly_the_small_tiles_are_skipped", exactly_the_small_tiles),
    ("blocks_filter::every_option_of_a_caller", every_option),
    ("blocks_filter::chunks_and_tiles_of_other_sizes", other_sizes),
    ("blocks_filter::with_nothing_to_skip_the_bits_are_those_of_exact", extremes),
    ("blocks_filter::what_is_skipped_is_no_larger_than_the_threshold_says", bound),
];

/// Losses with every kind of forward: the normaliser alone, transforms, expectations, biases.
const LOSSES: [&str; 7] =
    ["cross_entropy", "cross_entropy_with_bias", "focal", "z_loss", "softcapped", "token_logprob", "gemma2"];

fn families(bench: &Bench, case: &Case) -> Vec<Choice> {
    let gpu = bench.gpu().expect("these tests run on a GPU");
    gpu.families(&case.problem()).into_iter().map(Choice::Family).collect()
}

fn on_each(bench: &Bench, cases: &[Case], check: fn(&Bench, &Case, Choice) -> Report) -> Report {
    let of_case = |case: &Case| {
        let mut report = Report::default();
        families(bench, case).into_iter().for_each(|choice| report.add(check(bench, case, choice)));
        report
    };
    let mut all = Report::default();
    cases.par_iter().map(of_case).collect::<Vec<_>>().into_iter().for_each(|report| all.add(report));
    all
}

fn case(name: &str, shape: [usize; 3], dtype: DType) -> Case {
    Case::new(&programs::named(name), shape, dtype)
}

/// One case of every kernel, small and ragged, for tools that run a kernel a thousand times slower.
fn small(bench: &Bench) -> Report {
    let cases = [
        case("cross_entropy", [300, 72, 1537], DType::Bf16),
        // Two row tiles of those that count: in one alone, targets may fall into all tiles but one.
        case("gemma2", [310, 40, 1100], DType::F16).with(|case| case.ignored = Some(0.1)),
        case("cross_entropy", [150, 41, 700], DType::F32),
    ];
    on_each(bench, &cases, check_skipping)
}

/// Two row tiles and more of every family; hidden sizes that TMA copies, and one that it cannot.
fn exactly_the_small_tiles(bench: &Bench) -> Report {
    const SHAPES: [[usize; 3]; 4] = [[600, 72, 2100], [300, 123, 1537], [129, 64, 4099], [1030, 8, 1300]];
    let mut cases = Vec::new();
    for (at, name) in LOSSES.into_iter().enumerate() {
        for (of_type, dtype) in [DType::Bf16, DType::F16, DType::F32].into_iter().enumerate() {
            // Every loss in two shapes of each type, another two for the next type.
            let [all, some] = [0, 1].map(|turn| case(name, SHAPES[(at + 2 * of_type + turn) % 4], dtype));
            cases.push(all);
            cases.push(some.with(|case| (case.ignored, case.index) = (Some(0.4), IndexType::I64)));
        }
    }
    on_each(bench, &cases, check_skipping)
}

fn every_option(bench: &Bench) -> Report {
    let mut cases = Vec::new();
    for name in ["cross_entropy", "gemma2"] {
        for dtype in [DType::Bf16, DType::F16] {
            let case = case(name, [600, 72, 2100], dtype);
            cases.push(case.clone().with(|case| case.ignored = None).gradients(DType::F32, true));
            cases.push(case.clone().gradients(DType::F32, false));
            cases.push(case.clone().gradients(dtype, true).with(|case| case.padding = [8, 64]));
            cases.push(case.clone().with(|case| case.classifier_gradient = None));
            cases.push(case.clone().with(|case| case.hidden_gradient = None));
            cases.push(case.clone().with(|case| case.input_gradients.clear()));
            for budget in [Budget::Smallest, Budget::Half] {
                cases.push(case.clone().with(|case| case.budget = budget));
            }
        }
    }
    on_each(bench, &cases, check_skipping)
}

/// Chunks of one granule, and tiles of the passes that differ from each other.
fn other_sizes(bench: &Bench) -> Report {
    let facts = &bench.gpu().expect("these tests run on a GPU").facts;
    let mut jobs: Vec<(Case, GpuSchedule)> = Vec::new();
    for name in ["cross_entropy", "softcapped"] {
        let case = case(name, [600, 72, 2900], DType::Bf16).with(|case| case.filter = cce::Filter::BLOCKS);
        for (at, (schedule, fits)) in
            GpuSchedule::space(&case.program, &case.problem(), facts).into_iter().enumerate()
        {
            if fits.is_ok() && at % 3 == 0 {
                jobs.push((case.clone(), GpuSchedule { chunk: 64, ..schedule }));
            }
        }
        for family in [Family::Mma, Family::Simt] {
            if family.refuses(&case.problem(), facts).is_none() {
                let schedule = GpuSchedule::of_family(family, &case.program, &case.problem(), facts);
                jobs.push((case.clone(), GpuSchedule { chunk: 64, ..schedule }));
            }
        }
    }
    let mut all = Report::default();
    let checked = |(case, schedule): &(Case, GpuSchedule)| {
        check_skipping(bench, case, Choice::Given(Schedule::Gpu(*schedule)))
    };
    jobs.par_iter().map(checked).collect::<Vec<_>>().into_iter().for_each(|report| all.add(report));
    all
}

fn extremes(bench: &Bench) -> Report {
    let mut cases = Vec::new();
    for name in LOSSES {
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            cases.push(case(name, [600, 72, 2100], dtype));
            cases.push(case(name, [300, 123, 1537], dtype).with(|case| case.ignored = Some(0.4)));
        }
    }
    on_each(bench, &cases, check_extremes)
}

fn bound(bench: &Bench) -> Report {
    let cases = [DType::Bf16, DType::F32].map(|dtype| case("cross_entropy", [600, 72, 2100], dtype));
    let mut all = Report::default();
    for eps in [-7.0f32, -9.0, -11.0].map(f32::exp2) {
        for case in &cases {
            for choice in families(bench, case) {
                all.add(check_bound(bench, case, choice, eps));
            }
        }
    }
    all
}
