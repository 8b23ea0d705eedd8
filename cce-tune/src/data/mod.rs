//! Hidden states, classifier and targets to tune, test and measure with: a file's, or generated ones with a
//! realistic softmax.
//!
//! Random logits are no test of a language model's head: every probability is then about 1/V, and a filter
//! that drops all of it looks fast. So a [`Head`] comes from a file ([`Head::load`], the caller's own model)
//! or from [`Head::generated`], whose softmax is shaped like a trained model's. [`Head::untrained`] is the
//! other extreme, on purpose.
//!
//! Invariants: `hidden` holds `tokens * width` elements and `classifier` `vocab * width`, both row-major and
//! of one type; there are `tokens` targets, each in `0..vocab` or [`IGNORED`].

mod elements;
mod file;
#[cfg(test)]
mod file_tests;
mod generated;
mod ignored;
mod models;
pub(crate) mod random;
mod source;

pub use elements::{Elements, Targets};
pub use models::{MODELS, Model};
pub use source::HeadSource;

use cce_codegen::problem::DType;
use rayon::prelude::*;

/// The target of a token that counts for nothing, here and by default in a plan.
pub const IGNORED: i64 = -100;

/// The input of a language model's head, in host memory.
#[derive(Clone, Debug)]
pub struct Head {
    /// N, the number of tokens.
    pub tokens: usize,
    /// D, the length of a hidden state.
    pub width: usize,
    /// V, the number of vocabulary entries.
    pub vocab: usize,
    /// E, \[N, D\].
    pub hidden: Elements,
    /// C, \[V, D\].
    pub classifier: Elements,
    /// \[N\].
    pub targets: Targets,
    /// What a file says that the result must be.
    pub references: References,
}

/// Reference values that came with a file, for plain cross entropy; gradients are of the mean loss over the
/// tokens that count. What stands for a token that is ignored is not looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct References {
    /// log sum_j exp(E_i . C_j), \[N\].
    pub lse: Option<Vec<f64>>,
    /// The loss of each token, \[N\].
    pub loss: Option<Vec<f64>>,
    /// The first rows of dE, \[any, D\].
    pub hidden_gradient: Option<Vec<f32>>,
    /// Rows of dC: their numbers \[K\], and \[K, D\].
    pub classifier_gradient: Option<(Vec<usize>, Vec<f32>)>,
}

impl References {
    /// Whether there is nothing to compare with.
    pub fn is_empty(&self) -> bool {
        *self == References::default()
    }

    /// The mean loss of all tokens, none of them ignored.
    pub fn mean_loss(&self) -> Option<f64> {
        let tokens: Vec<usize> = (0..self.loss.as_ref()?.len()).collect();
        self.mean_loss_of(&tokens)
    }

    /// The mean loss of these tokens.
    pub fn mean_loss_of(&self, tokens: &[usize]) -> Option<f64> {
        let loss = self.loss.as_ref()?;
        let sum: f64 = tokens.iter().map(|&token| loss[token]).sum();
        (!tokens.is_empty()).then(|| sum / tokens.len() as f64)
    }

    /// Whether there is a gradient among them.
    pub fn has_gradients(&self) -> bool {
        self.hidden_gradient.is_some() || self.classifier_gradient.is_some()
    }
}

impl Head {
    /// The type of hidden states and classifier.
    pub fn dtype(&self) -> DType {
        self.hidden.dtype()
    }

    /// The same head in another type, each element rounded to nearest. References stay: they hold to the new
    /// type's rounding.
    #[must_use]
    pub fn converted(&self, dtype: DType) -> Head {
        Head {
            hidden: self.hidden.converted(dtype),
            classifier: self.classifier.converted(dtype),
            targets: self.targets.clone(),
            references: self.references.clone(),
            ..*self
        }
    }

    /// The first `tokens` tokens (all, if there are fewer). References to per-token values are cut likewise;
    /// those of gradients, which depend on the number of tokens, are dropped.
    #[must_use]
    pub fn first_tokens(&self, tokens: usize) -> Head {
        if tokens >= self.tokens {
            return self.clone();
        }
        let cut = |values: &Option<Vec<f64>>| values.as_ref().map(|v| v[..tokens].to_vec());
        Head {
            tokens,
            hidden: self.hidden.first(tokens * self.width),
            classifier: self.classifier.clone(),
            targets: self.targets.first(tokens),
            references: References {
                lse: cut(&self.references.lse),
                loss: cut(&self.references.loss),
                ..References::default()
            },
            ..*self
        }
    }

    /// The first `tokens` tokens against the first `vocab` entries, with targets taken modulo `vocab` where
    /// they lie outside. No references: they hold to the whole.
    #[must_use]
    pub fn part(&self, tokens: usize, vocab: usize) -> Head {
        let (tokens, vocab) = (tokens.min(self.tokens), vocab.min(self.vocab));
        let mut targets = self.targets.first(tokens);
        targets.wrap(vocab);
        Head {
            tokens,
            width: self.width,
            vocab,
            hidden: self.hidden.first(tokens * self.width),
            classifier: self.classifier.first(vocab * self.width),
            targets,
            references: References::default(),
        }
    }

    /// Hidden states and targets with the tokens rotated: token 0 is what was token `by`.
    #[must_use]
    pub fn rotated_tokens(&self, by: usize) -> (Elements, Targets) {
        let by = by.checked_rem(self.tokens).unwrap_or(0);
        let (mut hidden, mut targets) = (self.hidden.clone(), self.targets.clone());
        hidden.rotate(by * self.width);
        targets.rotate(by);
        (hidden, targets)
    }

    /// The same head with about `share` of its tokens ignored, at random. References, which count every
    /// token, are dropped.
    #[must_use]
    pub fn with_ignored(&self, share: f64, seed: u64) -> Head {
        Head {
            hidden: self.hidden.clone(),
            classifier: self.classifier.clone(),
            targets: self.targets.with_ignored(share, seed),
            references: References::default(),
            ..*self
        }
    }

    /// The raw logit E_i . C_j in f64: the oracle's product. Zero outside the head.
    pub fn logit(&self, token: usize, entry: usize) -> f64 {
        let e = self.hidden.row_f64(token, self.width);
        let c = self.classifier.row_f64(entry, self.width);
        e.iter().zip(&c).map(|(a, b)| a * b).sum()
    }

    /// All raw logits of one token in f64, \[V\].
    pub fn logits(&self, token: usize) -> Vec<f64> {
        let e = self.hidden.row_f64(token, self.width);
        (0..self.vocab)
            .into_par_iter()
            .map(|entry| {
                let c = self.classifier.row_f64(entry, self.width);
                e.iter().zip(&c).map(|(a, b)| a * b).sum()
            })
            .collect()
    }
}
