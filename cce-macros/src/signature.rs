//! The function's signature: inputs by kind, and what it returns.

use crate::sites::Sites;
use cce_codegen::ir::InputKind;
use cce_codegen::valid::ProgramBuilder;
use syn::{FnArg, Ident, ItemFn, Pat, Path, ReturnType, Safety, Signature, Type};

/// What is read from a signature, as far as it can be read.
pub struct Declared {
    /// The inputs: name, kind, and the type as it was written.
    pub inputs: Vec<(Ident, InputKind, Path)>,
    /// The type returned, if it is a path.
    pub returns: Option<Path>,
}

/// The name of an identifier without `r#`.
pub fn plain(ident: &Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
}

/// The last segment of a path, if it has no arguments.
pub fn last(path: &Path) -> Option<&Ident> {
    path.segments.last().filter(|segment| segment.arguments.is_none()).map(|segment| &segment.ident)
}

/// Declares the inputs to the builder and reports what a loss's signature cannot have.
pub fn declare(function: &ItemFn, sites: &mut Sites, builder: &mut ProgramBuilder) -> Declared {
    let signature = &function.sig;
    refuse_modifiers(signature, sites, builder);
    let mut inputs = Vec::new();
    for argument in &signature.inputs {
        let site = sites.of(argument);
        let argument = match argument {
            FnArg::Typed(argument) => argument,
            FnArg::Receiver(_) => {
                builder.error(site, "a loss has no `self`", Some("write it as a free function"));
                continue;
            }
        };
        let Pat::Ident(name) = &*argument.pat else {
            builder.error(site, "an input is a plain name", Some("write `name: Kind`, such as `x: Logit`"));
            continue;
        };
        if let Some(mutability) = &name.mutability {
            let site = sites.of(mutability);
            builder.error(
                site,
                "inputs do not change",
                Some("remove `mut`; a `let` of the same name may shadow it"),
            );
        }
        let kind = match &*argument.ty {
            Type::Path(path) if path.qself.is_none() => last(&path.path).and_then(kind),
            _ => None,
        };
        let (Some(kind), Type::Path(path)) = (kind, &*argument.ty) else {
            let site = sites.of(&argument.ty);
            let message = format!("`{}` is not a kind of input", written(&argument.ty));
            builder.error(site, &message, Some("the kinds are `Logit`, `Target`, `Row`, `Col` and `Scalar`"));
            builder.mistaken_input(&plain(&name.ident));
            continue;
        };
        let site = sites.of(&name.ident);
        builder.input(site, &plain(&name.ident), kind);
        inputs.push((name.ident.clone(), kind, path.path.clone()));
    }
    let returns = match &signature.output {
        ReturnType::Type(_, ty) => match &**ty {
            Type::Path(path) if path.qself.is_none() && !is_no_output(&path.path) => Some(path.path.clone()),
            Type::Path(path) if path.qself.is_none() => {
                let site = sites.of(path);
                let message =
                    format!("a loss returns `Loss` or a struct of outputs, and not `{}`", written(path));
                builder.error(site, &message, Some("write `-> Loss`: what is returned is one value a token"));
                None
            }
            other => {
                let site = sites.of(other);
                let help = "return `Loss`, or a struct with `#[derive(cce::Outputs)]`";
                builder.error(site, "a loss returns `Loss` or a struct of outputs", Some(help));
                None
            }
        },
        ReturnType::Default => {
            let site = sites.of(&signature.ident);
            builder.error(site, "a loss returns something", Some("add `-> Loss` behind the inputs"));
            None
        }
    };
    Declared { inputs, returns }
}

/// A type as one writes it, without the spaces that tokens are printed with.
pub fn written(ty: &impl quote::ToTokens) -> String {
    let mut text = ty.to_token_stream().to_string();
    for mark in ["::", "<", ">", ",", ";", "[", "]", "(", ")", "&"] {
        text = text.replace(&format!(" {mark}"), mark);
    }
    for mark in ["::", "<", "[", "(", "&"] {
        text = text.replace(&format!("{mark} "), mark);
    }
    text
}

/// Whether this can be no struct of outputs: a number, a kind, or a type with arguments.
fn is_no_output(path: &Path) -> bool {
    const NUMBERS: [&str; 14] =
        ["f16", "bf16", "f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "usize", "isize"];
    last(path).is_none_or(|name| kind(name).is_some() || NUMBERS.iter().any(|number| name == number))
}

fn kind(name: &Ident) -> Option<InputKind> {
    let kinds = [InputKind::Logit, InputKind::Target, InputKind::Row, InputKind::Col, InputKind::Scalar];
    kinds.into_iter().find(|kind| name == kind.name())
}

fn refuse_modifiers(signature: &Signature, sites: &mut Sites, builder: &mut ProgramBuilder) {
    let mut refuse = |tokens: &dyn quote::ToTokens, what: &str| {
        let site = sites.of(&tokens.to_token_stream());
        builder.error(site, &format!("a loss cannot be {what}"), Some("write a plain `fn`"));
    };
    if let Some(token) = &signature.constness {
        refuse(token, "const: it is a program already when your crate is compiled");
    }
    if let Some(token) = &signature.asyncness {
        refuse(token, "async");
    }
    match &signature.safety {
        Safety::Default => {}
        Safety::Unsafe(token) => refuse(token, "unsafe"),
        safe => refuse(safe, "declared safe: it is"),
    }
    if let Some(abi) = &signature.abi {
        refuse(abi, "extern");
    }
    if let Some(variadic) = &signature.variadic {
        refuse(variadic, "variadic");
    }
    if !signature.generics.params.is_empty() {
        refuse(&signature.generics, "generic: all its values are real numbers");
    } else if let Some(clause) = &signature.generics.where_clause {
        refuse(clause, "generic: all its values are real numbers");
    }
}
