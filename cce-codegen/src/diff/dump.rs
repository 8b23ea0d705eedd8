//! The gradient normal form for reading.

use super::{Lowered, Parts};
use crate::ir::{BinaryOp, ExprId, InputKind, Kind, Node, Program, UnaryOp};
use std::collections::HashSet;
use std::fmt::Write;

/// Longer expressions are taken apart into named ones.
const LONGEST_LINE: usize = 90;

/// How tightly an expression's text holds together, loosest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Sum,
    Product,
    Prefix,
    Atom,
}

/// Texts of expressions; what is shared, or long, has a name and a `let`.
struct Writer<'a> {
    lowered: &'a Lowered,
    program: &'a Program,
    texts: Vec<(String, Binding)>,
    lets: String,
    taken: HashSet<String>,
}

impl Lowered {
    /// The gradient of a program for reading: `program` is the one that was lowered.
    ///
    /// `p` is the softmax, `g.name` the upstream gradient of the output `name`, `[j = y]` 1 at the target
    /// and 0 elsewhere, `x[y]` an input at the target.
    pub fn dump(&self, program: &Program) -> String {
        let mut writer = Writer {
            lowered: self,
            program,
            texts: vec![(String::new(), Binding::Atom); self.graph.nodes().len()],
            lets: String::new(),
            taken: program.inputs().iter().map(|input| input.name.to_string()).collect(),
        };
        writer.taken.insert("p".to_owned());
        writer.write_expressions();
        let mut dump = String::new();
        let _ = writer.write(&mut dump);
        dump
    }

    fn roots(&self) -> Vec<ExprId> {
        let mut copy = self.clone();
        copy.expressions().into_iter().map(|expr| *expr).collect()
    }
}

impl Writer<'_> {
    fn write_expressions(&mut self) {
        let graph = &self.lowered.graph;
        let roots = self.lowered.roots();
        let order = graph.reachable(&roots);
        let mut uses = vec![0usize; graph.nodes().len()];
        for &id in &order {
            for operand in graph.get(id).operands() {
                uses[operand.index()] += 1;
            }
        }
        for &root in &roots {
            uses[root.index()] += 1;
        }
        let mut count = 0;
        for &id in &order {
            let node = graph.get(id);
            let (text, binding) = self.text(node);
            let is_softmax = self.lowered.softmax == Some(id);
            let is_leaf = node.operands().next().is_none();
            let named = !is_leaf && (is_softmax || uses[id.index()] > 1 || text.len() > LONGEST_LINE);
            self.texts[id.index()] = if named {
                let name = if is_softmax {
                    self.fresh("z")
                } else {
                    count += 1;
                    self.fresh(&format!("t{count}"))
                };
                let _ = writeln!(self.lets, "  let {name}: {} = {text}", graph.kind(id).name());
                (name, Binding::Atom)
            } else {
                (text, binding)
            };
        }
    }

    fn fresh(&mut self, name: &str) -> String {
        let mut name = name.to_owned();
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    fn target(&self) -> &str {
        let target = self.program.inputs().iter().find(|input| input.kind == InputKind::Target);
        target.map_or("y", |input| &input.name)
    }

    fn inside(&self, id: ExprId, at_least: Binding) -> String {
        let (text, binding) = &self.texts[id.index()];
        if *binding >= at_least { text.clone() } else { format!("({text})") }
    }

    fn text(&self, node: Node) -> (String, Binding) {
        let any = |id| self.inside(id, Binding::Sum);
        let name_of = |input: crate::ir::InputId| self.lowered.graph.inputs()[input.index()].name.to_string();
        let call = |name: &str, arguments: &[ExprId]| {
            let arguments: Vec<String> = arguments.iter().map(|&argument| any(argument)).collect();
            (format!("{name}({})", arguments.join(", ")), Binding::Atom)
        };
        match node {
            Node::Const(number) if number.value() < 0.0 => (format!("{}", number.value()), Binding::Prefix),
            Node::Const(number) => (format!("{}", number.value()), Binding::Atom),
            Node::Input(input) => (name_of(input), Binding::Atom),
            Node::TargetValue(input) => (format!("{}[{}]", name_of(input), self.target()), Binding::Atom),
            Node::Upstream(output) => {
                let output = self.program.outputs().get(usize::from(output));
                (format!("g.{}", output.map_or("?", |output| &output.name)), Binding::Atom)
            }
            Node::Coef(slot) => (format!("coef[{slot}]"), Binding::Atom),
            Node::Unary(UnaryOp::Neg, a) => {
                (format!("-{}", self.inside(a, Binding::Prefix)), Binding::Prefix)
            }
            Node::Unary(op, a) => call(op.name(), &[a]),
            Node::Binary(op, a, b) => {
                let (own, right) = match op {
                    BinaryOp::Add => (Binding::Sum, Binding::Sum),
                    BinaryOp::Sub => (Binding::Sum, Binding::Product),
                    BinaryOp::Mul => (Binding::Product, Binding::Product),
                    BinaryOp::Div => (Binding::Product, Binding::Prefix),
                    BinaryOp::Pow | BinaryOp::Min | BinaryOp::Max => return call(op.name(), &[a, b]),
                };
                // a * (b / c) is not (a * b) / c.
                let is_quotient = |id| matches!(self.lowered.graph.get(id), Node::Binary(BinaryOp::Div, ..));
                let right = if op == BinaryOp::Mul && is_quotient(b) { Binding::Prefix } else { right };
                (format!("{} {} {}", self.inside(a, own), op.name(), self.inside(b, right)), own)
            }
            Node::Select { cmp, lhs, rhs, then, otherwise } => {
                let condition = format!("{} {} {}", any(lhs), cmp.name(), any(rhs));
                let text = format!("if {condition} {{ {} }} else {{ {} }}", any(then), any(otherwise));
                (format!("({text})"), Binding::Atom)
            }
            Node::Lse(z) => call("lse", &[z]),
            Node::Nll(z) => call("nll", &[z]),
            Node::At(f) => call("at", &[f]),
            Node::Mean(f) => call("mean", &[f]),
            Node::Expect { z, f } => call("expect", &[z, f]),
            Node::Max(f) => call("max", &[f]),
            Node::Argmax(f) => call("argmax", &[f]),
        }
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let lowered = self.lowered;
        let text = |expr: ExprId| self.texts[expr.index()].0.as_str();
        writeln!(out, "gradient of {}", self.program.name())?;
        out.push_str(&self.lets);
        if let Some(z) = lowered.softmax {
            writeln!(out, "  p = softmax({})", text(z))?;
        }
        for (output, &expr) in self.program.outputs().iter().zip(&lowered.outputs) {
            writeln!(out, "  {} = {}", output.name, text(expr))?;
        }
        if lowered.logit != Parts::default() {
            let logit = self.program.inputs().iter().find(|input| input.kind == InputKind::Logit);
            self.write_parts(out, logit.map_or("x", |input| &input.name), &lowered.logit)?;
        }
        for (id, parts) in &lowered.cols {
            self.write_parts(out, &self.program.inputs()[id.index()].name, parts)?;
        }
        for &(id, expr) in &lowered.rows {
            writeln!(out, "  dL/d{} = {}", self.program.inputs()[id.index()].name, text(expr))?;
        }
        for &(id, expr) in &lowered.scalars {
            let name = &self.program.inputs()[id.index()].name;
            writeln!(out, "  dL/d{name} = sum over tokens of {}", text(expr))?;
        }
        Ok(())
    }

    fn write_parts(&self, out: &mut String, variable: &str, parts: &Parts) -> std::fmt::Result {
        let named = [
            (parts.softmax, "p * A".to_owned()),
            (parts.target, format!("[j = {}] * T", self.target())),
            (parts.uniform, "B / V".to_owned()),
        ];
        let present: Vec<&str> =
            named.iter().filter(|(part, _)| part.is_some()).map(|(_, text)| text.as_str()).collect();
        let sum = if present.is_empty() { "0".to_owned() } else { present.join(" + ") };
        writeln!(out, "  dL/d{variable} = {sum}")?;
        let lines = [
            (parts.softmax, "A".to_owned()),
            (parts.target, "T".to_owned()),
            (parts.uniform, "B".to_owned()),
            (parts.softmax_at_target, format!("A[{}]", self.target())),
            (parts.target_rest, format!("A[{}] + T", self.target())),
        ];
        for (part, name) in lines {
            if let Some(expr) = part {
                let kind = self.lowered.graph.kind(expr);
                let kind = if kind == Kind::Scalar { Kind::Row } else { kind };
                writeln!(out, "    {name}: {} = {}", kind.name(), self.texts[expr.index()].0)?;
            }
        }
        if parts.softmax_at_target.is_some() && parts.target_rest.is_none() {
            writeln!(out, "    A[{}] + T = 0", self.target())?;
        }
        Ok(())
    }
}
