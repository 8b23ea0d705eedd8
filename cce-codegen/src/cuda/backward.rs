//! Generated device functions of the backward pass: coefficients a token, gradients an element.

use super::expr::{Statements, multiply_by_reciprocals};
use super::forward::row_leaf;
use super::values::{LoopInputs, values_struct};
use crate::diff::{Lowered, Parts, RankOne, hoist, uniform_factors};
use crate::ir::{ExprId, Graph, InputKind, Node};
use crate::plan::saved::SavedSlots;
use std::fmt::Write;

/// The backward pass of one program: element expressions over coefficients.
///
/// Coefficient slots: 0 the log2 of the normaliser; 1 the logit's target part; then one target part a Col
/// gradient; then the Row values that element expressions read.
pub(crate) struct Backward<'a> {
    lowered: &'a Lowered,
    saved: &'a SavedSlots,
    graph: Graph,
    /// The gradient normal forms: the logit's, then those of Col inputs.
    parts: Vec<&'a Parts>,
    /// Element expressions: the transform, then A and B of each normal form.
    softmax: Option<ExprId>,
    elements: Vec<(Option<ExprId>, Option<ExprId>)>,
    /// Of a sampled plan: the factors of each normal form's uniform part, a token's and a column's.
    uniform: Vec<Option<[ExprId; 2]>>,
    coefs: Vec<ExprId>,
    inputs: LoopInputs,
    has_target: bool,
}

impl<'a> Backward<'a> {
    pub(crate) fn new(lowered: &'a Lowered, saved: &'a SavedSlots, sampled: bool) -> Backward<'a> {
        let mut graph = lowered.graph.clone();
        let mut parts = vec![&lowered.logit];
        parts.extend(lowered.cols.iter().map(|(_, parts)| parts));
        // A uniform part without factors is refused before a plan is sampled.
        let mut factors_of = |part: &&Parts| {
            part.uniform.filter(|_| sampled).and_then(|b| uniform_factors(&mut graph, b).ok())
        };
        let factors: Vec<Option<RankOne>> = parts.iter().map(&mut factors_of).collect();
        let mut roots = Vec::new();
        roots.extend(lowered.softmax);
        for part in &parts {
            roots.extend(part.softmax);
            roots.extend(part.uniform);
        }
        roots.extend(factors.iter().flatten().flat_map(|factors| [factors.row, factors.col]));
        let roots = multiply_by_reciprocals(&mut graph, &roots);
        let hoisted = hoist(&mut graph, &roots);
        let inputs = LoopInputs::of(&graph, &hoisted.exprs);
        let mut exprs = hoisted.exprs.into_iter();
        let softmax = lowered.softmax.and_then(|_| exprs.next());
        let elements = parts
            .iter()
            .map(|part| {
                let a = part.softmax.and_then(|_| exprs.next());
                let b = part.uniform.and_then(|_| exprs.next());
                (a, b)
            })
            .collect();
        let uniform = factors
            .iter()
            .map(|factors| factors.and_then(|_| Some([exprs.next()?, exprs.next()?])))
            .collect();
        let has_target = lowered.graph.input_of_kind(InputKind::Target).is_some();
        let coefs = hoisted.coefs;
        Backward { lowered, saved, graph, parts, softmax, elements, uniform, coefs, inputs, has_target }
    }

    /// Coefficients a token: f32 each.
    pub(crate) fn coefs(&self) -> usize {
        1 + self.parts.len() + self.coefs.len()
    }

    /// Holes of `gradient.cuh`, which every `logits_gradient.cuh` calls.
    pub(crate) fn loop_functions(&self) -> String {
        let mut text = values_struct(self.graph.inputs());
        let _ = writeln!(text, "#define COL_GRADIENTS {}", self.parts.len() - 1);
        if self.has_target {
            text.push_str("#define HAS_TARGET\n");
        }
        text.push_str(&self.inputs.declarations(&self.graph));
        text.push_str("// What an element reads of its token: log2 of the normaliser, target parts, Row values.\nstruct Coefs { float lse2;");
        for k in 0..self.parts.len() {
            let _ = write!(text, " float target{k};");
        }
        for k in 0..self.coefs.len() {
            let _ = write!(text, " float c{k};");
        }
        text.push_str(
            " };\nDEVICE Coefs coefs_of(const float* coefs, int token, int tokens) {\n    return Coefs{",
        );
        let reads: Vec<String> =
            (0..self.coefs()).map(|k| format!("coefs[(u64){k} * tokens + token]")).collect();
        let _ = writeln!(text, "{}}};\n}}", reads.join(", "));

        let name = |id, node| self.inputs.name(&self.graph, id, node);
        let arguments = "const Coefs& row, const ColIn& column, const Uniform& uniform";
        let mut body = Statements::new(&self.graph, &name);
        let p = self.softmax.map_or("0.0f".to_owned(), |z| {
            let z = body.value(z);
            format!("exp2_approx({z} * LOG2E - row.lse2)")
        });
        let _ = writeln!(
            text,
            "DEVICE float probability(float x, {arguments}) {{\n{}    return {p};\n}}",
            body.text()
        );
        let mut body = Statements::new(&self.graph, &name);
        let gradient = self.element(&mut body, 0);
        let _ = writeln!(
            text,
            "// p A + [target] T + B / V, the target's share formed without a difference.\n\
             DEVICE float logit_gradient(float x, float p, bool at_target, {arguments}) {{\n{}    return {gradient};\n}}",
            body.text()
        );
        if self.parts.len() > 1 {
            let mut body = Statements::new(&self.graph, &name);
            for k in 1..self.parts.len() {
                let gradient = self.element(&mut body, k);
                body.line(&format!("parts[{}] = {gradient};", k - 1));
            }
            let _ = writeln!(
                text,
                "DEVICE void col_gradients(float (&parts)[COL_GRADIENTS], float x, float p, bool at_target, {arguments}) {{\n{}}}",
                body.text()
            );
        }
        text
    }

    /// dL/dx of a kept entry, and what it adds to the gradients of Col inputs, from its probability: the softmax
    /// parts alone.
    pub(crate) fn entry_gradients(&self) -> String {
        let name = |id, node| self.inputs.name(&self.graph, id, node);
        let arguments = "float p, float x, const Coefs& row, const ColIn& column, const Uniform& uniform";
        let softmax_part = |body: &mut Statements<'_>, a: Option<ExprId>| {
            a.map_or("0.0f".to_owned(), |a| format!("p * {}", body.value(a)))
        };
        let mut body = Statements::new(&self.graph, &name);
        let value = softmax_part(&mut body, self.elements[0].0);
        let mut text = format!(
            "// p A of a kept column.\n\
             DEVICE float entry_gradient({arguments}) {{\n{}    return {value};\n}}\n",
            body.text()
        );
        if self.parts.len() > 1 {
            let mut body = Statements::new(&self.graph, &name);
            let mut targets = String::new();
            for k in 1..self.parts.len() {
                let value = softmax_part(&mut body, self.elements[k].0);
                body.line(&format!("parts[{}] = {value};", k - 1));
                let _ = writeln!(targets, "    parts[{}] = row.target{k};", k - 1);
            }
            let _ = writeln!(
                text,
                "// The same of each Col input, and what the target adds to them.\n\
                 DEVICE void entry_col_gradients(float (&parts)[COL_GRADIENTS], {arguments}) {{\n{}}}\n\
                 DEVICE void target_col_gradients(float (&parts)[COL_GRADIENTS], const Coefs& row) {{\n{targets}}}",
                body.text()
            );
        }
        text
    }

    /// Whether the softmax part of a gradient depends on the logit besides its probability.
    pub(crate) fn entries_read_logits(&self) -> bool {
        let logit = self.graph.input_of_kind(InputKind::Logit);
        let reads = |&id: &ExprId| matches!(self.graph.get(id), Node::Input(input) if Some(input) == logit);
        let factors: Vec<ExprId> = self.elements.iter().filter_map(|(a, _)| *a).collect();
        self.graph.reachable(&factors).iter().any(reads)
    }

    /// Whether the gradients of Col inputs are wanted.
    pub(crate) fn has_cols(&self) -> bool {
        self.parts.len() > 1
    }

    /// Whether the logit's gradient has a uniform part, in a sampled plan.
    pub(crate) fn has_uniform_part(&self) -> bool {
        self.uniform[0].is_some()
    }

    /// Whether the gradient of a Col input has one, in a sampled plan.
    pub(crate) fn has_uniform_cols(&self) -> bool {
        self.uniform[1..].iter().any(Option::is_some)
    }

    /// The factors of the uniform parts: a token's and a column's, whose product over V it is.
    pub(crate) fn uniform_part(&self) -> String {
        let name = |id, node| self.inputs.name(&self.graph, id, node);
        let mut text = format!(
            "#define UNIFORM_PART {}\n#define UNIFORM_COLS {}\n",
            i32::from(self.has_uniform_part()),
            i32::from(self.has_uniform_cols())
        );
        if let Some(factors) = self.uniform[0] {
            for (of, arguments, factor) in
                [("row", "const Coefs& row", factors[0]), ("col", "const ColIn& column", factors[1])]
            {
                let mut body = Statements::new(&self.graph, &name);
                let value = body.value(factor);
                let _ = writeln!(
                    text,
                    "DEVICE float uniform_{of}({arguments}, const Uniform& uniform) {{\n{}    return {value};\n}}",
                    body.text()
                );
            }
        }
        if self.has_uniform_cols() {
            text.push_str("// Those of each Col input.\n");
            for (of, at, arguments) in [("row", 0, "const Coefs& row"), ("col", 1, "const ColIn& column")] {
                let mut body = Statements::new(&self.graph, &name);
                for (k, factors) in self.uniform[1..].iter().enumerate() {
                    let value = factors.map_or("0.0f".to_owned(), |factors| body.value(factors[at]));
                    body.line(&format!("parts[{k}] = {value};"));
                }
                let _ = writeln!(
                    text,
                    "DEVICE void uniform_{of}_of_cols(float (&parts)[COL_GRADIENTS], {arguments}, const Uniform& uniform) {{\n{}}}",
                    body.text()
                );
            }
        }
        text
    }

    fn element(&self, body: &mut Statements<'_>, k: usize) -> String {
        let (a, b) = self.elements[k];
        let softmax = a.map_or("0.0f".to_owned(), |a| format!("p * {}", body.value(a)));
        let mut gradient = softmax;
        if self.has_target {
            gradient = format!("(at_target ? row.target{k} : {gradient})");
        }
        if let Some(b) = b {
            let b = body.value(b);
            gradient = format!("{gradient} + {b} * (1.0f / VOCAB)");
        }
        gradient
    }

    /// Holes of `rows_backward.cuh`. `outputs` are those of the program; `differentiable` says which take an
    /// upstream gradient.
    pub(crate) fn row_functions(&self, differentiable: &[bool]) -> String {
        let inputs = self.graph.inputs();
        let rows: Vec<ExprId> =
            self.lowered.rows.iter().chain(&self.lowered.scalars).map(|&(_, expr)| expr).collect();
        let mut text = values_struct(inputs);
        let _ = writeln!(text, "#define OUTPUTS {}\n#define COEFS {}", differentiable.len(), self.coefs());
        let _ = writeln!(
            text,
            "#define INPUT_ROWS {}\n#define ROW_GRADIENTS {}",
            rows.len(),
            self.lowered.rows.len()
        );
        if self.has_target {
            text.push_str("#define HAS_TARGET\n");
        }
        text.push_str(
            "// Gradients of Row inputs, then one value a token for each Scalar input.\n\
             struct InputRows { float* row[INPUT_ROWS > 0 ? INPUT_ROWS : 1]; };\n\
             // Of a token without a gradient: its Row inputs get `value`, sums over tokens get nothing.\n\
             DEVICE void write_input_rows(const InputRows& gradients, int token, float value) {\n\
             \x20   for (int k = 0; k < INPUT_ROWS; k++) gradients.row[k][token] = k < ROW_GRADIENTS ? value : 0.0f;\n}\n",
        );
        text
    }

    /// The function behind the skeleton's structs: `coefficients`.
    pub(crate) fn coefficients(&self, differentiable: &[bool]) -> String {
        let graph = &self.graph;
        let mut text = String::from(
            "DEVICE void coefficients(const float* saved, const Values& values, const Upstreams& upstreams, float factor, float* coefs,\n\
             \x20       const InputRows& gradients, float* magnitude, int token, int target, int tokens) {\n",
        );
        let stat = |id: ExprId| {
            let slot = self.saved.slot_of(id)?;
            Some(format!("saved[(u64){slot} * tokens + token]"))
        };
        let leaf = |id: ExprId, node: Node| row_leaf(graph, id, node, &stat);
        let mut body = Statements::new(graph, &leaf);
        if self.has_target {
            body.line("[[maybe_unused]] const float target_logit = saved[token];");
        }
        for (k, _) in differentiable.iter().enumerate().filter(|(_, takes)| **takes) {
            body.line(&format!(
                "[[maybe_unused]] const float upstream{k} = upstream_at(upstreams.of[{k}], token, factor);"
            ));
        }
        // Where A and B are Row values, their own sizes bound every element; else the upstream gradients
        // stand for them.
        let varies = |expr: Option<ExprId>| expr.is_some_and(|expr| graph.kind(expr).varies_over_vocab());
        let bounded =
            self.has_target && !varies(self.lowered.logit.softmax) && !varies(self.lowered.logit.uniform);
        let mut magnitudes: Vec<String> = differentiable
            .iter()
            .enumerate()
            .filter(|(_, takes)| **takes && !bounded)
            .map(|(k, _)| format!("fabsf(upstream{k})"))
            .collect();

        let lse = self.saved.lse().and_then(stat).unwrap_or_else(|| "0.0f".to_owned());
        body.line(&format!("coefs[token] = {lse} * LOG2E;"));
        for (k, part) in self.parts.iter().enumerate() {
            let value = self.target_part(&mut body, part, &stat);
            if k == 0 {
                magnitudes.push(format!("fabsf({value})"));
            }
            body.line(&format!("coefs[(u64){} * tokens + token] = {value};", 1 + k));
        }
        for (k, &coef) in self.coefs.iter().enumerate() {
            let value = body.value(coef);
            body.line(&format!("coefs[(u64){} * tokens + token] = {value};", 1 + self.parts.len() + k));
        }
        for (k, &(_, row)) in self.lowered.rows.iter().chain(&self.lowered.scalars).enumerate() {
            let value = body.value(row);
            body.line(&format!("gradients.row[{k}][token] = {value};"));
        }
        if let Some(a) = self.lowered.logit.softmax_at_target {
            let a = body.value(a);
            // A Row value A meets probabilities of at most 1 - p_y away from the target: A alone may be
            // larger by any factor.
            magnitudes.push(match self.saved.nll().and_then(stat).filter(|_| bounded) {
                Some(nll) => format!("fabsf(expm1f(-{nll}) * {a})"),
                None => format!("fabsf({a})"),
            });
        }
        if let Some(b) = self.lowered.logit.uniform.filter(|_| bounded) {
            let b = body.value(b);
            magnitudes.push(format!("fabsf({b}) / VOCAB"));
        }
        let largest = magnitudes.into_iter().reduce(|a, b| format!("fmaxf({a}, {b})"));
        body.line(&format!("if (magnitude) magnitude[token] = {};", largest.unwrap_or("0.0f".to_owned())));
        let _ = writeln!(text, "{}}}", body.text());
        text
    }

    /// `p_y A_y + T`, as `(A_y + T) - (1 - p_y) A_y`.
    fn target_part(
        &self,
        body: &mut Statements<'_>,
        part: &Parts,
        stat: &dyn Fn(ExprId) -> Option<String>,
    ) -> String {
        let rest = part.target_rest.map(|rest| body.value(rest));
        let own = part.softmax_at_target.map(|a| {
            let nll = self.saved.nll().and_then(stat).unwrap_or_else(|| "0.0f".to_owned());
            let a = body.value(a);
            // 1 - p_y = -expm1(-nll)
            format!("expm1f(-{nll}) * {a}")
        });
        match (rest, own) {
            (Some(rest), Some(own)) => format!("({rest} + {own})"),
            (Some(value), None) | (None, Some(value)) => value,
            (None, None) => "0.0f".to_owned(),
        }
    }
}
