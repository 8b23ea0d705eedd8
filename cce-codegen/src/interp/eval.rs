//! Evaluation of a graph for one token.

use crate::ir::{ExprId, Graph, Node, Program};

/// What an input is for one token.
#[derive(Clone, Copy, Debug)]
pub enum Bound<'a> {
    /// The logit and the target, which the token has itself.
    Token,
    /// A Row or Scalar input's value.
    One(f64),
    /// A Col input's V values.
    Col(&'a [f64]),
}

/// One token.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// The raw logits, V of them.
    pub logits: &'a [f64],
    /// The target, below V. `None` in a program without one: reading at it gives NaN.
    pub target: Option<usize>,
    /// The inputs, parallel to [`Program::inputs`].
    pub inputs: &'a [Bound<'a>],
}

/// Values of the derived leaves; empty where an expression has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leaves<'a> {
    /// By output: the upstream gradient.
    pub upstream: &'a [f64],
    /// By slot: the hoisted Row value.
    pub coefs: &'a [f64],
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a Scalar or Row expression.
    One(f64),
    /// Of a Col or Logit expression, V of them.
    Many(Vec<f64>),
}

impl Value {
    /// At a vocabulary entry; NaN beyond the vocabulary.
    pub fn at(&self, column: usize) -> f64 {
        match self {
            Value::One(value) => *value,
            Value::Many(values) => values.get(column).copied().unwrap_or(f64::NAN),
        }
    }

    /// As V values.
    pub fn spread(self, vocab: usize) -> Vec<f64> {
        match self {
            Value::One(value) => vec![value; vocab],
            Value::Many(values) => values,
        }
    }
}

/// Evaluates `exprs` of a graph for one token.
pub fn evaluate(graph: &Graph, exprs: &[ExprId], token: &Token<'_>, leaves: &Leaves<'_>) -> Vec<Value> {
    let mut values: Vec<Value> = vec![Value::One(f64::NAN); graph.nodes().len()];
    for id in graph.reachable(exprs) {
        values[id.index()] = node_value(graph.get(id), &values, token, leaves);
    }
    exprs.iter().map(|expr| values[expr.index()].clone()).collect()
}

fn node_value(node: Node, values: &[Value], token: &Token<'_>, leaves: &Leaves<'_>) -> Value {
    let vocab = token.logits.len();
    let value = |id: ExprId| &values[id.index()];
    let at_target = |values: &dyn Fn(usize) -> f64| token.target.map_or(f64::NAN, values);
    match node {
        Node::Const(number) => Value::One(number.value()),
        Node::Input(input) => match token.inputs.get(input.index()) {
            Some(Bound::Token) => Value::Many(token.logits.to_vec()),
            Some(Bound::One(value)) => Value::One(*value),
            Some(Bound::Col(values)) => Value::Many(values.to_vec()),
            None => Value::One(f64::NAN),
        },
        Node::TargetValue(input) => Value::One(at_target(&|y| match token.inputs.get(input.index()) {
            Some(Bound::Col(values)) => values[y],
            _ => token.logits[y],
        })),
        Node::Unary(op, a) => match value(a) {
            Value::One(a) => Value::One(op.eval(*a)),
            Value::Many(a) => Value::Many(a.iter().map(|&a| op.eval(a)).collect()),
        },
        Node::Binary(op, a, b) => match (value(a), value(b)) {
            (Value::One(a), Value::One(b)) => Value::One(op.eval(*a, *b)),
            (a, b) => Value::Many((0..vocab).map(|j| op.eval(a.at(j), b.at(j))).collect()),
        },
        Node::Select { cmp, lhs, rhs, then, otherwise } => {
            let parts = [value(lhs), value(rhs), value(then), value(otherwise)];
            let select = |j: usize| {
                if cmp.eval(parts[0].at(j), parts[1].at(j)) { parts[2].at(j) } else { parts[3].at(j) }
            };
            if parts.iter().all(|part| matches!(part, Value::One(_))) {
                Value::One(select(0))
            } else {
                Value::Many((0..vocab).map(select).collect())
            }
        }
        Node::Lse(z) => Value::One(log_sum_exp((0..vocab).map(|j| value(z).at(j)))),
        Node::At(f) => Value::One(at_target(&|y| value(f).at(y))),
        Node::Mean(f) => Value::One((0..vocab).map(|j| value(f).at(j)).sum::<f64>() / vocab as f64),
        Node::Expect { z, f } => {
            let lse = log_sum_exp((0..vocab).map(|j| value(z).at(j)));
            Value::One((0..vocab).map(|j| (value(z).at(j) - lse).exp() * value(f).at(j)).sum())
        }
        Node::Max(f) => Value::One(value(f).at(argmax(value(f), vocab))),
        Node::Argmax(f) => Value::One(argmax(value(f), vocab) as f64),
        Node::Nll(z) => Value::One(at_target(&|y| {
            let others = (0..vocab).filter(|&j| j != y).map(|j| value(z).at(j) - value(z).at(y));
            softplus(log_sum_exp(others))
        })),
        Node::Upstream(output) => {
            Value::One(leaves.upstream.get(usize::from(output)).copied().unwrap_or(f64::NAN))
        }
        Node::Coef(slot) => Value::One(leaves.coefs.get(usize::from(slot)).copied().unwrap_or(f64::NAN)),
    }
}

/// `ln(1 + e^u)`: the negative log-likelihood from `u`, the lse of the other logits relative to the target's.
fn softplus(u: f64) -> f64 {
    crate::ir::UnaryOp::Softplus.eval(u)
}

/// `log sum exp`; minus infinity for no values.
pub(super) fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY && values.clone().all(|value| value == largest) {
        return largest;
    }
    largest + values.map(|value| (value - largest).exp()).sum::<f64>().ln()
}

/// The first column with the largest value; a NaN, if there is one, counts as the largest.
fn argmax(values: &Value, vocab: usize) -> usize {
    let mut best = 0;
    for column in 1..vocab {
        let (value, largest) = (values.at(column), values.at(best));
        if value > largest || (value.is_nan() && !largest.is_nan()) {
            best = column;
        }
    }
    best
}

/// A program as it was written, evaluated directly.
#[derive(Clone, Debug)]
pub struct Interp {
    graph: Graph,
    outputs: Vec<ExprId>,
}

impl Interp {
    /// For this program.
    pub fn new(program: &Program) -> Interp {
        let outputs = program.outputs().iter().map(|output| output.expr).collect();
        Interp { graph: program.graph(), outputs }
    }

    /// The outputs for one token, in the program's order.
    pub fn outputs(&self, token: &Token<'_>) -> Vec<f64> {
        let values = evaluate(&self.graph, &self.outputs, token, &Leaves::default());
        values.iter().map(|value| value.at(0)).collect()
    }
}
