//! Calls that repeat: a pass whose addresses and scalars were seen before is launched as a graph, and gives bit for bit what
//! a fresh plan gives, whatever stands at the addresses by then.

use crate::support::gpu::Test;
use crate::support::run::{Buffers, Mode, run, stream};
use crate::support::{Bench, Case, Choice, Reduction, Report, programs};
use cce::{DType, Filter};
use cce_runtime::driver::Stream;
use rayon::prelude::*;

pub const TESTS: &[Test] = &[
    ("repeated::calls_with_other_values_at_the_same_addresses", other_values),
    ("repeated::calls_that_are_captured_in_between", captured_in_between),
    ("repeated::a_plan_that_goes_while_its_graphs_are_queued", gone_while_queued),
];

/// Of every kind of argument some.
fn cases() -> Vec<Case> {
    let of = |name: &str, dtype, filter| {
        Case::new(&programs::named(name), [129, 64, 507], dtype)
            .with(|case| (case.filter, case.ignored) = (filter, Some(0.3)))
    };
    let sampled = Filter::Sampled { eps: 1e-3, max_entries: 64 };
    vec![
        of("cross_entropy", DType::Bf16, Filter::Exact),
        of("cross_entropy", DType::Bf16, sampled),
        of("cross_entropy", DType::F32, Filter::Exact),
        // Scalars of the host, which are no addresses: calls with others launch others.
        of("gemma2", DType::F16, Filter::Exact).with(|case| case.reduction = Reduction::DividedBy),
        of("gemma2", DType::Bf16, Filter::Exact).with(|case| case.device_scalars = true),
        of("class_weights", DType::Bf16, Filter::Exact).with(|case| case.reduction = Reduction::MeanByTarget),
    ]
}

fn on_each(name: &str, check: impl Fn(&Case, Mode) -> Result<(), String> + Sync) -> Report {
    let checked = cases().into_par_iter().map(|case| {
        let mut report = Report { cases: 1, ..Report::default() };
        for mode in [Mode::Step, Mode::Apart] {
            if let Err(error) = check(&case, mode) {
                report.fail(&format!("{case}, {mode:?}, {name}"), error);
            }
        }
        report
    });
    let mut all = Report::default();
    checked.collect::<Vec<_>>().into_iter().for_each(|report| all.add(report));
    all
}

/// Two sets of buffers in an uneven turn, with other values in every call.
fn other_values(bench: &Bench) -> Report {
    on_each("other values", |case, mode| {
        let stream = stream(bench)?.expect("a stream of the GPU");
        let plan = case.plan(bench, Choice::Selected)?;
        let set = || Buffers::new(bench, case, &case.data(), &plan);
        let mut sets = [set()?, set()?];
        for call in 0..18u64 {
            let (data, _) = case.clone().with(|case| case.seed = case.seed.wrapping_add(call % 5)).prepare();
            let buffers = &mut sets[usize::from(call % 3 == 2)];
            buffers.replace(case, &data);
            buffers.put(Some(&stream))?;
            buffers
                .call(bench, case, &plan, mode, Some(&stream), |call| call)
                .map_err(|error| format!("call {call}: {error}"))?;
            let found = buffers.found(Some(&stream))?;
            // The first call of its plan: kernel by kernel.
            let fresh = run(bench, case, &data, &case.plan(bench, Choice::Selected)?, mode)?;
            fresh.same_bits(&found).map_err(|difference| format!("call {call}: {difference}"))?;
        }
        Ok(())
    })
}

/// A call that is captured launches its kernels one by one, however often it was called: its graph goes on when the plan's
/// own ones are gone.
#[expect(unsafe_code, reason = "launches a graph whose buffers the test owns")]
fn captured_in_between(bench: &Bench) -> Report {
    on_each("captured in between", |case, mode| {
        let stream = stream(bench)?.expect("a stream of the GPU");
        let plan = case.plan(bench, Choice::Selected)?;
        let mut buffers = Buffers::new(bench, case, &case.data(), &plan)?;
        let call = |buffers: &mut Buffers, stream: &Stream| {
            buffers.call(bench, case, &plan, mode, Some(stream), |call| call)
        };
        for _ in 0..6 {
            buffers.put(Some(&stream))?;
            call(&mut buffers, &stream).map_err(|error| error.to_string())?;
        }
        let before = buffers.found(Some(&stream))?;
        buffers.put(Some(&stream))?;
        let graph = stream
            .capture(|stream| call(&mut buffers, stream))
            .map_err(|error| format!("capturing: {error}"))?;
        let launches = plan.dump("plan").map_err(|error| error.to_string())?.matches("<<<").count();
        // Copies of scalars may come besides.
        if graph.nodes() < launches {
            return Err(format!(
                "the graph has {} nodes, expected one for each of {launches} launches",
                graph.nodes()
            ));
        }
        let kernels = plan.kernels();
        drop(plan);
        // SAFETY: the buffers and the kernels live until `found` has waited for the stream.
        unsafe { graph.launch(&stream) }.map_err(|error| error.to_string())?;
        let found = buffers.found(Some(&stream))?;
        drop(kernels);
        before.same_bits(&found)
    })
}

/// Graphs that wait on the stream run to their end when their plan, and with it the graphs, are dropped.
fn gone_while_queued(bench: &Bench) -> Report {
    on_each("gone while queued", |case, mode| {
        let stream = stream(bench)?.expect("a stream of the GPU");
        let plan = case.plan(bench, Choice::Selected)?;
        let mut buffers = Buffers::new(bench, case, &case.data(), &plan)?;
        buffers.put(Some(&stream))?;
        let call = |buffers: &mut Buffers| {
            buffers
                .call(bench, case, &plan, mode, Some(&stream), |call| call)
                .map_err(|error| error.to_string())
        };
        call(&mut buffers)?;
        let once = buffers.found(Some(&stream))?;
        buffers.put(Some(&stream))?;
        // The host is far ahead of the GPU when it drops the plan.
        for _ in 0..200 {
            call(&mut buffers)?;
        }
        let kernels = plan.kernels();
        drop(plan);
        let found = buffers.found(Some(&stream))?;
        drop(kernels);
        once.same_bits(&found)
    })
}
