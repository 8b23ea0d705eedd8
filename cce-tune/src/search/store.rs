//! Trials of one key: what is known of each candidate, and their keeping.

use crate::Error;
use cce_tuning_db::{
    Config, ConfigHash, Database, Generation, Key, Provenance, Record, Shape, Status, Trial,
};
use std::collections::HashMap;

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
    /// When the trials that are measured again were measured.
    earlier: HashMap<ConfigHash, u64>,
    reused: usize,
}

impl Store {
    /// Opens the trials of `key`. `provenance` states host, driver and NVRTC; each trial gets its own time.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn open(
        mut database: Database,
        key: Key,
        shape: Shape,
        generation: Generation,
        provenance: Provenance,
    ) -> Result<Store, Error> {
        let mut trials: HashMap<ConfigHash, Trial> = HashMap::new();
        let of_here = |trial: &Trial| {
            trial.generation == generation && trial.provenance.host == provenance.host && trial.shape == shape
        };
        for trial in database.trials(&key)?.into_iter().filter(of_here) {
            let newer = |known: &&mut Trial| known.provenance.unix_ms > trial.provenance.unix_ms;
            if trials.get_mut(&trial.config.hash()).as_ref().is_none_or(|known| !newer(known)) {
                trials.insert(trial.config.hash(), trial);
            }
        }
        let reused = trials.len();
        Ok(Store { database, key, shape, generation, provenance, trials, earlier: HashMap::new(), reused })
    }

    /// Takes what is stored for nothing, so that everything is measured again. What is kept from now on is
    /// newer, and counts instead.
    pub fn measure_again(&mut self) {
        let times = self.trials.drain().map(|(hash, trial)| (hash, trial.provenance.unix_ms));
        self.earlier.extend(times);
        self.reused = 0;
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// How many trials were there when it was opened.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// The newest trial of a configuration.
    pub fn known(&self, config: &Config) -> Option<&Trial> {
        self.trials.get(&config.hash())
    }

    pub(super) fn dropped(&self, config: &Config, status: Status) -> Trial {
        Trial::dropped(config.clone(), self.shape, status, self.generation.clone(), self.now(config))
    }

    pub(super) fn measured(&self, config: &Config, samples: Vec<f64>) -> Result<Trial, Error> {
        Ok(Trial::measured(config.clone(), self.shape, samples, self.generation.clone(), self.now(config))?)
    }

    /// This moment; later than what is known of the configuration in any case, so that a correction is one.
    fn now(&self, config: &Config) -> Provenance {
        let mut now = Provenance::now(self.provenance.host.clone());
        let known = self.known(config).map(|known| known.provenance.unix_ms);
        if let Some(known) = known.max(self.earlier.get(&config.hash()).copied()) {
            now.unix_ms = now.unix_ms.max(known + 1);
        }
        now.driver.clone_from(&self.provenance.driver);
        now.nvrtc.clone_from(&self.provenance.nvrtc);
        now
    }

    /// Appends trials to the log: when this returns, they are durable.
    pub(super) fn keep(&mut self, trials: Vec<Trial>) -> Result<(), Error> {
        if trials.is_empty() {
            return Ok(());
        }
        let records: Vec<Record> =
            trials.iter().map(|trial| Record::new(self.key.clone(), trial.clone())).collect();
        self.database.append(&records)?;
        self.trials.extend(trials.into_iter().map(|trial| (trial.config.hash(), trial)));
        Ok(())
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
