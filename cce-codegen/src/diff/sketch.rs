//! Programs for tests, written straight into a graph.

use crate::ir::{BinaryOp, Cmp, ExprId, Graph, Input, InputId, InputKind, Node, Output, Program, UnaryOp};

/// A program being written: inputs in the order of their first use.
#[derive(Default)]
pub(crate) struct Sketch {
    pub graph: Graph,
    outputs: Vec<Output>,
}

impl Sketch {
    pub fn new() -> Sketch {
        Sketch::default()
    }

    /// The id of the input of this name, made when it is new.
    pub fn input_id(&mut self, name: &'static str, kind: InputKind) -> InputId {
        match self.graph.inputs().iter().position(|input| input.name == name) {
            Some(at) => InputId(at as u16),
            None => self.graph.push_input(Input { name: name.into(), kind }),
        }
    }

    fn input(&mut self, name: &'static str, kind: InputKind) -> ExprId {
        let id = self.input_id(name, kind);
        self.graph.node(Node::Input(id))
    }

    pub fn x(&mut self) -> ExprId {
        self.input("x", InputKind::Logit)
    }

    pub fn row(&mut self, name: &'static str) -> ExprId {
        self.input(name, InputKind::Row)
    }

    pub fn col(&mut self, name: &'static str) -> ExprId {
        self.input(name, InputKind::Col)
    }

    pub fn scalar(&mut self, name: &'static str) -> ExprId {
        self.input(name, InputKind::Scalar)
    }

    pub fn num(&mut self, value: f64) -> ExprId {
        self.graph.constant(value)
    }

    pub fn un(&mut self, op: UnaryOp, a: ExprId) -> ExprId {
        self.graph.unary(op, a)
    }

    pub fn bin(&mut self, op: BinaryOp, a: ExprId, b: ExprId) -> ExprId {
        self.graph.binary(op, a, b)
    }

    pub fn neg(&mut self, a: ExprId) -> ExprId {
        self.un(UnaryOp::Neg, a)
    }

    pub fn add(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.bin(BinaryOp::Add, a, b)
    }

    pub fn sub(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.bin(BinaryOp::Sub, a, b)
    }

    pub fn mul(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.bin(BinaryOp::Mul, a, b)
    }

    pub fn div(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.bin(BinaryOp::Div, a, b)
    }

    pub fn pow(&mut self, a: ExprId, b: ExprId) -> ExprId {
        self.bin(BinaryOp::Pow, a, b)
    }

    pub fn select(&mut self, cmp: Cmp, lhs: ExprId, rhs: ExprId, then: ExprId, otherwise: ExprId) -> ExprId {
        self.graph.node(Node::Select { cmp, lhs, rhs, then, otherwise })
    }

    pub fn lse(&mut self, z: ExprId) -> ExprId {
        self.graph.node(Node::Lse(z))
    }

    pub fn at(&mut self, f: ExprId) -> ExprId {
        self.input_id("y", InputKind::Target);
        self.graph.node(Node::At(f))
    }

    pub fn mean(&mut self, f: ExprId) -> ExprId {
        self.graph.node(Node::Mean(f))
    }

    pub fn expect(&mut self, z: ExprId, f: ExprId) -> ExprId {
        self.graph.node(Node::Expect { z, f })
    }

    /// `lse(z) - at(z, y)`.
    pub fn nll(&mut self, z: ExprId) -> ExprId {
        let (lse, at) = (self.lse(z), self.at(z));
        self.sub(lse, at)
    }

    /// `cap * tanh(x / cap)`.
    pub fn softcapped(&mut self, cap: ExprId) -> ExprId {
        let x = self.x();
        let relative = self.div(x, cap);
        let tanh = self.un(UnaryOp::Tanh, relative);
        self.mul(cap, tanh)
    }

    pub fn output(&mut self, name: &'static str, expr: ExprId) {
        self.outputs.push(Output { name: name.into(), expr, differentiable: true });
    }

    /// An output that takes no upstream gradient.
    pub fn metric(&mut self, name: &'static str, expr: ExprId) {
        self.outputs.push(Output { name: name.into(), expr, differentiable: false });
    }

    pub fn finish(mut self, name: &'static str) -> Program {
        self.x();
        Program {
            name: name.into(),
            doc: "".into(),
            inputs: self.graph.inputs().to_vec().into(),
            nodes: self.graph.nodes().to_vec().into(),
            outputs: self.outputs.into(),
        }
    }
}

/// A program with the one output `loss`.
pub(crate) fn program(name: &'static str, body: impl FnOnce(&mut Sketch) -> ExprId) -> Program {
    let mut sketch = Sketch::new();
    let loss = body(&mut sketch);
    sketch.output("loss", loss);
    sketch.finish(name)
}

/// Losses like those that ship, and some that nobody should write.
pub(crate) fn losses() -> Vec<Program> {
    vec![
        program("cross_entropy", |s| {
            let x = s.x();
            s.nll(x)
        }),
        program("weighted", |s| {
            let (x, weight) = (s.x(), s.row("weight"));
            let nll = s.nll(x);
            s.mul(weight, nll)
        }),
        program("class_weighted", |s| {
            let (x, weight) = (s.x(), s.col("class_weight"));
            let (nll, at) = (s.nll(x), s.at(weight));
            s.mul(at, nll)
        }),
        program("softcapped", |s| {
            let cap = s.scalar("cap");
            let z = s.softcapped(cap);
            s.nll(z)
        }),
        program("with_bias_and_temperature", |s| {
            let (x, bias, temperature) = (s.x(), s.col("bias"), s.scalar("temperature"));
            let biased = s.add(x, bias);
            let z = s.div(biased, temperature);
            s.nll(z)
        }),
        program("temperature_a_token", |s| {
            let (x, temperature) = (s.x(), s.row("temperature"));
            let z = s.mul(x, temperature);
            s.nll(z)
        }),
        program("z_loss", |s| {
            let (x, zw) = (s.x(), s.scalar("zw"));
            let (lse, at) = (s.lse(x), s.at(x));
            let nll = s.sub(lse, at);
            let square = s.mul(lse, lse);
            let penalty = s.mul(zw, square);
            s.add(nll, penalty)
        }),
        program("focal", |s| {
            let (x, gamma) = (s.x(), s.scalar("gamma"));
            let nll = s.nll(x);
            let log_p = s.neg(nll);
            let p = s.un(UnaryOp::Exp, log_p);
            let one = s.num(1.0);
            let other = s.sub(one, p);
            let factor = s.pow(other, gamma);
            s.mul(factor, nll)
        }),
        program("unlikelihood", |s| {
            let x = s.x();
            let (lse, at) = (s.lse(x), s.at(x));
            let log_p = s.sub(at, lse);
            let p = s.un(UnaryOp::Exp, log_p);
            let minus = s.neg(p);
            let log = s.un(UnaryOp::Log1p, minus);
            s.neg(log)
        }),
        program("smoothed", |s| {
            let (x, alpha) = (s.x(), s.scalar("alpha"));
            let (nll, lse, mean) = (s.nll(x), s.lse(x), s.mean(x));
            let one = s.num(1.0);
            let keep = s.sub(one, alpha);
            let hard = s.mul(keep, nll);
            let soft = s.sub(lse, mean);
            let soft = s.mul(alpha, soft);
            s.add(hard, soft)
        }),
        program("class_weighted_smoothing", |s| {
            let (x, weight) = (s.x(), s.col("class_weight"));
            let product = s.mul(weight, x);
            let (nll, mean) = (s.nll(x), s.mean(product));
            s.sub(nll, mean)
        }),
        program("smoothed_under_a_softcap", |s| {
            let cap = s.scalar("cap");
            let z = s.softcapped(cap);
            let (nll, mean) = (s.nll(z), s.mean(z));
            s.sub(nll, mean)
        }),
        program("entropy", |s| {
            let cap = s.scalar("cap");
            let z = s.softcapped(cap);
            let (lse, mean) = (s.lse(z), s.expect(z, z));
            s.sub(lse, mean)
        }),
        program("plain_entropy", |s| {
            let x = s.x();
            let (lse, mean) = (s.lse(x), s.expect(x, x));
            s.sub(lse, mean)
        }),
        program("squared_logits", |s| {
            let x = s.x();
            let square = s.mul(x, x);
            s.mean(square)
        }),
        program("expected_reward", |s| {
            let (x, reward) = (s.x(), s.col("reward"));
            s.expect(x, reward)
        }),
        gemma2(),
    ]
}

/// Softcap, bias, token weights, a z-loss, three outputs.
pub(crate) fn gemma2() -> Program {
    let mut s = Sketch::new();
    let (x, bias, weight) = (s.x(), s.col("bias"), s.row("weight"));
    let (cap, zw) = (s.scalar("cap"), s.scalar("zw"));
    let biased = s.add(x, bias);
    let relative = s.div(biased, cap);
    let tanh = s.un(UnaryOp::Tanh, relative);
    let z = s.mul(cap, tanh);
    let (lse, at, mean) = (s.lse(z), s.at(z), s.expect(z, z));
    let nll = s.sub(lse, at);
    let penalty = s.mul(zw, lse);
    let penalty = s.mul(penalty, lse);
    let inner = s.add(nll, penalty);
    let loss = s.mul(weight, inner);
    let entropy = s.sub(lse, mean);
    s.output("loss", loss);
    s.output("lse", lse);
    s.output("entropy", entropy);
    s.finish("gemma2")
}
