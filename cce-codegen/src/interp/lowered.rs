//! Evaluation of the gradient normal form for one token.

use super::eval::{Leaves, Token, Value, evaluate, log_sum_exp};
use crate::diff::{Lowered, Parts};
use crate::ir::{ExprId, InputId};

/// A lowered program, evaluated as back ends evaluate it, in f64.
#[derive(Clone, Debug)]
pub struct LoweredInterp {
    lowered: Lowered,
}

/// What one token contributes to the gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenGradient {
    /// dL/dx, V values.
    pub logit: Vec<f64>,
    /// dL/dcol of each wanted Col input, V values each.
    pub cols: Vec<(InputId, Vec<f64>)>,
    /// dL/drow of each wanted Row input.
    pub rows: Vec<(InputId, f64)>,
    /// dL/ds of each wanted Scalar input.
    pub scalars: Vec<(InputId, f64)>,
}

impl LoweredInterp {
    /// For this lowered program.
    pub fn new(lowered: Lowered) -> LoweredInterp {
        LoweredInterp { lowered }
    }

    /// What it evaluates.
    pub fn lowered(&self) -> &Lowered {
        &self.lowered
    }

    /// The outputs for one token, in the program's order.
    pub fn outputs(&self, token: &Token<'_>) -> Vec<f64> {
        self.numbers(&self.lowered.outputs, token, &[])
    }

    /// The stats for one token, in the order of [`Lowered::stats`].
    pub fn stats(&self, token: &Token<'_>) -> Vec<f64> {
        self.numbers(&self.lowered.stats, token, &[])
    }

    /// The gradients under an upstream gradient for each output.
    pub fn gradient(&self, token: &Token<'_>, upstream: &[f64]) -> TokenGradient {
        let of_inputs = |entries: &[(InputId, ExprId)]| {
            let exprs: Vec<ExprId> = entries.iter().map(|entry| entry.1).collect();
            let values = self.numbers(&exprs, token, upstream);
            entries.iter().zip(values).map(|(entry, value)| (entry.0, value)).collect()
        };
        let lowered = &self.lowered;
        TokenGradient {
            logit: self.parts(&lowered.logit, token, upstream),
            cols: lowered.cols.iter().map(|(id, parts)| (*id, self.parts(parts, token, upstream))).collect(),
            rows: of_inputs(&lowered.rows),
            scalars: of_inputs(&lowered.scalars),
        }
    }

    /// The softmax of one token, V values; `None`: the program has none.
    pub fn probabilities(&self, token: &Token<'_>) -> Option<Vec<f64>> {
        let softmax = self.lowered.softmax?;
        let leaves = Leaves { upstream: &[], coefs: &[] };
        let values = evaluate(&self.lowered.graph, &[softmax], token, &leaves);
        let logits: Vec<f64> = (0..token.logits.len()).map(|j| values[0].at(j)).collect();
        let lse = log_sum_exp(logits.iter().copied());
        Some(logits.into_iter().map(|z| (z - lse).exp()).collect())
    }

    fn numbers(&self, exprs: &[ExprId], token: &Token<'_>, upstream: &[f64]) -> Vec<f64> {
        let leaves = Leaves { upstream, coefs: &[] };
        evaluate(&self.lowered.graph, exprs, token, &leaves).iter().map(|value| value.at(0)).collect()
    }

    /// `p A + [target] T + B / V`, where the target column gets `rest - (1 - p_y) A_y + B_y / V`.
    fn parts(&self, parts: &Parts, token: &Token<'_>, upstream: &[f64]) -> Vec<f64> {
        let vocab = token.logits.len();
        let leaves = Leaves { upstream, coefs: &[] };
        let wanted =
            [self.lowered.softmax, parts.softmax, parts.softmax_at_target, parts.target_rest, parts.uniform];
        let exprs: Vec<ExprId> = wanted.into_iter().flatten().collect();
        let mut values = evaluate(&self.lowered.graph, &exprs, token, &leaves).into_iter();
        let [z, softmax, softmax_at_target, target_rest, uniform] =
            wanted.map(|expr| expr.and_then(|_| values.next()).unwrap_or(Value::One(0.0)));
        let mut gradient: Vec<f64> = (0..vocab).map(|j| uniform.at(j) / vocab as f64).collect();
        let others_than = |y: Option<usize>| (0..vocab).filter(move |&j| Some(j) != y);
        if parts.softmax.is_some() {
            let lse = log_sum_exp(others_than(None).map(|j| z.at(j)));
            for j in others_than(token.target) {
                gradient[j] += (z.at(j) - lse).exp() * softmax.at(j);
            }
        }
        if let Some(y) = token.target {
            gradient[y] += target_rest.at(0);
            if parts.softmax.is_some() {
                let relative = log_sum_exp(others_than(Some(y)).map(|j| z.at(j) - z.at(y)));
                let one_minus_p = 1.0 / (1.0 + (-relative).exp());
                gradient[y] -= one_minus_p * softmax_at_target.at(0);
            }
        }
        gradient
    }
}
