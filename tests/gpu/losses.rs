//! Whole computations on a GPU against the f64 reference, every family: every loss, type and
//! ragged shape, every option of a caller, and what a GPU adds: streams, graphs, device scalars, schedules.
//! Prints the worst cases and the time.
//!
//! A cold run compiles some two thousand kernels; compiled ones stay in `CCE_CACHE_DIR` (default:
//! `cce-gpu-tests` in the temporary folder). `CCE_SLOW_TESTS=1`: every loss in every type and shape, not a
//! part.

use crate::support::gpu::Test;
use crate::support::numbers::{Numbers, run_seed};
use crate::support::run::{Buffers, run, smallest_of, stream};
use crate::support::{
    Bench, Budget, Case, Choice, Data, Gpu, Mode, Reduction, Report, Upstreams, check, compare, programs,
    scenarios,
};
use cce::{DType, Error, GradientOutput, IndexType, Plan, Program, Schedule};
use cce_codegen::schedule::{Family, GpuSchedule};
use rayon::prelude::*;
use std::process::Command;

const HIDDEN: [usize; 4] = [8, 64, 123, 576];
const VOCAB: [usize; 5] = [1, 7, 507, 1000, 4099];
const TOKENS: [usize; 7] = [300, 129, 128, 127, 5, 1, 0];
const TYPES: [DType; 3] = [DType::Bf16, DType::F16, DType::F32];

pub const TESTS: &[Test] = &[
    ("losses::every_loss_in_every_type_and_shape", every_loss_in_every_type_and_shape),
    ("losses::every_option_of_a_caller", every_option_of_a_caller),
    ("losses::every_subset_of_gradients", every_subset_of_gradients),
    ("losses::walks_that_leave_clusters_over", walks_that_leave_clusters_over),
    ("losses::schedules_of_the_search_space", schedules_of_the_search_space),
    ("losses::gradients_of_the_inputs", gradients_of_the_inputs),
    ("losses::sure_targets", sure_targets),
    ("losses::targets_out_of_range", targets_out_of_range),
    ("losses::nan_and_infinity", nan_and_infinity),
    ("losses::host_data_and_the_selected_schedule", host_data_and_the_selected_schedule),
    ("losses::the_smallest_workspace_of_all_families", the_smallest_workspace_of_all_families),
    ("losses::one_plan_on_several_streams", one_plan_on_several_streams),
    ("losses::captured_and_replayed_with_other_inputs", captured_and_replayed_with_other_inputs),
    ("losses::calls_that_are_refused", calls_that_are_refused),
    ("losses::gradients_aligned_to_their_elements", gradients_aligned_to_their_elements),
];

fn gpu(bench: &Bench) -> &Gpu {
    bench.gpu().expect("these tests run on a GPU")
}

fn families(bench: &Bench, case: &Case) -> impl Iterator<Item = Choice> + use<> {
    gpu(bench).families(&case.problem()).into_iter().map(Choice::Family)
}

fn collect(reports: Vec<Report>) -> Report {
    let mut all = Report::default();
    reports.into_iter().for_each(|report| all.add(report));
    all
}

/// Every case on every family that its type has.
fn check_all(bench: &Bench, cases: &[Case]) -> Report {
    let on_each = |case: &Case| {
        let (data, expected) = case.prepare();
        collect(
            families(bench, case)
                .map(|choice| compare::check_with(bench, case, choice, &data, &expected))
                .collect(),
        )
    };
    collect(cases.par_iter().map(on_each).collect())
}

/// Programs with the shapes and types in which they are tested: the cross entropy in all shapes, the richest
/// loss in all shapes, the others in some, such that every shape and type has its share. All of each in a
/// slow run.
fn matrix() -> Vec<(Program, usize, usize, DType)> {
    let slow = std::env::var_os("CCE_SLOW_TESTS").is_some();
    let shapes: Vec<(usize, usize)> = HIDDEN.iter().flat_map(|&d| VOCAB.map(|v| (d, v))).collect();
    let mut matrix = Vec::new();
    for (at, program) in programs::all().into_iter().enumerate() {
        for (place, &(d, v)) in shapes.iter().enumerate() {
            for (of_type, &dtype) in TYPES.iter().enumerate() {
                let turn = place + of_type;
                let chosen = match program.name() {
                    "cross_entropy" => turn % 3 != 0,
                    "gemma2" => turn % 3 == 0,
                    // One place of the twenty for each type, another for each loss.
                    _ => (at * 3 + of_type * 7) % shapes.len() == place,
                };
                // Over one entry their loss or its gradient is infinite.
                let v = if v == 1 && ["unlikelihood", "focal"].contains(&program.name()) { 2 } else { v };
                if chosen || slow {
                    matrix.push((program.clone(), d, v, dtype));
                }
            }
        }
    }
    matrix
}

fn every_loss_in_every_type_and_shape(bench: &Bench) -> Report {
    let of_shape = |(program, hidden, vocab, dtype): &(Program, usize, usize, DType)| {
        let numbered: Vec<(usize, usize)> = TOKENS.iter().copied().enumerate().collect();
        let prepared: Vec<_> = numbered
            .par_iter()
            .map(|&(at, tokens)| {
                // None of these changes a kernel, so that one compilation serves many numbers of tokens.
                let case = Case::new(program, [tokens, *hidden, *vocab], *dtype).with(|case| {
                    let upstreams = [Upstreams::Both, Upstreams::Scalars, Upstreams::Rows, Upstreams::First];
                    case.upstreams = upstreams[at % 4];
                    case.reduction =
                        [Reduction::Sum, Reduction::Mean, Reduction::DividedBy, Reduction::None][at % 4];
                    case.ignored = Some([0.0, 0.3][at % 2]);
                    case.rows = at % 3 != 1 || case.reduction == Reduction::None;
                });
                let (data, expected) = case.prepare();
                (case, data, expected)
            })
            .collect();
        // One after the other: the later ones find what the first has compiled.
        let mut all = Report::default();
        for family in Family::ALL {
            let can = |case: &Case| gpu(bench).families(&case.problem()).contains(&family);
            let choice = Choice::Family(family);
            for (case, data, expected) in prepared.iter().filter(|(case, ..)| can(case)) {
                all.add(compare::check_with(bench, case, choice, data, expected));
            }
        }
        all
    };
    collect(matrix().par_iter().map(of_shape).collect())
}

/// The options of a caller, one at a time and some together.
fn options(base: &Case) -> Vec<Case> {
    let base = || base.clone();
    let size = base().dtype.bytes();
    let own = base().dtype;
    let output = |dtype, accumulate| Some(GradientOutput { dtype, accumulate });
    vec![
        base().with(|case| case.index = IndexType::I64),
        base().with(|case| case.ignored = None),
        base().with(|case| (case.ignored, case.index) = (None, IndexType::I64)),
        base().with(|case| case.ignored = Some(0.5)),
        base().with(|case| (case.ignored, case.index) = (Some(0.5), IndexType::I64)),
        base().with(|case| case.ignored = Some(1.0)),
        base().gradients(own, true).with(|case| case.ignored = Some(1.0)),
        base().with(|case| case.padding = [8, 64]),
        base().with(|case| (case.padding, case.align) = ([1, 3], [size, size])),
        base().with(|case| (case.padding, case.align) = ([2, 4], [4, 8])),
        base().with(|case| (case.padding, case.align) = ([0, 5], [16, 4])),
        base().with(|case| (case.padding, case.ignored) = ([3, 0], Some(0.5))),
        base().gradients(own, true),
        base().gradients(DType::F32, false),
        base().gradients(DType::F32, true),
        base().with(|case| {
            case.hidden_gradient = output(own, true);
            case.classifier_gradient = output(DType::F32, false);
            case.ignored = Some(0.5);
        }),
        base().with(|case| {
            case.hidden_gradient = output(DType::F32, false);
            case.classifier_gradient = output(own, true);
            case.ignored = None;
        }),
        base().with(|case| case.budget = Budget::Smallest),
        base().with(|case| (case.budget, case.ignored) = (Budget::Half, Some(0.5))),
        base().gradients(own, true).with(|case| (case.budget, case.ignored) = (Budget::Smallest, Some(0.5))),
        base().gradients(DType::F32, false).with(|case| case.budget = Budget::Smallest),
        base().gradients(DType::F32, true).with(|case| case.budget = Budget::Smallest),
        base().with(|case| (case.budget, case.padding) = (Budget::Smallest, [1, 1])),
        base().with(|case| {
            case.device_scalars = true;
            case.upstreams = Upstreams::Both;
            case.reduction = Reduction::DividedBy;
        }),
        base().with(|case| case.reduction = Reduction::Sum),
        base().with(|case| (case.reduction, case.upstreams) = (Reduction::None, Upstreams::Both)),
        base().with(|case| case.rows = false),
        base().with(|case| case.spread = 12.0),
        base().with(|case| case.spread = 0.01),
    ]
}

fn every_option_of_a_caller(bench: &Bench) -> Report {
    const NAMES: [&str; 3] = ["cross_entropy", "gemma2", "label_smoothing"];
    let mut cases = Vec::new();
    for dtype in TYPES {
        let base = |name: &str, shape| Case::new(&programs::named(name), shape, dtype);
        let by_name =
            NAMES.map(|name| [[129, 123, 507], [300, 64, 1000]].map(|shape| options(&base(name, shape))));
        for at in 0..by_name[0][0].len() {
            cases.push(by_name[at % 3][at % 2][at].clone());
        }
        for ignored in [0.0, 0.5, 1.0] {
            cases.push(base("class_weights", [129, 64, 507]).with(|case| {
                case.reduction = Reduction::MeanByTarget;
                case.ignored = Some(ignored);
            }));
        }
    }
    check_all(bench, &cases)
}

fn every_subset_of_gradients(bench: &Bench) -> Report {
    let mut cases = Vec::new();
    for (name, dtype) in [
        ("gemma2", DType::Bf16),
        ("expected_bias", DType::F32),
        ("cross_entropy_with_bias", DType::F16),
        ("statistics", DType::Bf16),
    ] {
        let case = Case::new(&programs::named(name), [129, 64, 507], dtype).with(|case| {
            case.upstreams = Upstreams::Both;
            case.ignored = Some(0.3);
        });
        let names = case.input_names();
        for subset in 0..1usize << (2 + names.len()) {
            let has = |bit: usize| subset & (1 << bit) != 0;
            cases.push(case.clone().with(|case| {
                case.hidden_gradient = case.hidden_gradient.filter(|_| has(0));
                case.classifier_gradient = case.classifier_gradient.filter(|_| has(1));
                let wanted = names.iter().enumerate().filter(|(at, _)| has(2 + at));
                case.input_gradients = wanted.map(|(_, name)| name.clone()).collect();
            }));
        }
    }
    let choices = |at: usize, case: &Case| {
        let all: Vec<Choice> = families(bench, case).collect();
        all[at % all.len()]
    };
    let one = |(at, case): (usize, &Case)| check(bench, case, choices(at, case));
    collect(cases.par_iter().enumerate().map(one).collect())
}

/// Numbers of row blocks (5 and 17 of 256 rows, fewer where tokens are ignored) that no GPU's clusters are a
/// multiple of: those that are left over share the last tiles.
fn walks_that_leave_clusters_over(bench: &Bench) -> Report {
    let mut cases = Vec::new();
    for (name, dtype) in [("cross_entropy", DType::Bf16), ("gemma2", DType::F16)] {
        for (tokens, ignored) in [(1200, None), (1200, Some(0.2)), (4300, Some(0.0)), (4300, Some(0.3))] {
            let case = Case::new(&programs::named(name), [tokens, 64, 4099], dtype);
            cases.push(case.with(|case| case.ignored = ignored));
        }
    }
    check_all(bench, &cases)
}

/// Some candidates of the tuner, others in each run.
fn schedules_of_the_search_space(bench: &Bench) -> Report {
    const EACH: usize = 10;
    let mut work = Vec::new();
    for (name, hidden, dtype) in [
        ("cross_entropy", 123, DType::Bf16),
        ("cross_entropy", 136, DType::Bf16),
        ("gemma2", 123, DType::F16),
        ("gemma2", 136, DType::F16),
        ("cross_entropy", 123, DType::F32),
    ] {
        let case = Case::new(&programs::named(name), [300, hidden, 1000], dtype)
            .with(|case| case.ignored = Some(0.2));
        let space = GpuSchedule::space(&case.program, &case.problem(), &gpu(bench).facts);
        let possible: Vec<GpuSchedule> =
            space.into_iter().filter(|(_, fits)| fits.is_ok()).map(|(schedule, _)| schedule).collect();
        // TMA copies rows of 136 elements, but not of 123.
        let expected = hidden == 136 && gpu(bench).facts.has_wgmma();
        let found = possible.iter().any(|schedule| schedule.family == Family::Wgmma);
        assert_eq!(found, expected, "family wgmma in the space of {case}");
        let mut numbers = Numbers::new(run_seed(), "schedules");
        for _ in 0..EACH {
            let chosen = possible[numbers.below(possible.len())];
            work.push((case.clone(), Choice::Given(Schedule::Gpu(chosen))));
        }
    }
    collect(work.par_iter().map(|(case, choice)| check(bench, case, *choice)).collect())
}

/// A scenario in every type and family.
fn in_every_type(
    bench: &Bench,
    cases: &[Case],
    scenario: impl Fn(&Bench, &Case, Choice) -> Report + Sync,
) -> Report {
    let work: Vec<(Case, Choice)> = cases
        .iter()
        .flat_map(|case| {
            TYPES.map(|dtype| case.clone().with(|case| case.dtype = dtype).gradients(dtype, false))
        })
        .flat_map(|case| families(bench, &case).map(move |choice| (case.clone(), choice)))
        .collect();
    collect(work.par_iter().map(|(case, choice)| scenario(bench, case, *choice)).collect())
}

fn named(name: &str, shape: [usize; 3]) -> Case {
    Case::new(&programs::named(name), shape, DType::F32)
}

/// All gradients at once, of losses with inputs of every kind: every kernel that a backward pass may have.
fn gradients_of_the_inputs(bench: &Bench) -> Report {
    let cases: Vec<Case> = ["gemma2", "expected_bias"]
        .map(|name| named(name, [129, 64, 507]).with(|case| case.upstreams = Upstreams::Both))
        .into();
    in_every_type(bench, &cases, check)
}

fn sure_targets(bench: &Bench) -> Report {
    in_every_type(bench, &[named("cross_entropy", [129, 64, 1000])], scenarios::sure_targets)
}

fn targets_out_of_range(bench: &Bench) -> Report {
    let cases: Vec<Case> = ["cross_entropy", "gemma2", "label_smoothing"]
        .into_iter()
        .flat_map(|name| {
            let case = named(name, [129, 64, 507]);
            [case.clone(), case.with(|case| case.index = IndexType::I64)]
        })
        .collect();
    in_every_type(bench, &cases, scenarios::out_of_range_targets)
}

fn nan_and_infinity(bench: &Bench) -> Report {
    in_every_type(bench, &[named("cross_entropy", [129, 64, 507])], scenarios::values_that_are_not_finite)
}

fn host_data_and_the_selected_schedule(bench: &Bench) -> Report {
    let cases: Vec<Case> =
        ["cross_entropy", "gemma2", "statistics"].map(|name| named(name, [129, 64, 507])).into();
    let mut all = Report::default();
    for case in &cases {
        all.add(scenarios::run_on_host_data(bench, case, Choice::Selected));
        for dtype in TYPES {
            let case = case.clone().with(|case| case.dtype = dtype).gradients(dtype, false);
            all.add(check(bench, &case, Choice::Selected));
        }
    }
    all
}

/// Without a schedule and a filter, the smallest limit that some family meets is met.
fn the_smallest_workspace_of_all_families(bench: &Bench) -> Report {
    let mut all = Report::default();
    for name in ["cross_entropy", "gemma2"] {
        let case = Case::new(&programs::named(name), [1200, 64, 4099], DType::Bf16)
            .with(|case| (case.budget, case.ignored) = (Budget::Smallest, Some(0.3)));
        all.add(check(bench, &case, Choice::Selected));
        let label = format!("{case}, the default filter");
        let build = |limit| {
            Plan::builder(&case.program, case.tokens, case.hidden, case.vocab)
                .workspace_limit(limit)
                .build(bench.device())
        };
        all.cases += 1;
        let smallest = build(0).err().as_ref().and_then(smallest_of);
        match smallest.map(|smallest| (smallest, build(smallest))) {
            Some((limit, Ok(plan))) if plan.workspace().peak <= limit => {}
            other => all.fail(&label, format!("{:?}", other.map(|(limit, plan)| (limit, plan.map(drop))))),
        }
    }
    all
}

fn one_plan_on_several_streams(bench: &Bench) -> Report {
    // Family wgmma runs where rows are multiples of 16 bytes.
    let cases: Vec<Case> = [("cross_entropy", 123), ("cross_entropy", 136), ("gemma2", 136)]
        .map(|(name, hidden)| named(name, [300, hidden, 1000]).with(|case| case.ignored = Some(0.2)))
        .into();
    let on_wgmma = |case: &Case| {
        let case = case.clone().with(|case| case.dtype = DType::Bf16);
        gpu(bench).families(&case.problem()).contains(&Family::Wgmma)
    };
    assert_eq!(cases.iter().any(on_wgmma), gpu(bench).facts.has_wgmma());
    in_every_type(bench, &cases, |bench, case, choice| scenarios::callers_at_once(bench, case, choice, 4, 10))
}

/// A captured call, replayed after its plan is gone, and inputs, targets and device scalars have changed, gives what a
/// fresh call gives.
fn captured_and_replayed_with_other_inputs(bench: &Bench) -> Report {
    let cases: Vec<Case> = ["cross_entropy", "gemma2", "class_weights"]
        .map(|name| {
            named(name, [129, 64, 507]).with(|case| {
                case.device_scalars = true;
                case.upstreams = Upstreams::Both;
                case.ignored = Some(0.3);
                let by_target = name == "class_weights";
                case.reduction = if by_target { Reduction::MeanByTarget } else { Reduction::DividedBy };
            })
        })
        .into();
    in_every_type(bench, &cases, |bench, case, choice| {
        let mut report = Report { cases: 1, ..Report::default() };
        let label = format!("{} {case}, captured", choice.name());
        if let Err(error) = replay(&mut report, &label, bench, case, choice) {
            report.fail(&label, error);
        }
        report
    })
}

#[expect(unsafe_code, reason = "launches a graph whose buffers the test owns")]
fn replay(
    report: &mut Report,
    label: &str,
    bench: &Bench,
    case: &Case,
    choice: Choice,
) -> Result<(), String> {
    let words = |error: Error| error.to_string();
    let made = stream(bench)?.expect("a stream of the GPU");
    let seeded = |at: u64| case.clone().with(|case| case.seed = case.seed.wrapping_add(at));
    for mode in [Mode::Step, Mode::Apart] {
        let plan = case.plan(bench, choice)?;
        let mut buffers = Buffers::new(bench, case, &case.data(), &plan)?;
        buffers.put(Some(&made))?;
        let graph = made
            .capture(|stream| buffers.call(bench, case, &plan, mode, Some(stream), |call| call))
            .map_err(|error| format!("capturing: {error}"))?;
        if graph.nodes() == 0 {
            return Err("the captured graph is empty".to_owned());
        }
        let mut kernels = plan.kernels();
        drop(plan);
        let loaded = kernels.len();
        for at in 0..3 {
            let (data, expected) = seeded(at).prepare();
            buffers.replace(case, &data);
            buffers.put(Some(&made))?;
            // SAFETY: the buffers and the kernels live until `found` has waited for the stream.
            unsafe { graph.launch(&made) }.map_err(words)?;
            let found = buffers.found(Some(&made))?;
            compare::compare(report, label, case, true, &expected, &found);
            let plan = case.plan(bench, choice)?;
            let fresh = run(bench, case, &data, &plan, Mode::Step)?;
            fresh.same_bits(&found).map_err(|difference| format!("replay {at}: {difference}"))?;
            kernels.add(&plan.kernels());
        }
        if kernels.len() != loaded || loaded == 0 {
            return Err(format!(
                "{} cubins are loaded, expected the {loaded} of the first plan",
                kernels.len()
            ));
        }
    }
    Ok(())
}

/// Calls that would be wrong on a GPU are refused before anything runs.
fn calls_that_are_refused(bench: &Bench) -> Report {
    let mut report = Report { cases: 1, ..Report::default() };
    let case = named("cross_entropy", [5, 8, 7]);
    if let Err(error) = refused(bench, &case) {
        report.fail("calls that are refused", error);
    }
    report
}

fn refused(bench: &Bench, case: &Case) -> Result<(), String> {
    let plan = case.plan(bench, Choice::Family(Family::Simt))?;
    let data: Data = case.data();
    let made = stream(bench)?;
    let call = |bench: &Bench, buffers: &mut Buffers, case: &Case| {
        buffers.call(bench, case, &plan, Mode::Step, made.as_ref(), |call| call)
    };

    let mut on_host = Buffers::new(&Bench::cpu(), case, &data, &plan)?;
    match call(&Bench::cpu(), &mut on_host, case) {
        Err(Error::DeviceMismatch { .. }) => {}
        other => return Err(format!("host views: {other:?}")),
    }

    let shifted = case.clone().with(|case| case.align = [4, 16]);
    let mut misaligned = Buffers::new(bench, &shifted, &data, &plan)?;
    match call(bench, &mut misaligned, case) {
        Err(Error::Alignment { .. }) => {}
        other => return Err(format!("hidden states at a multiple of 4 under a layout of 16: {other:?}")),
    }

    let mut whole = Buffers::new(bench, case, &data, &plan)?;
    whole.put(made.as_ref())?;
    let small = named("cross_entropy", [1, 8, 7]);
    let of_one_token = small.plan(bench, Choice::Family(Family::Simt))?;
    let mut short = Buffers::new(bench, case, &data, &of_one_token)?;
    match (plan.workspace().peak > of_one_token.workspace().peak, call(bench, &mut short, case)) {
        (true, Err(Error::WorkspaceTooSmall { .. })) | (false, Ok(())) => {}
        (_, other) => return Err(format!("the workspace of a smaller plan: {other:?}")),
    }

    let stream = made.as_ref().expect("a stream of the GPU");
    let captured = stream.capture(|stream| {
        whole.call(bench, case, &plan, Mode::Step, Some(stream), |call| call.check_targets(true))
    });
    match captured {
        Err(Error::InvalidCall { .. }) => {}
        Err(other) => return Err(format!("a checked call under capture: {other}")),
        Ok(_) => return Err("a checked call was captured".to_owned()),
    }
    // And everything still works.
    whole.put(made.as_ref())?;
    call(bench, &mut whole, case).map_err(|error| error.to_string())?;
    whole.found(made.as_ref()).map(drop)
}

/// Gradients whose buffers are aligned to an element and not to more are either refused or right. In a
/// process of its own: a misaligned store would leave the GPU unusable for this one.
fn gradients_aligned_to_their_elements(bench: &Bench) -> Report {
    const CHILD: &str = "CCE_TEST_CHILD";
    let mut report = Report::default();
    if std::env::var_os(CHILD).is_some() {
        for dtype in TYPES {
            for (output, hidden) in [(dtype, 64), (DType::F32, 64), (dtype, 123)] {
                let case = Case::new(&programs::named("cross_entropy"), [129, hidden, 507], dtype)
                    .gradients(output, false)
                    .with(|case| case.ignored = Some(0.3));
                for choice in families(bench, &case) {
                    let label = format!("{} {case}, gradients aligned to an element", choice.name());
                    report.cases += 1;
                    if let Err(error) = aligned_to_elements(&mut report, &label, bench, &case, choice) {
                        report.fail(&label, error);
                    }
                }
            }
        }
        return report;
    }
    report.cases = 1;
    let itself = std::env::current_exe().expect("the path of this program");
    let child = Command::new(itself)
        .args(["--exact", "losses::gradients_aligned_to_their_elements"])
        .env(CHILD, "1")
        .env("CCE_TEST_SEED", run_seed().to_string())
        .output()
        .expect("this program starts again");
    if !child.status.success() {
        let said = String::from_utf8_lossy(&child.stdout);
        let words = String::from_utf8_lossy(&child.stderr);
        report.fail("in a process of its own", format!("{}\n{said}{words}", child.status));
    }
    report
}

fn aligned_to_elements(
    report: &mut Report,
    label: &str,
    bench: &Bench,
    case: &Case,
    choice: Choice,
) -> Result<(), String> {
    let plan = case.plan(bench, choice)?;
    let (data, expected) = case.prepare();
    let made = stream(bench)?;
    let align = case.hidden_gradient.map_or(4, |output| output.dtype.bytes());
    let mut buffers = Buffers::with_gradients_aligned_to(bench, case, &data, &plan, align)?;
    buffers.put(made.as_ref())?;
    match buffers.call(bench, case, &plan, Mode::Step, made.as_ref(), |call| call) {
        Err(Error::Alignment { .. }) => Ok(()),
        Err(other) => Err(other.to_string()),
        Ok(()) => {
            let found = buffers.found(made.as_ref())?;
            compare::compare(report, label, case, true, &expected, &found);
            Ok(())
        }
    }
}
