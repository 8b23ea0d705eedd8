//! `Sampled` against `Exact` and the reference.

use super::programs::*;
use crate::call::Call;
use crate::device::Device;
use crate::error::Error;
use crate::outputs::{GradientViews, Gradients, Outputs, Upstream};
use crate::plan::{Plan, RunResult};
use crate::views::{View, ViewMut};
use crate::workspace::Workspace;
use cce_codegen::ir::Program;
use cce_codegen::problem::{DType, Filter, GradientOutput};
use cce_codegen::schedule::{CpuSchedule, Schedule};

/// 2048 columns of which 256 are hot.
fn data(n: usize, ignored: bool) -> Data {
    Data::new(n, 8, 2048, ignored)
}

fn plan(program: &Program, data: &Data, filter: Filter) -> Plan {
    let mut builder = Plan::builder(program, data.n, data.d, data.v)
        .filter(filter)
        .schedule(Schedule::Cpu(CpuSchedule { token_block: 32, strip: 512 }));
    // The gradient of a smoothed loss by its class weights is a mean of logits: no factors, so not for
    // sampling.
    for name in differentiable_inputs(program).into_iter().filter(|&name| name != "class") {
        builder = builder.input_gradient(name);
    }
    builder.build(&Device::cpu()).unwrap()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn with_a_step_below_every_probability_nothing_is_lost() {
    let data = data(41, true);
    let all = Filter::Sampled { eps: 1e-9, max_entries: 4096 };
    for program in [cross_entropy(), gemma(), smoothed(), focal(), leaky()] {
        let exact = plan(&program, &data, Filter::Exact).run(&data.inputs(&program), &summed()).unwrap();
        let sampled = plan(&program, &data, all).run(&data.inputs(&program), &summed()).unwrap();
        let name = program.name();
        assert_eq!(sampled.outputs, exact.outputs, "{name}");
        assert_eq!(sampled.loss, exact.loss);
        let off = distance(&sampled.hidden_gradient, &wide(&exact.hidden_gradient));
        assert!(off < 4e-6, "{name} dE {off:e}");
        let off = distance(&sampled.classifier_gradient, &wide(&exact.classifier_gradient));
        assert!(off < 4e-6, "{name} dC {off:e}");
        for (input, values) in &sampled.input_gradients {
            let off = distance(values, &wide(&exact.input_gradients[input]));
            assert!(off < 4e-6, "{name} d{input} {off:e}");
        }
    }
}

/// The mean of gradients over seeds.
fn mean(plan: &Plan, data: &Data, seeds: std::ops::Range<u64>) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let count = (seeds.end - seeds.start) as f64;
    let mut sums: [Vec<f64>; 3] = Default::default();
    for seed in seeds {
        let result = plan.run(&data.inputs(plan.program()), &summed().seed(seed)).unwrap();
        let col = result.input_gradients.get("bias").cloned().unwrap_or_default();
        for (sum, values) in sums.iter_mut().zip([&result.hidden_gradient, &result.classifier_gradient, &col])
        {
            sum.resize(values.len(), 0.0);
            for (sum, &value) in sum.iter_mut().zip(values) {
                *sum += f64::from(value) / count;
            }
        }
    }
    let [a, b, c] = sums.map(|sum| sum.into_iter().map(|x| x as f32).collect());
    (a, b, c)
}

#[test]
fn the_mean_over_seeds_approaches_the_exact_gradient_as_one_over_the_root() {
    let data = data(17, true);
    for program in [cross_entropy(), gemma(), smoothed()] {
        let exact = plan(&program, &data, Filter::Exact).run(&data.inputs(&program), &summed()).unwrap();
        for filter in [
            Filter::Sampled { eps: 1.0 / 64.0, max_entries: 384 },
            // The quota binds: steps are raised, and thinning raises them again.
            Filter::Sampled { eps: 1.0 / 1024.0, max_entries: 16 },
        ] {
            let plan = plan(&program, &data, filter);
            let of = |seeds| {
                let (hidden, classifier, _) = mean(&plan, &data, seeds);
                (
                    distance(&hidden, &wide(&exact.hidden_gradient)),
                    distance(&classifier, &wide(&exact.classifier_gradient)),
                )
            };
            let (one, many) = ((0..8).map(|s| of(s..s + 1)).collect::<Vec<_>>(), of(100..356));
            let typical = |pick: fn(&(f64, f64)) -> f64| one.iter().map(pick).sum::<f64>() / 8.0;
            let (hidden, classifier) = (typical(|x| x.0), typical(|x| x.1));
            let name = program.name();
            assert!(
                hidden > 1e-3 && classifier > 1e-3,
                "{name}: nothing was sampled: {hidden:e} {classifier:e}"
            );
            // 256 seeds: a sixteenth, give or take.
            assert!(many.0 < hidden / 11.0, "{name} {filter:?} dE: {hidden:e} -> {:e}", many.0);
            assert!(many.1 < classifier / 13.0, "{name} {filter:?} dC: {classifier:e} -> {:e}", many.1);
        }
    }
}

#[test]
fn a_uniform_softmax_keeps_its_quota_and_stays_unbiased() {
    let mut data = data(32, false);
    data.e.iter_mut().for_each(|x| *x *= 1e-3);
    let program = cross_entropy();
    let exact = plan(&program, &data, Filter::Exact).run(&data.inputs(&program), &summed()).unwrap();
    let plan = plan(&program, &data, Filter::Sampled { eps: 1.0 / 1024.0, max_entries: 32 });
    let distance_of = |seeds| distance(&mean(&plan, &data, seeds).0, &wide(&exact.hidden_gradient));
    let (one, many) = (distance_of(0..1), distance_of(0..100));
    assert!(many < one / 7.0, "{one:e} -> {many:e}");
}

#[test]
fn the_bits_depend_on_the_seed_and_not_on_the_number_of_threads() {
    let data = data(70, true);
    let program = gemma();
    let plan = plan(&program, &data, Filter::Sampled { eps: 1.0 / 64.0, max_entries: 64 });
    let run = |threads: usize, seed: u64| -> RunResult {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| plan.run(&data.inputs(&program), &Call::new().seed(seed)).unwrap())
    };
    assert_eq!(run(1, 7), run(3, 7));
    assert_ne!(run(1, 7), run(1, 8));
}

#[test]
fn the_default_is_sampled_where_the_program_allows_it_and_says_so_where_not() {
    let data = data(4, false);
    let build =
        |program: &Program| Plan::builder(program, data.n, data.d, data.v).build(&Device::cpu()).unwrap();
    assert_eq!(build(&cross_entropy()).problem().filter, Filter::SAMPLED);
    assert!(build(&cross_entropy()).notes().is_empty());
    let exact = build(&squares());
    assert_eq!(exact.problem().filter, Filter::Exact);
    assert!(
        exact.notes().len() == 1 && exact.notes()[0].starts_with("the filter is exact"),
        "{:?}",
        exact.notes()
    );
    let none = Plan::builder(&squares(), data.n, data.d, data.v)
        .gradients(Gradients::none())
        .build(&Device::cpu())
        .unwrap();
    assert!(none.notes().is_empty(), "{:?}", none.notes());

    let refused = |filter: Filter, program: &Program, word: &str| {
        let built = Plan::builder(program, data.n, data.d, data.v).filter(filter).build(&Device::cpu());
        let error = built.unwrap_err();
        assert!(matches!(&error, Error::FilterNotAllowed { reason, .. } if reason.contains(word)), "{error}");
        error.to_string()
    };
    let said = refused(Filter::SAMPLED, &squares(), "mean");
    assert!(said.starts_with("the filter sampled:2^-10,384 is not allowed here"), "{said}");
    assert!(said.ends_with("use the filter exact"), "{said}");
    assert!(!exact.notes()[0].contains("use"), "{:?}", exact.notes());
    let by_class = Plan::builder(&smoothed(), data.n, data.d, data.v).input_gradient("class");
    assert_eq!(by_class.build(&Device::cpu()).unwrap().problem().filter, Filter::Exact);
    refused(Filter::Sampled { eps: 0.0, max_entries: 384 }, &cross_entropy(), "eps");
    refused(Filter::Sampled { eps: f32::NAN, max_entries: 384 }, &cross_entropy(), "eps");
    refused(Filter::Sampled { eps: 0.1, max_entries: 1 }, &cross_entropy(), "max_entries");
    refused(Filter::Blocks { eps: 0.0 }, &cross_entropy(), "eps");
    let said = refused(Filter::BLOCKS, &squares(), "mean over the vocabulary");
    assert!(said.starts_with("the filter blocks:2^-12 is not allowed here"), "{said}");
}

#[test]
fn a_target_out_of_range_spoils_its_own_rows_under_every_filter_in_a_step_and_apart() {
    let mut data = data(12, true);
    (data.targets[4], data.targets[7]) = (data.v as i32, -1);
    for program in [cross_entropy(), gemma()] {
        for filter in [Filter::Exact, Filter::SAMPLED] {
            let plan = plan(&program, &data, filter);
            let inputs = data.inputs(&program);
            let step = plan.run(&inputs, &summed()).unwrap();
            let mut apart = vec![0.0f32; data.n * data.d];
            let mut classifier = vec![f32::NAN; data.v * data.d];
            let mut others: Vec<(&str, Vec<f32>)> = step
                .input_gradients
                .iter()
                .map(|(name, values)| (name.as_str(), vec![0.0; values.len()]))
                .collect();
            let mut gradients = GradientViews::new()
                .hidden(ViewMut::host(&mut apart))
                .classifier(ViewMut::host(&mut classifier));
            for (name, values) in &mut others {
                gradients = gradients.input(name, ViewMut::host(values));
            }
            let mut workspace = plan.allocate().unwrap();
            let saved = plan.forward(&inputs, &summed(), &mut workspace, Outputs::new()).unwrap();
            let upstream = Upstream::new().scalar("loss", 1.0);
            plan.backward(saved, &inputs, &upstream, &summed(), &mut workspace, gradients).unwrap();
            for token in 0..data.n {
                let bad = token == 4 || token == 7;
                assert_eq!(step.outputs["loss"][token].is_nan(), bad, "{filter} token {token}");
                for hidden in [&step.hidden_gradient, &apart] {
                    let row = &hidden[token * data.d..(token + 1) * data.d];
                    assert!(row.iter().all(|x| x.is_nan() == bad), "{filter} token {token}: {row:?}");
                }
            }
            assert!(step.loss.is_nan());
            assert!(step.classifier_gradient.iter().chain(&classifier).all(|x| x.is_finite()), "{filter}");
        }
    }
}

#[test]
fn what_is_held_and_what_a_limit_allows_are_kept() {
    let (n, d, v) = (4096, 64, 49152);
    let program = cross_entropy();
    let plan = Plan::builder(&program, n, d, v).filter(Filter::SAMPLED).build(&Device::cpu()).unwrap();
    let held = plan.workspace().held as f64;
    assert!(held <= 8.4 * 384.0 * n as f64 + (1 << 20) as f64, "{held}");
    let error = Plan::builder(&program, n, d, v)
        .filter(Filter::SAMPLED)
        .workspace_limit(1000)
        .build(&Device::cpu())
        .unwrap_err();
    let Error::WorkspaceTooSmall { smallest, .. } = error else { panic!("{error}") };
    let limit = (smallest + plan.workspace().peak) / 2;
    let smaller = Plan::builder(&program, n, d, v).filter(Filter::SAMPLED).workspace_limit(limit);
    assert!(smaller.build(&Device::cpu()).unwrap().workspace().peak <= limit);
    let least = Plan::builder(&program, n, d, v).filter(Filter::SAMPLED).workspace_limit(smallest);
    assert_eq!(least.build(&Device::cpu()).unwrap().workspace().peak, smallest);
}

#[test]
fn nan_reaches_the_gradients_and_nothing_hangs() {
    let program = cross_entropy();
    for value in [f32::NAN, f32::INFINITY, 1e30] {
        let mut data = data(20, false);
        data.e[5 * data.d] = value;
        let plan = plan(&program, &data, Filter::SAMPLED);
        let result = plan.run(&data.inputs(&program), &summed()).unwrap();
        assert!(result.hidden_gradient[5 * data.d].is_nan() || value == 1e30, "{value}");
        assert!(result.hidden_gradient[..data.d].iter().all(|x| x.is_finite()));
    }
    let mut data = data(20, true);
    data.targets[2] = 2048;
    let plan = plan(&program, &data, Filter::SAMPLED);
    let result = plan.run(&data.inputs(&program), &summed()).unwrap();
    assert!(result.hidden_gradient[2 * data.d].is_nan());
    assert!(result.classifier_gradient.iter().all(|x| x.is_finite()));
    data.targets.fill(-100);
    let result = plan.run(&data.inputs(&program), &summed()).unwrap();
    assert!(result.hidden_gradient.iter().chain(&result.classifier_gradient).all(|&x| x == 0.0));
}

#[test]
fn half_types_and_accumulation_go_through_the_same_sums() {
    let mut data = data(33, true);
    let round = |x: &mut f32| *x = half::bf16::from_f32(*x).to_f32();
    data.e.iter_mut().for_each(round);
    data.c.iter_mut().for_each(round);
    let narrow = |values: &[f32]| values.iter().map(|&x| half::bf16::from_f32(x)).collect::<Vec<_>>();
    let (e, c) = (narrow(&data.e), narrow(&data.c));
    for program in [gemma(), smoothed()] {
        let filter = Filter::Sampled { eps: 1.0 / 64.0, max_entries: 64 };
        let wide_run = plan(&program, &data, filter).run(&data.inputs(&program), &summed()).unwrap();
        let output = Some(GradientOutput { dtype: DType::F32, accumulate: true });
        let plan = Plan::builder(&program, data.n, data.d, data.v)
            .dtype(DType::Bf16)
            .filter(filter)
            .hidden_gradient(output)
            .classifier_gradient(output)
            .schedule(Schedule::Cpu(CpuSchedule { token_block: 32, strip: 512 }))
            .build(&Device::cpu())
            .unwrap();
        let inputs = data.inputs_of(&program, View::host(&e), View::host(&c));
        // `run` starts from zeros, so accumulated and overwritten are the same here.
        let result = plan.run(&inputs, &summed()).unwrap();
        assert!(distance(&result.hidden_gradient, &wide(&wide_run.hidden_gradient)) < 1e-5);
        assert!(distance(&result.classifier_gradient, &wide(&wide_run.classifier_gradient)) < 1e-5);
    }
}

#[test]
fn every_subset_of_gradients_is_what_the_whole_is() {
    let data = data(21, true);
    let program = gemma();
    let names = differentiable_inputs(&program);
    let filter = Filter::Sampled { eps: 1.0 / 64.0, max_entries: 64 };
    let whole = plan(&program, &data, filter).run(&data.inputs(&program), &summed()).unwrap();
    for subset in 1..1u32 << (2 + names.len()) {
        let mut builder = Plan::builder(&program, data.n, data.d, data.v)
            .filter(filter)
            .schedule(Schedule::Cpu(CpuSchedule { token_block: 32, strip: 512 }))
            .gradients(Gradients { hidden: subset & 1 != 0, classifier: subset & 2 != 0 });
        let wanted: Vec<&str> =
            (0..names.len()).filter(|at| subset & (4 << at) != 0).map(|at| names[at]).collect();
        for name in &wanted {
            builder = builder.input_gradient(name);
        }
        let plan = builder.build(&Device::cpu()).unwrap();
        let result = plan.run(&data.inputs(&program), &summed()).unwrap();
        let close = |a: &[f32], b: &[f32]| distance(a, &wide(b)) < 1e-5;
        if subset & 1 != 0 {
            assert!(close(&result.hidden_gradient, &whole.hidden_gradient), "dE in {subset:b}");
        }
        if subset & 2 != 0 {
            assert!(close(&result.classifier_gradient, &whole.classifier_gradient), "dC in {subset:b}");
        }
        for name in wanted {
            let same = close(&result.input_gradients[name], &whole.input_gradients[name]);
            assert!(same, "{name} in {subset:b}");
        }
    }
}

#[test]
fn what_a_workspace_held_before_changes_nothing() {
    let data = data(37, true);
    for program in [gemma(), smoothed()] {
        for filter in [Filter::Exact, Filter::Sampled { eps: 1.0 / 64.0, max_entries: 64 }] {
            let plan = plan(&program, &data, filter);
            let expected = plan.run(&data.inputs(&program), &summed()).unwrap();
            let mut memory = vec![0xffu8; plan.workspace().peak as usize + 256];
            let mut workspace = Workspace::from_host(&mut memory);
            let mut hidden = vec![f32::NAN; data.n * data.d];
            let mut classifier = vec![f32::NAN; data.v * data.d];
            let names = plan.problem().input_gradients.iter();
            let mut inputs: Vec<(String, Vec<f32>)> = names
                .map(|id| program.inputs()[id.index()].name.to_string())
                .map(|name| (name.clone(), vec![f32::NAN; data.value(&name).len()]))
                .collect();
            // Twice: the second finds what the first left.
            for _ in 0..2 {
                let mut gradients = GradientViews::new()
                    .hidden(ViewMut::host(&mut hidden))
                    .classifier(ViewMut::host(&mut classifier));
                for (name, values) in &mut inputs {
                    gradients = gradients.input(name, ViewMut::host(values));
                }
                let given = data.inputs(&program);
                let saved = plan.forward(&given, &summed(), &mut workspace, Outputs::new()).unwrap();
                let upstream = Upstream::new().scalar("loss", 1.0);
                plan.backward(saved, &given, &upstream, &summed(), &mut workspace, gradients).unwrap();
                assert!(distance(&hidden, &wide(&expected.hidden_gradient)) < 1e-6);
                assert!(distance(&classifier, &wide(&expected.classifier_gradient)) < 1e-6);
                for (name, values) in &inputs {
                    assert!(distance(values, &wide(&expected.input_gradients[name])) < 1e-6, "{name}");
                }
            }
        }
    }
}

#[test]
fn kept_entries_are_counted_over_the_tokens_that_count() {
    let program = cross_entropy();
    let kept = |plan: &Plan, data: &Data, workspace: &mut Workspace<'_>| {
        let saved = plan.forward(&data.inputs(&program), &summed(), workspace, Outputs::new()).unwrap();
        plan.kept_entries(&saved, &summed(), workspace).unwrap()
    };
    let (all, some) = (data(41, false), data(41, true));
    let cold_targets = |data: &Data| data.targets.iter().filter(|&&y| y >= 256).count() as u64;
    let counted = some.targets.iter().filter(|&&y| y != -100).count() as u64;
    let whole = plan(&program, &all, Filter::Sampled { eps: 1e-9, max_entries: 4096 });
    // Stale numbers everywhere: tokens that are ignored must not bring them in.
    let mut memory = vec![0xffu8; whole.workspace().peak as usize + 256];
    let mut workspace = Workspace::from_host(&mut memory);
    // Every cold column but the target, which is never sampled.
    assert_eq!(kept(&whole, &all, &mut workspace), Some(41 * 1792 - cold_targets(&all)));
    assert_eq!(kept(&whole, &some, &mut workspace), Some(counted * 1792 - cold_targets(&some)));
    let few = plan(&program, &all, Filter::Sampled { eps: 1.0 / 1024.0, max_entries: 16 });
    let number = kept(&few, &all, &mut few.allocate().unwrap()).unwrap();
    assert!((41..=48 * 16).contains(&number), "{number}");
    let exact = plan(&program, &all, Filter::Exact);
    assert_eq!(kept(&exact, &all, &mut exact.allocate().unwrap()), None);
}

#[test]
fn entries_are_counted_only_while_the_forward_s_workspace_is_as_it_left_it() {
    let (program, data) = (cross_entropy(), data(20, false));
    let plan = plan(&program, &data, Filter::SAMPLED);
    let mut workspace = plan.allocate().unwrap();
    let mut forward = || plan.forward(&data.inputs(&program), &summed(), &mut workspace, Outputs::new());
    let (first, second) = (forward().unwrap(), forward().unwrap());
    let stale = plan.kept_entries(&first, &summed(), &mut workspace).unwrap_err();
    assert!(matches!(stale, Error::StaleSaved { .. }), "{stale}");
    assert!(plan.kept_entries(&second, &summed(), &mut workspace).unwrap().is_some());
    assert!(matches!(
        plan.kept_entries(&second, &summed(), &mut plan.allocate().unwrap()),
        Err(Error::StaleSaved { .. })
    ));
}

#[test]
fn logits_of_tiles_that_are_not_skipped_are_counted_over_the_tokens_that_count() {
    let program = cross_entropy();
    let some = data(41, true);
    let targets: Vec<usize> = some.targets.iter().filter(|&&y| y != -100).map(|&y| y as usize).collect();
    let kept = |eps: f32, memory: &mut [u8]| {
        let plan = plan(&program, &some, Filter::Blocks { eps });
        let mut workspace = Workspace::from_host(memory);
        let saved = plan.forward(&some.inputs(&program), &summed(), &mut workspace, Outputs::new()).unwrap();
        plan.kept_entries(&saved, &summed(), &mut workspace).unwrap()
    };
    // Stale numbers everywhere: 33 tokens count, and what a second block of 32 leaves free brings nothing in.
    let peak = plan(&program, &some, Filter::BLOCKS).workspace().peak as usize;
    let mut memory = vec![0xffu8; peak + 256];
    assert_eq!(kept(2f32.powi(-64), &mut memory), Some(targets.len() as u64 * 2048));
    // Tiles of 32 tokens by 512 columns: those with targets are left.
    let tiles: std::collections::BTreeSet<_> =
        targets.iter().enumerate().map(|(at, y)| (at / 32, y / 512)).collect();
    let of_targets = tiles.iter().map(|(block, _)| (targets.len() - block * 32).min(32) as u64 * 512).sum();
    assert_eq!(kept(1.0, &mut memory), Some(of_targets));
    assert!(of_targets < targets.len() as u64 * 2048, "something is skipped");
}
