//! Losses by name: a user's own, those that ship, or a saved file.

use crate::Error;
use cce::losses;
use cce_codegen::ir::Program;
use cce_tuning_db::ProgramHash;
use std::path::Path;

/// The losses that the command line knows.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    own: Vec<Program>,
}

impl Programs {
    pub(super) fn new(own: impl IntoIterator<Item = Program>) -> Programs {
        Programs { own: own.into_iter().collect() }
    }

    /// The name of the user's first loss.
    pub(super) fn default_name(&self) -> Option<&str> {
        self.own.first().map(Program::name)
    }

    /// A user's loss, a shipped one, or a saved file, in this order.
    ///
    /// # Errors
    /// When it is neither, or the file is no valid program.
    pub(super) fn find(&self, name: &str) -> Result<Program, Error> {
        if let Some(own) = self.own.iter().find(|program| program.name() == name) {
            return Ok(own.clone());
        }
        if let Some(shipped) = losses::named(name) {
            return Ok(shipped);
        }
        let path = Path::new(name);
        if !path.exists() {
            return Err(Error::Usage {
                reason: format!(
                    "there is no loss and no file {name}; expected a file saved with Program::save, or \
                     one of {}",
                    self.names().join(", ")
                ),
            });
        }
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Program::load(&text).map_err(|error| Error::Loss { path: path.into(), reason: error.to_string() })
    }

    fn names(&self) -> Vec<&str> {
        self.own.iter().map(Program::name).chain(losses::ALL.iter().map(|(name, _)| *name)).collect()
    }

    /// The loss with this hash: a user's, a shipped one, or one that was tuned into the database in `folder`.
    pub(super) fn with_hash(&self, folder: &Path, hash: &ProgramHash) -> Option<Program> {
        let own = self.own.iter().find(|program| program.hash() == *hash.as_bytes()).cloned();
        own.or_else(|| crate::losses::with_hash(folder, hash))
    }
}
