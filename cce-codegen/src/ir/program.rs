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
    /// f32 [N].
    Row,
    /// f32 [V].
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
    /// Whether an upstream gradient may be given: false where it depends on the inputs only through `max`, `argmax` or comparisons.
    pub differentiable: bool,
}

/// A loss: inputs, an expression DAG, outputs. Made by [`crate::valid::ProgramBuilder`] (which `#[cce::loss]` uses) or read by
/// [`Program::load`]; both check everything, so that whatever takes a `Program` may rely on it.
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

    /// Outputs in the order of the struct's fields.
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

    /// Used by the code that `#[cce::loss]` writes, which has checked these parts with the same builder.
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
