//! Row values: evaluated once a token, in f64.

use cce_codegen::ir::{BinaryOp, Cmp, ExprId, Graph, Node, UnaryOp};
use std::collections::HashMap;

/// An input of the program on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HostInput<'a> {
    /// The raw logit or the target.
    Implied,
    /// f32 [N].
    Row(&'a [f32]),
    /// f32 [V].
    Col(&'a [f32]),
    /// One value.
    Scalar(f32),
}

/// The upstream gradient of an output on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostUpstream<'a> {
    /// Of every token alike.
    pub(crate) scalar: f64,
    /// f32 [N], added to it.
    pub(crate) rows: Option<&'a [f32]>,
}

impl HostUpstream<'_> {
    fn at(&self, token: usize) -> f64 {
        self.scalar + self.rows.map_or(0.0, |rows| f64::from(rows[token]))
    }
}

/// What a token's Row values depend on; `HostCall::row_inputs` makes it.
#[derive(Clone, Copy)]
pub(crate) struct RowInputs<'a> {
    /// The program's inputs.
    pub(crate) inputs: &'a [HostInput<'a>],
    /// The token.
    pub(crate) token: usize,
    /// The token's statistics, in the order of `Lowered::stats`.
    pub(crate) stats: &'a [f64],
    /// By output.
    pub(crate) upstreams: &'a [HostUpstream<'a>],
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Const(f64),
    Input(usize),
    Stat(usize),
    Upstream(usize),
    Unary(UnaryOp, usize),
    Binary(BinaryOp, usize, usize),
    Select { cmp: Cmp, lhs: usize, rhs: usize, then: usize, otherwise: usize },
}

/// Row and Scalar expressions, compiled.
#[derive(Clone, Debug)]
pub(crate) struct RowCode {
    steps: Vec<Step>,
    roots: Vec<usize>,
}

impl RowCode {
    /// Compiles `roots`, which do not vary over the vocabulary and read no statistics other than `stats`.
    pub(crate) fn compile(graph: &Graph, stats: &[ExprId], roots: &[ExprId]) -> RowCode {
        let stat_of: HashMap<ExprId, usize> = stats.iter().copied().zip(0..).collect();
        let mut needed = vec![false; graph.nodes().len()];
        for root in roots {
            needed[root.index()] = true;
        }
        for at in (0..needed.len()).rev() {
            if needed[at] && !stat_of.contains_key(&ExprId(at as u32)) {
                for operand in graph.get(ExprId(at as u32)).operands() {
                    needed[operand.index()] = true;
                }
            }
        }
        let mut steps = Vec::new();
        let mut place: HashMap<ExprId, usize> = HashMap::new();
        for at in (0..needed.len()).filter(|&at| needed[at]) {
            let id = ExprId(at as u32);
            let step = if let Some(&stat) = stat_of.get(&id) {
                Step::Stat(stat)
            } else {
                match graph.get(id) {
                    Node::Const(number) => Step::Const(number.value()),
                    Node::Input(input) => Step::Input(input.index()),
                    Node::Upstream(output) => Step::Upstream(usize::from(output)),
                    Node::Unary(op, a) => Step::Unary(op, place[&a]),
                    Node::Binary(op, a, b) => Step::Binary(op, place[&a], place[&b]),
                    Node::Select { cmp, lhs, rhs, then, otherwise } => Step::Select {
                        cmp,
                        lhs: place[&lhs],
                        rhs: place[&rhs],
                        then: place[&then],
                        otherwise: place[&otherwise],
                    },
                    // Lowering lists every reduction among the statistics and introduces no other leaf.
                    _ => Step::Const(f64::NAN),
                }
            };
            place.insert(id, steps.len());
            steps.push(step);
        }
        RowCode { steps, roots: roots.iter().map(|root| place[root]).collect() }
    }

    /// How many roots there are.
    pub(crate) fn roots(&self) -> usize {
        self.roots.len()
    }

    /// Evaluates every root for one token: `out(position, value)`. `values` is scratch.
    pub(crate) fn run(&self, inputs: &RowInputs<'_>, values: &mut Vec<f64>, mut out: impl FnMut(usize, f64)) {
        values.clear();
        for step in &self.steps {
            let value = match *step {
                Step::Const(value) => value,
                Step::Input(at) => match inputs.inputs[at] {
                    HostInput::Row(rows) => f64::from(rows[inputs.token]),
                    HostInput::Scalar(value) => f64::from(value),
                    HostInput::Implied | HostInput::Col(_) => f64::NAN,
                },
                Step::Stat(at) => inputs.stats[at],
                Step::Upstream(at) => inputs.upstreams[at].at(inputs.token),
                Step::Unary(op, a) => op.eval(values[a]),
                Step::Binary(op, a, b) => op.eval(values[a], values[b]),
                Step::Select { cmp, lhs, rhs, then, otherwise } => {
                    if cmp.eval(values[lhs], values[rhs]) {
                        values[then]
                    } else {
                        values[otherwise]
                    }
                }
            };
            values.push(value);
        }
        for (at, &root) in self.roots.iter().enumerate() {
            out(at, values[root]);
        }
    }
}
