//! The elementwise engine: expressions over the vocabulary, evaluated a strip of columns at a time.
//!
//! A [`StripCode`] is a short register program made from the expression DAG. Each instruction is one
//! vectorised loop over a strip (some hundred columns, so that all registers stay in the first-level cache);
//! the interpreter's dispatch costs nothing beside it. Maximal subexpressions that do not vary over the
//! vocabulary are not computed here: they are *row slots*, evaluated once a token in f64 ([`super::row`]) and
//! read as broadcast f32.

use super::math;
use cce_codegen::ir::{BinaryOp, Cmp, ExprId, Graph, InputKind, Node, UnaryOp};
use std::collections::HashMap;

/// Where an operand stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// A register.
    Register(usize),
    /// The raw logits.
    Logit,
    /// A Col input, by its position among the program's inputs.
    Col(usize),
    /// A row slot.
    Row(usize),
}

/// What an instruction computes.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Unary(UnaryOp, Operand),
    Binary(BinaryOp, Operand, Operand),
    Select { cmp: Cmp, lhs: Operand, rhs: Operand, then: Operand, otherwise: Operand },
}

#[derive(Clone, Copy, Debug)]
struct Instruction {
    operation: Operation,
    target: usize,
}

/// Expressions compiled for strips.
#[derive(Clone, Debug)]
pub(crate) struct StripCode {
    instructions: Vec<Instruction>,
    registers: usize,
    results: Vec<Operand>,
    row_slots: Vec<ExprId>,
}

/// What a strip is evaluated over.
#[derive(Clone, Copy)]
pub(crate) struct StripInputs<'a> {
    /// The raw logits of the strip.
    pub(crate) logits: &'a [f32],
    /// The Col inputs, whole, by position among the program's inputs; empty slices for other inputs.
    pub(crate) cols: &'a [&'a [f32]],
    /// The strip's first column in `cols`.
    pub(crate) first: usize,
    /// The row slots of the token.
    pub(crate) rows: &'a [f32],
}

/// A strip's worth of values, or one for all.
#[derive(Clone, Copy)]
pub(crate) enum Values<'a> {
    /// One a column.
    Each(&'a [f32]),
    /// The same in every column.
    Same(f32),
}

/// Registers of one thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registers {
    buffers: Vec<Vec<f32>>,
}

impl Registers {
    /// Room for `code` on strips of up to `strip` columns.
    pub(crate) fn new(code: &StripCode, strip: usize) -> Registers {
        // Four more hold a select's operands, broadcast.
        Registers { buffers: vec![vec![0.0; strip]; code.registers + 4] }
    }
}

impl StripCode {
    /// Compiles `roots`; their values are read with [`StripCode::value`] by position.
    pub(crate) fn compile(graph: &Graph, roots: &[ExprId]) -> StripCode {
        let mut code =
            StripCode { instructions: Vec::new(), registers: 0, results: Vec::new(), row_slots: Vec::new() };
        let mut last_use: HashMap<ExprId, usize> = HashMap::new();
        // Nodes below a row slot are never visited: walk from the roots through what varies over the
        // vocabulary only.
        let mut needed = vec![false; graph.nodes().len()];
        for root in roots {
            needed[root.index()] = true;
        }
        for at in (0..needed.len()).rev() {
            let id = ExprId(at as u32);
            if needed[at] && graph.kind(id).varies_over_vocab() {
                for operand in graph.get(id).operands() {
                    needed[operand.index()] = true;
                    let user = last_use.entry(operand).or_insert(at);
                    *user = (*user).max(at);
                }
            }
        }
        for &root in roots {
            last_use.insert(root, usize::MAX);
        }
        let mut places: HashMap<ExprId, Operand> = HashMap::new();
        let mut free: Vec<usize> = Vec::new();
        for (at, _) in needed.iter().enumerate().filter(|(_, needed)| **needed) {
            let id = ExprId(at as u32);
            if !graph.kind(id).varies_over_vocab() {
                places.insert(id, Operand::Row(code.row_slots.len()));
                code.row_slots.push(id);
                continue;
            }
            let node = graph.get(id);
            if let Node::Input(input) = node {
                let place = match graph.inputs()[input.index()].kind {
                    InputKind::Logit => Operand::Logit,
                    _ => Operand::Col(input.index()),
                };
                places.insert(id, place);
                continue;
            }
            let place = |operand: ExprId| places[&operand];
            let operation = match node {
                Node::Unary(op, a) => Operation::Unary(op, place(a)),
                Node::Binary(op, a, b) => Operation::Binary(op, place(a), place(b)),
                Node::Select { cmp, lhs, rhs, then, otherwise } => Operation::Select {
                    cmp,
                    lhs: place(lhs),
                    rhs: place(rhs),
                    then: place(then),
                    otherwise: place(otherwise),
                },
                // Every other node is a Row value.
                _ => continue,
            };
            // The target is taken before operands are released: an instruction never writes what it reads.
            let target = free.pop().unwrap_or_else(|| {
                code.registers += 1;
                code.registers - 1
            });
            code.instructions.push(Instruction { operation, target });
            places.insert(id, Operand::Register(target));
            let mut released: Vec<ExprId> = node.operands().collect();
            released.sort_unstable();
            released.dedup();
            for operand in released {
                if let (Operand::Register(register), Some(&last)) = (places[&operand], last_use.get(&operand))
                    && last == at
                {
                    free.push(register);
                }
            }
        }
        code.results = roots.iter().map(|root| places[root]).collect();
        code
    }

    /// The expressions whose values, rounded to f32, are the row slots.
    pub(crate) fn row_slots(&self) -> &[ExprId] {
        &self.row_slots
    }

    /// Whether any instruction or result reads the raw logits.
    pub(crate) fn reads_logits(&self) -> bool {
        let logit = |operand: &Operand| *operand == Operand::Logit;
        let reads = |instruction: &Instruction| match instruction.operation {
            Operation::Unary(_, a) => logit(&a),
            Operation::Binary(_, a, b) => logit(&a) || logit(&b),
            Operation::Select { lhs, rhs, then, otherwise, .. } => {
                [lhs, rhs, then, otherwise].iter().any(logit)
            }
        };
        self.instructions.iter().any(reads) || self.results.iter().any(logit)
    }

    /// Evaluates all instructions on a strip. Call it inside a vectorised context.
    #[inline(always)]
    pub(crate) fn run(&self, registers: &mut Registers, inputs: &StripInputs<'_>) {
        let len = inputs.logits.len();
        for instruction in &self.instructions {
            let mut target = std::mem::take(&mut registers.buffers[instruction.target]);
            let out = &mut target[..len];
            match instruction.operation {
                Operation::Unary(op, a) => {
                    if let Values::Each(a) = resolve(registers, inputs, a) {
                        unary(op, out, a);
                    }
                }
                Operation::Binary(op, a, b) => {
                    binary(op, out, resolve(registers, inputs, a), resolve(registers, inputs, b));
                }
                Operation::Select { cmp, lhs, rhs, then, otherwise } => {
                    let mut spare: [Vec<f32>; 4] =
                        std::array::from_fn(|at| std::mem::take(&mut registers.buffers[self.registers + at]));
                    let [a, b, c, d] = &mut spare;
                    let lhs = broadcast(resolve(registers, inputs, lhs), a, len);
                    let rhs = broadcast(resolve(registers, inputs, rhs), b, len);
                    let then = broadcast(resolve(registers, inputs, then), c, len);
                    let otherwise = broadcast(resolve(registers, inputs, otherwise), d, len);
                    select(cmp, out, lhs, rhs, then, otherwise);
                    for (at, buffer) in spare.into_iter().enumerate() {
                        registers.buffers[self.registers + at] = buffer;
                    }
                }
            }
            registers.buffers[instruction.target] = target;
        }
    }

    /// The value of root number `at` after [`StripCode::run`].
    #[inline(always)]
    pub(crate) fn value<'a>(
        &self,
        at: usize,
        registers: &'a Registers,
        inputs: &StripInputs<'a>,
    ) -> Values<'a> {
        resolve(registers, inputs, self.results[at])
    }

    /// Whether root number `at` is one value a token.
    #[cfg(test)]
    fn is_row(&self, at: usize) -> bool {
        matches!(self.results[at], Operand::Row(_))
    }
}

#[inline(always)]
fn resolve<'a>(registers: &'a Registers, inputs: &StripInputs<'a>, operand: Operand) -> Values<'a> {
    let len = inputs.logits.len();
    match operand {
        Operand::Register(at) => Values::Each(&registers.buffers[at][..len]),
        Operand::Logit => Values::Each(inputs.logits),
        Operand::Col(at) => Values::Each(&inputs.cols[at][inputs.first..inputs.first + len]),
        Operand::Row(at) => Values::Same(inputs.rows[at]),
    }
}

#[inline(always)]
fn broadcast<'a>(values: Values<'a>, buffer: &'a mut [f32], len: usize) -> &'a [f32] {
    match values {
        Values::Each(values) => values,
        Values::Same(value) => {
            buffer[..len].fill(value);
            &buffer[..len]
        }
    }
}

#[inline(always)]
fn map(out: &mut [f32], a: &[f32], f: impl Fn(f32) -> f32) {
    for (out, &a) in out.iter_mut().zip(a) {
        *out = f(a);
    }
}

/// `out = f(a, b)` where at least one operand varies.
#[inline(always)]
pub(crate) fn zip(out: &mut [f32], a: Values<'_>, b: Values<'_>, f: impl Fn(f32, f32) -> f32) {
    match (a, b) {
        (Values::Each(a), Values::Each(b)) => {
            for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *out = f(a, b);
            }
        }
        (Values::Each(a), Values::Same(b)) => map(out, a, |a| f(a, b)),
        (Values::Same(a), Values::Each(b)) => map(out, b, |b| f(a, b)),
        (Values::Same(a), Values::Same(b)) => out.fill(f(a, b)),
    }
}

#[inline(always)]
fn unary(op: UnaryOp, out: &mut [f32], a: &[f32]) {
    match op {
        UnaryOp::Neg => map(out, a, |x| -x),
        UnaryOp::Exp => map(out, a, math::exp),
        UnaryOp::Expm1 => map(out, a, math::expm1),
        UnaryOp::Ln => map(out, a, math::ln),
        UnaryOp::Log1p => map(out, a, math::log1p),
        UnaryOp::Tanh => map(out, a, math::tanh),
        UnaryOp::Sigmoid => map(out, a, math::sigmoid),
        UnaryOp::LogSigmoid => map(out, a, |x| -math::softplus(-x)),
        UnaryOp::Softplus => map(out, a, math::softplus),
        UnaryOp::Sqrt => map(out, a, f32::sqrt),
        UnaryOp::Abs => map(out, a, f32::abs),
    }
}

#[inline(always)]
fn binary(op: BinaryOp, out: &mut [f32], a: Values<'_>, b: Values<'_>) {
    match op {
        BinaryOp::Add => zip(out, a, b, |a, b| a + b),
        BinaryOp::Sub => zip(out, a, b, |a, b| a - b),
        BinaryOp::Mul => zip(out, a, b, |a, b| a * b),
        BinaryOp::Div => zip(out, a, b, |a, b| a / b),
        // An exponent multiplies the logarithm's error: f64 keeps the result within a rounding.
        BinaryOp::Pow => zip(out, a, b, |a, b| f64::from(a).powf(f64::from(b)) as f32),
        BinaryOp::Min => zip(out, a, b, |a, b| if b < a || b.is_nan() { b } else { a }),
        BinaryOp::Max => zip(out, a, b, |a, b| if b > a || b.is_nan() { b } else { a }),
    }
}

#[inline(always)]
fn select(cmp: Cmp, out: &mut [f32], lhs: &[f32], rhs: &[f32], then: &[f32], otherwise: &[f32]) {
    macro_rules! choose {
        ($op:tt) => {
            for ((((out, a), b), &then), &otherwise) in
                out.iter_mut().zip(lhs).zip(rhs).zip(then).zip(otherwise)
            {
                *out = if a $op b { then } else { otherwise };
            }
        };
    }
    match cmp {
        Cmp::Lt => choose!(<),
        Cmp::Le => choose!(<=),
        Cmp::Gt => choose!(>),
        Cmp::Ge => choose!(>=),
        Cmp::Eq => choose!(==),
        Cmp::Ne => choose!(!=),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::ir::Input;

    fn graph() -> (Graph, ExprId, ExprId, ExprId) {
        let input = |name: &'static str, kind| Input { name: name.into(), kind };
        let mut graph = Graph::new(vec![
            input("x", InputKind::Logit),
            input("bias", InputKind::Col),
            input("weight", InputKind::Row),
        ]);
        let x = graph.node(Node::Input(cce_codegen::ir::InputId(0)));
        let bias = graph.node(Node::Input(cce_codegen::ir::InputId(1)));
        let weight = graph.node(Node::Input(cce_codegen::ir::InputId(2)));
        (graph, x, bias, weight)
    }

    #[test]
    fn registers_are_reused_and_results_survive() {
        let (mut graph, x, bias, weight) = graph();
        let mut chain = graph.binary(BinaryOp::Add, x, bias);
        let first = chain;
        for _ in 0..20 {
            chain = graph.unary(UnaryOp::Tanh, chain);
        }
        let scaled = graph.binary(BinaryOp::Mul, chain, weight);
        let code = StripCode::compile(&graph, &[first, scaled, weight]);
        assert!(code.registers <= 3, "{} registers", code.registers);
        assert!(code.is_row(2) && !code.is_row(1));
        let (logits, bias) = ([0.5f32, -1.0, 2.0], [9.0f32, 0.25, 0.5, -0.5]);
        let inputs = StripInputs { logits: &logits, cols: &[&[], &bias, &[]], first: 1, rows: &[2.0] };
        let mut registers = Registers::new(&code, 3);
        code.run(&mut registers, &inputs);
        let Values::Each(sums) = code.value(0, &registers, &inputs) else { panic!("varies") };
        assert_eq!(sums, [0.75, -0.5, 1.5]);
        let Values::Each(scaled) = code.value(1, &registers, &inputs) else { panic!("varies") };
        let expected = (0..20).fold(0.75f64, |v, _| v.tanh()) * 2.0;
        assert!((f64::from(scaled[0]) - expected).abs() < 1e-6);
    }

    #[test]
    fn a_select_takes_operands_of_every_kind() {
        let (mut graph, x, bias, weight) = graph();
        let zero = graph.constant(0.0);
        let node = Node::Select { cmp: Cmp::Gt, lhs: x, rhs: zero, then: bias, otherwise: weight };
        let root = graph.node(node);
        let code = StripCode::compile(&graph, &[root]);
        let slots: Vec<f32> =
            code.row_slots().iter().map(|&slot| if slot == weight { 7.0 } else { 0.0 }).collect();
        let (logits, bias) = ([1.0f32, -1.0, f32::NAN], [3.0f32, 4.0, 5.0]);
        let inputs = StripInputs { logits: &logits, cols: &[&[], &bias, &[]], first: 0, rows: &slots };
        let mut registers = Registers::new(&code, 3);
        code.run(&mut registers, &inputs);
        let Values::Each(values) = code.value(0, &registers, &inputs) else { panic!("varies") };
        assert_eq!(values, [3.0, 7.0, 7.0]);
    }
}
