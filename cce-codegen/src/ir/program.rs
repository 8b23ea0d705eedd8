//! A program: what a loss computes for one token. One that exists is valid.

use super::{ExprId, Graph, Node};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InputKind {
    /// The raw logit `E_i . C_j`; exactly one a program.
    Logit,
    /// The target's index; at most one a program.
    Target,
    /// f32 \[N\].
    Row,
    /// f32 \[V\].
    Col,
    /// One f32.
    Scalar,
}

impl InputKind {
    /// The name that users write and read.
    pub const fn name(self) -> &'static str {
        match self {
            InputKind::Logit => "Logit",
            InputKind::Target => "Target",
            InputKind::Row => "Row",
            InputKind::Col => "Col",
            InputKind::Scalar => "Scalar",
        }
    }
}

/// A named input.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Input {
    /// Its name in the function's signature.
    pub name: Cow<'static, str>,
    /// What it is.
    pub kind: InputKind,
}

/// A named output: a Row value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Output {
    /// The field's name; `loss` for a program that returns `Loss`.
    pub name: Cow<'static, str>,
    /// The expression, of kind Row or Scalar.
    pub expr: ExprId,
    /// Whether an upstream gradient may be given: false where it depends on the inputs only through
    /// `max`, `argmax` or comparisons.
    pub differentiable: bool,
}

/// A loss: inputs, an expression DAG, outputs. Made by [`crate::valid::ProgramBuilder`] (which
/// `#[cce::loss]` uses) or read by [`Program::load`]; both check everything, so that whatever takes
/// a `Program` may rely on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    pub(crate) name: Cow<'static, str>,
    pub(crate) doc: Cow<'static, str>,
    pub(crate) inputs: Cow<'static, [Input]>,
    pub(crate) nodes: Cow<'static, [Node]>,
    pub(crate) outputs: Cow<'static, [Output]>,
}

impl Program {
    /// The function's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its doc comment.
    pub fn doc(&self) -> &str {
        &self.doc
    }

    /// Inputs in the order of the signature, the Logit and the Target included.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// The nodes, operands before users.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Outputs, in the order in which the function gives them.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Whether it reads a target.
    pub fn has_target(&self) -> bool {
        self.inputs.iter().any(|input| input.kind == InputKind::Target)
    }

    /// The nodes as an arena that can grow.
    pub fn graph(&self) -> Graph {
        let mut graph = Graph::new(self.inputs.to_vec());
        for &node in self.nodes.iter() {
            graph.node(node);
        }
        graph
    }

    /// Blake3 of what the program computes: inputs with their names and kinds, nodes, outputs with
    /// their names. The function's name and documentation do not count, nor the order in which
    /// values were written down; the order of inputs does.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("cce-codegen 2026 program, schema 1");
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        for input in self.inputs.iter() {
            text("input");
            text(&input.name);
            text(input.kind.name());
        }
        for node in self.nodes.iter() {
            let (name, detail) = match *node {
                Node::Const(number) => ("const", number.value().to_bits()),
                Node::Input(input) => ("input", u64::from(input.0)),
                Node::Unary(op, _) => (op.name(), 1),
                Node::Binary(op, ..) => (op.name(), 2),
                Node::Select { cmp, .. } => (cmp.name(), 4),
                Node::Lse(_) => ("lse", 0),
                Node::At(_) => ("at", 0),
                Node::Mean(_) => ("mean", 0),
                Node::Expect { .. } => ("expect", 0),
                Node::Max(_) => ("max over vocab", 0),
                Node::Argmax(_) => ("argmax", 0),
                Node::TargetValue(input) => ("target value", u64::from(input.0)),
                Node::Nll(_) => ("nll", 0),
                Node::Upstream(output) => ("upstream", u64::from(output)),
                Node::Coef(slot) => ("coef", u64::from(slot)),
            };
            text("node");
            text(name);
            text(&detail.to_string());
            for operand in node.operands() {
                text(&operand.0.to_string());
            }
        }
        for output in self.outputs.iter() {
            text("output");
            text(&output.name);
            text(&output.expr.0.to_string());
        }
        *hasher.finalize().as_bytes()
    }

    /// Used by the code that `#[cce::loss]` writes, which has checked these parts with the same
    /// builder.
    #[doc(hidden)]
    pub const fn from_checked_parts(
        name: &'static str,
        doc: &'static str,
        inputs: &'static [Input],
        nodes: &'static [Node],
        outputs: &'static [Output],
    ) -> Program {
        Program {
            name: Cow::Borrowed(name),
            doc: Cow::Borrowed(doc),
            inputs: Cow::Borrowed(inputs),
            nodes: Cow::Borrowed(nodes),
            outputs: Cow::Borrowed(outputs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::valid::{ProgramBuilder, Site};

    fn scaled(name: &str, input: &str, factor: f64) -> Program {
        let here = Site(0);
        let mut b = ProgramBuilder::new(here, name);
        b.doc(name);
        let x = b.input(here, "x", InputKind::Logit);
        let s = b.input(here, input, InputKind::Scalar);
        let factor = b.constant(here, factor);
        let factor = b.mul(here, s, factor);
        let z = b.mul(here, x, factor);
        let loss = b.lse(here, z);
        b.output(here, "loss", loss);
        b.finish().unwrap()
    }

    #[test]
    fn the_hash_is_of_what_is_computed_and_not_of_its_name() {
        let hash = scaled("one", "s", 2.0).hash();
        assert_eq!(hash, scaled("other", "s", 2.0).hash());
        assert_ne!(hash, scaled("one", "s", 2.5).hash());
        assert_ne!(hash, scaled("one", "t", 2.0).hash());
        assert_ne!(scaled("one", "s", 0.0).hash(), scaled("one", "s", -0.0).hash());
    }

    #[test]
    fn the_hash_is_the_same_in_every_version_of_this_schema() {
        let hash: String = scaled("one", "s", 2.0).hash().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hash, "8caf892d57fd2f59eed8ac532cb81d76a6d25c6a0c28a728cbdafdfe1e359bba");
    }
}
