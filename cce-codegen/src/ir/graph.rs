//! An arena of interned nodes.

use super::{BinaryOp, ExprId, Input, InputId, InputKind, Kind, Node, Number, UnaryOp};
use std::collections::HashMap;

/// An arena of nodes over a list of inputs: interned, topologically ordered, each with its kind.
///
/// [`Graph::node`] adds a node as it is; what simplifies lives in [`crate::diff`].
#[derive(Clone, Debug, Default)]
pub struct Graph {
    inputs: Vec<Input>,
    nodes: Vec<Node>,
    kinds: Vec<Kind>,
    ids: HashMap<Node, ExprId>,
}

impl Graph {
    /// An empty arena over these inputs.
    pub fn new(inputs: Vec<Input>) -> Graph {
        Graph { inputs, ..Graph::default() }
    }

    /// The inputs.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// Adds an input behind the others.
    pub fn push_input(&mut self, input: Input) -> InputId {
        self.inputs.push(input);
        InputId((self.inputs.len() - 1) as u16)
    }

    /// All nodes; operands stand before their users.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node behind an id.
    pub fn get(&self, id: ExprId) -> Node {
        self.nodes[id.index()]
    }

    /// The kind of an expression.
    pub fn kind(&self, id: ExprId) -> Kind {
        self.kinds[id.index()]
    }

    /// The id of this node, added if it is new. Operands must be of this arena.
    pub fn node(&mut self, node: Node) -> ExprId {
        if let Some(&id) = self.ids.get(&node) {
            return id;
        }
        let kind = match node {
            Node::Const(_) => Kind::Scalar,
            Node::Input(input) => match self.inputs[input.index()].kind {
                InputKind::Logit => Kind::Logit,
                InputKind::Row | InputKind::Target => Kind::Row,
                InputKind::Col => Kind::Col,
                InputKind::Scalar => Kind::Scalar,
            },
            Node::Unary(..) | Node::Binary(..) | Node::Select { .. } => {
                node.operands().fold(Kind::Scalar, |kind, operand| kind.join(self.kind(operand)))
            }
            _ => Kind::Row,
        };
        let id = ExprId(self.nodes.len() as u32);
        self.nodes.push(node);
        self.kinds.push(kind);
        self.ids.insert(node, id);
        id
    }

    /// A literal.
    pub fn constant(&mut self, value: f64) -> ExprId {
        self.node(Node::Const(Number::new(value)))
    }

    /// `op(a)`.
    pub fn unary(&mut self, op: UnaryOp, a: ExprId) -> ExprId {
        self.node(Node::Unary(op, a))
    }

    /// `op(a, b)`.
    pub fn binary(&mut self, op: BinaryOp, a: ExprId, b: ExprId) -> ExprId {
        self.node(Node::Binary(op, a, b))
    }

    /// The value of a literal.
    pub fn as_const(&self, id: ExprId) -> Option<f64> {
        match self.get(id) {
            Node::Const(number) => Some(number.value()),
            _ => None,
        }
    }

    /// The first input of this kind.
    pub fn input_of_kind(&self, kind: InputKind) -> Option<InputId> {
        self.inputs.iter().position(|input| input.kind == kind).map(|at| InputId(at as u16))
    }

    /// All nodes that `roots` depend on, themselves included, in topological order.
    pub fn reachable(&self, roots: &[ExprId]) -> Vec<ExprId> {
        let mut seen = vec![false; self.nodes.len()];
        for root in roots {
            seen[root.index()] = true;
        }
        for at in (0..self.nodes.len()).rev() {
            if seen[at] {
                for operand in self.nodes[at].operands() {
                    seen[operand.index()] = true;
                }
            }
        }
        (0..self.nodes.len()).filter(|&at| seen[at]).map(|at| ExprId(at as u32)).collect()
    }
}
