//! `Exact` against the reference.

use super::programs::*;
use crate::call::{Call, TokenReduction};
use crate::device::Device;
use crate::outputs::{GradientViews, Gradients, Outputs, Upstream};
use crate::plan::{Plan, PlanBuilder};
use crate::views::{View, ViewMut};
use cce_codegen::ir::Program;
use cce_codegen::problem::{DType, Filter, GradientOutput, Layout};
use cce_codegen::schedule::{CpuSchedule, Schedule};
use half::{bf16, f16};

fn all() -> Vec<Program> {
    vec![cross_entropy(), gemma(), smoothed(), focal(), squares(), leaky()]
}

fn builder(program: &Program, data: &Data) -> PlanBuilder {
    let mut builder = Plan::builder(program, data.n, data.d, data.v).filter(Filter::Exact);
    for name in differentiable_inputs(program) {
        builder = builder.input_gradient(name);
    }
    builder
}

/// Different upstream gradients for every output and token, 0 for outputs that take none.
fn upstreams(program: &Program, n: usize) -> Vec<Vec<f32>> {
    program
        .outputs()
        .iter()
        .zip(50..)
        .map(|(output, seed)| if output.differentiable { numbers(n, seed) } else { vec![0.0; n] })
        .collect()
}

struct Got {
    outputs: Vec<Vec<f32>>,
    hidden: Vec<f32>,
    classifier: Vec<f32>,
    inputs: Vec<(String, Vec<f32>)>,
}

/// Forward, then backward (or both in a step), into buffers full of NaN.
fn call(plan: &Plan, data: &Data, rows: &[Vec<f32>], call: &Call<'_>, step: bool) -> Got {
    let program = plan.program();
    let (n, d, v) = (data.n, data.d, data.v);
    let mut got = Got {
        outputs: vec![vec![f32::NAN; n]; program.outputs().len()],
        hidden: vec![f32::NAN; n * d],
        classifier: vec![f32::NAN; v * d],
        inputs: differentiable_inputs(program)
            .into_iter()
            .map(|name| (name.to_owned(), vec![f32::NAN; data.value(name).len()]))
            .collect(),
    };
    let inputs = data.inputs(program);
    let mut upstream = Upstream::new();
    let mut outputs = Outputs::new();
    for ((output, values), of_output) in program.outputs().iter().zip(&mut got.outputs).zip(rows) {
        outputs = outputs.row(&output.name, ViewMut::host(values));
        if output.differentiable {
            upstream = upstream.rows(&output.name, View::host(of_output));
        }
    }
    let mut gradients = GradientViews::new();
    if plan.problem().hidden_gradient.is_some() {
        gradients = gradients.hidden(ViewMut::host(&mut got.hidden));
    }
    if plan.problem().classifier_gradient.is_some() {
        gradients = gradients.classifier(ViewMut::host(&mut got.classifier));
    }
    for (name, values) in &mut got.inputs {
        if plan.problem().input_gradients.iter().any(|id| program.inputs()[id.index()].name == *name) {
            gradients = gradients.input(name, ViewMut::host(values));
        }
    }
    let mut workspace = plan.allocate().unwrap();
    if step {
        plan.step(&inputs, &upstream, call, &mut workspace, outputs, gradients).unwrap();
    } else {
        let saved = plan.forward(&inputs, call, &mut workspace, outputs).unwrap();
        plan.backward(saved, &inputs, &upstream, call, &mut workspace, gradients).unwrap();
    }
    got
}

fn compare(program: &Program, got: &Got, want: &Expected, tolerance: f64) {
    let name = program.name();
    for ((output, got), want) in program.outputs().iter().zip(&got.outputs).zip(&want.outputs) {
        assert!(distance(got, want) < tolerance, "{name}.{}: {:e}", output.name, distance(got, want));
    }
    let large = [("dE", &got.hidden, &want.hidden), ("dC", &got.classifier, &want.classifier)];
    for (what, got, want) in large {
        assert!(distance(got, want) < tolerance, "{name} {what}: {:e}", distance(got, want));
    }
    for ((input, got), (_, want)) in got.inputs.iter().zip(&want.inputs) {
        assert!(distance(got, want) < tolerance, "{name} d{input}: {:e}", distance(got, want));
    }
}

fn check(program: &Program, data: &Data, plan: &Plan, step: bool) {
    let rows = upstreams(program, data.n);
    let wide: Vec<Vec<f64>> = rows.iter().map(|of| of.iter().map(|&g| f64::from(g)).collect()).collect();
    let want = expected(program, data, &wide, &differentiable_inputs(program));
    compare(program, &call(plan, data, &rows, &summed(), step), &want, 2e-6);
}

#[test]
fn every_program_matches_the_reference_in_a_step_and_apart() {
    let data = Data::new(37, 19, 123, true);
    for program in all() {
        let plan = builder(&program, &data).build(&Device::cpu()).unwrap();
        check(&program, &data, &plan, true);
        check(&program, &data, &plan, false);
    }
}

#[test]
fn small_blocks_and_chunks_give_the_same_within_any_workspace_limit() {
    let data = Data::new(37, 19, 123, true);
    let schedule = Schedule::Cpu(CpuSchedule { token_block: 16, strip: 32 });
    for program in all() {
        let free = builder(&program, &data).schedule(schedule).build(&Device::cpu()).unwrap();
        check(&program, &data, &free, true);
        let mut limit = free.workspace().peak;
        let smallest = loop {
            match builder(&program, &data).schedule(schedule).workspace_limit(limit).build(&Device::cpu()) {
                Ok(plan) => {
                    assert!(plan.workspace().peak <= limit);
                    check(&program, &data, &plan, true);
                    check(&program, &data, &plan, false);
                    limit = plan.workspace().peak - 1;
                }
                Err(crate::Error::WorkspaceTooSmall { smallest, .. }) => break smallest,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(smallest, limit + 1, "the last plan that could be built is the smallest that can");
    }
}

#[test]
fn sizes_of_one_and_zero_work() {
    for (n, d, v) in [(1, 1, 1), (1, 5, 7), (3, 1, 2), (0, 4, 9), (2, 3, 1)] {
        let data = Data::new(n, d, v, false);
        for program in all() {
            let plan = builder(&program, &data).build(&Device::cpu()).unwrap();
            let rows = upstreams(&program, n);
            let wide: Vec<Vec<f64>> =
                rows.iter().map(|of| of.iter().map(|&g| f64::from(g)).collect()).collect();
            let got = call(&plan, &data, &rows, &summed(), true);
            let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
            assert!(finite(&got.hidden) && finite(&got.classifier), "{} {n} {d} {v}", program.name());
            if v > 1 && n > 0 {
                let want = expected(&program, &data, &wide, &differentiable_inputs(&program));
                compare(&program, &got, &want, 5e-6);
            }
        }
    }
}

#[test]
fn the_loss_keeps_its_digits_where_the_target_is_almost_certain() {
    // One logit of 20 among zeros: the loss is 4e-9 (V - 1), far below what lse - x_y resolves in f32.
    let (n, d, v) = (2, 2, 5);
    let mut data = Data::new(n, d, v, false);
    data.e = vec![20.0, 0.0, 0.0, 40.0];
    data.c = vec![0.0; v * d];
    (data.c[0], data.c[3]) = (1.0, 1.0);
    data.targets = vec![0, 1];
    let program = cross_entropy();
    let plan = builder(&program, &data).build(&Device::cpu()).unwrap();
    check(&program, &data, &plan, true);
    let focal = focal();
    check(&focal, &data, &builder(&focal, &data).build(&Device::cpu()).unwrap(), true);
}

#[test]
fn every_subset_of_gradients_is_what_the_whole_is() {
    let data = Data::new(21, 9, 50, true);
    for program in [gemma(), smoothed()] {
        let rows = upstreams(&program, data.n);
        let names = differentiable_inputs(&program);
        let whole =
            call(&builder(&program, &data).build(&Device::cpu()).unwrap(), &data, &rows, &summed(), true);
        for subset in 1..1u32 << (2 + names.len()) {
            let mut builder = Plan::builder(&program, data.n, data.d, data.v)
                .filter(Filter::Exact)
                .gradients(Gradients { hidden: subset & 1 != 0, classifier: subset & 2 != 0 });
            for (at, name) in names.iter().enumerate().filter(|(at, _)| subset & (4 << at) != 0) {
                let _ = at;
                builder = builder.input_gradient(name);
            }
            let plan = builder.build(&Device::cpu()).unwrap();
            let got = call(&plan, &data, &rows, &summed(), subset % 2 == 0);
            let same = |a: &[f32], b: &[f32]| {
                distance(a, &b.iter().map(|&x| f64::from(x)).collect::<Vec<_>>()) < 1e-6
            };
            if subset & 1 != 0 {
                assert!(same(&got.hidden, &whole.hidden));
            }
            if subset & 2 != 0 {
                assert!(same(&got.classifier, &whole.classifier));
            }
            for (at, (name, values)) in got.inputs.iter().enumerate() {
                if subset & (4 << at) != 0 {
                    assert!(same(values, &whole.inputs[at].1), "{name} in {subset:b}");
                }
            }
        }
    }
}

/// Rounds the data to a half type, runs in it, and compares with the reference of the rounded data.
fn half_types(program: &Program, dtype: DType, f32_gradients: bool, limit: Option<u64>) {
    let mut data = Data::new(37, 19, 123, true);
    let round = |x: &mut f32| {
        *x = match dtype {
            DType::Bf16 => bf16::from_f32(*x).to_f32(),
            _ => f16::from_f32(*x).to_f32(),
        }
    };
    data.e.iter_mut().for_each(round);
    data.c.iter_mut().for_each(round);
    let rows = upstreams(program, data.n);
    let wide: Vec<Vec<f64>> = rows.iter().map(|of| of.iter().map(|&g| f64::from(g)).collect()).collect();
    let want = expected(program, &data, &wide, &[]);
    let output = GradientOutput { dtype: if f32_gradients { DType::F32 } else { dtype }, accumulate: false };
    let mut builder = Plan::builder(program, data.n, data.d, data.v)
        .filter(Filter::Exact)
        .dtype(dtype)
        .schedule(Schedule::Cpu(CpuSchedule { token_block: 16, strip: 32 }))
        .hidden_gradient(Some(output))
        .classifier_gradient(Some(output));
    if let Some(limit) = limit {
        builder = builder.workspace_limit(limit);
    }
    let plan = builder.build(&Device::cpu()).unwrap();
    let mut upstream = Upstream::new();
    for (output, of_output) in program.outputs().iter().zip(&rows).filter(|(output, _)| output.differentiable)
    {
        upstream = upstream.rows(&output.name, View::host(of_output));
    }
    let mut workspace = plan.allocate().unwrap();
    macro_rules! run {
        ($half:ty, $gradient:ty) => {{
            let e: Vec<$half> = data.e.iter().map(|&x| <$half>::from_f32(x)).collect();
            let c: Vec<$half> = data.c.iter().map(|&x| <$half>::from_f32(x)).collect();
            let inputs = data.inputs_of(program, View::host(&e), View::host(&c));
            let mut hidden = vec![<$gradient>::NAN; data.n * data.d];
            let mut classifier = vec![<$gradient>::NAN; data.v * data.d];
            let gradients = GradientViews::new()
                .hidden(ViewMut::host(&mut hidden))
                .classifier(ViewMut::host(&mut classifier));
            plan.step(&inputs, &upstream, &summed(), &mut workspace, Outputs::new(), gradients).unwrap();
            let wide = |values: Vec<$gradient>| values.into_iter().map(f32::from).collect::<Vec<f32>>();
            (wide(hidden), wide(classifier))
        }};
    }
    let (hidden, classifier) = match (dtype, f32_gradients) {
        (DType::Bf16, true) => run!(bf16, f32),
        (DType::Bf16, false) => run!(bf16, bf16),
        (_, true) => run!(f16, f32),
        (_, false) => run!(f16, f16),
    };
    // One rounding: at most half a unit in the last place of each element.
    let tolerance = match (dtype, f32_gradients) {
        (_, true) => 3e-6,
        (DType::Bf16, false) => 2.5e-3,
        (_, false) => 4e-4,
    };
    assert!(distance(&hidden, &want.hidden) < tolerance, "dE {:e}", distance(&hidden, &want.hidden));
    assert!(
        distance(&classifier, &want.classifier) < tolerance,
        "dC {:e}",
        distance(&classifier, &want.classifier)
    );
}

#[test]
fn half_types_are_rounded_once_at_the_end() {
    for dtype in [DType::Bf16, DType::F16] {
        for f32_gradients in [false, true] {
            half_types(&gemma(), dtype, f32_gradients, None);
            half_types(&smoothed(), dtype, f32_gradients, Some(20_000));
        }
    }
}

#[test]
fn gradients_accumulate_into_what_is_there() {
    let data = Data::new(23, 7, 40, true);
    let program = gemma();
    let output = Some(GradientOutput { dtype: DType::F32, accumulate: true });
    let rows = upstreams(&program, data.n);
    let wide: Vec<Vec<f64>> = rows.iter().map(|of| of.iter().map(|&g| f64::from(g)).collect()).collect();
    let want = expected(&program, &data, &wide, &[]);
    for limit in [u64::MAX, 12_000] {
        let plan = Plan::builder(&program, data.n, data.d, data.v)
            .filter(Filter::Exact)
            .hidden_gradient(output)
            .classifier_gradient(output)
            .schedule(Schedule::Cpu(CpuSchedule { token_block: 8, strip: 16 }))
            .workspace_limit(limit)
            .build(&Device::cpu())
            .unwrap();
        let (mut hidden, mut classifier) = (vec![1.0f32; data.n * data.d], vec![-2.0f32; data.v * data.d]);
        let mut upstream = Upstream::new();
        for (output, of_output) in program.outputs().iter().zip(&rows) {
            upstream = upstream.rows(&output.name, View::host(of_output));
        }
        let gradients = GradientViews::new()
            .hidden(ViewMut::host(&mut hidden))
            .classifier(ViewMut::host(&mut classifier));
        let mut workspace = plan.allocate().unwrap();
        plan.step(&data.inputs(&program), &upstream, &summed(), &mut workspace, Outputs::new(), gradients)
            .unwrap();
        let plus = |values: &[f64], start: f64| values.iter().map(|x| x + start).collect::<Vec<f64>>();
        assert!(distance(&hidden, &plus(&want.hidden, 1.0)) < 1e-6);
        assert!(distance(&classifier, &plus(&want.classifier, -2.0)) < 1e-6);
    }
}

#[test]
fn rows_may_stand_apart_in_memory() {
    let data = Data::new(11, 6, 30, false);
    let program = cross_entropy();
    let (e_stride, c_stride) = (9, 13);
    let spread = |values: &[f32], rows: usize, stride: usize| {
        let mut wide = vec![f32::NAN; rows * stride];
        for row in 0..rows {
            wide[row * stride..row * stride + data.d]
                .copy_from_slice(&values[row * data.d..(row + 1) * data.d]);
        }
        wide.truncate((rows - 1) * stride + data.d);
        wide
    };
    let (e, c) = (spread(&data.e, data.n, e_stride), spread(&data.c, data.v, c_stride));
    let plan = Plan::builder(&program, data.n, data.d, data.v)
        .filter(Filter::Exact)
        .hidden_layout(Layout { row_stride: e_stride, align: 4 })
        .classifier_layout(Layout { row_stride: c_stride, align: 4 })
        .build(&Device::cpu())
        .unwrap();
    let result = plan.run(&data.inputs_of(&program, View::host(&e), View::host(&c)), &summed()).unwrap();
    let want = expected(&program, &data, &[vec![1.0; data.n]], &[]);
    assert!(distance(&result.hidden_gradient, &want.hidden) < 2e-6);
    assert!(distance(&result.classifier_gradient, &want.classifier) < 2e-6);
    assert!((result.loss - want.outputs[0].iter().sum::<f64>()).abs() / result.loss < 1e-6);
}

#[test]
fn reductions_divide_losses_and_gradients_alike() {
    let data = Data::new(30, 8, 45, true);
    let program = smoothed();
    let counted: Vec<usize> = (0..data.n).filter(|&i| data.targets[i] >= 0).collect();
    let class: f64 = counted.iter().map(|&i| f64::from(data.value("class")[data.targets[i] as usize])).sum();
    let cases = [
        (TokenReduction::Sum, 1.0),
        (TokenReduction::None, 1.0),
        (TokenReduction::Mean, 1.0 / counted.len() as f64),
        (TokenReduction::DividedBy(8.0.into()), 0.125),
        (TokenReduction::MeanByTarget("class".to_owned()), 1.0 / class),
    ];
    let zeros = vec![0.0; data.n];
    for (reduction, factor) in cases {
        let plan = builder(&program, &data).build(&Device::cpu()).unwrap();
        let call = Call::new().reduction(reduction.clone());
        let result = plan.run(&data.inputs(&program), &call).unwrap();
        let upstream = [vec![factor; data.n], zeros.clone(), zeros.clone()];
        let want = expected(&program, &data, &upstream, &["class", "eps"]);
        let loss = want.outputs[0].iter().sum::<f64>() * factor;
        assert!((result.loss - loss).abs() < 1e-6 * loss, "{reduction:?}: {} {loss}", result.loss);
        assert!(distance(&result.hidden_gradient, &want.hidden) < 2e-6, "{reduction:?}");
        assert!(distance(&result.input_gradients["class"], &want.inputs[0].1) < 2e-6, "{reduction:?}");
        assert!(distance(&result.input_gradients["eps"], &want.inputs[1].1) < 2e-6, "{reduction:?}");
    }
}

#[test]
fn scalar_and_row_upstreams_add_up() {
    let data = Data::new(16, 8, 45, false);
    let program = cross_entropy();
    let plan = builder(&program, &data).gradients(Gradients::hidden()).build(&Device::cpu()).unwrap();
    let rows = numbers(data.n, 9);
    let mut hidden = vec![f32::NAN; data.n * data.d];
    let upstream = Upstream::new().scalar("loss", 3.0).rows("loss", View::host(&rows));
    let mut workspace = plan.allocate().unwrap();
    let gradients = GradientViews::new().hidden(ViewMut::host(&mut hidden));
    plan.step(&data.inputs(&program), &upstream, &Call::new(), &mut workspace, Outputs::new(), gradients)
        .unwrap();
    let total = rows.iter().map(|&g| f64::from(g) + 3.0 / data.n as f64).collect();
    let want = expected(&program, &data, &[total], &[]);
    assert!(distance(&hidden, &want.hidden) < 2e-6);
}

#[test]
fn nothing_counts_when_every_token_is_ignored() {
    let mut data = Data::new(9, 4, 12, false);
    data.targets.fill(-100);
    for program in [cross_entropy(), gemma(), smoothed()] {
        let plan = builder(&program, &data).build(&Device::cpu()).unwrap();
        let reductions = [TokenReduction::Mean, TokenReduction::Sum];
        for reduction in reductions {
            let result = plan.run(&data.inputs(&program), &Call::new().reduction(reduction)).unwrap();
            let zero = |values: &[f32]| values.iter().all(|&value| value == 0.0);
            assert_eq!(result.loss, 0.0);
            assert!(zero(&result.hidden_gradient) && zero(&result.classifier_gradient));
            assert!(result.outputs.values().all(|values| zero(values)));
            assert!(result.input_gradients.values().all(|values| zero(values)));
        }
    }
    let program = smoothed();
    let plan = builder(&program, &data).build(&Device::cpu()).unwrap();
    let call = Call::new().reduction(TokenReduction::MeanByTarget("class".to_owned()));
    assert_eq!(plan.run(&data.inputs(&program), &call).unwrap().loss, 0.0);
}

#[test]
fn a_target_out_of_range_spoils_its_own_token_only() {
    let mut data = Data::new(12, 5, 20, false);
    let program = gemma();
    let clean = {
        let mut ignored = Data::new(12, 5, 20, false);
        (ignored.targets[4], ignored.targets[7]) = (-100, -100);
        builder(&program, &ignored)
            .build(&Device::cpu())
            .unwrap()
            .run(&ignored.inputs(&program), &summed())
            .unwrap()
    };
    (data.targets[4], data.targets[7]) = (20, -1);
    let plan = builder(&program, &data).build(&Device::cpu()).unwrap();
    let result = plan.run(&data.inputs(&program), &summed()).unwrap();
    assert!(result.loss.is_nan());
    for token in 0..data.n {
        let bad = token == 4 || token == 7;
        assert_eq!(result.outputs["loss"][token].is_nan(), bad, "token {token}");
        assert_eq!(result.hidden_gradient[token * data.d].is_nan(), bad, "token {token}");
        assert_eq!(result.input_gradients["weight"][token].is_nan(), bad, "token {token}");
    }
    assert_eq!(result.classifier_gradient, clean.classifier_gradient);
    assert_eq!(result.input_gradients["bias"], clean.input_gradients["bias"]);
    assert_eq!(result.input_gradients["cap"], clean.input_gradients["cap"]);

    let checked = plan.run(&data.inputs(&program), &summed().check_targets(true)).unwrap_err();
    assert!(matches!(checked, crate::Error::TargetOutOfRange { row: 4, target: 20, vocab: 20 }), "{checked}");
    // With no ignored index, -100 is out of range like any other.
    data.targets = vec![-100; 12];
    let plan = builder(&program, &data).ignore_index(None).build(&Device::cpu()).unwrap();
    assert!(plan.run(&data.inputs(&program), &summed().check_targets(true)).is_err());
}

#[test]
fn nan_and_infinite_inputs_propagate_to_their_own_tokens() {
    let program = cross_entropy();
    for (value, token_loss_is_nan) in [(f32::NAN, true), (f32::INFINITY, true)] {
        let mut data = Data::new(6, 3, 40, false);
        data.e[2 * 3] = value;
        let plan = builder(&program, &data).build(&Device::cpu()).unwrap();
        let result = plan.run(&data.inputs(&program), &summed()).unwrap();
        for token in 0..data.n {
            assert_eq!(result.outputs["loss"][token].is_finite(), token != 2, "{value} token {token}");
        }
        assert_eq!(result.loss.is_nan(), token_loss_is_nan);
        assert!(result.hidden_gradient[..3].iter().all(|x| x.is_finite()));
    }
}

#[test]
fn a_bias_of_minus_infinity_masks_a_column() {
    let data = Data::new(8, 4, 30, false);
    let program = {
        use cce_codegen::ir::InputKind;
        use cce_codegen::valid::{ProgramBuilder, Site};
        let s = Site(0);
        let mut b = ProgramBuilder::new(s, "masked");
        let (x, y) = (b.input(s, "x", InputKind::Logit), b.input(s, "y", InputKind::Target));
        let bias = b.input(s, "bias", InputKind::Col);
        let z = b.add(s, x, bias);
        let (l, at) = (b.lse(s, z), b.at(s, z, y));
        let loss = b.sub(s, l, at);
        b.output(s, "loss", loss);
        b.finish().unwrap()
    };
    let mut bias = vec![f32::NEG_INFINITY; 30];
    for &y in &data.targets {
        bias[y as usize] = 0.0;
    }
    let inputs = crate::Inputs::new(View::host(&data.e), View::host(&data.c))
        .targets(View::host(&data.targets))
        .col("bias", View::host(&bias));
    let plan = Plan::builder(&program, data.n, data.d, data.v)
        .filter(Filter::Exact)
        .schedule(Schedule::Cpu(CpuSchedule { token_block: 4, strip: 4 }))
        .build(&Device::cpu())
        .unwrap();
    let result = plan.run(&inputs, &summed()).unwrap();
    assert!(result.loss.is_finite() && result.loss > 0.0);
    for (column, &bias) in bias.iter().enumerate() {
        let row = &result.classifier_gradient[column * data.d..(column + 1) * data.d];
        assert_eq!(row.iter().all(|&x| x == 0.0), bias < 0.0, "column {column}");
    }
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let data = Data::new(70, 33, 900, true);
    let program = gemma();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let plan = builder(&program, &data).build(&Device::cpu()).unwrap();
        pool.install(|| plan.run(&data.inputs(&program), &Call::new()).unwrap())
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn a_plan_serves_several_threads_at_once() {
    let data = Data::new(20, 8, 60, true);
    let program = gemma();
    let plan = builder(&program, &data).build(&Device::cpu()).unwrap();
    let alone = plan.run(&data.inputs(&program), &Call::new()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_eq!(plan.run(&data.inputs(&program), &Call::new()).unwrap(), alone);
            });
        }
    });
}
