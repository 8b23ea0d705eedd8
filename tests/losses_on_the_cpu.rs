//! Every shipped loss, run whole on the CPU device: outputs and every gradient against the f64 reference with
//! the logits in memory.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use cce::prelude::*;
use cce::{InputKind, Program, losses};
use cce_codegen::interp::reference::{Reference, ReferenceResult};

const HIDDEN: usize = 19;
const VOCAB: usize = 131;

/// A small generator (splitmix64): the same numbers in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    fn many(&mut self, count: usize, low: f32, high: f32) -> Vec<f32> {
        (0..count).map(|_| self.between(low, high)).collect()
    }
}

/// What a call reads.
struct Data {
    e: Vec<f32>,
    c: Vec<f32>,
    targets: Vec<i32>,
    inputs: Vec<(String, InputKind, Vec<f32>)>,
    /// By output, N values.
    upstream: Vec<Vec<f32>>,
}

impl Data {
    /// Logits of either sign up to about 10; every fifth token is ignored.
    fn new(program: &Program, tokens: usize, seed: u64) -> Data {
        let mut numbers = Numbers(seed);
        let inputs = program.inputs().iter().filter_map(|input| {
            // Ranges in which each loss is used.
            let (low, high) = match &*input.name {
                "cap" => (8.0, 30.0),
                "gamma" => (1.5, 2.5),
                "smoothing" | "scale" => (0.1, 0.9),
                "zw" => (1e-4, 1e-2),
                _ => (0.1, 1.5),
            };
            let count = match input.kind {
                InputKind::Logit | InputKind::Target => return None,
                InputKind::Row => tokens,
                InputKind::Col => VOCAB,
                InputKind::Scalar => 1,
            };
            Some((input.name.to_string(), input.kind, numbers.many(count, low, high)))
        });
        let inputs = inputs.collect();
        let target = |i: usize, numbers: &mut Numbers| match i % 5 {
            3 => -100,
            _ => (numbers.next() % VOCAB as u64) as i32,
        };
        Data {
            inputs,
            e: numbers.many(tokens * HIDDEN, -1.5, 1.5),
            c: numbers.many(VOCAB * HIDDEN, -1.5, 1.5),
            targets: (0..tokens).map(|i| target(i, &mut numbers)).collect(),
            upstream: program.outputs().iter().map(|_| numbers.many(tokens, -1.0, 2.0)).collect(),
        }
    }

    fn names(&self) -> Vec<&str> {
        self.inputs.iter().map(|(name, ..)| name.as_str()).collect()
    }

    fn reference(&self, program: &Program) -> ReferenceResult {
        let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
        let (e, c) = (wide(&self.e), wide(&self.c));
        let targets: Vec<_> = self.targets.iter().map(|&target| usize::try_from(target).ok()).collect();
        let inputs: Vec<_> = self.inputs.iter().map(|(name, _, values)| (name, wide(values))).collect();
        let mut reference = Reference::new(program, HIDDEN, &e, &c).expect("whole rows");
        reference = reference.targets(&targets).expect("targets in range");
        for (name, values) in &inputs {
            reference = reference.input(name, values).expect("an input of the program");
        }
        let upstream: Vec<_> = self.upstream.iter().map(|values| wide(values)).collect();
        reference.run(&upstream, &self.names()).expect("complete inputs")
    }
}

/// The distance between two vectors, relative to the second's length.
fn distance(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let squares =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference =
        squares(&mut found.iter().zip(expected).map(|(&found, expected)| f64::from(found) - expected));
    let length = squares(&mut expected.iter().copied());
    if difference == 0.0 { 0.0 } else { difference / length }
}

#[test]
fn outputs_and_every_gradient_are_those_of_the_reference() -> cce::Result<()> {
    for (seed, (name, program)) in losses::ALL.iter().enumerate() {
        for tokens in [1, 37] {
            let program = program();
            let data = Data::new(&program, tokens, seed as u64);
            let mut plan = Plan::builder(&program, tokens, HIDDEN, VOCAB).filter(Filter::Exact);
            for name in data.names() {
                plan = plan.input_gradient(name);
            }
            let plan = plan.build(&Device::cpu())?;
            let mut workspace = plan.allocate()?;

            let mut inputs =
                Inputs::new(View::host(&data.e), View::host(&data.c)).targets(View::host(&data.targets));
            for (name, kind, values) in &data.inputs {
                inputs = match kind {
                    InputKind::Row => inputs.row(name, View::host(values)),
                    InputKind::Col => inputs.col(name, View::host(values)),
                    _ => inputs.scalar(name, values[0]),
                };
            }
            let call = Call::new().reduction(TokenReduction::None);
            let mut rows = vec![vec![f32::NAN; tokens]; program.outputs().len()];
            let outputs =
                program.outputs().iter().zip(&mut rows).fold(Outputs::new(), |outputs, (output, row)| {
                    outputs.row(&output.name, ViewMut::host(row))
                });
            let saved = plan.forward(&inputs, &call, &mut workspace, outputs)?;

            let (mut de, mut dc) = (vec![f32::NAN; tokens * HIDDEN], vec![f32::NAN; VOCAB * HIDDEN]);
            let mut of_inputs: Vec<Vec<f32>> =
                data.inputs.iter().map(|(_, _, values)| vec![f32::NAN; values.len()]).collect();
            let mut gradients =
                GradientViews::new().hidden(ViewMut::host(&mut de)).classifier(ViewMut::host(&mut dc));
            for ((name, ..), gradient) in data.inputs.iter().zip(&mut of_inputs) {
                gradients = gradients.input(name, ViewMut::host(gradient));
            }
            let upstream = program.outputs().iter().zip(&data.upstream);
            let upstream = upstream.fold(Upstream::new(), |upstream, (output, values)| {
                upstream.rows(&output.name, View::host(values))
            });
            plan.backward(saved, &inputs, &upstream, &call, &mut workspace, gradients)?;

            let reference = data.reference(&program);
            let near = |found: &[f32], expected: &[f64], what: &str| {
                let distance = distance(found, expected);
                assert!(distance < 2e-5, "{name}, {tokens} tokens, {what}: relative distance {distance:e}");
            };
            for (at, output) in program.outputs().iter().enumerate() {
                near(&rows[at], &reference.outputs[at], &output.name);
            }
            near(&de, &reference.hidden_gradient, "dE");
            near(&dc, &reference.classifier_gradient, "dC");
            for ((input, expected), found) in reference.input_gradients.iter().zip(&of_inputs) {
                near(found, expected, &format!("d{input}"));
            }
        }
    }
    Ok(())
}

#[test]
fn a_weighted_mean_divides_by_the_targets_weights() -> cce::Result<()> {
    let program = losses::class_weights::program();
    let data = Data::new(&program, 37, 5);
    let weight = &data.inputs[0].2;
    let plan = Plan::builder(&program, 37, HIDDEN, VOCAB).filter(Filter::Exact).build(&Device::cpu())?;
    let inputs = Inputs::new(View::host(&data.e), View::host(&data.c))
        .targets(View::host(&data.targets))
        .col("weight", View::host(weight));
    let call = Call::new().reduction(TokenReduction::MeanByTarget("weight".to_owned()));
    let found = plan.run(&inputs, &call)?.loss;

    let losses = &data.reference(&program).outputs[0];
    let targets = data.targets.iter().filter_map(|&target| usize::try_from(target).ok());
    let expected = losses.iter().sum::<f64>() / targets.map(|target| f64::from(weight[target])).sum::<f64>();
    assert!((found - expected).abs() < 1e-5 * expected, "found {found}, expected {expected}");
    Ok(())
}
