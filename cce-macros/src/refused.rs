//! Syntax outside the language: the reason, and what to write instead.

use quote::ToTokens;
use syn::{BinOp, Expr, Lit, Member, UnOp};

/// A reason and a help.
pub struct Refusal {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

fn refusal(message: impl Into<String>, help: impl Into<String>) -> Refusal {
    Refusal { message: message.into(), help: help.into() }
}

/// The text of an argument: parentheses around the whole fall away.
fn argument(expr: &Expr) -> String {
    match expr {
        Expr::Paren(paren) => argument(&paren.expr),
        other => text(other),
    }
}

/// The text of short tokens, for hints.
fn text(tokens: &impl ToTokens) -> String {
    let text = tokens.to_token_stream().to_string();
    if text.len() <= 40 { text } else { "...".to_owned() }
}

/// Why an expression that the language lacks is refused.
pub fn expression(expr: &Expr) -> Refusal {
    match expr {
        Expr::MethodCall(call) => {
            let receiver = argument(&call.receiver);
            let name = match call.method.to_string() {
                power if power == "powi" || power == "powf" => "pow".to_owned(),
                name => name,
            };
            let arguments: Vec<String> =
                std::iter::once(receiver).chain(call.args.iter().map(argument)).collect();
            refusal("a loss has no methods", format!("call a function: `{name}({})`", arguments.join(", ")))
        }
        Expr::ForLoop(_) | Expr::While(_) | Expr::Loop(_) => refusal(
            "a loss has no loops: it is written for one token, and reductions run over the vocabulary",
            "use `lse(z)`, `at(z, y)`, `mean(z)`, `expect(z, f)` or `max(z)`",
        ),
        Expr::Index(index) => refusal(
            "values of a loss are not indexed",
            format!(
                "read a Logit or Col at the target with `at({}, {})`",
                text(&index.expr),
                text(&index.index)
            ),
        ),
        Expr::Macro(_) => refusal("a loss calls no macros", "write the expression out"),
        Expr::Reference(reference) => {
            refusal("values of a loss are not borrowed", format!("write `{}`", text(&reference.expr)))
        }
        Expr::Cast(cast) => refusal(
            "all values of a loss are real numbers: there is nothing to cast",
            format!("write `{}`", text(&cast.expr)),
        ),
        Expr::Closure(_) => refusal("a loss has no closures", "write the expression where it is used"),
        Expr::Match(_) => refusal("a loss has no `match`", "write `if a < b { ... } else { ... }`"),
        Expr::Let(_) => {
            refusal("a loss has no patterns", "compare two values: `if a < b { ... } else { ... }`")
        }
        Expr::Return(_) => refusal(
            "a loss does not return early",
            "end with the value, without `return`; choose between values with `if`",
        ),
        Expr::Break(_) | Expr::Continue(_) => {
            refusal("a loss has no loops to leave", "choose between values with `if`")
        }
        Expr::Assign(assign) => refusal(
            "names of a loss do not change",
            format!("bind a new one: `let {} = {};`", text(&assign.left), text(&assign.right)),
        ),
        Expr::Tuple(tuple) if tuple.elems.is_empty() => {
            refusal("`()` is no value of a loss", "write a number")
        }
        Expr::Tuple(_) | Expr::Array(_) | Expr::Repeat(_) => refusal(
            "values of a loss are single numbers: it has no tuples and arrays",
            "bind each value with a `let` of its own; \
             return several in a struct with `#[derive(cce::Outputs)]`",
        ),
        Expr::Struct(_) => refusal(
            "a struct of outputs stands only at the end of a loss",
            "bind values with `let`, and end with the struct",
        ),
        Expr::Field(field) => match &field.member {
            Member::Named(_) => refusal("values of a loss have no fields", "make each an input of its own"),
            Member::Unnamed(_) => refusal(
                "values of a loss are single numbers: it has no tuples",
                "bind each value with a `let` of its own",
            ),
        },
        Expr::Range(_) => {
            refusal("a loss has no ranges", "compare two values: `if a < b { ... } else { ... }`")
        }
        Expr::Unsafe(_) => refusal("a loss has no unsafe blocks", "write the expression without it"),
        Expr::Async(_) | Expr::Await(_) | Expr::Try(_) | Expr::TryBlock(_) | Expr::Yield(_) => {
            refusal("a loss runs through, without async, `?` and `yield`", "write the expression without it")
        }
        Expr::Unary(unary) => match unary.op {
            UnOp::Not(_) => refusal(
                "comparisons of a loss are not combined",
                "turn the comparison round, or swap the branches of the `if`",
            ),
            _ => refusal("values of a loss are not dereferenced", format!("write `{}`", text(&unary.expr))),
        },
        Expr::Path(path) => {
            let path = path.to_token_stream().to_string().replace(' ', "");
            refusal(
                format!("`{path}` is out of a loss's reach: it sees its inputs, its `let`s and literals"),
                "write the number, or make it an input of kind `Scalar`",
            )
        }
        Expr::Lit(literal) => self::literal(&literal.lit),
        _ => refusal(
            "this is not part of the language of losses",
            "use `let`, arithmetic, calls, `if` and literals",
        ),
    }
}

/// Why a literal is refused.
pub fn literal(literal: &Lit) -> Refusal {
    match literal {
        Lit::Int(number) if !number.suffix().is_empty() => refusal(
            "literals of a loss have no type: all its values are real numbers",
            format!("write `{}`", number.base10_digits()),
        ),
        Lit::Float(number) if !number.suffix().is_empty() => refusal(
            "literals of a loss have no type: all its values are real numbers",
            format!("write `{}`", number.base10_digits()),
        ),
        Lit::Bool(_) => {
            refusal("a loss has no truth values", "compare two values: `if a < b { ... } else { ... }`")
        }
        _ => refusal("the literals of a loss are numbers", "write a number, such as `0.5` or `1e-4`"),
    }
}

/// Why a binary operator is refused.
pub fn operator(binary: &syn::ExprBinary) -> Refusal {
    let (left, right) = (text(&binary.left), text(&binary.right));
    match binary.op {
        BinOp::BitXor(_) => refusal(
            "`^` is no power",
            format!("write `pow({}, {})`", argument(&binary.left), argument(&binary.right)),
        ),
        BinOp::And(_) | BinOp::Or(_) => {
            refusal("comparisons of a loss are not combined", "nest one `if` in the other")
        }
        BinOp::Eq(_) | BinOp::Ne(_) | BinOp::Lt(_) | BinOp::Le(_) | BinOp::Gt(_) | BinOp::Ge(_) => refusal(
            "a comparison is not a value",
            format!(
                "choose a value by it: `if {left} {} {right} {{ 1.0 }} else {{ 0.0 }}`",
                text(&binary.op)
            ),
        ),
        BinOp::AddAssign(_) => assigned(&left, "+", &right),
        BinOp::SubAssign(_) => assigned(&left, "-", &right),
        BinOp::MulAssign(_) => assigned(&left, "*", &right),
        BinOp::DivAssign(_) => assigned(&left, "/", &right),
        _ => refusal(
            format!("the operator `{}` is not part of the language of losses", text(&binary.op)),
            "the operators are `+`, `-`, `*` and `/`",
        ),
    }
}

fn assigned(left: &str, operator: &str, right: &str) -> Refusal {
    refusal(
        "names of a loss do not change",
        format!("bind a new one: `let {left} = {left} {operator} {right};`"),
    )
}
