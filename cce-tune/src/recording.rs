//! Recordings: the trials of one problem on one device, small enough to be kept in a repository.
//!
//! What a search may learn from on a machine without the device: each schedule's time, or how it failed. Schedules
//! share most of their parts, so a recording holds each value of each part once, and of a trial the numbers of
//! its values. Exports of trials and folders of databases are read as recordings too, one for each problem.

use crate::Error;
use cce_codegen::schedule::Schedule;
use cce_runtime::selection;
use cce_tuning_db::{
    ConfigHash, Database, Generation, Key, KeyWinners, Profile, Provenance, Record, Settled, Shape, Status,
    Trial, Winner, counting, newest,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The layout of recordings that this version writes and reads.
pub const RECORDING_SCHEMA: u32 = 1;

/// What a recording's file says it is.
const KIND: &str = "cce recording";

/// The trials of a problem on a device.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Recording {
    /// What to call it: its file's name, or its profile's. Of a file that holds several problems all have the same.
    pub name: String,
    /// The problem and the device.
    pub key: Key,
    /// The exact shape.
    pub shape: Shape,
    /// What generated the code.
    pub generation: Generation,
    /// Who measured, when and with what.
    pub provenance: Provenance,
    /// Every schedule that was tried, the default first.
    pub trials: Vec<Recorded>,
}

/// A schedule and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The schedule.
    pub schedule: Schedule,
    /// How its trial ended.
    pub status: Status,
    /// The time that counts and the interquartile range of its runs, in ms, where it ran.
    pub time: Option<(f64, f64)>,
    /// What a run-off decided of it, where that is known: a recording's file has times alone.
    pub settled: Option<Settled>,
}

/// What became of a schedule that was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Its time, in ms.
    Time(f64),
    /// It could not run, or was wrong.
    Failed,
}

impl Outcome {
    /// The time in ms, of one that ran.
    pub fn time(self) -> Option<f64> {
        match self {
            Outcome::Time(ms) => Some(ms),
            Outcome::Failed => None,
        }
    }
}

impl Recorded {
    fn of(trial: &Trial) -> Option<Recorded> {
        let schedule = selection::schedule(&trial.config).ok()?;
        let time = trial.deciding_time().map(|ms| (ms, trial.spread.unwrap_or(0.0)));
        // A constraint is no trial: nothing was built.
        let tried = !matches!(trial.status, Status::Constraint(_));
        tried.then(|| Recorded { schedule, status: trial.status.clone(), time, settled: trial.settled })
    }

    /// What a strategy is told.
    pub fn outcome(&self) -> Outcome {
        self.time.map_or(Outcome::Failed, |(ms, _)| Outcome::Time(ms))
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Stored {
    kind: String,
    schema: u32,
    key: Key,
    shape: Shape,
    generation: Generation,
    provenance: Provenance,
    /// `gpu` or `cpu`, as in a schedule's JSON.
    device: String,
    /// Of each part of a schedule its values.
    parts: BTreeMap<String, Vec<Value>>,
    /// How trials failed.
    failures: Vec<Status>,
    rows: Vec<Row>,
}

/// A trial: the numbers of its parts' values in the parts' order, then median and spread, or the number of its
/// failure.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Row {
    Timed(Vec<usize>, f64, f64),
    Failed(Vec<usize>, usize),
}

impl Recording {
    /// The recording of what a database knows of these schedules, which come in the order of the search.
    pub fn of<'a>(
        name: &str,
        key: &Key,
        shape: Shape,
        generation: &Generation,
        trials: impl IntoIterator<Item = &'a Trial>,
    ) -> Option<Recording> {
        let trials: Vec<&Trial> = trials.into_iter().collect();
        let provenance = trials.first()?.provenance.clone();
        Some(Recording {
            name: name.to_owned(),
            key: key.clone(),
            shape,
            generation: generation.clone(),
            provenance,
            trials: trials.into_iter().filter_map(Recorded::of).collect(),
        })
    }

    /// What the winners of a problem say of it: those of the newest generation, at the shape of the best. `None` if
    /// there are none.
    pub fn of_winners(name: &str, entry: &KeyWinners) -> Option<Recording> {
        let best = entry.winners.first()?;
        let of_one = |winner: &&Winner| winner.generation == best.generation && winner.shape == best.shape;
        let trials = entry.winners.iter().filter(of_one).filter_map(|winner| {
            let schedule = selection::schedule(&winner.config).ok()?;
            let time = Some((winner.deciding_time(), winner.spread.unwrap_or(0.0)));
            Some(Recorded { schedule, status: Status::Ok, time, settled: winner.settled })
        });
        Some(Recording {
            name: name.to_owned(),
            key: entry.key.clone(),
            shape: best.shape,
            generation: best.generation.clone(),
            provenance: best.provenance.clone(),
            trials: trials.collect(),
        })
    }

    /// The fastest time, in ms.
    pub fn best(&self) -> Option<f64> {
        let times = self.trials.iter().filter_map(|trial| Some(trial.time?.0));
        times.min_by(f64::total_cmp)
    }

    /// As JSON, a trial a line.
    ///
    /// # Errors
    /// Those of serialisation.
    pub fn to_json(&self) -> Result<String, Error> {
        let bad = |error: serde_json::Error| Error::Json(error.to_string());
        let mut stored = Stored {
            kind: KIND.to_owned(),
            schema: RECORDING_SCHEMA,
            key: self.key.clone(),
            shape: self.shape,
            generation: self.generation.clone(),
            provenance: self.provenance.clone(),
            device: String::new(),
            parts: BTreeMap::new(),
            failures: Vec::new(),
            rows: Vec::new(),
        };
        for trial in &self.trials {
            let Value::Object(outer) = serde_json::to_value(trial.schedule).map_err(bad)? else { continue };
            let Some((device, Value::Object(fields))) = outer.into_iter().next() else { continue };
            stored.device = device;
            // A sorted map, of the same fields in each schedule: their order is that of `parts`.
            let fields: BTreeMap<String, Value> = fields.into_iter().collect();
            let numbers =
                fields.into_iter().map(|(field, value)| place(stored.parts.entry(field).or_default(), value));
            let numbers = numbers.collect();
            stored.rows.push(match trial.time {
                Some((ms, spread)) => Row::Timed(numbers, digits(ms), digits(spread)),
                None => Row::Failed(numbers, place(&mut stored.failures, trial.status.clone())),
            });
        }
        let rows = std::mem::take(&mut stored.rows);
        let head = serde_json::to_string(&stored).map_err(bad)?;
        let rows = rows.iter().map(|row| serde_json::to_string(row).map_err(bad));
        let rows = rows.collect::<Result<Vec<_>, _>>()?.join(",\n");
        let head = head.strip_suffix("[]}").unwrap_or(&head);
        Ok(format!("{head}[\n{rows}\n]}}\n"))
    }

    /// Reads a recording, an export of trials, the folder of a database, or a profile, of which the winners alone are
    /// known.
    ///
    /// # Errors
    /// When it cannot be read, or is none of these.
    pub fn read(path: &Path) -> Result<Vec<Recording>, Error> {
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        if path.is_dir() {
            return some(path, Recording::of_records(&name, Database::open(path)?.records()?)?);
        }
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let bad = |reason: String| Error::Recording { path: path.into(), reason };
        let kind = |error: serde_json::Error| bad(format!("it is no JSON of a known kind: {error}"));
        #[derive(Deserialize)]
        struct Kind {
            kind: String,
            schema: u32,
        }
        // Profiles say no kind.
        if let Ok((profile, _)) = Profile::parse(&text) {
            let of_entry = |entry| Recording::of_winners(&profile.name, entry);
            return some(path, profile.entries.iter().filter_map(of_entry).collect());
        }
        let found: Kind = serde_json::from_str(&text).map_err(kind)?;
        match (found.kind.as_str(), found.schema) {
            (KIND, RECORDING_SCHEMA) => Ok(vec![Recording::parse(&name, &text).map_err(bad)?]),
            ("cce trials", 1) => {
                #[derive(Deserialize)]
                struct Export {
                    records: Vec<Record>,
                }
                let export: Export = serde_json::from_str(&text).map_err(kind)?;
                some(path, Recording::of_records(&name, export.records)?)
            }
            (kind, schema) => Err(bad(format!(
                "expected a recording of schema {RECORDING_SCHEMA} or an export of trials of schema 1; it says \
                 {kind:?}, schema {schema}"
            ))),
        }
    }

    /// Of each problem, shape, generation and host a recording; of each schedule its newest trial.
    ///
    /// # Errors
    /// When a key cannot be encoded.
    pub fn of_records(name: &str, records: Vec<Record>) -> Result<Vec<Recording>, Error> {
        type Group = (Key, Vec<Trial>);
        let mut groups: BTreeMap<(Vec<u8>, Shape, Generation, String), Group> = BTreeMap::new();
        for Record { key, trial, .. } in records {
            let of = (key.encode()?, trial.shape, trial.generation.clone(), trial.provenance.host.clone());
            groups.entry(of).or_insert_with(|| (key, Vec::new())).1.push(trial);
        }
        let recordings = groups.into_iter().filter_map(|((_, shape, generation, _), (key, trials))| {
            // In the order of the search, in which the default is tried first: the run-off measured it once more.
            let mut first: HashMap<ConfigHash, u64> = HashMap::new();
            for trial in counting(&trials) {
                let when = first.entry(trial.config.hash()).or_insert(u64::MAX);
                *when = trial.provenance.unix_ms.min(*when);
            }
            let mut newest: Vec<&Trial> = newest(&trials).collect();
            newest.sort_by_key(|trial| {
                let config = trial.config.hash();
                (first.get(&config).copied(), trial.provenance.unix_ms, config)
            });
            Recording::of(name, &key, shape, &generation, newest)
        });
        Ok(recordings.collect())
    }

    /// Whether a text says that it is a recording.
    pub(crate) fn is_one(text: &str) -> bool {
        #[derive(Deserialize)]
        struct Kind {
            kind: String,
        }
        serde_json::from_str::<Kind>(text).is_ok_and(|found| found.kind == KIND)
    }

    fn parse(name: &str, text: &str) -> Result<Recording, String> {
        let stored: Stored = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let schedule = |numbers: &[usize]| -> Result<Schedule, String> {
            if numbers.len() != stored.parts.len() {
                return Err(format!("a row has {} parts, expected {}", numbers.len(), stored.parts.len()));
            }
            let fields = stored.parts.iter().zip(numbers).map(|((field, values), &number)| {
                let value = values.get(number).ok_or_else(|| format!("{field} has no value {number}"))?;
                Ok((field.clone(), value.clone()))
            });
            let fields: serde_json::Map<String, Value> = fields.collect::<Result<_, String>>()?;
            let whole = serde_json::json!({ (stored.device.as_str()): fields });
            serde_json::from_value(whole).map_err(|error| format!("not a schedule of this version: {error}"))
        };
        let trials = stored.rows.iter().map(|row| match row {
            Row::Timed(numbers, ms, spread) => {
                if !(ms.is_finite() && *ms > 0.0) {
                    return Err(format!("{ms} ms is no time"));
                }
                let time = Some((*ms, *spread));
                Ok(Recorded { schedule: schedule(numbers)?, status: Status::Ok, time, settled: None })
            }
            Row::Failed(numbers, failure) => {
                let status = stored.failures.get(*failure).cloned();
                let status = status.ok_or_else(|| format!("there is no failure {failure}"))?;
                Ok(Recorded { schedule: schedule(numbers)?, status, time: None, settled: None })
            }
        });
        Ok(Recording {
            name: name.to_owned(),
            trials: trials.collect::<Result<_, String>>()?,
            key: stored.key,
            shape: stored.shape,
            generation: stored.generation,
            provenance: stored.provenance,
        })
    }
}

/// The place of a value, at the end if it is new.
fn place<T: PartialEq>(values: &mut Vec<T>, value: T) -> usize {
    values.iter().position(|known| *known == value).unwrap_or_else(|| {
        values.push(value);
        values.len() - 1
    })
}

/// Five significant digits: a tenth of what repeats.
fn digits(ms: f64) -> f64 {
    format!("{ms:.4e}").parse().unwrap_or(ms)
}

fn some(path: &Path, recordings: Vec<Recording>) -> Result<Vec<Recording>, Error> {
    if recordings.is_empty() {
        let reason = "it holds no trials; `cce-tune --record FILE` and `cce-tune export FILE` make some";
        return Err(Error::Recording { path: path.into(), reason: reason.to_owned() });
    }
    Ok(recordings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::schedule::CpuSchedule;
    use cce_tuning_db::{Device, Problem, ProgramHash};

    fn trial(token_block: u32, strip: u32, at: u64, samples: &[f64]) -> Trial {
        let schedule = Schedule::Cpu(CpuSchedule { token_block, strip });
        let config = selection::config(&schedule).unwrap();
        let (shape, generation) = (Shape::new(8, 8, 8), Generation::new("1", "s"));
        let here = Provenance::new("here", at);
        match samples {
            [] => Trial::dropped(config, shape, Status::Launch("too hot".to_owned()), generation, here),
            samples => Trial::measured(config, shape, samples.to_vec(), generation, here).unwrap(),
        }
    }

    fn key() -> Key {
        Key::new(ProgramHash::of(b"p"), Problem::new(Shape::new(8, 8, 8)), Device::cpu("x", 1))
    }

    fn recording() -> Recording {
        let trials = [
            trial(16, 512, 5, &[1.0, 1.5, 1.25]),
            trial(32, 512, 6, &[]),
            trial(32, 1024, 7, &[0.123_456_78]),
        ];
        Recording::of("some", &key(), Shape::new(8, 8, 8), &Generation::new("1", "s"), &trials).unwrap()
    }

    #[test]
    fn a_recording_survives_its_file_to_five_digits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.json");
        std::fs::write(&path, recording().to_json().unwrap()).unwrap();
        let mut expected = recording();
        expected.trials[2].time = Some((0.12346, 0.0));
        assert_eq!(Recording::read(&path).unwrap(), [expected]);
        assert_eq!(recording().best(), Some(0.123_456_78));
    }

    #[test]
    fn an_export_and_a_database_are_read_as_recordings_with_the_newest_trial_of_a_schedule() {
        let folder = tempfile::tempdir().unwrap();
        let mut database = Database::open(folder.path()).unwrap();
        let trials = [trial(16, 512, 1, &[9.0]), trial(32, 512, 2, &[]), trial(16, 512, 3, &[2.0])];
        let records = trials.map(|trial| Record::new(key(), trial));
        database.append(&records).unwrap();
        let path = folder.path().join("export.json");
        database.export(std::fs::File::create(&path).unwrap()).unwrap();
        for path in [folder.path(), &path] {
            let [read] = &Recording::read(path).unwrap()[..] else { panic!("not one recording") };
            let times: Vec<Option<f64>> = read.trials.iter().map(|t| t.outcome().time()).collect();
            // In the order in which they were tried first.
            assert_eq!(times, [Some(2.0), None], "{}", path.display());
        }
    }

    #[test]
    fn what_is_no_recording_is_refused_with_what_was_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let whole = recording().to_json().unwrap();
        for (text, expected) in [
            ("{}", "no JSON of a known kind"),
            ("{\"kind\":\"cce profile\",\"schema\":1}", "it says \"cce profile\", schema 1"),
            (&whole.replace("[[0,0],", "[[0,7],"), "has no value 7"),
            (&whole.replace("[[0,0],", "[[0],"), "a row has 1 parts, expected 2"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Recording::read(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
