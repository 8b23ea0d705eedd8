//! Where a head comes from, in words that another process understands.

use super::Head;
use crate::Error;
use cce_codegen::problem::DType;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where hidden states, classifier and targets come from. The same source gives the same head, to the bit, in
/// every process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HeadSource {
    /// [`Head::generated`].
    Generated {
        /// The seed.
        seed: u64,
    },
    /// [`Head::untrained`].
    Untrained {
        /// The seed.
        seed: u64,
    },
    /// [`Head::load`]: the first tokens of a safetensors file.
    File {
        /// The file; a relative path starts at the process's folder.
        path: PathBuf,
    },
}

impl HeadSource {
    /// The head, N x D x V in a type.
    ///
    /// # Errors
    /// As [`Head::load`]; when the file holds another D or V, or fewer tokens.
    pub fn head(&self, tokens: usize, width: usize, vocab: usize, dtype: DType) -> Result<Head, Error> {
        match self {
            HeadSource::Generated { seed } => Ok(Head::generated(tokens, width, vocab, *seed, dtype)),
            HeadSource::Untrained { seed } => Ok(Head::untrained(tokens, width, vocab, *seed, dtype)),
            HeadSource::File { path } => {
                let head = Head::load(path)?.first_tokens(tokens);
                if (head.tokens, head.width, head.vocab) != (tokens, width, vocab) {
                    let found = format!("{} x {} x {}", head.tokens, head.width, head.vocab);
                    return Err(Error::Usage {
                        reason: format!(
                            "{} holds a head of {found} (tokens x hidden x vocabulary), expected \
                             {tokens} x {width} x {vocab}: it has changed, state the problem again",
                            path.display()
                        ),
                    });
                }
                Ok(head.converted(dtype))
            }
        }
    }
}
