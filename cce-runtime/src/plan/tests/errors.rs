//! Every way in which a call or a plan does not fit is an error of its own.

use super::programs::*;
use crate::call::{Arg, Call, TokenReduction};
use crate::device::Device;
use crate::error::Error;
use crate::inputs::Inputs;
use crate::outputs::{GradientViews, Gradients, Outputs, Upstream};
use crate::plan::Plan;
use crate::views::{Element, View, ViewMut};
use crate::workspace::Workspace;
use cce_codegen::problem::{DType, Filter, GradientOutput, IndexType, Layout};

fn data() -> Data {
    Data::new(6, 4, 10, false)
}

fn plan(data: &Data) -> Plan {
    Plan::builder(&gemma(), data.n, data.d, data.v)
        .filter(Filter::Exact)
        .input_gradient("bias")
        .build(&Device::cpu())
        .unwrap()
}

/// The error of a forward.
fn forward(plan: &Plan, inputs: &Inputs<'_>, call: &Call<'_>) -> Error {
    let mut workspace = plan.allocate().unwrap();
    plan.forward(inputs, call, &mut workspace, Outputs::new()).unwrap_err()
}

#[test]
fn missing_unknown_and_repeated_inputs_are_told_apart() {
    let data = data();
    let plan = plan(&data);
    let all = data.inputs(plan.program());
    let new = || Call::new();

    let mut without = all.clone();
    without.targets = None;
    assert!(
        matches!(forward(&plan, &without, &new()), Error::MissingInput { what } if what == "the targets")
    );
    let mut without = all.clone();
    without.rows.clear();
    assert!(
        matches!(forward(&plan, &without, &new()), Error::MissingInput { what } if what.contains("weight"))
    );
    let mut without = all.clone();
    without.scalars.retain(|(name, _)| name != "zw");
    assert!(matches!(forward(&plan, &without, &new()), Error::MissingInput { what } if what.contains("zw")));

    let extra = all.clone().col("bais", View::host(data.value("bias")));
    let error = forward(&plan, &extra, &new());
    assert!(matches!(&error, Error::UnknownName { name, .. } if name == "bais"), "{error}");
    assert!(error.to_string().contains("bias"), "{error}");
    // A Row input given as a Col is not known among the Cols.
    let wrong_kind = all.clone().col("weight", View::host(data.value("bias")));
    assert!(matches!(forward(&plan, &wrong_kind, &new()), Error::UnknownName { .. }));
    let twice = all.clone().scalar("cap", 1.0);
    assert!(
        matches!(forward(&plan, &twice, &new()), Error::InvalidCall { reason } if reason.contains("twice"))
    );

    let no_target = squares();
    let plan = Plan::builder(&no_target, data.n, data.d, data.v)
        .filter(Filter::Exact)
        .build(&Device::cpu())
        .unwrap();
    let given = data.inputs(&no_target).targets(View::host(&data.targets));
    assert!(matches!(forward(&plan, &given, &new()), Error::UnknownName { .. }));
    let by_target = Call::new().reduction(TokenReduction::MeanByTarget("x".to_owned()));
    assert!(matches!(forward(&plan, &data.inputs(&no_target), &by_target), Error::UnknownName { .. }));
}

#[test]
fn sizes_types_alignment_and_places_are_checked() {
    let data = data();
    let plan = plan(&data);
    let program = plan.program();
    let (e, c) = (View::host(&data.e), View::host(&data.c));
    let of = |e, c| data.inputs_of(program, e, c);
    let new = Call::new();

    let short = View::host(&data.e[1..]);
    assert!(matches!(forward(&plan, &of(short, c), &new), Error::WrongShape { .. }));
    let mut inputs = of(e, c);
    inputs.targets = Some(View::host(&data.targets[1..]));
    assert!(matches!(forward(&plan, &inputs, &new), Error::WrongSize { expected: 6, found: 5, .. }));
    let wide: Vec<i64> = data.targets.iter().map(|&y| i64::from(y)).collect();
    let mut inputs = of(e, c);
    inputs.targets = Some(View::host(&wide));
    let error = forward(&plan, &inputs, &new);
    assert!(
        matches!(&error, Error::WrongDtype { expected, found, .. } if expected == "i32" && found == "i64")
    );
    let half = vec![half::bf16::ZERO; data.e.len()];
    assert!(matches!(forward(&plan, &of(View::host(&half), c), &new), Error::WrongDtype { .. }));

    // SAFETY: the address is refused before it is used.
    let odd = unsafe { View::host_raw((data.e.as_ptr() as *const u8).wrapping_add(2), 24, Element::F32) };
    assert!(matches!(forward(&plan, &of(odd, c), &new), Error::Alignment { required: 4, .. }));
    // SAFETY: as above.
    let device = unsafe { View::device(4096, 24, Element::F32, 1) };
    let error = forward(&plan, &of(device, c), &new);
    assert!(matches!(&error, Error::DeviceMismatch { found, .. } if found == "CUDA device 1"), "{error}");
    let error = plan.run(&of(device, c), &new).unwrap_err();
    assert!(matches!(&error, Error::DeviceMismatch { found, .. } if found == "CUDA device 1"), "{error}");
    let mut elsewhere = of(e, c);
    // SAFETY: as above.
    elsewhere.targets = Some(unsafe { View::device(4096, 6, Element::I32, 1) });
    assert!(matches!(plan.run(&elsewhere, &new), Err(Error::DeviceMismatch { .. })));
    let mut elsewhere = of(e, c);
    // SAFETY: as above.
    elsewhere.rows[0].1 = unsafe { View::device(4096, 6, Element::F32, 1) };
    assert!(matches!(plan.run(&elsewhere, &new), Err(Error::DeviceMismatch { .. })));
    let mut inputs = of(e, c);
    // SAFETY: as above.
    inputs.scalars[0].1 = unsafe { Arg::device(4096, 0) };
    assert!(matches!(forward(&plan, &inputs, &new), Error::DeviceMismatch { .. }));
    // SAFETY: as above.
    let seed = new.clone().seed(unsafe { Arg::device(4096, 0) });
    assert!(matches!(forward(&plan, &of(e, c), &seed), Error::DeviceMismatch { .. }));
    assert!(matches!(forward(&plan, &of(e, c), &new.clone().stream(1)), Error::DeviceMismatch { .. }));
}

#[test]
fn messages_speak_of_the_thing_and_say_what_would_do() {
    let data = data();
    let plan = plan(&data);
    let program = plan.program();
    let all = data.inputs(program);
    let said = |inputs: &Inputs<'_>| forward(&plan, inputs, &Call::new()).to_string();

    let short = data.inputs_of(program, View::host(&data.e[1..]), View::host(&data.c));
    assert_eq!(said(&short), "the hidden states hold 23 elements, expected [6, 4]: 24 elements");
    let half = vec![half::bf16::ZERO; data.c.len()];
    let typed = data.inputs_of(program, View::host(&data.e), View::host(&half));
    assert_eq!(
        said(&typed),
        "the classifier is bf16, expected f32: convert it, or build the plan with `.dtype(DType::Bf16)`"
    );
    let wide: Vec<i64> = data.targets.iter().map(|&y| i64::from(y)).collect();
    let mut inputs = all.clone();
    inputs.targets = Some(View::host(&wide));
    assert_eq!(
        said(&inputs),
        "the targets are i64, expected i32: convert them, or build the plan with `.index(IndexType::I64)`"
    );
    inputs.targets = None;
    assert_eq!(said(&inputs), "the targets are missing: the call needs them");
    let mut inputs = all.clone();
    inputs.scalars.clear();
    let values = vec![0.0f32; data.n];
    let as_row = said(&inputs.row("cap", View::host(&values)));
    assert!(as_row.ends_with("`cap` is a Scalar: give it with `.scalar`"), "{as_row}");
    let plain = cross_entropy();
    let plan =
        Plan::builder(&plain, data.n, data.d, data.v).filter(Filter::Exact).build(&Device::cpu()).unwrap();
    let none = forward(&plan, &data.inputs(&plain).row("w", View::host(&values)), &Call::new()).to_string();
    assert!(none.starts_with("there is no Row input `w`, expected none: "), "{none}");
}

#[test]
fn outputs_upstreams_and_gradients_must_be_those_of_the_plan() {
    let data = data();
    let plan = plan(&data);
    let inputs = data.inputs(plan.program());
    let call = Call::new();
    let mut workspace = plan.allocate().unwrap();
    let (mut one, mut rows) = ([0.0f32], vec![0.0f32; data.n]);

    let outputs = Outputs::new().row("los", ViewMut::host(&mut rows));
    let error = plan.forward(&inputs, &call, &mut workspace, outputs).unwrap_err();
    assert!(matches!(&error, Error::UnknownName { .. }) && error.to_string().contains("entropy"), "{error}");
    let outputs = Outputs::new().reduced("loss", ViewMut::host(&mut rows));
    let error = plan.forward(&inputs, &call, &mut workspace, outputs).unwrap_err();
    assert!(matches!(error, Error::WrongSize { expected: 1, .. }));
    let none = Call::new().reduction(TokenReduction::None);
    let outputs = Outputs::new().reduced("loss", ViewMut::host(&mut one));
    let error = plan.forward(&inputs, &none, &mut workspace, outputs).unwrap_err();
    assert!(matches!(error, Error::InvalidCall { .. }));

    let (mut de, mut dc) = (vec![0.0f32; data.n * data.d], vec![0.0f32; data.v * data.d]);
    let mut step = |upstream: Upstream<'_>, gradients: GradientViews<'_>| {
        plan.step(&inputs, &upstream, &call, &mut workspace, Outputs::new(), gradients).unwrap_err()
    };
    let upstream = || Upstream::new().scalar("loss", 1.0);
    assert!(matches!(step(Upstream::new(), GradientViews::new()), Error::MissingInput { .. }));
    assert!(matches!(
        step(Upstream::new().scalar("x", 1.0), GradientViews::new()),
        Error::UnknownName { .. }
    ));
    assert!(matches!(step(upstream(), GradientViews::new()), Error::MissingInput { .. }));
    let some = GradientViews::new().hidden(ViewMut::host(&mut de)).classifier(ViewMut::host(&mut dc));
    assert!(matches!(step(upstream(), some), Error::MissingInput { what } if what.contains("bias")));
    let unasked = GradientViews::new()
        .hidden(ViewMut::host(&mut de))
        .classifier(ViewMut::host(&mut dc))
        .input("cap", ViewMut::host(&mut one));
    assert!(matches!(step(upstream(), unasked), Error::UnknownName { .. }));
    let short = GradientViews::new().hidden(ViewMut::host(&mut de[1..]));
    assert!(matches!(step(upstream(), short), Error::WrongSize { .. }));

    let frozen = Plan::builder(plan.program(), data.n, data.d, data.v)
        .filter(Filter::Exact)
        .gradients(Gradients::hidden())
        .build(&Device::cpu())
        .unwrap();
    let both = GradientViews::new().hidden(ViewMut::host(&mut de)).classifier(ViewMut::host(&mut dc));
    let mut ws = frozen.allocate().unwrap();
    let error = frozen.step(&inputs, &upstream(), &call, &mut ws, Outputs::new(), both).unwrap_err();
    assert!(matches!(error, Error::InvalidCall { reason } if reason.contains("without it")));
    let none = Plan::builder(plan.program(), data.n, data.d, data.v)
        .gradients(Gradients::none())
        .build(&Device::cpu())
        .unwrap();
    let error =
        none.step(&inputs, &upstream(), &call, &mut ws, Outputs::new(), GradientViews::new()).unwrap_err();
    assert!(matches!(error, Error::InvalidCall { .. }));
    let argmax = smoothed();
    let plan =
        Plan::builder(&argmax, data.n, data.d, data.v).filter(Filter::Exact).build(&Device::cpu()).unwrap();
    let mut ws = plan.allocate().unwrap();
    let gradients = GradientViews::new().hidden(ViewMut::host(&mut de)).classifier(ViewMut::host(&mut dc));
    let upstream = Upstream::new().scalar("argmax", 1.0);
    let inputs = data.inputs(&argmax);
    let error = plan.step(&inputs, &upstream, &call, &mut ws, Outputs::new(), gradients).unwrap_err();
    assert!(matches!(error, Error::InvalidCall { reason } if reason.contains("not differentiable")));
}

#[test]
fn what_a_forward_saved_is_good_for_its_own_plan_and_workspace_until_the_next_call() {
    let data = data();
    let program = cross_entropy();
    let build = || {
        Plan::builder(&program, data.n, data.d, data.v).filter(Filter::Exact).build(&Device::cpu()).unwrap()
    };
    let (plan, other) = (build(), build());
    let inputs = data.inputs(&program);
    let call = Call::new();
    let (mut de, mut dc) = (vec![0.0f32; data.n * data.d], vec![0.0f32; data.v * data.d]);
    let mut first = plan.allocate().unwrap();
    let mut second = plan.allocate().unwrap();
    let saved = plan.forward(&inputs, &call, &mut first, Outputs::new()).unwrap();
    let mut backward = |plan: &Plan, saved, workspace: &mut Workspace<'_>| {
        let gradients =
            GradientViews::new().hidden(ViewMut::host(&mut de)).classifier(ViewMut::host(&mut dc));
        let upstream = Upstream::new().scalar("loss", 1.0);
        plan.backward(saved, &inputs, &upstream, &call, workspace, gradients)
    };
    backward(&plan, saved.clone(), &mut first).unwrap();
    backward(&plan, saved.clone(), &mut first).unwrap();
    let stale = |result: crate::Result<()>, word: &str| {
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::StaleSaved { reason } if reason.contains(word)), "{error}");
    };
    stale(backward(&other, saved.clone(), &mut first), "another plan");
    stale(backward(&plan, saved.clone(), &mut second), "another workspace");
    let _newer = plan.forward(&inputs, &call, &mut first, Outputs::new()).unwrap();
    stale(backward(&plan, saved, &mut first), "overwrote");
}

#[test]
fn a_workspace_must_be_large_enough_and_at_home() {
    let data = data();
    let plan = plan(&data);
    let inputs = data.inputs(plan.program());
    let needed = plan.workspace().peak;
    let mut memory = vec![0u8; needed as usize + 255];
    let mut workspace = Workspace::from_host(&mut memory);
    assert!(workspace.bytes() >= needed);
    let _ = plan.forward(&inputs, &Call::new(), &mut workspace, Outputs::new()).unwrap();
    drop(workspace);
    let mut small = Workspace::from_host(&mut memory[..needed as usize / 2]);
    let error = plan.forward(&inputs, &Call::new(), &mut small, Outputs::new()).unwrap_err();
    assert!(matches!(error, Error::WorkspaceTooSmall { smallest, .. } if smallest == needed));
    // SAFETY: it is refused.
    let refused = unsafe { Workspace::from_device(4096, 1 << 20, &Device::cpu()) };
    assert!(matches!(refused, Err(Error::DeviceMismatch { .. })));
}

#[test]
fn problems_that_make_no_sense_are_refused_when_the_plan_is_built() {
    let program = gemma();
    let cpu = Device::cpu();
    let invalid = |builder: crate::PlanBuilder, word: &str| {
        let error = builder.build(&cpu).unwrap_err();
        assert!(
            matches!(&error, Error::InvalidProblem { .. }) && error.to_string().contains(word),
            "{error}"
        );
    };
    let new = || Plan::builder(&program, 4, 4, 8).filter(Filter::Exact);
    invalid(Plan::builder(&program, 4, 0, 8), "hidden size");
    invalid(Plan::builder(&program, 4, 4, 0), "vocabulary");
    invalid(Plan::builder(&program, 4, 1 << 40, 8), "hidden units");
    invalid(new().hidden_layout(Layout { row_stride: 3, align: 4 }), "row stride");
    invalid(new().hidden_layout(Layout { row_stride: 1 << 60, align: 4 }), "row stride");
    invalid(new().ignore_index(Some(1 << 32)), "ignored index");
    invalid(new().classifier_layout(Layout { row_stride: 4, align: 3 }), "alignment");
    let f16 = Some(GradientOutput { dtype: DType::F16, accumulate: false });
    invalid(new().dtype(DType::Bf16).hidden_gradient(f16), "bf16");
    invalid(new().input_gradient("cap").input_gradient("cap"), "twice");
    let unknown = new().input_gradient("x").build(&cpu).unwrap_err();
    assert!(matches!(unknown, Error::UnknownName { .. }), "{unknown}");
    let zero = cce_codegen::schedule::CpuSchedule { token_block: 0, strip: 1 };
    invalid(new().schedule(cce_codegen::schedule::Schedule::Cpu(zero)), "token block");
    let tight = new().workspace_limit(1).build(&cpu).unwrap_err();
    assert!(matches!(tight, Error::WorkspaceTooSmall { given: 1, smallest } if smallest > 1), "{tight}");
}

#[test]
fn targets_of_64_bits_are_taken_where_the_plan_says_so() {
    let data = data();
    let program = cross_entropy();
    let plan = Plan::builder(&program, data.n, data.d, data.v)
        .filter(Filter::Exact)
        .index(IndexType::I64)
        .build(&Device::cpu())
        .unwrap();
    let narrow =
        Plan::builder(&program, data.n, data.d, data.v).filter(Filter::Exact).build(&Device::cpu()).unwrap();
    let targets: Vec<i64> = data.targets.iter().map(|&y| i64::from(y)).collect();
    let mut inputs = data.inputs(&program);
    let expected = narrow.run(&inputs, &Call::new()).unwrap();
    inputs.targets = Some(View::host(&targets));
    assert_eq!(plan.run(&inputs, &Call::new()).unwrap(), expected);
}
