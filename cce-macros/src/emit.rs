//! What stands in the place of the function: a type, its program in const parts, and code for the
//! compiler to check.

use crate::body::{Body, Event};
use crate::signature::{self, Declared, plain};
use crate::sites::Sites;
use cce_codegen::ir::{Input, Kind, Node, Output, Program};
use cce_codegen::valid::ProgramBuilder;
use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{format_ident, quote};
use syn::visit::Visit;
use syn::{Attribute, Error, Expr, ItemFn, Lit, Meta, Path};

/// The attribute.
pub fn loss(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let function: ItemFn = match syn::parse2(item.clone()) {
        Ok(function) => function,
        Err(error) => return unparsed(item, &error),
    };
    let name = &function.sig.ident;
    let mut sites = Sites::default();
    let whole = sites.of(name);
    let mut builder = ProgramBuilder::new(whole, &plain(name));
    if !arguments.is_empty() {
        let site = sites.of(&arguments);
        let help = "write `#[cce::loss]`; what varies between calls is an input, or belongs to the call";
        builder.error(site, "the attribute takes no arguments", Some(help));
    }
    builder.doc(&doc(&function.attrs));
    refuse_attributes(&function, &mut sites, &mut builder);
    let declared = signature::declare(&function, &mut sites, &mut builder);
    let mut body = Body { sites: &mut sites, builder: &mut builder, events: Vec::new(), fields: None };
    body.function(&function.block, declared.returns.as_ref());
    let (events, fields) = (body.events, body.fields);
    let declaration = declaration(&function, &declared);
    let cfg: Vec<&Attribute> =
        function.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg")).collect();
    let returns = declared.returns.as_ref().map_or_else(|| quote!(::cce::Loss), |path| quote!(#path));
    match builder.finish() {
        Ok(program) => {
            let parts = parts(&program);
            let implementation = implementation(name, &cfg, &returns, &parts);
            let mirror = mirror(&declared, &events, fields.as_ref());
            quote! { #declaration #implementation #(#cfg)* #mirror }
        }
        Err(diagnostics) => {
            let errors = diagnostics.iter().map(|diagnostic| sites.error(diagnostic));
            // Whatever the types are, the errors above are to be the only ones.
            let implementation =
                implementation(name, &cfg, &quote!(::cce::Loss), &quote!(::core::unreachable!()));
            let mirror = unused_imports(&declared, &events);
            quote! { #(#errors)* #declaration #implementation #mirror }
        }
    }
}

/// Attributes inside of the function would go unheard.
fn refuse_attributes(function: &ItemFn, sites: &mut Sites, builder: &mut ProgramBuilder) {
    struct Attributes<'a>(Vec<&'a Attribute>);
    impl<'a> Visit<'a> for Attributes<'a> {
        fn visit_attribute(&mut self, attribute: &'a Attribute) {
            self.0.push(attribute);
        }
    }
    let mut found = Attributes(Vec::new());
    found.visit_signature(&function.sig);
    found.visit_block(&function.block);
    for attribute in found.0 {
        let site = sites.of(attribute);
        let help = "remove it, or put it on the function";
        builder.error(site, "attributes mean nothing inside of a loss", Some(help));
    }
}

/// The item could not be read as a function: its errors, and the type if the name is there, as
/// while typing.
fn unparsed(item: TokenStream, error: &Error) -> TokenStream {
    let errors = error.to_compile_error();
    let first = item.clone().into_iter().next().map_or_else(Span::call_site, |token| token.span());
    let mut tokens =
        item.into_iter().skip_while(|token| !matches!(token, TokenTree::Ident(ident) if ident == "fn"));
    match (tokens.next(), tokens.next()) {
        (Some(_), Some(TokenTree::Ident(name))) => {
            let implementation =
                implementation(&name, &[], &quote!(::cce::Loss), &quote!(::core::unreachable!()));
            quote! {
                #errors
                #[allow(non_camel_case_types, missing_docs, dead_code)]
                pub struct #name {}
                #implementation
            }
        }
        _ => {
            let message = "a loss is a function\n\
                           help: write `#[cce::loss] fn name(x: Logit, y: Target) -> Loss { ... }`";
            Error::new(first, message).to_compile_error()
        }
    }
}

/// The text of the doc comments.
fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> =
        lines.map(|line| line.strip_prefix(' ').map_or(line.clone(), str::to_owned)).collect();
    lines.join("\n").trim().to_owned()
}

/// The type that stands for the loss.
fn declaration(function: &ItemFn, declared: &Declared) -> TokenStream {
    let ItemFn { attrs, vis, sig, .. } = function;
    let name = &sig.ident;
    let inputs = declared.inputs.iter().map(|(name, kind, _)| format!("{}: {}", plain(name), kind.name()));
    let inputs = inputs.collect::<Vec<_>>().join(", ");
    let returns = declared.returns.as_ref().and_then(signature::last).map_or("Loss".into(), Ident::to_string);
    let usage = format!("\n\n```text\n{}({inputs}) -> {returns}\n```", plain(name));
    // Without a doc comment there is none: the lint that asks for it is the user's own.
    let usage = (!doc(attrs).is_empty()).then(|| quote!(#[doc = #usage]));
    quote! {
        #(#attrs)*
        #usage
        #[allow(non_camel_case_types)]
        #vis struct #name {}
    }
}

fn implementation(
    name: &Ident,
    cfg: &[&Attribute],
    returns: &TokenStream,
    program: &TokenStream,
) -> TokenStream {
    quote! {
        #(#cfg)*
        #[allow(dead_code)]
        impl #name {
            /// The program of this loss: what plans are made from.
            pub fn program() -> ::cce::Program {
                <Self as ::cce::LossFunction>::program()
            }
        }
        #(#cfg)*
        impl ::cce::LossFunction for #name {
            type Outputs = #returns;
            fn program() -> ::cce::Program {
                #program
            }
        }
    }
}

/// The body once more, as far as names go: unused names, missing and unknown fields are reported by
/// the compiler itself, and the editor shows every name's kind.
fn mirror(declared: &Declared, events: &[Event], fields: Option<&(Path, Vec<Ident>)>) -> TokenStream {
    let arguments = declared.inputs.iter().map(|(name, _, ty)| quote!(#[allow(unused_variables)] #name: #ty));
    let checked = declared.inputs.iter().map(|(name, kind, _)| {
        let kind = format_ident!("{}", kind.name());
        quote!(let _: ::cce::#kind = #name;)
    });
    let statements = scoped(&mut events.iter());
    let outputs =
        fields.map(|(path, names)| quote!(let _ = #path { #(#names: ::cce::__private::value()),* };));
    let returns = declared.returns.as_ref().map(|path| quote!(-> #path));
    let end = declared.returns.as_ref().map(|_| quote!(::cce::__private::value()));
    quote! {
        const _: () = {
            #[allow(dead_code, clippy::all, clippy::pedantic, non_snake_case)]
            fn names(#(#arguments),*) #returns {
                #(#checked)*
                #statements
                #outputs
                #end
            }
        };
    }
}

/// Of a wrong body: what it takes so that the kinds that the user has imported do not count as
/// unused.
fn unused_imports(declared: &Declared, events: &[Event]) -> TokenStream {
    let arguments = declared.inputs.iter().map(|(_, _, ty)| quote!(_: #ty));
    let returns = declared.returns.as_ref().map(|path| quote!(_: #path)).into_iter();
    let stated = events.iter().filter_map(|event| match event {
        Event::Stated(path) => Some(quote!(_: #path)),
        _ => None,
    });
    let all = arguments.chain(returns).chain(stated);
    quote! {
        const _: () = {
            #[allow(dead_code, clippy::all)]
            fn names(#(#all),*) {}
        };
    }
}

/// The events up to the end of their scope.
fn scoped(events: &mut std::slice::Iter<'_, Event>) -> TokenStream {
    let mut tokens = TokenStream::new();
    while let Some(event) = events.next() {
        tokens.extend(match event {
            Event::Let(name, kind) => {
                // Of the values of a right program, only the Target has no kind.
                let kind = format_ident!("{}", kind.map_or("Target", Kind::name));
                quote!(let #name: ::cce::#kind = ::cce::__private::value();)
            }
            Event::Stated(path) => {
                quote!(let _: ::core::option::Option<#path> = ::core::option::Option::None;)
            }
            Event::Use(name) => quote!(::cce::__private::used(#name);),
            Event::Enter => {
                let inner = scoped(events);
                quote!({ #inner })
            }
            Event::Leave => return tokens,
        });
    }
    tokens
}

/// The program as an expression of constants.
fn parts(program: &Program) -> TokenStream {
    let (name, doc) = (program.name(), program.doc());
    let inputs = program.inputs().iter().map(input);
    let nodes = program.nodes().iter().map(node);
    let outputs = program.outputs().iter().map(output);
    quote! {
        use ::cce::__private::*;
        const INPUTS: &[Input] = &[#(#inputs),*];
        const NODES: &[Node] = &[#(#nodes),*];
        const OUTPUTS: &[Output] = &[#(#outputs),*];
        const PROGRAM: Program = Program::from_checked_parts(#name, #doc, INPUTS, NODES, OUTPUTS);
        PROGRAM
    }
}

fn input(input: &Input) -> TokenStream {
    let name = &*input.name;
    let kind = variant(&input.kind);
    quote!(Input { name: Cow::Borrowed(#name), kind: InputKind::#kind })
}

fn output(output: &Output) -> TokenStream {
    let (name, expr, differentiable) = (&*output.name, output.expr.0, output.differentiable);
    quote!(Output { name: Cow::Borrowed(#name), expr: ExprId(#expr), differentiable: #differentiable })
}

fn node(node: &Node) -> TokenStream {
    let operands: Vec<TokenStream> = node.operands().map(|id| id.0).map(|id| quote!(ExprId(#id))).collect();
    let name = match node {
        Node::Const(number) => {
            let bits = number.value().to_bits();
            return quote!(Node::Const(Number::new(f64::from_bits(#bits))));
        }
        Node::Input(input) => {
            let at = input.0;
            return quote!(Node::Input(InputId(#at)));
        }
        Node::Unary(op, _) => {
            let op = variant(op);
            return quote!(Node::Unary(UnaryOp::#op, #(#operands),*));
        }
        Node::Binary(op, ..) => {
            let op = variant(op);
            return quote!(Node::Binary(BinaryOp::#op, #(#operands),*));
        }
        Node::Select { cmp, .. } => {
            let cmp = variant(cmp);
            let names = ["lhs", "rhs", "then", "otherwise"].map(|name| format_ident!("{name}"));
            return quote!(Node::Select { cmp: Cmp::#cmp, #(#names: #operands),* });
        }
        Node::Expect { .. } => {
            let names = ["z", "f"].map(|name| format_ident!("{name}"));
            return quote!(Node::Expect { #(#names: #operands),* });
        }
        Node::Lse(_) => "Lse",
        Node::At(_) => "At",
        Node::Mean(_) => "Mean",
        Node::Max(_) => "Max",
        Node::Argmax(_) => "Argmax",
        // A program has no derived nodes; should one appear, the compiler of the user's crate says
        // so.
        Node::TargetValue(_) | Node::Nll(_) | Node::Upstream(_) | Node::Coef(_) => "NotInPrograms",
    };
    let name = format_ident!("{name}");
    quote!(Node::#name(#(#operands),*))
}

/// The name of a variant without fields, as its `Debug` writes it.
fn variant(value: &impl std::fmt::Debug) -> Ident {
    format_ident!("{value:?}")
}
