//! Random programs against central differences.

use super::super::sketch::Sketch;
use super::{Case, both_gradients, wants_all};
use crate::diff::{Lowered, lower};
use crate::interp::{Interp, LoweredInterp};
use crate::ir::{BinaryOp, Cmp, ExprId, Kind, Node, Program, UnaryOp};
use proptest::prelude::*;

/// Reads a program off a list of bytes; a list that has ended reads as zeros, which are leaves: programs
/// shrink.
struct Tape<'a> {
    bytes: std::slice::Iter<'a, u8>,
    sketch: Sketch,
}

impl Tape<'_> {
    fn choose(&mut self, choices: usize) -> usize {
        self.bytes.next().map_or(0, |&byte| usize::from(byte) % choices)
    }

    fn number(&mut self) -> ExprId {
        let value = [1.0, 0.5, -0.75, 2.0, 0.1, 0.0][self.choose(6)];
        self.sketch.num(value)
    }

    /// A value over the vocabulary.
    fn logit(&mut self, depth: usize) -> ExprId {
        if depth == 0 {
            return match self.choose(6) {
                0..=2 => self.sketch.x(),
                3 => self.sketch.col("bias"),
                4 => self.sketch.row("r"),
                _ => self.sketch.scalar("s"),
            };
        }
        self.operation(depth, Self::logit)
    }

    /// A Row value over these reductions.
    fn row(&mut self, depth: usize, stats: &[ExprId]) -> ExprId {
        if depth == 0 {
            return match self.choose(stats.len() + 2) {
                at if at < stats.len() => stats[at],
                at if at == stats.len() => self.sketch.row("w"),
                _ => self.sketch.scalar("s"),
            };
        }
        self.operation(depth, |tape, depth| tape.row(depth, stats))
    }

    /// One operation of every sort, its operands kept inside its domain and its value moderate.
    fn operation(&mut self, depth: usize, operand: impl Fn(&mut Self, usize) -> ExprId) -> ExprId {
        let choice = self.choose(20);
        let a = operand(self, depth - 1);
        match choice {
            0 | 1 => {
                let b = operand(self, depth - 1);
                self.sketch.add(a, b)
            }
            2 | 3 => {
                let b = operand(self, depth - 1);
                self.sketch.sub(a, b)
            }
            4 | 5 => {
                let b = operand(self, depth - 1);
                self.sketch.mul(a, b)
            }
            6 => {
                let b = operand(self, depth - 1);
                let b = self.positive(b);
                self.sketch.div(a, b)
            }
            7 => {
                let number = self.number();
                self.sketch.mul(a, number)
            }
            8 => {
                let number = self.number();
                self.sketch.add(a, number)
            }
            9 => self.sketch.neg(a),
            10 => {
                let (base, exponent) = (self.positive(a), operand(self, depth - 1));
                let exponent = self.sketch.un(UnaryOp::Tanh, exponent);
                self.sketch.pow(base, exponent)
            }
            11 => {
                let exponent = [2.0, 3.0, 0.5, 1.5, 1.0][self.choose(5)];
                let (base, exponent) = (self.positive(a), self.sketch.num(exponent));
                self.sketch.pow(base, exponent)
            }
            12 => {
                let b = operand(self, depth - 1);
                let op = [BinaryOp::Min, BinaryOp::Max][self.choose(2)];
                self.sketch.bin(op, a, b)
            }
            13 => {
                let (b, c) = (operand(self, depth - 1), operand(self, depth - 1));
                let cmp = [Cmp::Lt, Cmp::Ge, Cmp::Ne][self.choose(3)];
                self.sketch.select(cmp, a, b, c, a)
            }
            14 => {
                let tame = self.sketch.un(UnaryOp::Tanh, a);
                let op = [UnaryOp::Exp, UnaryOp::Expm1][self.choose(2)];
                self.sketch.un(op, tame)
            }
            15 => {
                let inside = self.positive(a);
                let op = [UnaryOp::Ln, UnaryOp::Log1p, UnaryOp::Sqrt][self.choose(3)];
                self.sketch.un(op, inside)
            }
            16 => self.sketch.un(UnaryOp::Abs, a),
            _ => {
                let smooth =
                    [UnaryOp::Tanh, UnaryOp::Sigmoid, UnaryOp::LogSigmoid, UnaryOp::Softplus][self.choose(4)];
                self.sketch.un(smooth, a)
            }
        }
    }

    /// `softplus(a) + 1/4`.
    fn positive(&mut self, a: ExprId) -> ExprId {
        let (softplus, quarter) = (self.sketch.un(UnaryOp::Softplus, a), self.sketch.num(0.25));
        self.sketch.add(softplus, quarter)
    }

    /// A reduction, of values over the vocabulary where that is needed.
    fn reduction(&mut self, z: ExprId) -> ExprId {
        let choice = self.choose(8);
        match choice {
            0 => return self.sketch.lse(z),
            1 => return self.sketch.nll(z),
            2 => return self.sketch.at(z),
            _ => {}
        }
        let depth = self.choose(3);
        let f = self.logit(depth);
        let f = if self.sketch.graph.kind(f).varies_over_vocab() { f } else { self.sketch.x() };
        match choice {
            3 => self.sketch.at(f),
            4 => self.sketch.mean(f),
            _ => self.sketch.expect(z, f),
        }
    }
}

fn random_program(bytes: &[u8]) -> Program {
    let mut tape = Tape { bytes: bytes.iter(), sketch: Sketch::new() };
    let depth = tape.choose(4);
    let (x, rest) = (tape.sketch.x(), tape.logit(depth));
    let z = match tape.choose(3) {
        0 => x,
        1 => tape.sketch.add(x, rest),
        _ if tape.sketch.graph.kind(rest) == Kind::Logit => rest,
        _ => tape.sketch.mul(x, rest),
    };
    let count = 1 + tape.choose(4);
    let stats: Vec<ExprId> = (0..count).map(|_| tape.reduction(z)).collect();
    for name in ["loss", "second"].into_iter().take(1 + tape.choose(2)) {
        let depth = 1 + tape.choose(3);
        let output = tape.row(depth, &stats);
        tape.sketch.output(name, output);
    }
    let max = tape.sketch.graph.node(Node::Max(z));
    tape.sketch.metric("max", max);
    tape.sketch.finish("random")
}

/// What the documentation of [`Lowered`] promises.
fn check_shape(lowered: &Lowered) {
    let graph = &lowered.graph;
    for node in graph.nodes() {
        assert!(!matches!(node, Node::At(_) | Node::Coef(_)));
        let inner_is_free = node.operands().all(|operand| {
            graph.reachable(&[operand]).iter().all(|&id| {
                let inner = graph.get(id);
                !inner.is_reduction() && !matches!(inner, Node::TargetValue(_) | Node::Upstream(_))
            })
        });
        assert!(
            !node.is_reduction() || inner_is_free,
            "a reduction's argument must be known before the pass"
        );
    }
    assert!(lowered.stats.is_sorted());
    for parts in std::iter::once(&lowered.logit).chain(lowered.cols.iter().map(|entry| &entry.1)) {
        for row in [parts.target, parts.softmax_at_target, parts.target_rest].into_iter().flatten() {
            assert!(!graph.kind(row).varies_over_vocab());
        }
        assert!(parts.softmax.is_none() || lowered.softmax.is_some());
    }
}

fn check(program: &Program, seed: u64) -> Result<(), TestCaseError> {
    let case = Case::new(program, 5, 1.5, seed);
    let lowered = lower(program, &wants_all(program));
    check_shape(&lowered);
    let dump = lowered.dump(program);
    let interp = LoweredInterp::new(lowered);
    let (direct, derived) =
        case.token(program, |token| (Interp::new(program).outputs(token), interp.outputs(token)));
    prop_assume!(direct.iter().all(|value| value.abs() < 1e4));
    for (a, b) in direct.iter().zip(&derived) {
        prop_assert!((a - b).abs() <= 1e-10 * (1.0 + a.abs()), "{a} as written, {b} lowered\n{dump}");
    }
    let size = 1.0 + direct.iter().map(|value| value.abs()).sum::<f64>();
    for pair in both_gradients(program, &case) {
        let [coarse, fine] = pair.numeric;
        // The two steps disagree: there is a kink between them, or a curvature that differences cannot
        // resolve.
        if (coarse - fine).abs() > 1e-7 * (size + coarse.abs()) {
            continue;
        }
        let error = (pair.derived - coarse).abs();
        prop_assert!(error <= 1e-6 * (size + coarse.abs()), "{pair}\n{dump}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gradients_of_random_programs_are_central_differences(
        bytes in proptest::collection::vec(any::<u8>(), 0..120),
        seed in 0_u64..1000,
    ) {
        check(&random_program(&bytes), seed)?;
    }
}

#[test]
fn few_derivatives_of_random_programs_are_left_out_for_kinks() {
    let (mut compared, mut left_out, mut constant) = (0, 0, 0);
    let mut seed = 7;
    for at in 0..200 {
        let bytes: Vec<u8> = (0..120).map(|_| (super::noise(&mut seed) * 128.0 + 128.0) as u8).collect();
        let program = random_program(&bytes);
        for pair in both_gradients(&program, &Case::new(&program, 5, 1.5, at)) {
            compared += 1;
            left_out +=
                usize::from((pair.numeric[0] - pair.numeric[1]).abs() > 1e-7 * (1.0 + pair.numeric[0].abs()));
            constant += usize::from(pair.derived == 0.0);
        }
    }
    assert!(left_out * 20 < compared, "{left_out} of {compared}");
    assert!(
        constant * 2 < compared,
        "{constant} of {compared} derivatives are 0: the programs say too little"
    );
}
