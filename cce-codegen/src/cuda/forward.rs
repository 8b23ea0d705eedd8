//! Generated device functions of the forward pass: the transform, the statistics, and what they become.

use super::expr::{Leaf, Statements, multiply_by_reciprocals};
use super::values::{LoopInputs, field, read_input, values_struct};
use crate::diff::{Lowered, hoist};
use crate::ir::{ExprId, Graph, InputKind, Node};
use crate::plan::saved::SavedSlots;
use std::fmt::Write;

/// What one accumulator of the vocabulary loop keeps, besides the softmax's reference and sum.
#[derive(Clone, Copy)]
enum Keep {
    /// sum of exp(z - reference) * f
    Expect(ExprId),
    /// sum of f
    Sum(ExprId),
    /// largest f
    Max(ExprId),
    /// largest f, and where (as bits of an int)
    Argmax(ExprId),
}

impl Keep {
    const fn slots(self) -> usize {
        if matches!(self, Keep::Argmax(_)) { 2 } else { 1 }
    }

    const fn expr(self) -> ExprId {
        match self {
            Keep::Expect(f) | Keep::Sum(f) | Keep::Max(f) | Keep::Argmax(f) => f,
        }
    }
}

/// The forward pass of one program: which statistics, in which slots.
pub(crate) struct Forward<'a> {
    lowered: &'a Lowered,
    saved: &'a SavedSlots,
    has_target: bool,
    keeps: Vec<(ExprId, Keep, usize)>,
    stats: usize,
}

impl<'a> Forward<'a> {
    pub(crate) fn new(lowered: &'a Lowered, saved: &'a SavedSlots) -> Forward<'a> {
        let mut at = if lowered.softmax.is_some() { 2 } else { 0 };
        let mut keeps = Vec::new();
        for &stat in &lowered.stats {
            let keep = match lowered.graph.get(stat) {
                Node::Expect { f, .. } => Keep::Expect(f),
                Node::Mean(f) => Keep::Sum(f),
                Node::Max(f) => Keep::Max(f),
                Node::Argmax(f) => Keep::Argmax(f),
                _ => continue,
            };
            keeps.push((stat, keep, at));
            at += keep.slots();
        }
        let has_target = lowered.graph.input_of_kind(InputKind::Target).is_some();
        // A program of targets' logits alone still walks the vocabulary once; one unused slot keeps arrays
        // non-empty.
        Forward { lowered, saved, has_target, keeps, stats: at.max(1) }
    }

    /// Accumulators a row: f32 each.
    pub(crate) fn stats(&self) -> usize {
        self.stats
    }

    /// Holes of `statistics.cuh` and the forward pass over the logits.
    pub(crate) fn loop_functions(&self) -> String {
        let mut graph = self.lowered.graph.clone();
        let mut roots: Vec<ExprId> = self.keeps.iter().map(|(_, keep, _)| keep.expr()).collect();
        roots.extend(self.lowered.softmax);
        let roots = multiply_by_reciprocals(&mut graph, &roots);
        let hoisted = hoist(&mut graph, &roots);
        let inputs = LoopInputs::of(&graph, &hoisted.exprs);
        let mut text = values_struct(graph.inputs());
        text.push_str(&self.constants());
        let raw = self.lowered.softmax.is_some_and(|z| matches!(self.lowered.graph.get(z), Node::Input(_)));
        let _ = writeln!(text, "#define MASK_LOGITS {}", i32::from(raw && self.keeps.is_empty()));
        text.push_str(&inputs.declarations(&graph));
        text.push_str(&row_in(&graph, &hoisted.coefs));

        let name = |id, node| inputs.name(&graph, id, node);
        let arguments = "const RowIn& row, const ColIn& column, const Uniform& uniform";
        if self.lowered.softmax.is_some() {
            let mut body = Statements::new(&graph, &name);
            let z = body.value(hoisted.exprs[self.keeps.len()]);
            let _ = writeln!(
                text,
                "// The logit of the softmax.\nDEVICE float logit_of(float x, {arguments}) {{\n{}    return {z};\n}}",
                body.text()
            );
        }
        let _ = writeln!(
            text,
            "// One column joins: e = exp(z - reference), 0 where it is not live.\n\
             DEVICE void stats_add(float (&s)[STATS], float x, float z, float e, bool live, int col, {arguments}) {{"
        );
        let transform = self.lowered.softmax.map(|_| hoisted.exprs[self.keeps.len()]);
        let with_z = |id, node| if transform == Some(id) { Some("z".to_owned()) } else { name(id, node) };
        let mut body = Statements::new(&graph, &with_z);
        if self.lowered.softmax.is_some() {
            body.line("s[1] += e;");
        }
        for ((_, keep, at), &f) in self.keeps.iter().zip(&hoisted.exprs) {
            let f = body.value(f);
            body.line(&match keep {
                Keep::Expect(_) => format!("s[{at}] += live ? e * {f} : 0.0f;"),
                Keep::Sum(_) => format!("s[{at}] += live ? {f} : 0.0f;"),
                Keep::Max(_) => format!("if (live) s[{at}] = max_of(s[{at}], {f});"),
                Keep::Argmax(_) => {
                    let place = at + 1;
                    format!(
                        "if (live && ({f} > s[{at}] || ({f} == s[{at}] && col < __float_as_int(s[{place}])))) \
                         {{ s[{at}] = {f}; s[{place}] = __int_as_float(col); }}"
                    )
                }
            });
        }
        let _ = writeln!(text, "{}}}", body.text());
        text.push_str(&self.merge_functions());
        text
    }

    fn constants(&self) -> String {
        let mut text = format!("#define STATS {}\n", self.stats);
        if self.lowered.softmax.is_some() {
            text.push_str("#define HAS_SOFTMAX\n");
        }
        if self.has_target {
            text.push_str("#define HAS_TARGET\n");
        }
        text
    }

    /// `stats_init`, `stats_rescale`, `stats_merge`.
    fn merge_functions(&self) -> String {
        let softmax = self.lowered.softmax.is_some();
        let mut init = Vec::new();
        let mut rescale = Vec::new();
        let mut merge = Vec::new();
        if softmax {
            init.push("s[0] = NEG_INF; s[1] = 0.0f;".to_owned());
            rescale.push("s[1] *= factor;".to_owned());
            merge.push(
                "float reference = fmaxf(s[0], o[0]), mine = rescale(s[0], reference), its = rescale(o[0], reference);"
                    .to_owned(),
            );
            merge.push("s[0] = reference; s[1] = s[1] * mine + o[1] * its;".to_owned());
        } else if self.keeps.is_empty() {
            init.push("s[0] = 0.0f;".to_owned());
        }
        for (_, keep, at) in &self.keeps {
            match keep {
                Keep::Expect(_) => {
                    init.push(format!("s[{at}] = 0.0f;"));
                    rescale.push(format!("s[{at}] *= factor;"));
                    merge.push(format!("s[{at}] = s[{at}] * mine + o[{at}] * its;"));
                }
                Keep::Sum(_) => {
                    init.push(format!("s[{at}] = 0.0f;"));
                    merge.push(format!("s[{at}] += o[{at}];"));
                }
                Keep::Max(_) => {
                    init.push(format!("s[{at}] = NEG_INF;"));
                    merge.push(format!("s[{at}] = max_of(s[{at}], o[{at}]);"));
                }
                Keep::Argmax(_) => {
                    let place = at + 1;
                    init.push(format!("s[{at}] = NEG_INF; s[{place}] = __int_as_float(0x7fffffff);"));
                    merge.push(format!(
                        "if (o[{at}] > s[{at}] || (o[{at}] == s[{at}] && __float_as_int(o[{place}]) < __float_as_int(s[{place}]))) \
                         {{ s[{at}] = o[{at}]; s[{place}] = o[{place}]; }}"
                    ));
                }
            }
        }
        let join = |lines: Vec<String>| lines.iter().map(|line| format!("    {line}\n")).collect::<String>();
        format!(
            "DEVICE void stats_init(float (&s)[STATS]) {{\n{}}}\n\
             DEVICE void stats_rescale(float (&s)[STATS], float factor) {{\n{}}}\n\
             DEVICE void stats_merge(float (&s)[STATS], const float (&o)[STATS]) {{\n{}}}\n",
            join(init),
            join(rescale),
            join(merge)
        )
    }

    /// Holes of `rows_forward.cuh`: from statistics to saved values and outputs.
    pub(crate) fn row_functions(&self, outputs: usize) -> String {
        let graph = &self.lowered.graph;
        let inputs = graph.inputs();
        let mut text = values_struct(inputs);
        text.push_str(&self.constants());
        let _ = writeln!(text, "#define SAVED {}\n#define OUTPUTS {outputs}", self.saved.len());
        text.push_str("struct Rows { float* row[OUTPUTS]; };\n");
        text.push_str(&self.merge_functions());
        text.push_str(
            "DEVICE void write_outputs(const Rows& outputs, int token, float value) {\n\
             \x20   for (int k = 0; k < OUTPUTS; k++) if (outputs.row[k]) outputs.row[k][token] = value;\n}\n",
        );
        text.push_str(
            "DEVICE void finish(const float (&s)[STATS], float* saved, const Values& values, const Rows& outputs, int token, int target, \
             int tokens) {\n",
        );

        // At the target's column, elementwise expressions read the target's raw logit and its Col inputs.
        let at_target: Leaf<'_> = &|_, node| match node {
            Node::Input(input) => match inputs[input.index()].kind {
                InputKind::Logit => Some("target_logit".to_owned()),
                InputKind::Col => Some(format!("values.{}[target]", field(inputs, input))),
                _ => read_input(inputs, input, "token"),
            },
            _ => None,
        };
        let mut body = Statements::new(graph, at_target);
        if self.has_target {
            body.line("[[maybe_unused]] const float target_logit = saved[token];");
        }
        if let Some(z) = self.lowered.softmax {
            body.line("const float reference = s[0], sum = s[1];");
            if self.has_target {
                let z = body.value(z);
                for line in [
                    &format!("const float own_exponent = {z} * LOG2E, top = fmaxf(reference, own_exponent);"),
                    "const float shift = rescale(reference, top), own = exp2f(own_exponent - top), total = sum * shift + own;",
                    "// The others' sum relative to the target, as a power of two: the loss without a difference.",
                    "const float excess = log2f(sum) + (reference - own_exponent);",
                    "const float nll = total != total ? total : excess > 30.0f ? excess * LN2 + log1pf(exp2f(-excess)) : log1pf(exp2f(excess));",
                ] {
                    body.line(line);
                }
            } else {
                body.line("const float top = reference, shift = 1.0f, total = sum;");
            }
            body.line("const float lse = LN2 * (top + log2f(total));");
        }
        for &(stat, keep, at) in &self.keeps {
            let own = if self.has_target { Some(body.value(keep.expr())) } else { None };
            let name = stat_name(stat);
            let with = |op: &str, own: &Option<String>| {
                own.as_ref().map_or(String::new(), |own| format!(" {op} {own}"))
            };
            match keep {
                Keep::Expect(_) => body.line(&format!(
                    "const float {name} = (s[{at}] * shift{}) / total;",
                    with("+ own *", &own)
                )),
                Keep::Sum(_) => {
                    body.line(&format!("const float {name} = (s[{at}]{}) / VOCAB;", with("+", &own)))
                }
                Keep::Max(_) => body.line(&match own {
                    Some(own) => format!("const float {name} = max_of(s[{at}], {own});"),
                    None => format!("const float {name} = s[{at}];"),
                }),
                Keep::Argmax(_) => {
                    let place = at + 1;
                    body.line(&match own {
                        Some(own) => format!(
                            "const float {name} = (float)({own} > s[{at}] || ({own} == s[{at}] && target < __float_as_int(s[{place}])) \
                             ? target : __float_as_int(s[{place}]));"
                        ),
                        None => format!("const float {name} = (float)__float_as_int(s[{place}]);"),
                    });
                }
            }
        }
        let statements = body.text().to_owned();

        let leaf = |id: ExprId, node: Node| row_leaf(graph, id, node, &|stat| Some(self.local_name(stat)));
        let mut rows = Statements::new(graph, &leaf);
        for (slot, &stat) in self.saved.stats().iter().enumerate() {
            let name = self.local_name(stat);
            rows.line(&format!("saved[(u64){} * tokens + token] = {name};", slot + self.saved.first_stat()));
        }
        for (k, &output) in self.lowered.outputs.iter().enumerate() {
            let value = rows.value(output);
            rows.line(&format!("if (outputs.row[{k}]) outputs.row[{k}][token] = {value};"));
        }
        // A scope of its own: both sets of statements may name the same scalar.
        let _ = writeln!(text, "{statements}    {{\n{}    }}\n}}", rows.text());
        text
    }

    fn local_name(&self, stat: ExprId) -> String {
        match self.lowered.graph.get(stat) {
            Node::Lse(_) => "lse".to_owned(),
            Node::Nll(_) => "nll".to_owned(),
            _ => stat_name(stat),
        }
    }
}

fn stat_name(stat: ExprId) -> String {
    format!("stat{}", stat.0)
}

/// `struct RowIn` and `row_in`: Row values that the vocabulary loop reads, computed from Row and Scalar
/// inputs.
fn row_in(graph: &Graph, coefs: &[ExprId]) -> String {
    let mut text = String::from("struct RowIn {");
    for k in 0..coefs.len() {
        let _ = write!(text, " float c{k};");
    }
    text.push_str(" };\nDEVICE RowIn row_in(const Values& values, int token) {\n");
    let leaf: Leaf<'_> = &|_, node| match node {
        Node::Input(input) => read_input(graph.inputs(), input, "token"),
        _ => None,
    };
    let mut body = Statements::new(graph, leaf);
    let names: Vec<String> = coefs.iter().map(|&coef| body.value(coef)).collect();
    let _ = writeln!(text, "{}    return RowIn{{{}}};\n}}", body.text(), names.join(", "));
    text
}

/// Names of Row leaves where a thread works on a token: `stat` gives those of reductions.
pub(super) fn row_leaf(
    graph: &Graph,
    id: ExprId,
    node: Node,
    stat: &dyn Fn(ExprId) -> Option<String>,
) -> Option<String> {
    match node {
        Node::Input(input) => read_input(graph.inputs(), input, "token"),
        Node::TargetValue(input) => Some(match graph.inputs()[input.index()].kind {
            InputKind::Logit => "target_logit".to_owned(),
            _ => format!("values.{}[target]", field(graph.inputs(), input)),
        }),
        Node::Upstream(output) => Some(format!("upstream{output}")),
        node if node.is_reduction() => stat(id),
        _ => None,
    }
}
