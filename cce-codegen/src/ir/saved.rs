//! Programs as files: JSON, `schema: 1`.
//!
//! ```json
//! {
//!   "schema": 1,
//!   "name": "cross_entropy",
//!   "doc": "",
//!   "inputs": [{"name": "x", "kind": "Logit"}, {"name": "y", "kind": "Target"}],
//!   "nodes": [
//!     ["input", "x"],
//!     ["lse", 0],
//!     ["at", 0, "y"],
//!     ["-", 1, 2]
//!   ],
//!   "outputs": [{"name": "loss", "node": 3}]
//! }
//! ```
//!
//! A node is its operation and its operands: places of earlier nodes, or the name of an input. The
//! operations are those of the language, and `neg`, `const` (a number), `input` (a name), `if` (a
//! comparison, its two operands, two values).

use super::{BinaryOp, Cmp, ExprId, Input, InputKind, Node, Program, UnaryOp};
use crate::valid::{Diagnostic, ProgramBuilder, Site, Value};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// The schema written, and the newest that is read.
pub const SCHEMA: u64 = 1;

/// Why a program cannot be had. Its `Debug` is its message too: that is what a `main` which returns an
/// error prints.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// The text is not JSON of this form.
    #[error("not a saved program: {0}")]
    Form(#[from] serde_json::Error),
    /// The text says no schema, or one that this version does not know.
    #[error(
        "expected a program of schema {SCHEMA}, found {found}; \
         load it with the version that saved it, or save it again"
    )]
    Schema {
        /// What stands there.
        found: String,
    },
    /// A node is not one.
    #[error("node {node}: {reason}")]
    Node {
        /// Its place in the list of nodes.
        node: usize,
        /// What was expected, and what was found.
        reason: String,
    },
    /// The program breaks rules of the language.
    #[error("not a valid loss:\n{}", located(.0))]
    Invalid(Vec<(Place, Diagnostic)>),
    /// The level is not one of a program alone.
    #[error("a program alone has no `{level}` to print: build a plan and print it there")]
    NeedsPlan {
        /// The level asked for.
        level: super::Level,
    },
}

impl std::fmt::Debug for ProgramError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A place in a saved program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The whole.
    Program,
    /// An input, by its place in the list.
    Input(usize),
    /// A node, by its place in the list.
    Node(usize),
    /// An output, by its place in the list.
    Output(usize),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Program => f.write_str("program"),
            Place::Input(at) => write!(f, "input {at}"),
            Place::Node(at) => write!(f, "node {at}"),
            Place::Output(at) => write!(f, "output {at}"),
        }
    }
}

fn located(mistakes: &[(Place, Diagnostic)]) -> String {
    let lines = mistakes
        .iter()
        .map(|(place, mistake)| format!("{place}: {mistake}").replace("\nhelp:", "\n    help:"));
    lines.collect::<Vec<_>>().join("\n")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    #[serde(rename = "schema")]
    _schema: u64,
    name: String,
    doc: String,
    inputs: Vec<Input>,
    nodes: Vec<Vec<Json>>,
    outputs: Vec<SavedOutput>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedOutput {
    name: String,
    node: usize,
}

impl Program {
    /// The program as JSON; a node a line.
    pub fn save(&self) -> String {
        let lines = |items: Vec<Json>| {
            let items: Vec<String> = items.iter().map(|item| format!("    {item}")).collect();
            format!("[\n{}\n  ]", items.join(",\n"))
        };
        let inputs = self.inputs.iter().map(|input| json!({"name": input.name, "kind": input.kind}));
        let outputs = self.outputs.iter().map(|output| json!({"name": output.name, "node": output.expr.0}));
        format!(
            "{{\n  \"schema\": {SCHEMA},\n  \"name\": {},\n  \"doc\": {},\n  \
             \"inputs\": {},\n  \"nodes\": {},\n  \"outputs\": {}\n}}\n",
            json!(self.name),
            json!(self.doc),
            lines(inputs.collect()),
            lines(self.nodes.iter().map(|&node| self.saved_node(node)).collect()),
            lines(outputs.collect()),
        )
    }

    /// Reads what [`Program::save`] wrote, and checks everything as `#[cce::loss]` does.
    ///
    /// # Errors
    /// [`ProgramError`] says what is wrong with the text, or all that is wrong with the program.
    pub fn load(text: &str) -> Result<Program, ProgramError> {
        let json: Json = serde_json::from_str(text)?;
        match json.get("schema") {
            Some(schema) if schema.as_u64() == Some(SCHEMA) => {}
            Some(other) => return Err(ProgramError::Schema { found: other.to_string() }),
            None => return Err(ProgramError::Schema { found: "none".to_owned() }),
        }
        let saved: Saved = serde_json::from_value(json)?;
        let (inputs, nodes) = (saved.inputs.len(), saved.nodes.len());
        let site = |place| {
            Site(match place {
                Place::Program => 0,
                Place::Input(at) => 1 + at,
                Place::Node(at) => 1 + inputs + at,
                Place::Output(at) => 1 + inputs + nodes + at,
            } as u32)
        };
        let place = |Site(site)| match site as usize {
            0 => Place::Program,
            at if at <= inputs => Place::Input(at - 1),
            at if at <= inputs + nodes => Place::Node(at - 1 - inputs),
            at => Place::Output(at - 1 - inputs - nodes),
        };
        let mut builder = ProgramBuilder::new(site(Place::Program), &saved.name);
        builder.doc(&saved.doc);
        for (at, input) in saved.inputs.iter().enumerate() {
            builder.input(site(Place::Input(at)), &input.name, input.kind);
        }
        let mut values = Vec::with_capacity(nodes);
        for (at, node) in saved.nodes.iter().enumerate() {
            let value = load_node(&mut builder, site(Place::Node(at)), node, &values)
                .map_err(|reason| ProgramError::Node { node: at, reason })?;
            values.push(value);
        }
        for (at, output) in saved.outputs.iter().enumerate() {
            let Some(&value) = values.get(output.node) else {
                let reason = format!("output {at} names it, and there are {nodes} nodes");
                return Err(ProgramError::Node { node: output.node, reason });
            };
            builder.output(site(Place::Output(at)), &output.name, value);
        }
        builder.finish().map_err(|mistakes| {
            ProgramError::Invalid(
                mistakes.into_iter().map(|mistake| (place(mistake.site), mistake)).collect(),
            )
        })
    }

    fn saved_node(&self, node: Node) -> Json {
        let operation = match node {
            Node::Const(number) => return json!(["const", number.value()]),
            Node::Input(input) | Node::TargetValue(input) => {
                return json!(["input", self.inputs[input.index()].name]);
            }
            Node::At(ExprId(f)) => {
                let target = self.inputs.iter().find(|input| input.kind == InputKind::Target);
                return json!(["at", f, target.map(|target| &target.name)]);
            }
            Node::Select { cmp, .. } => {
                let mut list = vec![json!("if"), json!(cmp.name())];
                list.extend(node.operands().map(|ExprId(operand)| json!(operand)));
                return Json::Array(list);
            }
            Node::Unary(op, _) => op.name(),
            Node::Binary(op, ..) => op.name(),
            Node::Lse(_) => "lse",
            Node::Mean(_) => "mean",
            Node::Expect { .. } => "expect",
            Node::Max(_) => "max",
            Node::Argmax(_) => "argmax",
            // Valid programs have none of these; a file with them would not load.
            Node::Nll(_) => "nll",
            Node::Upstream(_) => "upstream",
            Node::Coef(_) => "coef",
        };
        let mut list = vec![json!(operation)];
        list.extend(node.operands().map(|ExprId(operand)| json!(operand)));
        Json::Array(list)
    }
}

/// Hands a node to the builder; the reason where it is none.
fn load_node(
    builder: &mut ProgramBuilder,
    site: Site,
    node: &[Json],
    values: &[Value],
) -> Result<Value, String> {
    let Some((Json::String(operation), operands)) = node.split_first() else {
        return Err("expected a list that begins with an operation's name, such as [\"lse\", 0]".to_owned());
    };
    let value = |operand: &Json| {
        let earlier = operand.as_u64().and_then(|at| values.get(at as usize)).copied();
        earlier.ok_or_else(|| {
            format!("expected the place of an earlier node (below {}), found {operand}", values.len())
        })
    };
    let all = |operands: &[Json]| operands.iter().map(value).collect::<Result<Vec<Value>, String>>();
    match (operation.as_str(), operands) {
        ("const", [Json::Number(number)]) => {
            let number = number.as_f64().ok_or_else(|| format!("expected a number, found {number}"))?;
            Ok(builder.constant(site, number))
        }
        ("const", _) => Err("expected [\"const\", number]".to_owned()),
        ("input", [Json::String(name)]) => Ok(builder.lookup(site, name)),
        ("input", _) => Err("expected [\"input\", \"name\"]".to_owned()),
        ("at", [f, Json::String(target)]) => {
            let f = value(f)?;
            let target = builder.lookup_target(site, target);
            Ok(builder.at(site, f, target))
        }
        ("at", _) => Err("expected [\"at\", node, \"name of the target\"]".to_owned()),
        ("if", [Json::String(cmp), operands @ ..]) => {
            let cmps = [Cmp::Lt, Cmp::Le, Cmp::Gt, Cmp::Ge, Cmp::Eq, Cmp::Ne];
            let cmp = cmps.into_iter().find(|other| other.name() == cmp);
            match (cmp, &all(operands)?[..]) {
                (Some(cmp), &[lhs, rhs, then, otherwise]) => {
                    Ok(builder.select(site, (cmp, lhs, rhs), then, otherwise))
                }
                _ => Err("expected [\"if\", \"<\", node, node, node, node]".to_owned()),
            }
        }
        ("if", _) => Err("expected [\"if\", \"<\", node, node, node, node]".to_owned()),
        (name, operands) => {
            let operands = all(operands)?;
            let operator = BinaryOp::ALL
                .into_iter()
                .find(|op| op.name() == name && !name.starts_with(char::is_alphabetic));
            match (operator, &operands[..]) {
                (Some(op), &[a, b]) => Ok(builder.binary(site, op, a, b)),
                (Some(_), _) => Err(format!("expected [\"{name}\", node, node]")),
                (None, &[a]) if name == UnaryOp::Neg.name() => Ok(builder.unary(site, UnaryOp::Neg, a)),
                (None, operands) => Ok(builder.call(site, site, name, operands)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use every_operation::programs;

    /// Programs that touch every operation.
    mod every_operation {
        use super::*;
        use crate::valid::FUNCTIONS;

        const HERE: Site = Site(0);

        pub fn programs() -> Vec<Program> {
            let mut programs = Vec::new();
            for function in FUNCTIONS {
                programs.push(program(|b, x, y, w| {
                    let arguments = match (function.name, function.usage.matches(',').count()) {
                        ("at", _) => vec![x, y],
                        ("expect", _) => vec![x, x],
                        (_, 0) => vec![x],
                        _ => vec![x, w],
                    };
                    b.call(HERE, HERE, function.name, &arguments)
                }));
            }
            programs.push(program(|b, x, _, _| b.max(HERE, x)));
            for cmp in [Cmp::Lt, Cmp::Le, Cmp::Gt, Cmp::Ge, Cmp::Eq, Cmp::Ne] {
                programs.push(program(|b, x, _, w| {
                    let third = b.constant(HERE, 1.0 / 3.0);
                    let negative = b.constant(HERE, -0.0);
                    b.select(HERE, (cmp, x, w), third, negative)
                }));
            }
            programs
        }

        fn program(f: impl FnOnce(&mut ProgramBuilder, Value, Value, Value) -> Value) -> Program {
            let mut b = ProgramBuilder::new(HERE, "all");
            b.doc("Line \"one\".\nLine two.");
            let x = b.input(HERE, "x", InputKind::Logit);
            let y = b.input(HERE, "y", InputKind::Target);
            let w = b.input(HERE, "w", InputKind::Row);
            let value = f(&mut b, x, y, w);
            let value = match b.kind(value) {
                Some(crate::ir::Kind::Logit) => b.mean(HERE, value),
                _ => value,
            };
            let (lse, at) = (b.lse(HERE, x), b.at(HERE, x, y));
            let negative = b.unary(HERE, UnaryOp::Neg, at);
            let loss = b.add(HERE, lse, negative);
            let loss = b.div(HERE, loss, w);
            b.output(HERE, "loss", loss);
            b.output(HERE, "value", value);
            b.finish().unwrap()
        }
    }

    #[test]
    fn what_is_saved_loads_as_the_same_program() {
        for program in programs() {
            let text = program.save();
            let loaded = Program::load(&text).unwrap();
            assert_eq!(loaded, program, "{text}");
            assert_eq!(loaded.hash(), program.hash());
        }
    }

    #[test]
    fn literals_come_back_bit_for_bit() {
        for value in
            [0.1, 1.0 / 3.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, -0.0, 0.1 + 0.2, 123_456_789.123_456_79]
        {
            let mut b = ProgramBuilder::new(Site(0), "literal");
            let x = b.input(Site(0), "x", InputKind::Logit);
            let (value_node, lse) = (b.constant(Site(0), value), b.lse(Site(0), x));
            let loss = b.mul(Site(0), lse, value_node);
            b.output(Site(0), "loss", loss);
            let program = b.finish().unwrap();
            assert_eq!(Program::load(&program.save()).unwrap(), program, "{value}");
        }
    }

    fn edited(edit: impl Fn(&mut Json)) -> String {
        let mut json: Json = serde_json::from_str(&programs()[0].save()).unwrap();
        edit(&mut json);
        Program::load(&json.to_string()).unwrap_err().to_string()
    }

    #[test]
    fn a_newer_schema_is_refused_by_its_number() {
        assert_eq!(
            edited(|json| json["schema"] = json!(2)),
            "expected a program of schema 1, found 2; \
             load it with the version that saved it, or save it again"
        );
        assert!(edited(|json| drop(json.as_object_mut().unwrap().remove("schema"))).contains("found none"));
    }

    #[test]
    fn a_damaged_node_is_named() {
        let error = edited(|json| json["nodes"][1] = json!(["exp", 1]));
        assert_eq!(error, "node 1: expected the place of an earlier node (below 1), found 1");
        let error = edited(|json| json["nodes"][1] = json!("exp"));
        assert!(error.starts_with("not a saved program"), "{error}");
        let error = edited(|json| json["nodes"][1] = json!([]));
        assert!(error.starts_with("node 1: expected a list"), "{error}");
        let error = edited(|json| json["outputs"][0]["node"] = json!(99));
        assert!(error.starts_with("node 99: output 0 names it"), "{error}");
    }

    #[test]
    fn a_program_that_breaks_the_language_gets_the_languages_messages() {
        let error = edited(|json| json["nodes"][1] = json!(["softmax", 0]));
        assert!(error.contains("node 1: there is no function `softmax` in a loss"), "{error}");
        let error = edited(|json| json["inputs"][0]["kind"] = json!("Row"));
        assert!(error.contains("has no Logit among its inputs"), "{error}");
        let error = edited(|json| json["inputs"][1]["name"] = json!("x\"; evil"));
        assert!(error.contains("input 1: `x\"; evil` cannot be the name of an input"), "{error}");
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(edited(|json| json["reduction"] = json!("mean")).contains("unknown field `reduction`"));
    }
}
