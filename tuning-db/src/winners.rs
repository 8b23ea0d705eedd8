//! The reader's side: winners of a database and of profiles, loaded once, selected from many times.
//!
//! - Nothing is written and no lock is taken, so a read-only folder, a full disk or a running tuner is no
//!   obstacle; and nothing here returns an error, because a launch must not fail for a missing hint.
//! - Layers are asked in order: the database of this machine, then the profiles as they were added, those that
//!   ship with the program last.
//! - A warning is given out once, also when the winners are read again: see [`Winners::after`].

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::index::read_record;
use crate::key::Key;
use crate::log::Log;
use crate::profile::Profile;
use crate::select::{Found, Grade, Relation, Request, Selection, nearest, order};
use crate::snapshot::{FILE, Snapshot};
use crate::warning::{Source, Warning};
use crate::winner::KeyWinners;

/// Everything that can be selected from.
#[derive(Debug, Default)]
pub struct Winners {
    database: Option<Base>,
    profiles: Vec<(Source, Profile)>,
    /// Not given out yet.
    pending: Mutex<Vec<Warning>>,
    said: Mutex<Vec<Warning>>,
}

#[derive(Debug)]
struct Base {
    folder: PathBuf,
    snapshot: Option<Snapshot>,
    /// Filled when the snapshot, or an entry of it, cannot be read.
    from_log: OnceLock<Vec<KeyWinners>>,
}

impl Winners {
    /// No winners: every selection is empty until profiles are added.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The winners of the database in `folder`; a folder that does not exist has none.
    #[must_use]
    pub fn open(folder: &Path) -> Self {
        let mut winners = Self::empty();
        let path = folder.join(FILE);
        let mut base = Base { folder: folder.into(), snapshot: None, from_log: OnceLock::new() };
        match Snapshot::load(&path) {
            Ok(snapshot) => base.snapshot = Some(snapshot),
            Err(Error::Io { source, .. }) if is_absent(&source) => {
                if base.log_path().metadata().is_ok_and(|m| m.len() > 0) {
                    winners.read_log(&base, "there is no snapshot of winners yet".to_owned());
                }
            }
            Err(error) => {
                winners.warn(Warning::Unreadable { path, reason: error.to_string() });
                winners.read_log(&base, "the snapshot of winners could not be read".to_owned());
            }
        }
        winners.database = Some(base);
        winners
    }

    /// Adds a profile below the layers that are there.
    #[must_use]
    pub fn with_profile(mut self, profile: Profile) -> Self {
        self.profiles.push((Source::Profile(profile.name.clone()), profile));
        self
    }

    /// Adds the text of a profile that ships with the program, below the layers that are there; `file` names it
    /// where it cannot be read, which becomes a warning.
    #[must_use]
    pub fn with_shipped_profile(mut self, file: &str, text: &str) -> Self {
        let read = Profile::parse(text);
        self.add_profile(Path::new(file), read, Source::Shipped);
        self
    }

    /// Adds a profile file below the layers that are there; what cannot be read of it becomes a warning.
    #[must_use]
    pub fn with_profile_file(mut self, path: &Path) -> Self {
        self.add_profile(path, Profile::read(path), Source::Profile);
        self
    }

    /// These winners, read in the place of `earlier` ones: what those have said is not said again.
    #[must_use]
    pub fn after(self, earlier: &Self) -> Self {
        let known = earlier.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|warning| !known.iter().any(|earlier| warning.is_repeated(earlier)));
        self.said.lock().unwrap_or_else(PoisonError::into_inner).extend(known);
        self
    }

    fn add_profile(
        &mut self,
        path: &Path,
        read: Result<(Profile, Vec<String>)>,
        source: impl FnOnce(String) -> Source,
    ) {
        match read {
            Ok((profile, skipped)) => {
                for reason in skipped {
                    self.warn(Warning::Unreadable { path: path.into(), reason });
                }
                self.profiles.push((source(profile.name.clone()), profile));
            }
            Err(error) => self.warn(Warning::Unreadable { path: path.into(), reason: error.to_string() }),
        }
    }

    /// Candidates for a call, best first.
    #[must_use]
    pub fn select(&self, request: &Request) -> Selection {
        let mut found = Vec::new();
        if let Some(base) = &self.database {
            self.find_in_base(base, request, &mut found);
        }
        for (source, profile) in &self.profiles {
            find_in_memory(&profile.entries, request, source, &mut found);
        }
        let candidates = order(request, found);
        if let Some(best) = candidates.first() {
            // Of another problem's it is for the caller to say what it is worth.
            if best.grade == Grade::Stale {
                self.warn(Warning::Stale {
                    source: best.source.clone(),
                    made_by: best.winner.generation.clone(),
                    now: request.generation.clone(),
                });
            }
            let now = request.provenance.as_ref();
            let differences = now.map(|now| best.winner.provenance.differences(now)).unwrap_or_default();
            if !differences.is_empty() {
                self.warn(Warning::OtherProvenance { source: best.source.clone(), differences });
            }
        }
        Selection { candidates, warnings: self.take_warnings() }
    }

    /// What was not said yet; [`Winners::select`] gives it out too.
    #[must_use]
    pub fn take_warnings(&self) -> Vec<Warning> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every stored key that has winners, layer by layer, for listings: those that may be selected.
    #[must_use]
    pub fn all(&self) -> Vec<(Source, KeyWinners)> {
        let mut all = Vec::new();
        if let Some(base) = &self.database {
            // What was read from the log is complete; the snapshot may lack damaged entries.
            let stored: Vec<_> = match (base.from_log.get(), &base.snapshot) {
                (Some(from_log), _) => from_log.clone(),
                (None, Some(snapshot)) => snapshot.all().collect(),
                (None, None) => Vec::new(),
            };
            all.extend(stored.into_iter().map(|winners| (Source::Database, winners)));
        }
        for (source, profile) in &self.profiles {
            all.extend(profile.entries.iter().map(|winners| (source.clone(), winners.clone())));
        }
        let has_wrong = |(_, stored): &&(Source, KeyWinners)| !stored.wrong.is_empty();
        let wrong: Vec<KeyWinners> = all.iter().filter(has_wrong).map(|(_, stored)| stored.clone()).collect();
        for (_, KeyWinners { key, winners, .. }) in &mut all {
            winners.retain(|winner| !wrong.iter().any(|one| one.disqualifies(key, winner)));
        }
        all.retain(|(_, stored)| !stored.winners.is_empty());
        all
    }

    fn find_in_base(&self, base: &Base, request: &Request, found: &mut Vec<Found>) {
        let from_log = |found: &mut Vec<Found>| {
            let winners = base.from_log.get().map_or(&[][..], Vec::as_slice);
            find_in_memory(winners, request, &Source::Database, found);
        };
        let Some(snapshot) = &base.snapshot else { return from_log(found) };
        let Ok(related) = snapshot.related(request) else {
            if base.from_log.get().is_none() {
                self.read_log(base, "a part of the snapshot of winners is damaged".to_owned());
            }
            return from_log(found);
        };
        for (relation, entry) in nearest(related) {
            let Some(key) = snapshot.key(&entry) else { continue };
            let stored = snapshot.winners(&entry).or_else(|| self.winners_in_log(base, &key));
            found.extend(stored.map(|stored| Found { relation, stored, source: Source::Database }));
        }
    }

    /// For a damaged entry of an otherwise intact snapshot.
    fn winners_in_log(&self, base: &Base, key: &Key) -> Option<KeyWinners> {
        if base.from_log.get().is_none() {
            self.read_log(base, "an entry of the snapshot of winners is damaged".to_owned());
        }
        base.from_log.get().into_iter().flatten().find(|stored| stored.key == *key).cloned()
    }

    fn read_log(&self, base: &Base, reason: String) {
        let mut trials: std::collections::HashMap<Key, Vec<crate::Trial>> = std::collections::HashMap::new();
        let scanned = Log::in_folder(&base.folder, Duration::ZERO).scan(None, |payload| {
            if let Some(record) = read_record(payload) {
                trials.entry(record.key).or_default().push(record.trial);
            }
            Ok(())
        });
        let path = base.log_path();
        match scanned {
            Ok((_, report)) => self.warn(Warning::ReadFromLog { path, records: report.records, reason }),
            Err(error) => self.warn(Warning::Unreadable { path, reason: error.to_string() }),
        }
        let winners = trials.into_iter().map(|(key, trials)| KeyWinners::choose(key, &trials)).collect();
        // Another thread may have been faster with the same result.
        let _ = base.from_log.set(winners);
    }

    fn warn(&self, warning: Warning) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if !said.iter().any(|earlier| warning.is_repeated(earlier)) {
            said.push(warning.clone());
            self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(warning);
        }
    }
}

impl Base {
    fn log_path(&self) -> PathBuf {
        Log::in_folder(&self.folder, Duration::ZERO).path().to_owned()
    }
}

/// Neither the file nor, perhaps, its folder exists.
fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

fn find_in_memory(winners: &[KeyWinners], request: &Request, source: &Source, found: &mut Vec<Found>) {
    let related: Vec<(Relation, &KeyWinners)> =
        winners.iter().filter_map(|w| Some((request.relation(&w.key)?, w))).collect();
    for (relation, w) in nearest(related) {
        found.push(Found { relation, stored: w.clone(), source: source.clone() });
    }
}
