//! Trials of one key: what is known of each candidate, and their keeping.

use crate::Error;
use cce_tuning_db::{
    Config, ConfigHash, Database, Generation, Key, KeyWinners, Provenance, Record, Shape, Status, Trial,
    Winner, disqualified, newest,
};
use std::collections::{HashMap, HashSet};

/// The trials of one key in a database, of one code generator and one host; those that are added go to the
/// log at once.
#[derive(Debug)]
pub struct Store {
    database: Database,
    key: Key,
    shape: Shape,
    generation: Generation,
    provenance: Provenance,
    trials: HashMap<ConfigHash, Trial>,
    /// What other hosts, or this one at other shapes, found wrong: see [`disqualified`].
    wrong: HashMap<ConfigHash, Trial>,
    /// Since when everything is measured anew: see [`Trial::anew`].
    anew: Option<u64>,
    reused: usize,
    /// Later than every trial that is known, in ms since 1970.
    next_ms: u64,
}

impl Store {
    /// Opens the trials of `key`. `provenance` states host, driver and NVRTC; each trial gets its own time.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn open(
        database: Database,
        key: Key,
        shape: Shape,
        generation: Generation,
        provenance: Provenance,
    ) -> Result<Store, Error> {
        let here = provenance.host.clone();
        Store::open_of(database, key, shape, generation, provenance, |host| host == here)
    }

    /// As [`Store::open`], with the trials of every host: those of a fleet that shares the work.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_of_all_hosts(
        database: Database,
        key: Key,
        shape: Shape,
        generation: Generation,
        provenance: Provenance,
    ) -> Result<Store, Error> {
        Store::open_of(database, key, shape, generation, provenance, |_| true)
    }

    fn open_of(
        mut database: Database,
        key: Key,
        shape: Shape,
        generation: Generation,
        provenance: Provenance,
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<Store, Error> {
        let mut trials: HashMap<ConfigHash, Trial> = HashMap::new();
        let of_here = |trial: &&Trial| {
            trial.generation == generation && is_ours(&trial.provenance.host) && trial.shape == shape
        };
        let all = database.trials(&key)?;
        let is_own = |trial: &&Trial| trial.provenance.host == provenance.host && trial.shape == shape;
        let wrong_in = |trials: Vec<&Trial>| -> HashMap<ConfigHash, Trial> {
            let of_now = disqualified(trials).into_iter().filter(|((_, made), _)| **made == generation);
            of_now.map(|((config, _), trial)| (config, trial.clone())).collect()
        };
        let (own, others) = all.iter().partition(|trial| is_own(trial));
        let (own_wrong, wrong) = (wrong_in(own), wrong_in(others));
        // One that was begun is gone on with: what was measured before it is for readers alone.
        let anew = all.iter().filter(of_here).filter(is_own).filter_map(|trial| trial.anew).max();
        let is_old = |trial: &&Trial| is_own(trial) && Some(trial.provenance.unix_ms) < anew;
        for trial in newest(all.iter().filter(of_here).filter(|trial| !is_old(trial))) {
            let newer = |known: &Trial| known.provenance.unix_ms > trial.provenance.unix_ms;
            if trials.get(&trial.config.hash()).is_none_or(|known| !newer(known)) {
                trials.insert(trial.config.hash(), trial.clone());
            }
        }
        trials.extend(own_wrong);
        let reused = trials.keys().chain(wrong.keys()).collect::<HashSet<_>>().len();
        let next_ms = all
            .iter()
            .filter(|trial| is_ours(&trial.provenance.host))
            .map(|trial| trial.provenance.unix_ms + 1)
            .max()
            .unwrap_or(0);
        Ok(Store { database, key, shape, generation, provenance, trials, wrong, anew, reused, next_ms })
    }

    /// Takes what is stored for nothing, so that everything is measured [anew](Trial::anew), but what other hosts found
    /// wrong.
    pub fn measure_again(&mut self) {
        self.trials.clear();
        self.anew = Some(self.now().unix_ms);
        self.reused = self.wrong.len();
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The configurations of which a time is known, in any order.
    pub fn timed(&self) -> impl Iterator<Item = &Config> {
        self.trials.values().filter(|trial| trial.time().is_some()).map(|trial| &trial.config)
    }

    /// How many trials were there when it was opened.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// The newest trial of a configuration; of one that another host found wrong, that host's, because no plan takes it
    /// whatever is measured here.
    pub fn known(&self, config: &Config) -> Option<&Trial> {
        self.wrong.get(&config.hash()).or_else(|| self.trials.get(&config.hash()))
    }

    pub(super) fn dropped(&self, config: &Config, status: Status) -> Trial {
        Trial::dropped(config.clone(), self.shape, status, self.generation.clone(), self.now())
            .with_anew(self.anew)
    }

    pub(super) fn measured(&self, config: &Config, samples: Vec<f64>) -> Result<Trial, Error> {
        let trial =
            Trial::measured(config.clone(), self.shape, samples, self.generation.clone(), self.now())?;
        Ok(trial.with_anew(self.anew))
    }

    /// This moment, and later than all that was kept before: a correction is one, and what was kept after a
    /// run-off is told from what was in it.
    fn now(&self) -> Provenance {
        let mut now = Provenance::now(self.provenance.host.clone());
        now.unix_ms = now.unix_ms.max(self.next_ms);
        now.driver.clone_from(&self.provenance.driver);
        now.nvrtc.clone_from(&self.provenance.nvrtc);
        now
    }

    /// Appends trials to the log: when this returns, they are durable.
    pub(super) fn keep(&mut self, mut trials: Vec<Trial>) -> Result<(), Error> {
        if trials.is_empty() {
            return Ok(());
        }
        // Each later than the one before: their order says what was tried first.
        let mut next_ms = self.next_ms;
        for trial in &mut trials {
            trial.provenance.unix_ms = trial.provenance.unix_ms.max(next_ms);
            next_ms = trial.provenance.unix_ms + 1;
        }
        let records: Vec<Record> =
            trials.iter().map(|trial| Record::new(self.key.clone(), trial.clone())).collect();
        self.database.append(&records)?;
        self.next_ms = next_ms;
        self.trials.extend(trials.into_iter().map(|trial| (trial.config.hash(), trial)));
        Ok(())
    }

    /// What plans take of this key's trials, of this code generator: a winner's configuration, and the shape and time in ms
    /// that it was measured with.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn in_use(&mut self) -> Result<Option<Winner>, Error> {
        let chosen = KeyWinners::choose(self.key.clone(), &self.database.trials(&self.key)?);
        Ok(chosen.winners.into_iter().find(|winner| winner.generation == self.generation))
    }

    /// Makes what was added visible to readers. Returns what was put right in the database on the way, in
    /// words.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn publish(&mut self) -> Result<Vec<String>, Error> {
        Ok(match self.database.index()? {
            cce_tuning_db::Indexing::Done { repairs } => repairs.iter().map(ToString::to_string).collect(),
            _ => vec![
                "another process is indexing the database; the trials are safe in its log and will be \
                 taken in by the next to index"
                    .to_owned(),
            ],
        })
    }
}
