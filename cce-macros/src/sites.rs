//! Sites of the builder, and their spans.

use cce_codegen::valid::{Diagnostic, Site};
use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use syn::spanned::Spanned;

/// The tokens that each [`Site`] stands for.
#[derive(Default)]
pub struct Sites(Vec<TokenStream>);

impl Sites {
    /// A new site over these tokens.
    pub fn of(&mut self, tokens: &impl ToTokens) -> Site {
        self.0.push(tokens.to_token_stream());
        Site((self.0.len() - 1) as u32)
    }

    /// The `compile_error!` of a diagnostic, over all its tokens.
    pub fn error(&self, diagnostic: &Diagnostic) -> TokenStream {
        let tokens = self.0.get(diagnostic.site.0 as usize).cloned().unwrap_or_default();
        let mut message = diagnostic.message.clone();
        let here = self.line(diagnostic.site);
        let other = diagnostic.related.and_then(|site| self.line(site)).filter(|&line| Some(line) != here);
        if let Some(line) = other {
            message.push_str(&format!("\nnote: see also line {line}"));
        }
        if let Some(help) = &diagnostic.help {
            message.push_str(&format!("\nhelp: {help}"));
        }
        syn::Error::new_spanned(tokens, message).to_compile_error()
    }

    /// The line of a site, where the compiler tells.
    fn line(&self, site: Site) -> Option<usize> {
        let span: Span = self.0.get(site.0 as usize)?.span();
        proc_macro::is_available().then(|| span.unwrap().line())
    }
}
