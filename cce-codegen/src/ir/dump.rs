//! Programs and their gradients as text, for people.

use super::text::Printer;
use super::{ExprId, Graph, InputId, Kind, Program, ProgramError};
use crate::diff::{Wanted, lower};
use std::collections::HashMap;
use std::fmt;

/// What can be printed of a loss, from what the user wrote to what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Level {
    /// The program as it was checked.
    Program,
    /// Its reductions and its gradients in normal form.
    Gradient,
    /// Kernels, buffers and their lifetimes.
    Plan,
    /// CUDA source.
    Cuda,
    /// PTX.
    Ptx,
}

impl Level {
    /// All of them, in order.
    pub const ALL: [Level; 5] = [Level::Program, Level::Gradient, Level::Plan, Level::Cuda, Level::Ptx];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Program => "program",
            Level::Gradient => "gradient",
            Level::Plan => "plan",
            Level::Cuda => "cuda",
            Level::Ptx => "ptx",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(name: &str) -> Result<Level, String> {
        let names = Level::ALL.map(Level::name).join(", ");
        Level::ALL
            .into_iter()
            .find(|level| level.name() == name)
            .ok_or_else(|| format!("expected a level of {names}, found `{name}`"))
    }
}

impl Program {
    /// The program, or its gradient with respect to everything, as text.
    ///
    /// # Errors
    /// [`ProgramError::NeedsPlan`] for the levels that only a plan has.
    pub fn dump(&self, level: Level) -> Result<String, ProgramError> {
        match level {
            Level::Program => Ok(self.dump_program()),
            Level::Gradient => {
                let inputs = (0..self.inputs.len()).map(|at| InputId(at as u16)).collect();
                Ok(lower(self, &Wanted { logit: true, inputs }).dump(self))
            }
            Level::Plan | Level::Cuda | Level::Ptx => Err(ProgramError::NeedsPlan { level }),
        }
    }

    fn heading(&self) -> String {
        let inputs = self.inputs.iter().map(|input| format!("{}: {}", input.name, input.kind.name()));
        format!("{}({})", self.name, inputs.collect::<Vec<_>>().join(", "))
    }

    fn dump_program(&self) -> String {
        let graph = self.graph();
        let roots: Vec<ExprId> = self.outputs.iter().map(|output| output.expr).collect();
        let mut page = Page::new(self, &graph);
        page.lines.extend(self.doc.lines().map(|line| format!("/// {line}").trim_end().to_owned()));
        page.lines.push(format!("loss {}", self.heading()));
        page.lets(&roots);
        for output in self.outputs.iter() {
            let note = if output.differentiable { "" } else { "    // no gradient" };
            page.lines.push(format!("    {}: Row = {}{note}", output.name, page.text(output.expr)));
        }
        page.finish()
    }
}

/// Lines of text over one arena, and the names given so far.
struct Page<'a> {
    program: &'a Program,
    graph: &'a Graph,
    names: HashMap<ExprId, String>,
    lines: Vec<String>,
}

impl<'a> Page<'a> {
    fn new(program: &'a Program, graph: &'a Graph) -> Page<'a> {
        Page { program, graph, names: HashMap::new(), lines: Vec::new() }
    }

    /// A `let` for each value that more than one expression uses.
    fn lets(&mut self, roots: &[ExprId]) {
        let mut uses: HashMap<ExprId, usize> = HashMap::new();
        let reachable = self.graph.reachable(roots);
        let operands = reachable.iter().flat_map(|&id| self.graph.get(id).operands());
        for id in operands.chain(roots.iter().copied()) {
            *uses.entry(id).or_default() += 1;
        }
        let mut counts = [0; 4];
        for &id in &reachable {
            let leaf = self.graph.get(id).operands().next().is_none();
            let shared = !leaf && uses.get(&id).is_some_and(|&uses| uses > 1);
            if !shared {
                continue;
            }
            let (letter, count) = match self.graph.kind(id) {
                Kind::Scalar => ('s', &mut counts[0]),
                Kind::Row => ('r', &mut counts[1]),
                Kind::Col => ('c', &mut counts[2]),
                Kind::Logit => ('z', &mut counts[3]),
            };
            let name = loop {
                *count += 1;
                let name = format!("{letter}{count}");
                let taken = |input: &super::Input| input.name == name;
                if !self.program.inputs().iter().any(taken) {
                    break name;
                }
            };
            self.names.insert(id, name);
            self.push_let(id);
        }
    }

    fn push_let(&mut self, id: ExprId) {
        let definition = Printer::new(self.graph, &|id| self.names.get(&id).cloned()).definition(id);
        let name = self.names.get(&id).map_or("", String::as_str);
        let line = format!("    let {name}: {} = {definition}", self.graph.kind(id).name());
        self.lines.push(line);
    }

    fn text(&self, id: ExprId) -> String {
        Printer::new(self.graph, &|id| self.names.get(&id).cloned()).expr(id)
    }

    fn finish(mut self) -> String {
        self.lines.push(String::new());
        self.lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{InputKind, UnaryOp};
    use crate::valid::{ProgramBuilder, Site};

    /// Gemma 2's loss, as the documentation has it.
    fn gemma2() -> Program {
        let here = Site(0);
        let mut b = ProgramBuilder::new(here, "gemma2");
        b.doc("Softcapped logits.\n\nWith a z-loss.");
        let x = b.input(here, "x", InputKind::Logit);
        let y = b.input(here, "y", InputKind::Target);
        let cap = b.input(here, "cap", InputKind::Scalar);
        let zw = b.input(here, "zw", InputKind::Scalar);
        let ratio = b.div(here, x, cap);
        let tanh = b.unary(here, UnaryOp::Tanh, ratio);
        let z = b.mul(here, cap, tanh);
        let (l, at) = (b.lse(here, z), b.at(here, z, y));
        let nll = b.sub(here, l, at);
        let weighted = b.mul(here, zw, l);
        let square = b.mul(here, weighted, l);
        let loss = b.add(here, nll, square);
        let guess = b.argmax(here, z);
        b.output(here, "loss", loss);
        b.output(here, "guess", guess);
        b.finish().unwrap()
    }

    #[test]
    fn a_program_reads_like_the_function_with_a_let_where_a_value_is_shared() {
        let expected = "\
/// Softcapped logits.
///
/// With a z-loss.
loss gemma2(x: Logit, y: Target, cap: Scalar, zw: Scalar)
    let z1: Logit = cap * tanh(x / cap)
    let r1: Row = lse(z1)
    loss: Row = r1 - at(z1, y) + zw * r1 * r1
    guess: Row = argmax(z1)    // no gradient
";
        assert_eq!(gemma2().dump(Level::Program).unwrap(), expected);
    }

    #[test]
    fn the_gradient_is_printed_with_respect_to_every_input() {
        let dump = gemma2().dump(Level::Gradient).unwrap();
        for input in ["x", "cap", "zw"] {
            assert!(
                dump.contains(&format!("/d{input}")) || dump.contains(&format!("/d {input}")),
                "{input}: {dump}"
            );
        }
    }

    #[test]
    fn what_a_plan_has_is_asked_of_a_plan() {
        let error = gemma2().dump(Level::Cuda).unwrap_err().to_string();
        assert_eq!(error, "a program alone has no `cuda` to print: build a plan and print it there");
    }

    #[test]
    fn levels_are_read_by_their_names() {
        for level in Level::ALL {
            assert_eq!(level.name().parse(), Ok(level));
        }
        assert!("sass".parse::<Level>().unwrap_err().contains("found `sass`"));
    }
}
