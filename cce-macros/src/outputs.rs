//! `#[derive(Outputs)]`.

use crate::signature::{last, plain};
use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, Type};

/// Implements `cce::OutputFields`, or says what a struct of outputs is.
pub fn derive(item: TokenStream) -> TokenStream {
    let item: DeriveInput = match syn::parse2(item) {
        Ok(item) => item,
        Err(error) => return error.to_compile_error(),
    };
    let name = &item.ident;
    let fields = match &item.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) if !fields.named.is_empty() => &fields.named,
            _ => {
                let message = "outputs are a struct with named fields\n\
                               help: give it fields of type `Row`, such as `loss: Row`";
                return Error::new_spanned(name, message).to_compile_error();
            }
        },
        _ => {
            let message = "outputs are a struct, with a field of type `Row` for each\n\
                           help: write `struct Name { loss: Row }`";
            return Error::new_spanned(name, message).to_compile_error();
        }
    };
    let mut errors = TokenStream::new();
    if !item.generics.params.is_empty() {
        let message = "outputs are not generic: each is a `Row`\nhelp: remove the parameters";
        errors.extend(Error::new_spanned(&item.generics, message).to_compile_error());
        return errors;
    }
    for field in fields {
        let is_row = match &field.ty {
            Type::Path(path) => last(&path.path).is_some_and(|name| name == "Row"),
            _ => false,
        };
        if !is_row {
            let message = "an output is a value a token\nhelp: make the field a `Row`";
            errors.extend(Error::new_spanned(&field.ty, message).to_compile_error());
        }
    }
    let idents: Vec<_> = fields.iter().filter_map(|field| field.ident.as_ref()).collect();
    let names = idents.iter().map(|ident| plain(ident));
    quote! {
        #errors
        impl ::cce::OutputFields for #name {
            const NAMES: &'static [&'static str] = &[#(#names),*];
        }
        const _: () = {
            // The fields are read through their names, at run time: this tells the compiler that
            // they are not dead.
            #[allow(dead_code, clippy::all)]
            fn read(outputs: &#name) {
                #(let _ = &outputs.#idents;)*
            }
        };
    }
}
