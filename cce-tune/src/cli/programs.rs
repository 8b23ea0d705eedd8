//! Losses by name: a user's own, those that ship, or a saved file.
//!
//! Trials know a loss by its hash. One that does not ship is saved beside them when it is tuned, in
//! `losses/HASH.json` of the database's folder, so that it can be named later.

use crate::Error;
use cce::losses;
use cce_codegen::ir::Program;
use cce_tuning_db::ProgramHash;
use std::path::{Path, PathBuf};

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

    /// Saves a loss that does not ship beside its trials in the database's folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn remember(folder: &Path, program: &Program) -> Result<(), Error> {
        let ships = losses::ALL.iter().any(|(_, shipped)| shipped().hash() == program.hash());
        let path = saved(folder, &ProgramHash::from_bytes(program.hash()));
        if ships || path.exists() {
            return Ok(());
        }
        let failed = |source| Error::Write { path: path.clone(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        // Written beside and renamed: whoever reads it finds a whole one.
        let aside = path.with_extension(format!("{}.aside", std::process::id()));
        std::fs::write(&aside, program.save()).map_err(failed)?;
        std::fs::rename(&aside, &path).map_err(failed)
    }

    /// The loss with this hash: a user's, a shipped one, or one that was tuned into the database in `folder`.
    pub(super) fn with_hash(&self, folder: &Path, hash: &ProgramHash) -> Option<Program> {
        let is_it = |program: &Program| program.hash() == *hash.as_bytes();
        let own = self.own.iter().find(|program| is_it(program)).cloned();
        let shipped = || losses::ALL.iter().map(|(_, program)| program()).find(is_it);
        let tuned = || {
            let text = std::fs::read_to_string(saved(folder, hash)).ok()?;
            Program::load(&text).ok().filter(is_it)
        };
        own.or_else(shipped).or_else(tuned)
    }
}

/// Where a loss that does not ship is saved.
fn saved(folder: &Path, hash: &ProgramHash) -> PathBuf {
    folder.join("losses").join(format!("{hash}.json"))
}
