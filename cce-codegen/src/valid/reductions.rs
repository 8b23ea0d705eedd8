//! The reductions over the vocabulary, and the checks of their arguments.

use super::builder::What;
use super::{Diagnostic, ProgramBuilder, Site, Value, expand};
use crate::ir::{ExprId, Graph, InputKind, Kind, Node};

/// A reduction before it has its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduction {
    Lse,
    At,
    Mean,
    Expect { z: ExprId },
    Max,
    Argmax,
}

impl Reduction {
    pub(super) const fn of(self, f: ExprId) -> Node {
        match self {
            Reduction::Lse => Node::Lse(f),
            Reduction::At => Node::At(f),
            Reduction::Mean => Node::Mean(f),
            Reduction::Expect { z } => Node::Expect { z, f },
            Reduction::Max => Node::Max(f),
            Reduction::Argmax => Node::Argmax(f),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Reduction::Lse => "lse",
            Reduction::At => "at",
            Reduction::Mean => "mean",
            Reduction::Expect { .. } => "expect",
            Reduction::Max => "max",
            Reduction::Argmax => "argmax",
        }
    }

    /// Whether the reduction of a constant is that constant.
    pub(super) const fn averages(self) -> bool {
        matches!(self, Reduction::At | Reduction::Mean | Reduction::Expect { .. })
    }
}

impl ProgramBuilder {
    /// `lse(z)`: the logarithm of the sum of `exp(z)` over the vocabulary.
    pub fn lse(&mut self, site: Site, z: Value) -> Value {
        let Some(id) = self.argument(site, Reduction::Lse, z) else {
            return self.poison();
        };
        if !self.is_softmax(site, z, id, "lse") {
            return self.poison();
        }
        self.expr(site, Node::Lse(id))
    }

    /// `at(f, y)`: a Logit or Col value read at the target.
    pub fn at(&mut self, site: Site, f: Value, y: Value) -> Value {
        let target = self.known(y);
        let swapped =
            matches!(self.known(f).what, What::Target(_)) && !matches!(target.what, What::Target(_));
        if swapped {
            let text = (self.describe(y), self.describe(f));
            let message = format!("the arguments of `at` are swapped: {} is the Target", text.1);
            let help = format!("write `at({}, {})`", text.0.trim_matches('`'), text.1.trim_matches('`'));
            self.report(Diagnostic::new(site, message).help(help));
            return self.poison();
        }
        let is_target = match target.what {
            What::Target(_) => true,
            What::Poison => false,
            What::Expr(id) => {
                let described = self.describe(y);
                let message =
                    format!("`at` reads at a Target, and {described} is a {}", self.graph.kind(id).name());
                let help = match self.graph.input_of_kind(InputKind::Target) {
                    Some(input) => {
                        format!("the loss's Target is `{}`", self.graph.inputs()[input.index()].name)
                    }
                    None => "add `y: Target` to the inputs, and read at `y`".to_owned(),
                };
                self.report(Diagnostic::new(target.site, message).help(help));
                false
            }
        };
        match self.argument(site, Reduction::At, f) {
            Some(id) if is_target => self.expr(site, Node::At(id)),
            _ => self.poison(),
        }
    }

    /// `mean(f)`: the mean over the vocabulary.
    pub fn mean(&mut self, site: Site, f: Value) -> Value {
        self.reduce(site, Reduction::Mean, f)
    }

    /// `expect(z, f)`: the sum of `softmax(z) * f` over the vocabulary.
    pub fn expect(&mut self, site: Site, z: Value, f: Value) -> Value {
        // The logits of the softmax obey the rules of `lse`.
        let logits =
            self.argument(site, Reduction::Lse, z).filter(|&id| self.is_softmax(site, z, id, "expect"));
        match logits {
            Some(z) => self.reduce(site, Reduction::Expect { z }, f),
            None => {
                self.number(f);
                self.poison()
            }
        }
    }

    /// `max(f)`: the largest value over the vocabulary. Carries no gradient.
    pub fn max(&mut self, site: Site, f: Value) -> Value {
        self.reduce(site, Reduction::Max, f)
    }

    /// `argmax(f)`: the smallest vocabulary index at which `f` is largest, as a number. Carries no
    /// gradient.
    pub fn argmax(&mut self, site: Site, f: Value) -> Value {
        self.reduce(site, Reduction::Argmax, f)
    }

    fn reduce(&mut self, site: Site, reduction: Reduction, f: Value) -> Value {
        match self.argument(site, reduction, f) {
            Some(f) => self.expr(site, reduction.of(f)),
            None => self.poison(),
        }
    }

    /// The argument of a reduction, if it may be one: it varies over the vocabulary and contains no
    /// reduction.
    fn argument(&mut self, site: Site, reduction: Reduction, f: Value) -> Option<ExprId> {
        let id = self.number(f)?;
        let kind = self.graph.kind(id);
        let described = self.describe(f);
        let name = reduction.name();
        if !kind.varies_over_vocab() {
            let each = if kind == Kind::Row { "one value a token" } else { "one value" };
            let nothing = match reduction {
                Reduction::At => "there is nothing to read at a target".to_owned(),
                Reduction::Expect { .. } => "there is no vocabulary to take the expectation over".to_owned(),
                _ => format!("there is no vocabulary to take the {name} over"),
            };
            let message = format!("{described} is a {}, {each}{}: {nothing}", kind.name(), self.kinds(f));
            let help = match reduction {
                Reduction::At | Reduction::Mean | Reduction::Expect { .. } => {
                    format!("write {described} alone, or reduce a Logit or Col")
                }
                Reduction::Max => {
                    "reduce a Logit or Col, or write `max(a, b)` for the larger of two values".to_owned()
                }
                Reduction::Lse | Reduction::Argmax => "reduce a Logit".to_owned(),
            };
            self.report(Diagnostic::new(self.known(f).site, message).help(help));
            return None;
        }
        let Some(inner) = inner_reduction(&self.graph, id) else {
            return Some(id);
        };
        let (written, named) = (self.definition(inner), self.text(&self.graph, inner));
        let inside = if written == named {
            format!("`{written}`")
        } else {
            format!("`{named}`, which is `{written}`,")
        };
        let message = format!("{inside} is a reduction inside the argument of `{name}`");
        let help = self.without_nesting(reduction, id);
        let related = self.first_sites.get(&inner).copied();
        self.report(Diagnostic::new(site, message).help(help).related(related));
        None
    }

    /// What to write instead of a reduction whose argument contains a reduction.
    fn without_nesting(&self, reduction: Reduction, f: ExprId) -> String {
        let mut scratch = self.graph.clone();
        if let Some(expanded) = expand::expanded(&mut scratch, reduction, f) {
            return format!("write `{}`, which is the same", self.text(&scratch, expanded));
        }
        match expand::probability(&self.graph, f) {
            Some(z) => {
                let z = self.text(&self.graph, z);
                format!(
                    "`exp({z} - lse({z}))` is the softmax's probability: \
                     the sum of it times f over the vocabulary is `expect({z}, f)`"
                )
            }
            None => "all reductions are taken in one pass over the vocabulary: \
                     reduce first, then combine the results, which are Row values"
                .to_owned(),
        }
    }

    /// Whether `z` can be the logits of the program's softmax.
    fn is_softmax(&mut self, site: Site, value: Value, z: ExprId, name: &str) -> bool {
        if !depends_on_logit(&self.graph, z) {
            // That there is no Logit at all is said once, of the whole.
            let Some(input) = self.graph.input_of_kind(InputKind::Logit) else { return false };
            let logit = &self.graph.inputs()[input.index()].name;
            let described = self.describe(value);
            let message = format!("{described} does not depend on the logit `{logit}`, so it has no softmax");
            let help = match name {
                "expect" => format!("the softmax's logits come first: `expect({logit}, ...)`"),
                _ => format!("take the {name} of a value made from `{logit}`"),
            };
            self.report(Diagnostic::new(self.known(value).site, message).help(help));
            return false;
        }
        match self.softmax {
            None => {
                self.softmax = Some((z, site));
                true
            }
            Some((first, _)) if first == z => true,
            Some((first, first_site)) => {
                let message = format!(
                    "two softmaxes in one loss: over `{}` here, over `{}` before",
                    self.text(&self.graph, z),
                    self.text(&self.graph, first)
                );
                let help = "a loss has one softmax, so that one pass over the vocabulary computes it: \
                            use the same logits in every `lse` and `expect`, or write two losses";
                self.report(Diagnostic::new(site, message).help(help).related(Some(first_site)));
                false
            }
        }
    }

    /// An output is a value a token.
    pub(super) fn check_output(&mut self, name: &str, value: Value) {
        let Some(id) = self.number(value) else { return };
        let kind = self.graph.kind(id);
        if !kind.varies_over_vocab() {
            return;
        }
        let described = self.describe(value);
        let each = match kind {
            Kind::Col => "one value a vocabulary entry",
            _ => "one value for every token and vocabulary entry",
        };
        let message = format!(
            "the output `{name}` needs a Row, one value a token, and {described} is a {}, {each}{}",
            kind.name(),
            self.kinds(value)
        );
        let bare = described.trim_matches('`');
        let target = self.graph.input_of_kind(InputKind::Target);
        let target = target.map_or("y".into(), |input| self.graph.inputs()[input.index()].name.clone());
        let mut scratch = self.graph.clone();
        let at = match inner_reduction(&self.graph, id) {
            Some(_) => expand::expanded(&mut scratch, Reduction::At, id),
            None => None,
        };
        let help = match at {
            Some(at) => format!("read the logits at the target: `{}`", self.text(&scratch, at)),
            None if kind == Kind::Col => format!(
                "reduce it over the vocabulary: `at({bare}, {target})`, `mean({bare})` or `expect(z, {bare})`"
            ),
            None => format!(
                "reduce it over the vocabulary: `at({bare}, {target})`, `mean({bare})`, \
                 `expect(z, {bare})` or `lse({bare})`"
            ),
        };
        self.report(Diagnostic::new(self.known(value).site, message).help(help));
    }
}

/// A reduction that `id` contains, the last one written.
pub(super) fn inner_reduction(graph: &Graph, id: ExprId) -> Option<ExprId> {
    graph.reachable(&[id]).into_iter().rev().find(|&id| graph.get(id).is_reduction())
}

fn depends_on_logit(graph: &Graph, id: ExprId) -> bool {
    let logit = graph.input_of_kind(InputKind::Logit);
    graph.reachable(&[id]).into_iter().any(|id| match graph.get(id) {
        Node::Input(input) => Some(input) == logit,
        _ => false,
    })
}
