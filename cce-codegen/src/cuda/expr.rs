//! Expressions as statements of CUDA C++, in fp32.

use crate::ir::{BinaryOp, ExprId, Graph, Kind, Node, UnaryOp};
use std::collections::HashMap;
use std::fmt::Write;

/// The name of a value that is at hand where an expression is emitted; `None` for a node to be computed.
pub(super) type Leaf<'a> = &'a dyn Fn(ExprId, Node) -> Option<String>;

/// Statements under construction: each node that is needed is computed once, into a constant of its own.
pub(super) struct Statements<'a> {
    graph: &'a Graph,
    leaf: Leaf<'a>,
    names: HashMap<ExprId, String>,
    text: String,
}

impl<'a> Statements<'a> {
    pub(super) fn new(graph: &'a Graph, leaf: Leaf<'a>) -> Statements<'a> {
        Statements { graph, leaf, names: HashMap::new(), text: String::new() }
    }

    /// The statements so far, four spaces deep.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Adds a statement as it is.
    pub(super) fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "    {line}");
    }

    /// The name of the expression's value, after the statements that compute it.
    pub(super) fn value(&mut self, root: ExprId) -> String {
        for id in self.pending(root) {
            let name = match self.expression(id) {
                Text::Atom(name) => name,
                Text::Compound(text) => {
                    let name = format!("t{}", id.0);
                    self.line(&format!("const float {name} = {text};"));
                    name
                }
            };
            self.names.insert(id, name);
        }
        self.names[&root].clone()
    }

    /// Nodes to be named for `root`, operands first; what a leaf stands for is not entered.
    fn pending(&self, root: ExprId) -> Vec<ExprId> {
        let mut needed = vec![false; root.index() + 1];
        needed[root.index()] = true;
        for at in (0..=root.index()).rev() {
            let id = ExprId(at as u32);
            let node = self.graph.get(id);
            if needed[at] && !self.names.contains_key(&id) && (self.leaf)(id, node).is_none() {
                for operand in node.operands() {
                    needed[operand.index()] = true;
                }
            }
        }
        let ids = (0..=root.index()).filter(|&at| needed[at]).map(|at| ExprId(at as u32));
        ids.filter(|id| !self.names.contains_key(id)).collect()
    }

    fn expression(&self, id: ExprId) -> Text {
        let node = self.graph.get(id);
        if let Some(name) = (self.leaf)(id, node) {
            return Text::Atom(name);
        }
        let name = |id: ExprId| self.names[&id].as_str();
        match node {
            Node::Const(number) => Text::Atom(literal(number.value())),
            Node::Unary(op, a) => Text::Compound(unary(op, name(a))),
            Node::Binary(op, a, b) => Text::Compound(binary(op, name(a), name(b))),
            Node::Select { cmp, lhs, rhs, then, otherwise } => Text::Compound(format!(
                "{} {} {} ? {} : {}",
                name(lhs),
                cmp.name(),
                name(rhs),
                name(then),
                name(otherwise)
            )),
            // Every other node is a leaf wherever it may occur; one without a name is a value that is not at
            // hand there.
            _ => Text::Atom("NOT_A_NUMBER".to_owned()),
        }
    }
}

enum Text {
    Atom(String),
    Compound(String),
}

/// An fp32 literal that reads back as the nearest value.
pub(super) fn literal(value: f64) -> String {
    let nearest = value as f32;
    match (nearest.is_infinite(), nearest.is_sign_negative()) {
        (true, false) => "POS_INF".to_owned(),
        (true, true) => "NEG_INF".to_owned(),
        (false, false) => format!("{nearest:?}f"),
        (false, true) => format!("({nearest:?}f)"),
    }
}

fn unary(op: UnaryOp, a: &str) -> String {
    match op {
        UnaryOp::Neg => format!("-{a}"),
        UnaryOp::Exp => format!("expf({a})"),
        UnaryOp::Expm1 => format!("expm1f({a})"),
        UnaryOp::Ln => format!("logf({a})"),
        UnaryOp::Log1p => format!("log1pf({a})"),
        UnaryOp::Tanh => format!("tanh_of({a})"),
        UnaryOp::Sigmoid => format!("sigmoid({a})"),
        UnaryOp::LogSigmoid => format!("log_sigmoid({a})"),
        UnaryOp::Softplus => format!("softplus({a})"),
        UnaryOp::Sqrt => format!("sqrtf({a})"),
        UnaryOp::Abs => format!("fabsf({a})"),
    }
}

fn binary(op: BinaryOp, a: &str, b: &str) -> String {
    match op {
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div => format!("{a} {} {b}", op.name()),
        BinaryOp::Pow => format!("pow_of({a}, {b})"),
        BinaryOp::Min => format!("min_of({a}, {b})"),
        BinaryOp::Max => format!("max_of({a}, {b})"),
    }
}

/// The same expressions with divisions by what does not vary over the vocabulary turned into products with
/// its reciprocal, so that the vocabulary loop divides once a token, not once an element.
pub(super) fn multiply_by_reciprocals(graph: &mut Graph, roots: &[ExprId]) -> Vec<ExprId> {
    let mut new: HashMap<ExprId, ExprId> = HashMap::new();
    for id in graph.reachable(roots) {
        let node = graph.get(id);
        let replaced = if graph.kind(id).varies_over_vocab() {
            let node = node.map_operands(|operand| new[&operand]);
            match node {
                Node::Binary(BinaryOp::Div, a, b) if matches!(graph.kind(b), Kind::Scalar | Kind::Row) => {
                    let one = graph.constant(1.0);
                    let reciprocal = graph.binary(BinaryOp::Div, one, b);
                    graph.binary(BinaryOp::Mul, a, reciprocal)
                }
                node => graph.node(node),
            }
        } else {
            id
        };
        new.insert(id, replaced);
    }
    roots.iter().map(|root| new[root]).collect()
}

#[cfg(test)]
mod tests {
    use super::literal;

    #[test]
    fn literals_are_tokens_of_cuda_whatever_their_size_and_sign() {
        let texts = [0.5, -0.5, 0.0, -0.0, 1e-60, 1e39, -1e39].map(literal);
        assert_eq!(texts, ["0.5f", "(-0.5f)", "0.0f", "(-0.0f)", "0.0f", "POS_INF", "NEG_INF"]);
    }
}
