//! The body: each piece of syntax becomes one call of the builder.

use crate::refused::{self, Refusal};
use crate::signature::{last, plain, written};
use crate::sites::Sites;
use cce_codegen::ir::{BinaryOp, Cmp, Kind, UnaryOp};
use cce_codegen::valid::{ProgramBuilder, Site, Value};
use quote::ToTokens;
use syn::{
    BinOp, Block, Expr, ExprBinary, ExprCall, ExprIf, ExprStruct, Ident, Lit, Local, Member, Pat, Path, Stmt,
    Type, UnOp,
};

/// What the body does with names, in order: emitted again so that the compiler and the editor see
/// it.
pub enum Event {
    /// `let name`, of this kind if it is known.
    Let(Ident, Option<Kind>),
    /// A kind that a `let` states.
    Stated(Path),
    /// The name is read.
    Use(Ident),
    /// `{`
    Enter,
    /// `}`
    Leave,
}

/// Walks a body.
pub struct Body<'a> {
    /// The spans.
    pub sites: &'a mut Sites,
    /// The program.
    pub builder: &'a mut ProgramBuilder,
    /// What happened to names.
    pub events: Vec<Event>,
    /// The struct of outputs that the body ends with, if it does.
    pub fields: Option<(Path, Vec<Ident>)>,
}

impl Body<'_> {
    /// The body of a loss that returns this type (as far as it could be read).
    pub fn function(&mut self, block: &Block, returns: Option<&Path>) {
        let plain_loss = returns.is_none_or(|path| last(path).is_some_and(|name| name == "Loss"));
        let Some(end) = self.statements(block) else {
            // The `;` has been reported, or the body is empty.
            if block.stmts.is_empty() {
                let site = self.sites.of(block);
                let help = if plain_loss {
                    "end with a value, such as `lse(x) - at(x, y)`"
                } else {
                    "end with the struct of outputs"
                };
                self.builder.error(site, "the body is empty", Some(help));
            }
            let poison = self.builder.poisoned();
            self.builder.output(Site(0), "loss", poison);
            return;
        };
        match (bare(end), returns) {
            (Expr::Struct(literal), _) => self.outputs(literal, returns),
            (other, Some(path)) if !plain_loss => {
                let name = path.segments.last().map(|segment| segment.ident.to_string()).unwrap_or_default();
                let help = match other {
                    Expr::If(_) => {
                        format!("end with `{name} {{ ... }}`, and choose with `if` inside its fields")
                    }
                    _ => format!("end with `{name} {{ ... }}`, a value for each field; or return `Loss`"),
                };
                let site = self.sites.of(other);
                let value = self.builder.error(
                    site,
                    &format!("the loss returns a `{name}`, and this is one value"),
                    Some(&help),
                );
                if !matches!(other, Expr::If(_)) {
                    self.value(other);
                }
                self.builder.output(site, "loss", value);
            }
            (_, _) => {
                let site = self.sites.of(end);
                let value = self.value(end);
                self.builder.output(site, "loss", value);
            }
        }
    }

    fn outputs(&mut self, literal: &ExprStruct, returns: Option<&Path>) {
        let site = self.sites.of(&literal.path);
        if let (Some(returned), Some(built)) = (returns.and_then(last), last(&literal.path))
            && returned != built
        {
            let message = format!("the loss returns `{returned}`, and this is a `{built}`");
            self.builder.error(site, &message, Some(&format!("write `{returned} {{ ... }}`")));
        }
        if let Some(dots) = &literal.dot2_token {
            let site = self.sites.of(dots);
            self.builder.error(
                site,
                "all outputs are given: there is nothing to take the others from",
                Some("name each field"),
            );
        }
        let mut names = Vec::new();
        for field in &literal.fields {
            let Member::Named(name) = &field.member else {
                let site = self.sites.of(field);
                self.builder.error(site, "outputs have names", Some("return a struct with named fields"));
                continue;
            };
            let value = self.value(&field.expr);
            let site = self.sites.of(name);
            self.builder.output(site, &plain(name), value);
            names.push(name.clone());
        }
        if literal.fields.is_empty() {
            let help = "give it fields of type `Row`, such as `loss: Row`";
            self.builder.error(site, "a struct of outputs has at least one field", Some(help));
        }
        self.fields = Some((literal.path.clone(), names));
    }

    /// A block in braces, in a scope of its own.
    fn block(&mut self, block: &Block) -> Value {
        self.builder.enter();
        self.events.push(Event::Enter);
        let value = match self.statements(block) {
            Some(end) => self.value(end),
            None if block.stmts.is_empty() => self.refuse(
                block,
                Refusal { message: "the block is empty".into(), help: "write the value that it has".into() },
            ),
            None => self.builder.poisoned(),
        };
        self.events.push(Event::Leave);
        self.builder.leave();
        value
    }

    /// All statements but a last expression, which is returned.
    fn statements<'b>(&mut self, block: &'b Block) -> Option<&'b Expr> {
        for (at, statement) in block.stmts.iter().enumerate() {
            let is_last = at + 1 == block.stmts.len();
            match statement {
                Stmt::Local(local) => self.local(local),
                Stmt::Expr(expr, None) if is_last => return Some(expr),
                Stmt::Expr(expr, semicolon) => self.statement(expr, semicolon.is_some(), is_last),
                Stmt::Item(item) => {
                    let (message, help) =
                        ("a loss declares nothing but values", "move the item out of the function");
                    self.refuse(item, Refusal { message: message.into(), help: help.into() });
                }
                Stmt::Macro(stmt) => {
                    let (message, help) = ("a loss calls no macros", "write the expression out");
                    self.refuse(stmt, Refusal { message: message.into(), help: help.into() });
                }
            }
        }
        if let Some(last @ Stmt::Local(_)) = block.stmts.last() {
            let help = "write the value behind the last `let`";
            self.refuse(
                last,
                Refusal { message: "the block ends without a value".into(), help: help.into() },
            );
        }
        None
    }

    /// An expression where a statement stands.
    fn statement(&mut self, expr: &Expr, semicolon: bool, is_last: bool) {
        match expr {
            Expr::Binary(binary) if is_assignment(binary.op) => {
                self.refuse(expr, refused::operator(binary));
            }
            Expr::Binary(_)
            | Expr::Call(_)
            | Expr::If(_)
            | Expr::Lit(_)
            | Expr::Paren(_)
            | Expr::Path(_)
            | Expr::Unary(_)
            | Expr::Struct(_)
            | Expr::Block(_) => {
                let (message, help) = match (semicolon, is_last) {
                    (true, true) => ("the last value has a `;` behind it and is lost", "remove the `;`"),
                    _ => ("this value is not used", "bind it with `let`, or remove it"),
                };
                if !matches!(expr, Expr::Struct(_)) {
                    self.value(expr);
                }
                self.refuse(expr, Refusal { message: message.into(), help: help.into() });
            }
            _ => {
                self.refuse(expr, refused::expression(expr));
            }
        }
    }

    fn local(&mut self, local: &Local) {
        let (pattern, stated) = match &local.pat {
            Pat::Type(typed) => (&*typed.pat, Some(&*typed.ty)),
            other => (other, None),
        };
        let Some(init) = &local.init else {
            let help = "write `let name = value;`";
            self.refuse(local, Refusal { message: "a `let` without a value".into(), help: help.into() });
            self.bind_poisoned(pattern);
            return;
        };
        if let Some((_, diverging)) = &init.diverge {
            let help = "choose between values with `if a < b { ... } else { ... }`";
            self.refuse(
                diverging,
                Refusal { message: "a loss has no `let ... else`".into(), help: help.into() },
            );
        }
        let mut value = match (pattern, &*init.expr) {
            // That there are no patterns is said below; that there are no tuples would be said
            // twice.
            (Pat::Tuple(_), Expr::Tuple(tuple)) => {
                for element in &tuple.elems {
                    self.value(element);
                }
                self.builder.poisoned()
            }
            (_, init) => self.value(init),
        };
        if let Some(stated) = stated {
            value = self.stated(stated, value);
        }
        match pattern {
            Pat::Ident(name) if name.by_ref.is_none() && name.subpat.is_none() => {
                if let Some(mutability) = &name.mutability {
                    let help = "remove `mut`; bind the name again with `let` where it changes";
                    self.refuse(
                        mutability,
                        Refusal { message: "names of a loss do not change".into(), help: help.into() },
                    );
                }
                self.builder.bind(&plain(&name.ident), value);
                self.events.push(Event::Let(name.ident.clone(), self.builder.kind(value)));
            }
            _ => {
                let help = "bind each value with a `let` of its own: `let name = value;`";
                self.refuse(pattern, Refusal { message: "a loss has no patterns".into(), help: help.into() });
                self.bind_poisoned(pattern);
            }
        }
    }

    /// Names of a pattern that was refused are known all the same, so that their uses are not
    /// reported too.
    fn bind_poisoned(&mut self, pattern: &Pat) {
        let mut names = Vec::new();
        collect_names(pattern, &mut names);
        for name in names {
            let poison = self.builder.poisoned();
            self.builder.bind(&plain(&name), poison);
        }
    }

    fn stated(&mut self, stated: &Type, value: Value) -> Value {
        let name = match stated {
            Type::Path(path) if path.qself.is_none() => last(&path.path),
            _ => None,
        };
        let kinds = [Kind::Scalar, Kind::Row, Kind::Col, Kind::Logit];
        let site = self.sites.of(stated);
        match name.and_then(|name| kinds.into_iter().find(|kind| name == kind.name())) {
            Some(kind) => {
                if let Type::Path(path) = stated {
                    self.events.push(Event::Stated(path.path.clone()));
                }
                self.builder.ascribe(site, value, kind)
            }
            None => {
                let message = format!("`{}` is not a kind of value", written(stated));
                let help = "the kinds are `Logit`, `Row`, `Col` and `Scalar`; they may be left out";
                self.builder.error(site, &message, Some(help));
                value
            }
        }
    }

    /// The value of an expression.
    fn value(&mut self, expr: &Expr) -> Value {
        match expr {
            Expr::Paren(paren) => self.value(&paren.expr),
            Expr::Group(group) => self.value(&group.expr),
            Expr::Block(block) if block.label.is_none() => self.block(&block.block),
            Expr::Lit(literal) => self.literal(expr, &literal.lit, false),
            Expr::Path(path) if path.qself.is_none() => match path.path.get_ident() {
                Some(name) => {
                    let site = self.sites.of(name);
                    let value = self.builder.lookup(site, &plain(name));
                    self.events.push(Event::Use(name.clone()));
                    value
                }
                None => self.refuse(expr, refused::expression(expr)),
            },
            Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => {
                if let Expr::Lit(literal) = bare(&unary.expr) {
                    return self.literal(expr, &literal.lit, true);
                }
                let a = self.value(&unary.expr);
                let site = self.sites.of(expr);
                self.builder.unary(site, UnaryOp::Neg, a)
            }
            Expr::Binary(binary) => self.binary(expr, binary),
            Expr::Call(call) => self.call(expr, call),
            Expr::If(choice) => self.choice(expr, choice),
            _ => self.refuse(expr, refused::expression(expr)),
        }
    }

    fn literal(&mut self, expr: &Expr, literal: &Lit, negative: bool) -> Value {
        let digits = match literal {
            Lit::Int(number) if number.suffix().is_empty() => number.base10_digits(),
            Lit::Float(number) if number.suffix().is_empty() => number.base10_digits(),
            _ => return self.refuse(expr, refused::literal(literal)),
        };
        match digits.parse::<f64>() {
            Ok(value) => {
                let site = self.sites.of(expr);
                self.builder.constant(site, if negative { -value } else { value })
            }
            Err(_) => self.refuse(expr, refused::literal(literal)),
        }
    }

    fn binary(&mut self, expr: &Expr, binary: &ExprBinary) -> Value {
        let op = match binary.op {
            BinOp::Add(_) => BinaryOp::Add,
            BinOp::Sub(_) => BinaryOp::Sub,
            BinOp::Mul(_) => BinaryOp::Mul,
            BinOp::Div(_) => BinaryOp::Div,
            _ => {
                // The operands' own mistakes are reported too.
                if !is_assignment(binary.op) {
                    self.value(&binary.left);
                    self.value(&binary.right);
                }
                return self.refuse(expr, refused::operator(binary));
            }
        };
        let (left, right) = (self.value(&binary.left), self.value(&binary.right));
        let site = self.sites.of(expr);
        self.builder.binary(site, op, left, right)
    }

    fn call(&mut self, expr: &Expr, call: &ExprCall) -> Value {
        let path = match &*call.func {
            Expr::Path(path) if path.qself.is_none() => &path.path,
            _ => {
                let help = "call a function of the language by its name";
                return self.refuse(
                    &call.func,
                    Refusal { message: "this is not a function".into(), help: help.into() },
                );
            }
        };
        let Some(name) = path.get_ident() else {
            let name = last(path).map(Ident::to_string).unwrap_or_default();
            let message =
                format!("`{}` is out of a loss's reach", path.to_token_stream().to_string().replace(' ', ""));
            let help = format!("functions of the language are called by their names alone: `{name}(...)`");
            for argument in &call.args {
                self.value(argument);
            }
            return self.refuse(path, Refusal { message, help });
        };
        let arguments: Vec<Value> = call
            .args
            .iter()
            .enumerate()
            .map(|(at, argument)| match (at, bare(argument)) {
                (1, Expr::Path(path)) if name == "at" => self.target(argument, &path.path),
                _ => self.value(argument),
            })
            .collect();
        let (site, name_site) = (self.sites.of(expr), self.sites.of(name));
        self.builder.call(site, name_site, &plain(name), &arguments)
    }

    fn target(&mut self, argument: &Expr, path: &Path) -> Value {
        match path.get_ident() {
            Some(name) => {
                let site = self.sites.of(name);
                let value = self.builder.lookup_target(site, &plain(name));
                self.events.push(Event::Use(name.clone()));
                value
            }
            None => self.value(argument),
        }
    }

    fn choice(&mut self, expr: &Expr, choice: &ExprIf) -> Value {
        let condition = match bare(&choice.cond) {
            Expr::Binary(binary) => comparison(binary.op).map(|cmp| (cmp, binary)),
            _ => None,
        };
        let condition = match condition {
            Some((cmp, binary)) => Some((cmp, self.value(&binary.left), self.value(&binary.right))),
            None => {
                self.not_a_comparison(&choice.cond);
                None
            }
        };
        let then = self.block(&choice.then_branch);
        let otherwise = match &choice.else_branch {
            Some((_, otherwise)) => self.value(otherwise),
            None => {
                let help = "add `else { ... }` with the value otherwise".to_owned();
                self.refuse(
                    expr,
                    Refusal { message: "an `if` is a value here, and needs an `else`".into(), help },
                )
            }
        };
        let site = self.sites.of(expr);
        match condition {
            Some(condition) => self.builder.select(site, condition, then, otherwise),
            None => self.builder.poisoned(),
        }
    }

    fn not_a_comparison(&mut self, condition: &Expr) {
        match bare(condition) {
            Expr::Binary(binary) if matches!(binary.op, BinOp::And(_) | BinOp::Or(_)) => {
                self.refuse(condition, refused::operator(binary));
            }
            Expr::Unary(unary) if matches!(unary.op, UnOp::Not(_)) => {
                self.refuse(condition, refused::expression(condition));
            }
            Expr::Let(_) => {
                self.refuse(condition, refused::expression(condition));
            }
            other => {
                self.value(other);
                let help =
                    format!("compare it: `if {} > 0.0 {{ ... }} else {{ ... }}`", other.to_token_stream());
                self.refuse(
                    condition,
                    Refusal {
                        message: "the condition of an `if` is a comparison of two values".into(),
                        help,
                    },
                );
            }
        }
    }

    fn refuse(&mut self, tokens: &impl ToTokens, Refusal { message, help }: Refusal) -> Value {
        let site = self.sites.of(tokens);
        self.builder.error(site, &message, Some(&help))
    }
}

/// The expression without parentheses, and without the invisible ones of macros.
fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Paren(paren) => bare(&paren.expr),
        Expr::Group(group) => bare(&group.expr),
        other => other,
    }
}

fn comparison(op: BinOp) -> Option<Cmp> {
    Some(match op {
        BinOp::Lt(_) => Cmp::Lt,
        BinOp::Le(_) => Cmp::Le,
        BinOp::Gt(_) => Cmp::Gt,
        BinOp::Ge(_) => Cmp::Ge,
        BinOp::Eq(_) => Cmp::Eq,
        BinOp::Ne(_) => Cmp::Ne,
        _ => return None,
    })
}

fn is_assignment(op: BinOp) -> bool {
    op.to_token_stream().to_string().ends_with('=') && comparison(op).is_none()
}

fn collect_names(pattern: &Pat, names: &mut Vec<Ident>) {
    match pattern {
        Pat::Ident(name) => names.push(name.ident.clone()),
        Pat::Tuple(tuple) => tuple.elems.iter().for_each(|element| collect_names(element, names)),
        Pat::Slice(slice) => slice.elems.iter().for_each(|element| collect_names(element, names)),
        Pat::Paren(paren) => collect_names(&paren.pat, names),
        Pat::Reference(reference) => collect_names(&reference.pat, names),
        _ => {}
    }
}
