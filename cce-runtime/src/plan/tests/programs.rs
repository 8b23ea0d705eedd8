//! Programs and data that the tests of calls share.

use crate::call::{Call, TokenReduction};
use crate::inputs::Inputs;
use crate::views::View;
use cce_codegen::interp::reference::Reference;
use cce_codegen::ir::{BinaryOp, InputKind, Program, UnaryOp};
use cce_codegen::valid::{ProgramBuilder, Site, Value};

const S: Site = Site(0);

/// `lse(x) - at(x, y)`.
pub(crate) fn cross_entropy() -> Program {
    let mut b = ProgramBuilder::new(S, "cross_entropy");
    let (x, y) = (b.input(S, "x", InputKind::Logit), b.input(S, "y", InputKind::Target));
    let (lse, at) = (b.lse(S, x), b.at(S, x, y));
    let loss = b.sub(S, lse, at);
    b.output(S, "loss", loss);
    b.finish().unwrap()
}

/// Softcapped and biased, weighted, with a z-loss, an entropy and the log-sum as outputs.
pub(crate) fn gemma() -> Program {
    let mut b = ProgramBuilder::new(S, "gemma");
    let (x, y) = (b.input(S, "x", InputKind::Logit), b.input(S, "y", InputKind::Target));
    let bias = b.input(S, "bias", InputKind::Col);
    let weight = b.input(S, "weight", InputKind::Row);
    let cap = b.input(S, "cap", InputKind::Scalar);
    let zw = b.input(S, "zw", InputKind::Scalar);
    let sum = b.add(S, x, bias);
    let ratio = b.div(S, sum, cap);
    let tanh = b.unary(S, UnaryOp::Tanh, ratio);
    let z = b.mul(S, cap, tanh);
    let (l, at) = (b.lse(S, z), b.at(S, z, y));
    let nll = b.sub(S, l, at);
    let square = b.mul(S, l, l);
    let zloss = b.mul(S, zw, square);
    let total = b.add(S, nll, zloss);
    let loss = b.mul(S, weight, total);
    let mean = b.expect(S, z, z);
    let entropy = b.sub(S, l, mean);
    b.output(S, "loss", loss);
    b.output(S, "lse", l);
    b.output(S, "entropy", entropy);
    b.finish().unwrap()
}

/// Class-weighted label smoothing, with the largest logit and its column as outputs: every reduction there
/// is.
pub(crate) fn smoothed() -> Program {
    let mut b = ProgramBuilder::new(S, "smoothed");
    let (x, y) = (b.input(S, "x", InputKind::Logit), b.input(S, "y", InputKind::Target));
    let class = b.input(S, "class", InputKind::Col);
    let eps = b.input(S, "eps", InputKind::Scalar);
    let (l, at, of_target) = (b.lse(S, x), b.at(S, x, y), b.at(S, class, y));
    let one = b.constant(S, 1.0);
    let keep = b.sub(S, one, eps);
    let nll = b.sub(S, l, at);
    let nll = b.mul(S, of_target, nll);
    let sharp = b.mul(S, keep, nll);
    let (wx, w) = (b.mul(S, class, x), class);
    let (mean_wx, mean_w) = (b.mean(S, wx), b.mean(S, w));
    let flat = b.mul(S, mean_w, l);
    let flat = b.sub(S, flat, mean_wx);
    let flat = b.mul(S, eps, flat);
    let loss = b.add(S, sharp, flat);
    let (max, argmax) = (b.max(S, x), b.argmax(S, x));
    b.output(S, "loss", loss);
    b.output(S, "max", max);
    b.output(S, "argmax", argmax);
    b.finish().unwrap()
}

/// `(1 - p)^gamma * nll`, gamma a Scalar.
pub(crate) fn focal() -> Program {
    let mut b = ProgramBuilder::new(S, "focal");
    let (x, y) = (b.input(S, "x", InputKind::Logit), b.input(S, "y", InputKind::Target));
    let gamma = b.input(S, "gamma", InputKind::Scalar);
    let (l, at) = (b.lse(S, x), b.at(S, x, y));
    let nll = b.sub(S, l, at);
    let log_p = b.unary(S, UnaryOp::Neg, nll);
    let minus = b.unary(S, UnaryOp::Expm1, log_p);
    let rest = b.unary(S, UnaryOp::Neg, minus);
    let factor = b.binary(S, BinaryOp::Pow, rest, gamma);
    let loss = b.mul(S, factor, nll);
    b.output(S, "loss", loss);
    b.finish().unwrap()
}

/// The mean of the squared logits and the log-sum: a program without a target, whose uniform part has no
/// factors.
pub(crate) fn squares() -> Program {
    let mut b = ProgramBuilder::new(S, "squares");
    let x = b.input(S, "x", InputKind::Logit);
    let temperature = b.input(S, "temperature", InputKind::Scalar);
    let z = b.div(S, x, temperature);
    let square = b.mul(S, z, z);
    let (mean, lse) = (b.mean(S, square), b.lse(S, z));
    let loss = b.add(S, mean, lse);
    b.output(S, "loss", loss);
    b.finish().unwrap()
}

/// A condition on values: half the slope below 0.
pub(crate) fn leaky() -> Program {
    let mut b = ProgramBuilder::new(S, "leaky");
    let (x, y) = (b.input(S, "x", InputKind::Logit), b.input(S, "y", InputKind::Target));
    let (zero, half) = (b.constant(S, 0.0), b.constant(S, 0.5));
    let less: Value = b.mul(S, half, x);
    let z = b.select(S, (cce_codegen::ir::Cmp::Lt, x, zero), less, x);
    let (l, at) = (b.lse(S, z), b.at(S, z, y));
    let loss = b.sub(S, l, at);
    b.output(S, "loss", loss);
    b.finish().unwrap()
}

/// Numbers in [-1, 1), a counter mixed.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    (0..count as u64)
        .map(|i| {
            let mut x =
                (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed.wrapping_mul(0xd1b5_4a32_d192_ed03);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((x >> 40) as f32) / 8_388_608.0 - 1.0
        })
        .collect()
}

/// Data for one problem; every program finds its inputs here by name.
pub(crate) struct Data {
    pub(crate) n: usize,
    pub(crate) d: usize,
    pub(crate) v: usize,
    pub(crate) e: Vec<f32>,
    pub(crate) c: Vec<f32>,
    pub(crate) targets: Vec<i32>,
    values: Vec<(&'static str, Vec<f32>)>,
}

impl Data {
    /// Hidden states scaled so that logits spread over some units; every fifth token ignored if `ignored`.
    pub(crate) fn new(n: usize, d: usize, v: usize, ignored: bool) -> Data {
        let scale = 4.0 / (d as f32).sqrt();
        let targets = (0..n).map(|i| if ignored && i % 5 == 3 { -100 } else { (i * 7919 % v) as i32 });
        let positive = |values: Vec<f32>| values.into_iter().map(|x| 0.75 + 0.5 * x).collect();
        Data {
            n,
            d,
            v,
            e: numbers(n * d, 1).into_iter().map(|x| x * scale).collect(),
            c: numbers(v * d, 2),
            targets: targets.collect(),
            values: vec![
                ("bias", numbers(v, 3)),
                ("class", positive(numbers(v, 4))),
                ("weight", positive(numbers(n, 5))),
                ("cap", vec![3.0]),
                ("zw", vec![0.125]),
                ("eps", vec![0.25]),
                ("gamma", vec![1.5]),
                ("temperature", vec![0.75]),
            ],
        }
    }

    pub(crate) fn value(&self, name: &str) -> &[f32] {
        &self.values.iter().find(|(given, _)| *given == name).unwrap().1
    }

    pub(crate) fn inputs<'a>(&'a self, program: &Program) -> Inputs<'a> {
        self.inputs_of(program, View::host(&self.e), View::host(&self.c))
    }

    pub(crate) fn inputs_of<'a>(&'a self, program: &Program, e: View<'a>, c: View<'a>) -> Inputs<'a> {
        let mut inputs = Inputs::new(e, c);
        for input in program.inputs() {
            inputs = match input.kind {
                InputKind::Logit => inputs,
                InputKind::Target => inputs.targets(View::host(&self.targets)),
                InputKind::Row => inputs.row(&input.name, View::host(self.value(&input.name))),
                InputKind::Col => inputs.col(&input.name, View::host(self.value(&input.name))),
                InputKind::Scalar => inputs.scalar(&input.name, self.value(&input.name)[0]),
            };
        }
        inputs
    }
}

/// The names of a program's inputs that have gradients.
pub(crate) fn differentiable_inputs(program: &Program) -> Vec<&str> {
    let kinds = [InputKind::Row, InputKind::Col, InputKind::Scalar];
    program
        .inputs()
        .iter()
        .filter(|input| kinds.contains(&input.kind))
        .map(|input| input.name.as_ref())
        .collect()
}

/// What the reference says, gradients of `sum over outputs and tokens of upstream * output`.
pub(crate) struct Expected {
    pub(crate) outputs: Vec<Vec<f64>>,
    pub(crate) hidden: Vec<f64>,
    pub(crate) classifier: Vec<f64>,
    pub(crate) inputs: Vec<(String, Vec<f64>)>,
}

/// Runs the reference; `upstream` by output.
pub(crate) fn expected(program: &Program, data: &Data, upstream: &[Vec<f64>], wanted: &[&str]) -> Expected {
    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let (e, c) = (wide(&data.e), wide(&data.c));
    let targets: Vec<Option<usize>> =
        data.targets.iter().map(|&y| usize::try_from(y).ok().filter(|&y| y < data.v)).collect();
    let named: Vec<(&str, Vec<f64>)> =
        differentiable_inputs(program).into_iter().map(|name| (name, wide(data.value(name)))).collect();
    let mut reference = Reference::new(program, data.d, &e, &c).unwrap();
    if program.has_target() {
        reference = reference.targets(&targets).unwrap();
    }
    for (name, values) in &named {
        reference = reference.input(name, values).unwrap();
    }
    let result = reference.run(upstream, wanted).unwrap();
    Expected {
        outputs: result.outputs,
        hidden: result.hidden_gradient,
        classifier: result.classifier_gradient,
        inputs: result.input_gradients,
    }
}

/// `||a - b|| / ||b||` (or `||a||` where b is zero).
pub(crate) fn distance(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let difference: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - b).powi(2)).sum();
    let size: f64 = b.iter().map(|b| b * b).sum();
    if size == 0.0 { difference.sqrt() } else { (difference / size).sqrt() }
}

/// A call under the sum.
pub(crate) fn summed() -> Call<'static> {
    Call::new().reduction(TokenReduction::Sum)
}
