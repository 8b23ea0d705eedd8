//! The builder: names, arithmetic and outputs. Reductions, calls by name and the checks of the
//! whole are its siblings.

use super::{Diagnostic, Site, functions};
use crate::ir::text::Printer;
use crate::ir::{BinaryOp, Cmp, ExprId, Graph, Input, InputId, InputKind, Kind, Node, UnaryOp};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

/// Handle to a value of one [`ProgramBuilder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    builder: u32,
    at: u32,
}

/// What is behind a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A mistake that has been reported.
    Poison,
    /// The Target input.
    Target(InputId),
    /// An expression.
    Expr(ExprId),
}

/// A value, and how the user sees it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) what: What,
    pub(super) site: Site,
    pub(super) name: Option<String>,
}

/// Builds a program, one operation at a time, and checks it.
///
/// Every operation takes the [`Site`] of the expression that it stands for, and handles of its
/// operands; it returns a handle of its result. Mistakes do not stop the building: they are
/// collected, and [`ProgramBuilder::finish`] returns them all.
///
/// ```
/// use cce_codegen::ir::InputKind;
/// use cce_codegen::valid::{ProgramBuilder, Site};
///
/// let here = Site(0);
/// let mut b = ProgramBuilder::new(here, "cross_entropy");
/// let x = b.input(here, "x", InputKind::Logit);
/// let y = b.input(here, "y", InputKind::Target);
/// let lse = b.lse(here, x);
/// let at = b.at(here, x, y);
/// let loss = b.sub(here, lse, at);
/// b.output(here, "loss", loss);
/// let program = b.finish()?;
/// assert_eq!(program.outputs()[0].name, "loss");
///
/// let mut b = ProgramBuilder::new(here, "not_a_loss");
/// let x = b.input(here, "x", InputKind::Logit);
/// let lse = b.lse(here, x);
/// let inside = b.sub(here, x, lse);
/// let mean = b.mean(here, inside);
/// b.output(here, "loss", mean);
/// let errors = b.finish().unwrap_err();
/// assert_eq!(errors[0].help.as_deref(), Some("write `mean(x) - lse(x)`, which is the same"));
/// # Ok::<(), Vec<cce_codegen::valid::Diagnostic>>(())
/// ```
#[derive(Debug)]
pub struct ProgramBuilder {
    id: u32,
    pub(super) site: Site,
    pub(super) name: String,
    pub(super) doc: String,
    pub(super) graph: Graph,
    pub(super) input_sites: Vec<Site>,
    /// Whether there is an input of which no kind is known.
    pub(super) has_mistaken_input: bool,
    values: Vec<Known>,
    scopes: Vec<Vec<(String, Value)>>,
    /// The name of an expression, as long as that name still means it.
    named: HashMap<ExprId, String>,
    /// Where an expression was first written.
    pub(super) first_sites: HashMap<ExprId, Site>,
    /// The program's softmax: its logits, and the call that brought it in.
    pub(super) softmax: Option<(ExprId, Site)>,
    pub(super) outputs: Vec<(Site, String, Value)>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl ProgramBuilder {
    /// An empty program of this name; `site` is where errors of the whole are reported.
    pub fn new(site: Site, name: &str) -> ProgramBuilder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut builder = ProgramBuilder {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            site,
            name: name.to_owned(),
            doc: String::new(),
            graph: Graph::default(),
            input_sites: Vec::new(),
            has_mistaken_input: false,
            values: Vec::new(),
            scopes: vec![Vec::new()],
            named: HashMap::new(),
            first_sites: HashMap::new(),
            softmax: None,
            outputs: Vec::new(),
            diagnostics: Vec::new(),
        };
        builder.check_name(site, "the loss", name);
        builder
    }

    /// Sets the documentation: Markdown, as in a doc comment.
    pub fn doc(&mut self, doc: &str) {
        doc.clone_into(&mut self.doc);
    }

    /// Declares the next input of the signature, and binds its name.
    pub fn input(&mut self, site: Site, name: &str, kind: InputKind) -> Value {
        self.check_name(site, "an input", name);
        let id = InputId(self.graph.inputs().len().min(usize::from(u16::MAX)) as u16);
        let before = |found: &dyn Fn(&Input) -> bool| self.graph.inputs().iter().position(found);
        if let Some(at) = before(&|input| input.name == name) {
            let error = Diagnostic::new(site, format!("two inputs are named `{name}`"));
            self.report(error.related(Some(self.input_sites[at])).help("give each input a name of its own"));
            return self.poison();
        }
        if matches!(kind, InputKind::Logit | InputKind::Target)
            && let Some(at) = before(&|input| input.kind == kind)
        {
            let first = &self.graph.inputs()[at].name;
            let kind_name = kind.name();
            let help = match kind {
                InputKind::Logit => format!(
                    "a loss has one Logit, the product of hidden states and classifier; \
                     use `{first}`, or make `{name}` a Row, Col or Scalar"
                ),
                _ => format!("a loss has one Target; a second number a token is a Row: `{name}: Row`"),
            };
            let error =
                Diagnostic::new(site, format!("`{name}` is a second {kind_name}; `{first}` is the first"));
            self.report(error.related(Some(self.input_sites[at])).help(help));
            let poison = self.poison();
            self.bind(name, poison);
            return poison;
        }
        self.graph.push_input(Input { name: name.to_owned().into(), kind });
        self.input_sites.push(site);
        let what = match kind {
            InputKind::Target => What::Target(id),
            _ => What::Expr(self.graph.node(Node::Input(id))),
        };
        let value = self.value(what, site);
        self.bind(name, value);
        value
    }

    /// Notes an input whose declaration is a mistake that has been reported: nothing that uses it is
    /// reported, nor that there is no Logit, since it may be it.
    pub fn mistaken_input(&mut self, name: &str) {
        self.has_mistaken_input = true;
        let poison = self.poison();
        self.bind(name, poison);
    }

    /// Binds a name to a value in the innermost scope: a `let`. Later bindings of the same name
    /// shadow earlier ones.
    pub fn bind(&mut self, name: &str, value: Value) {
        if let What::Expr(id) = self.known(value).what {
            // An expression that loses its name to another is written out in messages from here on.
            self.named.retain(|&other, taken| other == id || taken != name);
            if !matches!(self.graph.get(id), Node::Input(_) | Node::Const(_)) {
                self.named.entry(id).or_insert_with(|| name.to_owned());
            }
        }
        if let Some(scope) = self.scopes.last_mut() {
            scope.push((name.to_owned(), value));
        }
    }

    /// Opens a scope: names bound from here on are gone after the matching
    /// [`ProgramBuilder::leave`].
    pub fn enter(&mut self) {
        self.scopes.push(Vec::new());
    }

    /// Closes the innermost scope.
    pub fn leave(&mut self) {
        if self.scopes.len() > 1 {
            self.scopes.pop();
        }
    }

    /// The value that a name is bound to; `site` is that of this mention.
    pub fn lookup(&mut self, site: Site, name: &str) -> Value {
        match self.find(name) {
            Some(value) => {
                let what = self.known(value).what;
                self.push(Known { what, site, name: Some(name.to_owned()) })
            }
            None => {
                let mut error = Diagnostic::new(site, format!("there is no value named `{name}`"));
                let nearest = functions::nearest(name, self.names());
                error.help = Some(match nearest {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if functions::named(name).is_some() => {
                        format!("`{name}` is a function: call it, as in `{}`", functions::usage(name))
                    }
                    None => {
                        format!("bind it with `let {name} = ...;`, or make it an input: `{name}: Scalar`")
                    }
                });
                self.report(error);
                self.poison()
            }
        }
    }

    /// Like [`ProgramBuilder::lookup`], for a name that stands where a Target is needed.
    pub fn lookup_target(&mut self, site: Site, name: &str) -> Value {
        if self.find(name).is_some() {
            return self.lookup(site, name);
        }
        let (message, help) = match self.graph.input_of_kind(InputKind::Target) {
            Some(target) => (
                format!("there is no value named `{name}`"),
                format!("the loss's Target is `{}`", self.graph.inputs()[target.index()].name),
            ),
            None => (
                format!("there is no value named `{name}`, and the loss has no Target to read at"),
                format!("add `{name}: Target` to the inputs"),
            ),
        };
        self.report(Diagnostic::new(site, message).help(help));
        self.poison()
    }

    pub(super) fn find(&self, name: &str) -> Option<Value> {
        let mut bound = self.scopes.iter().rev().flat_map(|scope| scope.iter().rev());
        bound.find(|(other, _)| other == name).map(|&(_, value)| value)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.scopes.iter().flatten().map(|(name, _)| name.as_str())
    }

    /// A literal; finite.
    pub fn constant(&mut self, site: Site, value: f64) -> Value {
        if !value.is_finite() {
            let error = Diagnostic::new(site, format!("the literal {value} is not a finite number"));
            self.report(error.help("write a number that an f64 can hold"));
            return self.poison();
        }
        let id = self.graph.constant(value);
        self.value(What::Expr(id), site)
    }

    /// `op(a)`.
    pub fn unary(&mut self, site: Site, op: UnaryOp, a: Value) -> Value {
        match self.number(a) {
            Some(a) => self.expr(site, Node::Unary(op, a)),
            None => self.poison(),
        }
    }

    /// `op(a, b)`.
    pub fn binary(&mut self, site: Site, op: BinaryOp, a: Value, b: Value) -> Value {
        // Both are looked at before either is given up, so that two mistakes are reported together.
        match (self.number(a), self.number(b)) {
            (Some(a), Some(b)) => self.expr(site, Node::Binary(op, a, b)),
            _ => self.poison(),
        }
    }

    /// `a + b`.
    pub fn add(&mut self, site: Site, a: Value, b: Value) -> Value {
        self.binary(site, BinaryOp::Add, a, b)
    }

    /// `a - b`.
    pub fn sub(&mut self, site: Site, a: Value, b: Value) -> Value {
        self.binary(site, BinaryOp::Sub, a, b)
    }

    /// `a * b`.
    pub fn mul(&mut self, site: Site, a: Value, b: Value) -> Value {
        self.binary(site, BinaryOp::Mul, a, b)
    }

    /// `a / b`.
    pub fn div(&mut self, site: Site, a: Value, b: Value) -> Value {
        self.binary(site, BinaryOp::Div, a, b)
    }

    /// `if lhs cmp rhs { then } else { otherwise }`; the condition carries no gradient.
    pub fn select(
        &mut self,
        site: Site,
        (cmp, lhs, rhs): (Cmp, Value, Value),
        then: Value,
        otherwise: Value,
    ) -> Value {
        match (self.number(lhs), self.number(rhs), self.number(then), self.number(otherwise)) {
            (Some(lhs), Some(rhs), Some(then), Some(otherwise)) => {
                self.expr(site, Node::Select { cmp, lhs, rhs, then, otherwise })
            }
            _ => self.poison(),
        }
    }

    /// States the kind that a value is to have, as in `let z: Logit = ...;`; a value of a smaller
    /// kind fits.
    pub fn ascribe(&mut self, site: Site, value: Value, kind: Kind) -> Value {
        let Some(id) = self.number(value) else {
            return self.poison();
        };
        let found = self.graph.kind(id);
        if found.join(kind) != kind {
            let described = self.describe(value);
            let message =
                format!("{described} is a {}{}, not a {}", found.name(), self.kinds(value), kind.name());
            let help = format!("write `{}`, or leave the kind out: it is inferred", found.name());
            self.report(Diagnostic::new(site, message).help(help));
            return self.poison();
        }
        value
    }

    /// Declares the next output: a value of kind Row (or Scalar, the same for every token).
    pub fn output(&mut self, site: Site, name: &str, value: Value) {
        self.check_name(site, "an output", name);
        if let Some((first, ..)) = self.outputs.iter().find(|(_, other, _)| other == name) {
            let error =
                Diagnostic::new(site, format!("two outputs are named `{name}`")).related(Some(*first));
            self.report(error.help("give each output a name of its own"));
            return;
        }
        self.check_output(name, value);
        self.outputs.push((site, name.to_owned(), value));
    }

    /// A mistake that the caller has found itself, such as syntax outside the language: the program
    /// will not finish, and what is computed from the returned value is not reported on.
    pub fn error(&mut self, site: Site, message: &str, help: Option<&str>) -> Value {
        let mut error = Diagnostic::new(site, message);
        error.help = help.map(str::to_owned);
        self.report(error);
        self.poison()
    }

    /// A value that stands where a mistake is that has been reported already: nothing that uses it
    /// is reported.
    pub fn poisoned(&mut self) -> Value {
        self.poison()
    }

    /// The kind of a value; `None` for the Target and for a poisoned value.
    pub fn kind(&self, value: Value) -> Option<Kind> {
        match self.known(value).what {
            What::Expr(id) => Some(self.graph.kind(id)),
            What::Poison | What::Target(_) => None,
        }
    }

    pub(super) fn report(&mut self, diagnostic: Diagnostic) {
        if !self.diagnostics.contains(&diagnostic) {
            self.diagnostics.push(diagnostic);
        }
    }

    pub(super) fn poison(&mut self) -> Value {
        self.value(What::Poison, self.site)
    }

    pub(super) fn expr(&mut self, site: Site, node: Node) -> Value {
        let id = self.graph.node(node);
        self.first_sites.entry(id).or_insert(site);
        self.value(What::Expr(id), site)
    }

    fn value(&mut self, what: What, site: Site) -> Value {
        self.push(Known { what, site, name: None })
    }

    fn push(&mut self, known: Known) -> Value {
        self.values.push(known);
        Value { builder: self.id, at: (self.values.len() - 1) as u32 }
    }

    pub(super) fn known(&self, value: Value) -> Known {
        let own = if value.builder == self.id { self.values.get(value.at as usize) } else { None };
        own.cloned().unwrap_or(Known { what: What::Poison, site: self.site, name: None })
    }

    /// The expression of an operand; reports a Target and a handle of another builder.
    pub(super) fn number(&mut self, value: Value) -> Option<ExprId> {
        if value.builder != self.id {
            let error = Diagnostic::new(self.site, "a value of another program is used here");
            self.report(error.help("use each value only with the builder that made it"));
            return None;
        }
        let known = self.known(value);
        match known.what {
            What::Poison => None,
            What::Expr(id) => Some(id),
            What::Target(input) => {
                let name = &self.graph.inputs()[input.index()].name;
                let message = format!("`{name}` is a Target, an index into the vocabulary, not a number");
                let help = format!("read a value at it: `at(..., {name})`");
                self.report(Diagnostic::new(known.site, message).help(help));
                None
            }
        }
    }

    /// The value as the user wrote it, in backquotes; long expressions are cut.
    pub(super) fn describe(&self, value: Value) -> String {
        let known = self.known(value);
        match (&known.name, known.what) {
            (Some(name), _) => format!("`{name}`"),
            (None, What::Expr(id)) => format!("`{}`", self.text(&self.graph, id)),
            (None, What::Target(input)) => format!("`{}`", self.graph.inputs()[input.index()].name),
            (None, What::Poison) => "this value".to_owned(),
        }
    }

    /// The kinds of the names in an expression that has none itself: ` (x: Logit, w: Row)`, or
    /// nothing.
    pub(super) fn kinds(&self, value: Value) -> String {
        let Known { what: What::Expr(root), name: None, .. } = self.known(value) else {
            return String::new();
        };
        let name = |id: ExprId| match self.graph.get(id) {
            Node::Input(input) => Some(&*self.graph.inputs()[input.index()].name),
            _ => self.named.get(&id).map(String::as_str),
        };
        if name(root).is_some() {
            return String::new();
        }
        let (mut stack, mut seen, mut names) = (vec![root], Vec::new(), Vec::new());
        while let Some(id) = stack.pop() {
            if seen.contains(&id) || names.len() == 8 {
                continue;
            }
            seen.push(id);
            match name(id) {
                Some(name) => names.push(format!("{name}: {}", self.graph.kind(id).name())),
                None => stack.extend(self.graph.get(id).operands().collect::<Vec<_>>().into_iter().rev()),
            }
        }
        if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
    }

    /// An expression of this graph, or of one that continues it, in the user's names.
    pub(super) fn text(&self, graph: &Graph, id: ExprId) -> String {
        Printer::new(graph, &|id| self.named.get(&id).cloned()).depth(8).expr(id)
    }

    /// What an expression is, even if it has a name.
    pub(super) fn definition(&self, id: ExprId) -> String {
        Printer::new(&self.graph, &|id| self.named.get(&id).cloned()).depth(8).definition(id)
    }

    /// Names go into emitted source as they are.
    fn check_name(&mut self, site: Site, what: &str, name: &str) {
        let ascii = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if name.len() > 64 || !starts || !name.chars().all(ascii) {
            let message = format!("`{name}` cannot be the name of {what}");
            let help = "use up to 64 ASCII letters, digits and underscores, not beginning with a digit";
            self.report(Diagnostic::new(site, message).help(help));
        }
    }
}
