//! The checks of the whole program, and its canonical form.

use super::builder::What;
use super::{Diagnostic, ProgramBuilder};
use crate::ir::{ExprId, Graph, InputKind, Node, Output, Program};

/// What a program may hold: far more than a loss needs, little enough that recursion over it is
/// safe.
const MAX_NODES: usize = 4096;
/// The same for inputs, and for outputs.
const MAX_NAMES: usize = 64;

impl ProgramBuilder {
    /// Checks the whole and returns the program, or every mistake made.
    pub fn finish(mut self) -> Result<Program, Vec<Diagnostic>> {
        let outputs: Vec<ExprId> = self
            .outputs
            .iter()
            .filter_map(|&(_, _, value)| match self.known(value).what {
                What::Expr(id) => Some(id),
                What::Poison | What::Target(_) => None,
            })
            .collect();
        self.check_presence();
        let gradients = carries_gradient(&self.graph);
        self.check_loss(&gradients);
        if self.diagnostics.is_empty() {
            self.check_use(&outputs);
        }
        if self.graph.reachable(&outputs).len() > MAX_NODES
            || self.outputs.len() > MAX_NAMES
            || self.graph.inputs().len() > MAX_NAMES
        {
            let message = format!("`{}` is too large", self.name);
            let help = format!(
                "a loss has at most {MAX_NODES} operations, {MAX_NAMES} inputs and {MAX_NAMES} outputs"
            );
            self.report(Diagnostic::new(self.site, message).help(help));
        }
        if outputs.len() < self.outputs.len() && self.diagnostics.is_empty() {
            self.report(
                Diagnostic::new(self.site, "an output has no value")
                    .help("report the mistake that it stands for"),
            );
        }
        if !self.diagnostics.is_empty() {
            return Err(self.diagnostics);
        }
        let (nodes, position) = canonical(&self.graph, &outputs);
        let named = self.outputs.into_iter().map(|(_, name, _)| name).zip(outputs);
        let outputs: Vec<Output> = named
            .map(|(name, id)| Output {
                name: name.into(),
                expr: position[id.index()],
                differentiable: gradients[id.index()],
            })
            .collect();
        Ok(Program {
            name: self.name.into(),
            doc: self.doc.into(),
            inputs: self.graph.inputs().to_vec().into(),
            nodes: nodes.into(),
            outputs: outputs.into(),
        })
    }

    /// There is a Logit, and there is an output, or a mistake that may stand for it.
    fn check_presence(&mut self) {
        let is_clean = self.diagnostics.is_empty();
        if self.graph.input_of_kind(InputKind::Logit).is_none() && !self.has_mistaken_input {
            let error = Diagnostic::new(self.site, format!("`{}` has no Logit among its inputs", self.name));
            self.report(error.help("add the product of hidden states and classifier: `x: Logit`"));
        }
        if self.outputs.is_empty() && is_clean {
            let error = Diagnostic::new(self.site, format!("`{}` has no output", self.name));
            self.report(error.help("end with an expression for the loss, or with a struct of outputs"));
        }
    }

    /// Every input is read by some output. Asked of a program without mistakes only: in another, the
    /// mistake may stand where the input is to be read.
    fn check_use(&mut self, outputs: &[ExprId]) {
        let mut used = vec![false; self.graph.inputs().len()];
        let target = self.graph.input_of_kind(InputKind::Target);
        for id in self.graph.reachable(outputs) {
            match self.graph.get(id) {
                Node::Input(input) => used[input.index()] = true,
                Node::At(_) => target.into_iter().for_each(|input| used[input.index()] = true),
                _ => {}
            }
        }
        for (at, used) in used.into_iter().enumerate() {
            if used {
                continue;
            }
            let input = &self.graph.inputs()[at];
            let message = format!("no output depends on the input `{}`", input.name);
            let help = match input.kind {
                InputKind::Logit => {
                    "a loss reads its Logit through `lse`, `at`, `mean`, `expect`, `max` or `argmax`"
                        .to_owned()
                }
                InputKind::Target => {
                    format!("read a value at it, as in `at(z, {})`, or remove it", input.name)
                }
                _ => "use it, or remove it".to_owned(),
            };
            self.report(Diagnostic::new(self.input_sites[at], message).help(help));
        }
    }

    /// An output named `loss` is there to be minimised.
    fn check_loss(&mut self, gradients: &[bool]) {
        let loss = self.outputs.iter().find(|(_, name, _)| name == "loss");
        let Some(&(_, _, value)) = loss else { return };
        let What::Expr(id) = self.known(value).what else {
            return;
        };
        if self.graph.kind(id).varies_over_vocab() || gradients[id.index()] {
            return;
        }
        let message = "`loss` is not differentiable: every path from it to an input \
                       goes through `max`, `argmax` or a comparison";
        let message = match self
            .graph
            .reachable(&[id])
            .iter()
            .any(|&id| matches!(self.graph.get(id), Node::Input(_)))
        {
            true => message.to_owned(),
            false => "`loss` is a constant: no gradient can be taken".to_owned(),
        };
        let help = "make it depend on the logits through `lse`, `at`, `mean` or `expect`; \
                    an output that is only looked at may be so, under another name than `loss`";
        self.report(Diagnostic::new(self.known(value).site, message).help(help));
    }
}

/// For each node: whether some path to an input carries a gradient.
fn carries_gradient(graph: &Graph) -> Vec<bool> {
    let mut carries: Vec<bool> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let of = |id: ExprId| carries[id.index()];
        let here = match *node {
            Node::Const(_) | Node::Max(_) | Node::Argmax(_) => false,
            Node::Input(_) => true,
            Node::Select { then, otherwise, .. } => of(then) || of(otherwise),
            _ => node.operands().any(of),
        };
        carries.push(here);
    }
    carries
}

/// The nodes that the outputs depend on in an order that depends on the outputs alone (operands
/// first, left to right), and each old node's new id.
fn canonical(graph: &Graph, outputs: &[ExprId]) -> (Vec<Node>, Vec<ExprId>) {
    const NOWHERE: ExprId = ExprId(u32::MAX);
    let mut position = vec![NOWHERE; graph.nodes().len()];
    let mut nodes: Vec<Node> = Vec::new();
    let mut stack: Vec<ExprId> = outputs.iter().rev().copied().collect();
    while let Some(&id) = stack.last() {
        let waiting = |operand: &ExprId| position[operand.index()] == NOWHERE;
        let mut pending: Vec<ExprId> = graph.get(id).operands().filter(waiting).collect();
        if position[id.index()] != NOWHERE {
            stack.pop();
        } else if pending.is_empty() {
            position[id.index()] = ExprId(nodes.len() as u32);
            nodes.push(graph.get(id).map_operands(|operand| position[operand.index()]));
            stack.pop();
        } else {
            pending.reverse();
            stack.append(&mut pending);
        }
    }
    (nodes, position)
}
