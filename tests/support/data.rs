//! Fresh random data for a case, as a model's head would get them: most logits moderate, some targets sure.

use super::case::{Case, Reduction, Upstreams};
use super::numbers::Numbers;
use cce::DType;
use cce_codegen::ir::InputKind;
use half::{bf16, f16};
use std::collections::BTreeMap;

/// The target that marks ignored tokens.
pub const IGNORED: i64 = -100;

/// The data of a case, already rounded to the types in which they are given.
#[derive(Clone, Debug)]
pub struct Data {
    /// E, [N, D], without padding.
    pub hidden: Vec<f64>,
    /// C, [V, D], without padding.
    pub classifier: Vec<f64>,
    /// [N]; empty where the program has no target.
    pub targets: Vec<i64>,
    /// By name: N, V or one value.
    pub inputs: BTreeMap<String, Vec<f32>>,
    /// By output: the upstream gradient of its reduced value, if given.
    pub scalars: Vec<Option<f32>>,
    /// By output: N upstream gradients, if given.
    pub rows: Vec<Option<Vec<f32>>>,
    /// What `DividedBy` divides by.
    pub divisor: f32,
    /// What dE and dC hold before they are accumulated into.
    pub initial: [Vec<f64>; 2],
}

/// Rounded to a type and back.
pub fn rounded(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(value as f32),
        DType::F16 => f16::from_f64(value).to_f64(),
        DType::Bf16 => bf16::from_f64(value).to_f64(),
    }
}

impl Data {
    pub fn new(case: &Case) -> Data {
        let numbers = |what: &str| Numbers::new(case.seed, &format!("{case} {what}"));
        let (n, d, v) = (case.tokens, case.hidden, case.vocab);

        let scale = case.spread / (d as f64).sqrt();
        let mut of_classifier = numbers("classifier");
        let classifier: Vec<f64> =
            (0..v * d).map(|_| rounded(scale * of_classifier.normal(), case.dtype)).collect();

        let mut of_targets = numbers("targets");
        let targets: Vec<i64> = match case.has_target() {
            true => (0..n).map(|_| of_targets.below(v) as i64).collect(),
            false => Vec::new(),
        };

        let mut of_hidden = numbers("hidden");
        let mut hidden: Vec<f64> = (0..n * d).map(|_| of_hidden.normal()).collect();
        let largest =
            classifier.chunks(d).map(|row| row.iter().map(|c| c * c).sum::<f64>()).fold(0.0, f64::max);
        for (token, &target) in targets.iter().enumerate() {
            // Every fourth token knows its target: its logit is some units above the others. (In few
            // dimensions these would follow.)
            if of_hidden.uniform() < 0.25 && d >= 8 {
                let row = &classifier[target as usize * d..][..d];
                let square: f64 = row.iter().map(|c| c * c).sum();
                // No other entry moves by more than 40: beyond log-odds of 87 a certain target's loss leaves
                // fp32's range.
                let most = 40.0 * (square / largest).sqrt();
                let push = (of_hidden.between(3.0, 12.0) * (case.spread / 2.5).min(1.0)).min(most);
                for (e, c) in hidden[token * d..][..d].iter_mut().zip(row) {
                    *e += push * c / square.max(0.25 * case.spread * case.spread);
                }
            }
        }
        hidden.iter_mut().for_each(|e| *e = rounded(*e, case.dtype));

        let mut of_ignored = numbers("ignored");
        let share = case.ignored.unwrap_or(0.0);
        let targets =
            targets.into_iter().map(|y| if of_ignored.uniform() < share { IGNORED } else { y }).collect();

        let mut of_upstream = numbers("upstream");
        let mut scalars = Vec::new();
        let mut rows = Vec::new();
        for (at, output) in case.program.outputs().iter().enumerate() {
            let given = |ways: &[Upstreams]| output.differentiable && ways.contains(&case.upstreams);
            let first = at == 0 && given(&[Upstreams::First]);
            let scalar = first || given(&[Upstreams::Scalars, Upstreams::Both]);
            scalars.push(scalar.then(|| of_upstream.between(0.5, 2.0) as f32));
            let row = given(&[Upstreams::Rows, Upstreams::Both]);
            // Both together add up: of one sign, so that nothing cancels but what the loss itself lets
            // cancel.
            let least = if scalar { 0.1 } else { -1.0 };
            rows.push(row.then(|| (0..n).map(|_| of_upstream.between(least, 1.0) as f32).collect()));
        }

        let mut of_initial = numbers("initial");
        let mut initial = |output: Option<cce::GradientOutput>, length: usize| match output {
            Some(output) if output.accumulate => {
                (0..length).map(|_| rounded(0.1 * of_initial.normal(), output.dtype)).collect()
            }
            _ => Vec::new(),
        };
        Data {
            initial: [initial(case.hidden_gradient, n * d), initial(case.classifier_gradient, v * d)],
            hidden,
            classifier,
            targets,
            inputs: inputs(case, &mut numbers("inputs")),
            scalars,
            rows,
            divisor: numbers("divisor").between(1.0, 50.0) as f32,
        }
    }

    pub fn counts(&self, token: usize) -> bool {
        self.targets.get(token).is_none_or(|&target| target != IGNORED)
    }

    /// What the reduction multiplies a sum with.
    pub fn factor(&self, case: &Case) -> f64 {
        let counted = || (0..case.tokens).filter(|&token| self.counts(token));
        match case.reduction {
            Reduction::None | Reduction::Sum => 1.0,
            Reduction::Mean => 1.0 / (counted().count().max(1) as f64),
            Reduction::DividedBy => 1.0 / f64::from(self.divisor),
            Reduction::MeanByTarget => {
                let weights = &self.inputs["weight"];
                let sum: f64 = counted().map(|i| f64::from(weights[self.targets[i] as usize])).sum();
                if sum == 0.0 { 0.0 } else { 1.0 / sum }
            }
        }
    }

    /// The whole upstream gradient of each output, token by token.
    pub fn upstreams(&self, case: &Case) -> Vec<Vec<f64>> {
        let factor = self.factor(case);
        self.scalars
            .iter()
            .zip(&self.rows)
            .map(|(scalar, rows)| {
                let of_all = scalar.map_or(0.0, f64::from) * factor;
                let of = |token: usize| rows.as_ref().map_or(0.0, |rows| f64::from(rows[token]));
                (0..case.tokens).map(|token| of_all + of(token)).collect()
            })
            .collect()
    }
}

/// Values in the range in which an input of this name makes sense.
fn inputs(case: &Case, numbers: &mut Numbers) -> BTreeMap<String, Vec<f32>> {
    let mut values = BTreeMap::new();
    for input in case.program.inputs() {
        let length = match input.kind {
            InputKind::Row => case.tokens,
            InputKind::Col => case.vocab,
            InputKind::Scalar => 1,
            InputKind::Logit | InputKind::Target => continue,
        };
        let (low, high) = match (input.name.as_ref(), input.kind) {
            ("bias", _) => (-2.0, 2.0),
            ("cap", _) => (5.0, 30.0),
            ("scale" | "slope", _) => (0.3, 1.5),
            ("smoothing", _) => (0.05, 0.3),
            ("gamma", _) => (1.0, 3.0),
            ("zw" | "weight", InputKind::Scalar) => (1e-4, 1e-2),
            (_, InputKind::Row) => (-2.0, 2.0),
            _ => (0.1, 2.0),
        };
        let drawn = (0..length).map(|_| numbers.between(low, high) as f32).collect();
        values.insert(input.name.to_string(), drawn);
    }
    values
}
