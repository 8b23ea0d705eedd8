//! Expressions as the user would write them: for error messages and dumps.

use super::{BinaryOp, ExprId, Graph, InputKind, Node, UnaryOp};

/// Prints expressions of one arena in the language's own syntax.
///
/// The name of an expression, where `name` has one, stands for it; so does `...` below `depth`
/// levels, so that a shared subexpression cannot blow up the text.
pub struct Printer<'a> {
    graph: &'a Graph,
    name: &'a dyn Fn(ExprId) -> Option<String>,
    depth: usize,
}

/// How tightly an expression binds, loosest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Sum,
    Product,
    Negation,
    Atom,
}

impl<'a> Printer<'a> {
    /// A printer that names the expressions for which `name` returns one.
    pub fn new(graph: &'a Graph, name: &'a dyn Fn(ExprId) -> Option<String>) -> Printer<'a> {
        Printer { graph, name, depth: 64 }
    }

    /// The same, with `...` below this many levels.
    #[must_use]
    pub fn depth(self, depth: usize) -> Printer<'a> {
        Printer { depth, ..self }
    }

    /// The expression; its name, if it has one.
    pub fn expr(&self, id: ExprId) -> String {
        let mut text = String::new();
        self.write(&mut text, id, Binding::Sum, self.depth);
        text
    }

    /// The expression's operation over its operands, even if it has a name itself: the right-hand
    /// side of a `let`.
    pub fn definition(&self, id: ExprId) -> String {
        let mut text = String::new();
        self.write_node(&mut text, id, Binding::Sum, self.depth);
        text
    }

    fn write(&self, text: &mut String, id: ExprId, around: Binding, depth: usize) {
        match (self.name)(id) {
            Some(name) => text.push_str(&name),
            None => self.write_node(text, id, around, depth),
        }
    }

    fn write_node(&self, text: &mut String, id: ExprId, around: Binding, depth: usize) {
        let node = self.graph.get(id);
        if depth == 0 && node.operands().next().is_some() {
            text.push_str("...");
            return;
        }
        let binding = binding(node);
        let parenthesised = binding < around;
        if parenthesised {
            text.push('(');
        }
        let depth = depth.saturating_sub(1);
        match node {
            Node::Const(number) => text.push_str(&format!("{number:?}")),
            Node::Input(input) | Node::TargetValue(input) => {
                let name = &self.graph.inputs()[input.index()].name;
                match node {
                    Node::Input(_) => text.push_str(name),
                    _ => text.push_str(&format!("at({name}, {})", self.target())),
                }
            }
            Node::Unary(UnaryOp::Neg, a) => {
                text.push('-');
                self.write(text, a, Binding::Negation, depth);
            }
            Node::Unary(op, a) => self.call(text, op.name(), &[a], depth),
            Node::Binary(op @ (BinaryOp::Pow | BinaryOp::Min | BinaryOp::Max), a, b) => {
                self.call(text, op.name(), &[a, b], depth);
            }
            Node::Binary(op, a, b) => {
                // The right operand of `-` and `/` needs parentheses at equal binding; of `+` and
                // `*` too, since floating-point operations do not associate and the text is to say
                // what is computed.
                let right = if binding == Binding::Sum { Binding::Product } else { Binding::Negation };
                self.write(text, a, binding, depth);
                text.push_str(&format!(" {} ", op.name()));
                self.write(text, b, right, depth);
            }
            Node::Select { cmp, lhs, rhs, then, otherwise } => {
                text.push_str("if ");
                self.write(text, lhs, Binding::Sum, depth);
                text.push_str(&format!(" {} ", cmp.name()));
                self.write(text, rhs, Binding::Sum, depth);
                text.push_str(" { ");
                self.write(text, then, Binding::Sum, depth);
                text.push_str(" } else { ");
                self.write(text, otherwise, Binding::Sum, depth);
                text.push_str(" }");
            }
            Node::Lse(a) => self.call(text, "lse", &[a], depth),
            Node::Mean(a) => self.call(text, "mean", &[a], depth),
            Node::Max(a) => self.call(text, "max", &[a], depth),
            Node::Argmax(a) => self.call(text, "argmax", &[a], depth),
            Node::Nll(a) => self.call(text, "nll", &[a], depth),
            Node::Expect { z, f } => self.call(text, "expect", &[z, f], depth),
            Node::At(a) => {
                text.push_str("at(");
                self.write(text, a, Binding::Sum, depth);
                text.push_str(&format!(", {})", self.target()));
            }
            Node::Upstream(output) => text.push_str(&format!("upstream{output}")),
            Node::Coef(slot) => text.push_str(&format!("coef{slot}")),
        }
        if parenthesised {
            text.push(')');
        }
    }

    fn call(&self, text: &mut String, name: &str, arguments: &[ExprId], depth: usize) {
        text.push_str(name);
        text.push('(');
        for (at, &argument) in arguments.iter().enumerate() {
            if at > 0 {
                text.push_str(", ");
            }
            self.write(text, argument, Binding::Sum, depth);
        }
        text.push(')');
    }

    fn target(&self) -> &str {
        let target = self.graph.input_of_kind(InputKind::Target);
        target.map_or("_", |input| &self.graph.inputs()[input.index()].name)
    }
}

fn binding(node: Node) -> Binding {
    match node {
        Node::Binary(BinaryOp::Add | BinaryOp::Sub, ..) => Binding::Sum,
        Node::Binary(BinaryOp::Mul | BinaryOp::Div, ..) => Binding::Product,
        Node::Unary(UnaryOp::Neg, _) => Binding::Negation,
        // An `if` is parenthesised as an operand, for the reader's sake.
        Node::Select { .. } => Binding::Sum,
        Node::Const(number) if number.value().is_sign_negative() => Binding::Negation,
        _ => Binding::Atom,
    }
}
