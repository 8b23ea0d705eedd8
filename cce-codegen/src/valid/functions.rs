//! The functions of the language by name: what there is, calls, and what a wrong name may have
//! meant.

use super::{Diagnostic, ProgramBuilder, Site, Value};
use crate::ir::{BinaryOp, InputKind, UnaryOp};

/// A function of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// A call of it, as the documentation would write it.
    pub usage: &'static str,
    /// What it computes.
    pub meaning: &'static str,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Unary(UnaryOp),
    Binary(BinaryOp),
    Lse,
    At,
    Mean,
    Expect,
    /// A reduction of one argument, elementwise on two.
    Max,
    Argmax,
}

const fn function(name: &'static str, usage: &'static str, meaning: &'static str, what: What) -> Function {
    Function { name, usage, meaning, what }
}

/// All functions of the language: those on values of any kind first, then the reductions over the
/// vocabulary.
pub const FUNCTIONS: &[Function] = &[
    function("exp", "exp(a)", "e to the power a", What::Unary(UnaryOp::Exp)),
    function("expm1", "expm1(a)", "exp(a) - 1, exact near 0", What::Unary(UnaryOp::Expm1)),
    function("ln", "ln(a)", "the natural logarithm", What::Unary(UnaryOp::Ln)),
    function("log1p", "log1p(a)", "ln(1 + a), exact near 0", What::Unary(UnaryOp::Log1p)),
    function("tanh", "tanh(a)", "the hyperbolic tangent", What::Unary(UnaryOp::Tanh)),
    function("sigmoid", "sigmoid(a)", "1 / (1 + exp(-a))", What::Unary(UnaryOp::Sigmoid)),
    function(
        "log_sigmoid",
        "log_sigmoid(a)",
        "ln(sigmoid(a)) without overflow",
        What::Unary(UnaryOp::LogSigmoid),
    ),
    function("softplus", "softplus(a)", "ln(1 + exp(a)) without overflow", What::Unary(UnaryOp::Softplus)),
    function("sqrt", "sqrt(a)", "the square root", What::Unary(UnaryOp::Sqrt)),
    function("abs", "abs(a)", "the absolute value; its gradient at 0 is 0", What::Unary(UnaryOp::Abs)),
    function(
        "pow",
        "pow(a, b)",
        "a to the power b, any real b; a is not negative",
        What::Binary(BinaryOp::Pow),
    ),
    function("min", "min(a, b)", "the smaller of two; the first at ties", What::Binary(BinaryOp::Min)),
    function(
        "max",
        "max(a, b)",
        "the larger of two, the first at ties; of one Logit or Col, `max(z)`, \
         the largest over the vocabulary, without a gradient",
        What::Max,
    ),
    function("lse", "lse(z)", "the logarithm of the sum of exp(z) over the vocabulary", What::Lse),
    function("at", "at(z, y)", "the value at the target", What::At),
    function("mean", "mean(z)", "the mean over the vocabulary", What::Mean),
    function("expect", "expect(z, f)", "the sum of softmax(z) * f over the vocabulary", What::Expect),
    function(
        "argmax",
        "argmax(z)",
        "the vocabulary entry with the largest z, without a gradient",
        What::Argmax,
    ),
];

/// What other libraries call these things, and how to write them here.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (&["log", "log_e", "loge"], "the natural logarithm is `ln(a)`"),
    (&["log2", "log10"], "write `ln(a) / ln(2.0)`, or with 10.0"),
    (&["exp2"], "write `exp(a * ln(2.0))`"),
    (&["logsumexp", "log_sum_exp", "logaddexp", "log_partition"], "write `lse(z)`"),
    (
        &["softmax"],
        "the softmax's expectation of f is `expect(z, f)`; \
         its logarithm at the target is `at(z, y) - lse(z)`",
    ),
    (&["log_softmax", "logsoftmax", "log_prob", "logprob"], "write `at(z, y) - lse(z)`"),
    (&["cross_entropy", "nll", "nll_loss"], "write `lse(z) - at(z, y)`"),
    (&["entropy"], "write `lse(z) - expect(z, z)`"),
    (
        &["sum", "reduce_sum"],
        "the reductions are `lse(z)`, `at(z, y)`, `mean(z)` and `expect(z, f)`; \
         a sum over the tokens is asked for in the call",
    ),
    (&["average", "avg"], "write `mean(z)`"),
    (
        &["gather", "index", "index_select", "take", "pick", "select_target"],
        "read a value at the target with `at(z, y)`",
    ),
    (&["expectation"], "write `expect(z, f)`"),
    (&["relu"], "write `max(a, 0.0)`"),
    (&["clamp", "clip"], "write `min(max(a, low), high)`"),
    (&["powf", "powi", "power"], "write `pow(a, b)`"),
    (&["square", "sq"], "write `a * a`"),
    (&["rsqrt"], "write `1.0 / sqrt(a)`"),
    (&["logistic", "expit"], "write `sigmoid(a)`"),
    (&["logsigmoid"], "write `log_sigmoid(a)`"),
    (&["ln_1p", "log_1p"], "write `log1p(a)`"),
    (&["exp_m1"], "write `expm1(a)`"),
    (&["fabs"], "write `abs(a)`"),
    (&["maximum", "fmax"], "write `max(a, b)`"),
    (&["minimum", "fmin"], "write `min(a, b)`"),
    (&["where", "select", "cond", "ifelse"], "write `if a < b { ... } else { ... }`"),
    (&["sign", "signum"], "write `if a < 0.0 { -1.0 } else { 1.0 }`"),
    (&["softcap", "soft_cap"], "write `cap * tanh(z / cap)`"),
];

/// The function of this name.
pub(super) fn named(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

/// How it is called; its bare name if there is no such function.
pub(super) fn usage(name: &str) -> &str {
    named(name).map_or(name, |function| function.usage)
}

/// The candidate that `name` is most likely a misspelling of: at most a third of its letters
/// differ, and one is the same.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let letters = name.chars().count();
    let allowed = letters.div_ceil(3).min(letters.saturating_sub(1));
    let near = candidates.map(|candidate| (edits(name, candidate), candidate));
    near.filter(|&(edits, _)| edits <= allowed)
        .min_by_key(|&(edits, _)| edits)
        .map(|(_, candidate)| candidate)
}

/// Edit distance: insertions, deletions, replacements and swaps of neighbours.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

impl ProgramBuilder {
    /// Calls a function of the language by its name; `name_site` is the name's own place.
    pub fn call(&mut self, site: Site, name_site: Site, name: &str, arguments: &[Value]) -> Value {
        let Some(function) = named(name) else {
            return match self.find(name) {
                Some(value) => self.not_a_function(name_site, name, value),
                None => self.unknown_function(name_site, name),
            };
        };
        match (function.what, arguments) {
            (What::Unary(op), &[a]) => self.unary(site, op, a),
            (What::Binary(op), &[a, b]) => self.binary(site, op, a, b),
            (What::Max, &[z]) => self.max(site, z),
            (What::Max, &[a, b]) => self.binary(site, BinaryOp::Max, a, b),
            (What::Lse, &[z]) => self.lse(site, z),
            (What::At, &[z, y]) => self.at(site, z, y),
            (What::Mean, &[z]) => self.mean(site, z),
            (What::Expect, &[z, f]) => self.expect(site, z, f),
            (What::Argmax, &[z]) => self.argmax(site, z),
            _ => self.wrong_arity(site, function, arguments),
        }
    }

    fn unknown_function(&mut self, site: Site, name: &str) -> Value {
        let elsewhere = ELSEWHERE.iter().find(|(names, _)| names.contains(&name.to_lowercase().as_str()));
        let near = nearest(name, FUNCTIONS.iter().map(|function| function.name));
        let help = match (elsewhere, near) {
            (Some((_, help)), _) => (*help).to_owned(),
            (None, Some(near)) => format!("did you mean `{}`?", usage(near)),
            (None, None) => {
                let all: Vec<_> = FUNCTIONS.iter().map(|function| function.name).collect();
                format!(
                    "the functions are {}; to choose, write `if a < b {{ ... }} else {{ ... }}`",
                    all.join(", ")
                )
            }
        };
        self.report(Diagnostic::new(site, format!("there is no function `{name}` in a loss")).help(help));
        self.poison()
    }

    fn not_a_function(&mut self, site: Site, name: &str, value: Value) -> Value {
        if self.known(value).what != super::builder::What::Poison {
            let error = Diagnostic::new(site, format!("`{name}` is a value, not a function"));
            self.report(error.help(format!("multiply with `{name} * (...)`")));
        }
        self.poison()
    }

    fn wrong_arity(&mut self, site: Site, function: &Function, arguments: &[Value]) -> Value {
        let wanted = match function.what {
            What::Max => "one argument or two",
            What::Unary(_) | What::Lse | What::Mean | What::Argmax => "one argument",
            What::Binary(_) | What::At | What::Expect => "two arguments",
        };
        let found = match arguments.len() {
            0 => "none is".to_owned(),
            1 => "1 is".to_owned(),
            many => format!("{many} are"),
        };
        let help = match (function.what, arguments) {
            (What::At, &[z]) => match self.graph.input_of_kind(InputKind::Target) {
                Some(y) => format!("write `at({}, {})`", self.bare(z), self.graph.inputs()[y.index()].name),
                None => format!("write `at({}, y)`, and add `y: Target` to the inputs", self.bare(z)),
            },
            (What::Expect, &[f]) => {
                format!("write `expect(z, {})`: first the softmax's logits", self.bare(f))
            }
            (What::Binary(BinaryOp::Min), &[z])
                if self.kind(z).is_some_and(|kind| kind.varies_over_vocab()) =>
            {
                format!("the smallest value over the vocabulary is `-max(-{})`", self.bare(z))
            }
            (What::Binary(BinaryOp::Min) | What::Max, &[_, _, _, ..]) => {
                format!("nest the calls: `{name}(a, {name}(b, c))`", name = function.name)
            }
            _ => format!("write `{}`", function.usage),
        };
        let message = format!("`{}` takes {wanted}, and {found} given", function.name);
        self.report(Diagnostic::new(site, message).help(help));
        self.poison()
    }

    fn bare(&self, value: Value) -> String {
        self.describe(value).trim_matches('`').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_of_neighbours_is_one_edit() {
        assert_eq!(edits("tnah", "tanh"), 1);
        assert_eq!(edits("", "lse"), 3);
        assert_eq!(edits("expect", "expect"), 0);
    }

    #[test]
    fn a_name_far_from_all_has_no_nearest() {
        let names = || FUNCTIONS.iter().map(|function| function.name);
        assert_eq!(nearest("sigmod", names()), Some("sigmoid"));
        assert_eq!(nearest("frobnicate", names()), None);
        assert_eq!(nearest("q", ["x", "y"].into_iter()), None);
    }

    #[test]
    fn names_of_other_libraries_are_not_names_of_ours() {
        for name in ELSEWHERE.iter().flat_map(|(names, _)| *names) {
            assert!(named(name).is_none(), "{name}");
        }
    }
}
