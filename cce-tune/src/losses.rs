//! Losses that do not ship, beside the trials of them.
//!
//! Trials know a loss by its hash. One that does not ship is saved when it is tuned, in `losses/HASH.json` of the
//! database's folder, so that whoever reads its trials, or its winners, finds the program again.

use crate::Error;
use crate::files::whole_text;
use cce_codegen::ir::Program;
use cce_tuning_db::ProgramHash;
use std::path::{Path, PathBuf};

/// Saves a loss that does not ship beside its trials in the database's folder.
///
/// # Errors
/// When the folder cannot be written.
pub fn remember(folder: &Path, program: &Program) -> Result<(), Error> {
    let hash = ProgramHash::from_bytes(program.hash());
    // A file that is damaged, or another loss's, is as good as none.
    if with_hash(folder, &hash).is_some() {
        return Ok(());
    }
    let path = saved(folder, &hash);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|source| Error::Write { path: path.clone(), source })?;
    }
    whole_text(&path, &program.save())
}

/// The loss with this hash: one that ships, or one that was tuned into the database in `folder`.
pub fn with_hash(folder: &Path, hash: &ProgramHash) -> Option<Program> {
    shipped(*hash.as_bytes()).or_else(|| {
        let text = std::fs::read_to_string(saved(folder, hash)).ok()?;
        Program::load(&text).ok().filter(|program| program.hash() == *hash.as_bytes())
    })
}

fn shipped(hash: [u8; 32]) -> Option<Program> {
    cce::losses::ALL.iter().map(|(_, program)| program()).find(|program| program.hash() == hash)
}

/// Where a loss that does not ship is saved.
fn saved(folder: &Path, hash: &ProgramHash) -> PathBuf {
    folder.join("losses").join(format!("{hash}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::ir::InputKind;
    use cce_codegen::valid::{ProgramBuilder, Site};

    #[test]
    fn a_loss_is_found_again_if_it_ships_or_was_remembered_and_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let hash = |program: &Program| ProgramHash::from_bytes(program.hash());
        let focal = cce::losses::named("focal").unwrap();
        remember(folder.path(), &focal).unwrap();
        assert!(!folder.path().join("losses").exists(), "one that ships is saved");
        assert_eq!(with_hash(folder.path(), &hash(&focal)).unwrap().name(), "focal");

        let mut builder = ProgramBuilder::new(Site::default(), "own");
        let x = builder.input(Site::default(), "x", InputKind::Logit);
        let lse = builder.lse(Site::default(), x);
        let twice = builder.add(Site::default(), lse, lse);
        builder.output(Site::default(), "loss", twice);
        let own = builder.finish().unwrap();
        assert!(with_hash(folder.path(), &hash(&own)).is_none());
        remember(folder.path(), &own).unwrap();
        assert_eq!(with_hash(folder.path(), &hash(&own)).unwrap().name(), "own");
        // What is under the name of another is not taken for it.
        std::fs::write(saved(folder.path(), &hash(&own)), focal.save()).unwrap();
        assert!(with_hash(folder.path(), &hash(&own)).is_none());
        // Nor is a part of it; both are mended when it is tuned again.
        for damaged in [focal.save(), own.save()[..own.save().len() / 2].to_owned(), String::new()] {
            std::fs::write(saved(folder.path(), &hash(&own)), damaged).unwrap();
            assert!(with_hash(folder.path(), &hash(&own)).is_none());
            remember(folder.path(), &own).unwrap();
            assert_eq!(with_hash(folder.path(), &hash(&own)).unwrap().name(), "own");
        }
        assert_eq!(std::fs::read_dir(folder.path().join("losses")).unwrap().count(), 1);
    }
}
