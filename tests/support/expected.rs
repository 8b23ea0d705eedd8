//! What must come out: the f64 reference on the rounded inputs, and the sizes that rounding is measured
//! against.

use super::case::Case;
use super::data::Data;
use cce_codegen::interp::reference::{Reference, Tiles};
use cce_codegen::ir::InputKind;

/// Values and gradients in f64.
#[derive(Clone, Debug)]
pub struct Expected {
    /// By output: N values.
    pub outputs: Vec<Vec<f64>>,
    /// By output: its reduced value.
    pub reduced: Vec<f64>,
    /// dE, [N, D], with what was there before where it is accumulated.
    pub hidden: Vec<f64>,
    /// dC, [V, D], likewise.
    pub classifier: Vec<f64>,
    /// By wanted input.
    pub inputs: Vec<(String, Vec<f64>)>,
    /// Tokens that count.
    pub counted: usize,
    /// The sizes of what cancels within a result.
    pub sizes: Sizes,
}

/// The size of the terms that a result is a sum of. An fp32 computation is off by some 2^-22 of that, however
/// small the result.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Of a logit, or of the normaliser: an output is a difference of such.
    pub logit: f64,
    /// Of each output's reduced value: what cancels among the tokens' values, and what the logits leave
    /// unresolved in them.
    pub reduced: Vec<[f64; 2]>,
    /// Of a row of dE: by token.
    pub hidden_rows: Vec<f64>,
    /// Of a row of dC.
    pub classifier_row: f64,
    /// Of each wanted input's gradient, an element.
    pub inputs: Vec<f64>,
}

impl Expected {
    pub fn of(case: &Case, data: &Data) -> Expected {
        of_reference(case, data, |reference| Expected::by(case, data, &reference))
    }

    /// Without the tiles in which no target falls and no probability reaches `eps`.
    pub fn skipping(case: &Case, data: &Data, tiles: Tiles, eps: f64) -> Expected {
        of_reference(case, data, |reference| Expected::by(case, data, &reference.skipping(tiles, eps)))
    }

    /// The largest probability of each tile, infinite where a target falls.
    pub fn largest_by_tile(case: &Case, data: &Data, tiles: Tiles) -> Vec<Vec<f64>> {
        of_reference(case, data, |reference| reference.largest_by_tile(tiles).expect("a complete reference"))
    }

    fn by(case: &Case, data: &Data, reference: &Reference<'_>) -> Expected {
        let upstreams = data.upstreams(case);
        let wanted: Vec<&str> = case.input_gradients.iter().map(String::as_str).collect();
        let mut result = reference.run(&upstreams, &wanted).expect("a complete reference");
        for (gradient, initial) in [
            (&mut result.hidden_gradient, &data.initial[0]),
            (&mut result.classifier_gradient, &data.initial[1]),
        ] {
            gradient.iter_mut().zip(initial).for_each(|(gradient, before)| *gradient += before);
        }
        let factor = data.factor(case);
        Expected {
            reduced: result.outputs.iter().map(|rows| factor * rows.iter().sum::<f64>()).collect(),
            counted: (0..case.tokens).filter(|&token| data.counts(token)).count(),
            sizes: Sizes::of(case, data, &upstreams, &result.outputs),
            outputs: result.outputs,
            hidden: result.hidden_gradient,
            classifier: result.classifier_gradient,
            inputs: result.input_gradients,
        }
    }
}

/// The reference of a case's data.
fn of_reference<T>(case: &Case, data: &Data, then: impl FnOnce(Reference<'_>) -> T) -> T {
    let program = &case.program;
    let targets: Vec<Option<usize>> =
        data.targets.iter().map(|&target| usize::try_from(target).ok()).collect();
    let inputs: Vec<(String, Vec<f64>)> = data
        .inputs
        .iter()
        .map(|(name, values)| (name.clone(), values.iter().map(|&x| f64::from(x)).collect()))
        .collect();
    let mut reference = Reference::new(program, case.hidden, &data.hidden, &data.classifier)
        .expect("matrices of the case's shape");
    if case.has_target() {
        reference = reference.targets(&targets).expect("targets in range");
    }
    for (name, values) in &inputs {
        reference = reference.input(name, values).expect("an input of the program");
    }
    then(reference)
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

impl Sizes {
    fn of(case: &Case, data: &Data, upstreams: &[Vec<f64>], outputs: &[Vec<f64>]) -> Sizes {
        let (n, d) = (case.tokens, case.hidden);
        let row_norm = |matrix: &[f64], row: usize| norm(&matrix[row * d..(row + 1) * d]);
        // Of the logits a few in a thousand lie beyond three standard deviations; sure targets some 12
        // higher.
        let logit = 10.0f64.max(4.0 * case.spread);
        // A token's gradient with respect to a logit: the upstream gradient, times what a loss multiplies it
        // with.
        let of_token = |i: usize| {
            let counts = f64::from(u8::from(data.counts(i)));
            counts * upstreams.iter().map(|of_output| of_output[i].abs()).sum::<f64>()
        };
        let largest_entry = (0..case.vocab).map(|j| row_norm(&data.classifier, j)).fold(0.0, f64::max);
        let by_token: Vec<f64> = (0..n).map(|i| logit * of_token(i)).collect();
        let of_classifier: Vec<f64> = (0..n).map(|i| by_token[i] * row_norm(&data.hidden, i)).collect();
        let factor = data.factor(case);
        let of_input = |name: &String| {
            let input = case.program.inputs().iter().find(|input| input.name == *name);
            match input.map(|input| input.kind) {
                Some(InputKind::Row) => by_token.iter().copied().fold(0.0, f64::max),
                Some(InputKind::Col) => norm(&by_token),
                _ => by_token.iter().sum(),
            }
        };
        Sizes {
            logit,
            reduced: outputs
                .iter()
                .map(|rows| {
                    let (sum, size) =
                        rows.iter().fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                    [factor * (size - f64::abs(sum)), factor * logit * n as f64]
                })
                .collect(),
            hidden_rows: by_token.iter().map(|size| size * largest_entry).collect(),
            classifier_row: norm(&of_classifier),
            inputs: case.input_gradients.iter().map(of_input).collect(),
        }
    }
}
