//! How generated code names a program's inputs: the `Values` parameter, scalars, columns.

use super::expr::{Leaf, Statements};
use crate::ir::{ExprId, Graph, Input, InputId, InputKind, Kind, Node};
use std::fmt::Write;

/// The field of `Values` that holds an input: unique by its position, readable by its name.
pub(super) fn field(inputs: &[Input], id: InputId) -> String {
    let name = &inputs[id.index()].name;
    let readable: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("v{}_{readable}", id.0)
}

/// `struct Values`: pointers to Row and Col inputs, scalars, in the order of the signature.
pub(super) fn values_struct(inputs: &[Input]) -> String {
    let mut text = String::from(
        "// The program's inputs besides hidden states, classifier and targets.\nstruct Values {\n",
    );
    let mut empty = true;
    for (at, input) in inputs.iter().enumerate() {
        let name = field(inputs, InputId(at as u16));
        let what = match input.kind {
            InputKind::Row => format!("const float* {name};  // [tokens]"),
            InputKind::Col => format!("const float* {name};  // [VOCAB]"),
            InputKind::Scalar => format!("ScalarArg {name};"),
            InputKind::Logit | InputKind::Target => continue,
        };
        empty = false;
        let _ = writeln!(text, "    {what}");
    }
    if empty {
        text.push_str("    int none;\n");
    }
    text.push_str("};\n");
    text
}

/// Reads an input for one token and the target's column, where a thread works on a token.
pub(super) fn read_input(inputs: &[Input], id: InputId, token: &str) -> Option<String> {
    let name = field(inputs, id);
    match inputs[id.index()].kind {
        InputKind::Row => Some(format!("values.{name}[{token}]")),
        InputKind::Scalar => Some(format!("scalar(values.{name})")),
        InputKind::Col | InputKind::Logit | InputKind::Target => None,
    }
}

/// What a vocabulary loop reads from outside itself: Scalar subexpressions (once a thread) and Col inputs
/// (once a column).
pub(super) struct LoopInputs {
    uniform: Vec<ExprId>,
    columns: Vec<InputId>,
}

impl LoopInputs {
    /// For expressions that have been hoisted.
    pub(super) fn of(graph: &Graph, exprs: &[ExprId]) -> LoopInputs {
        let mut uniform = Vec::new();
        let mut columns = Vec::new();
        for id in graph.reachable(exprs) {
            let node = graph.get(id);
            if let Node::Input(input) = node
                && graph.kind(id) == Kind::Col
            {
                columns.push(input);
            }
            if graph.kind(id).varies_over_vocab() {
                for operand in node.operands() {
                    let constant = matches!(graph.get(operand), Node::Const(_));
                    if graph.kind(operand) == Kind::Scalar && !constant && !uniform.contains(&operand) {
                        uniform.push(operand);
                    }
                }
            }
        }
        for &root in exprs {
            if graph.kind(root) == Kind::Scalar
                && !matches!(graph.get(root), Node::Const(_))
                && !uniform.contains(&root)
            {
                uniform.push(root);
            }
        }
        LoopInputs { uniform, columns }
    }

    /// `Uniform`, `ColIn` and the functions that read them.
    pub(super) fn declarations(&self, graph: &Graph) -> String {
        let inputs = graph.inputs();
        let mut text = String::new();
        text.push_str("struct Uniform {");
        for at in 0..self.uniform.len() {
            let _ = write!(text, " float u{at};");
        }
        text.push_str(" };\nDEVICE Uniform uniform_of(const Values& values) {\n");
        let leaf: Leaf<'_> = &|_, node| match node {
            Node::Input(input) => read_input(inputs, input, "0"),
            _ => None,
        };
        let mut body = Statements::new(graph, leaf);
        let names: Vec<String> = self.uniform.iter().map(|&id| body.value(id)).collect();
        let _ = writeln!(text, "{}    return Uniform{{{}}};\n}}", body.text(), names.join(", "));

        text.push_str("struct ColIn {");
        for &input in &self.columns {
            let _ = write!(text, " float {};", field(inputs, input));
        }
        text.push_str(" };\nDEVICE ColIn col_in(const Values& values, int col) {\n    return ColIn{");
        let reads: Vec<String> =
            self.columns.iter().map(|&input| format!("values.{}[col]", field(inputs, input))).collect();
        let _ = writeln!(text, "{}}};\n}}", reads.join(", "));
        text
    }

    /// Names inside the loop: `x`, `row.c*`, `col.*`, `uniform.u*`.
    pub(super) fn name(&self, graph: &Graph, id: ExprId, node: Node) -> Option<String> {
        if let Some(at) = self.uniform.iter().position(|&u| u == id) {
            return Some(format!("uniform.u{at}"));
        }
        match node {
            Node::Coef(slot) => Some(format!("row.c{slot}")),
            Node::Input(input) => match graph.inputs()[input.index()].kind {
                InputKind::Logit => Some("x".to_owned()),
                InputKind::Col => Some(format!("column.{}", field(graph.inputs(), input))),
                _ => None,
            },
            _ => None,
        }
    }
}
