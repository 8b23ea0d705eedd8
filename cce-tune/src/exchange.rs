//! Trials in the formats of other tools: Kernel Tuner's cache file, and T4, the results format that several tuners
//! share (<https://github.com/odgaard/TuningSchema>, version 1.0.0).
//!
//! - Both hold one problem a file: one key, and of it the trials of one generation, of each configuration the newest.
//!   The fastest host's stands where several measured one, unless a wrong result on any of them disqualifies it.
//! - Kernel Tuner (1.5) looks a configuration up by its values joined by commas, in the order of `tune_params_keys`, as
//!   Python writes them. So values are integers or texts, without commas. What failed has the name of Kernel Tuner's
//!   error in the place of its time.

use crate::knobs;
use cce_tuning_db::{Config, Generation, Key, Record, ShownTimes, Status, Trial, disqualified};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// One problem: a key, and the trials that count.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What was tuned.
    pub key: Key,
    /// What generated the code.
    pub generation: Generation,
    /// Of each configuration one, in the order in which they were measured.
    pub trials: Vec<Trial>,
    /// The times to show of these.
    pub times: ShownTimes,
}

impl Problem {
    /// The time to show of the best, in ms.
    pub fn best(&self) -> Option<f64> {
        self.times.ms(self.trials.iter().min_by(|a, b| a.standing(b))?)
    }
}

/// The problems of these records, of each key that generation which `current` names, else the newest.
pub fn problems(records: Vec<Record>, current: impl Fn(&Key) -> Generation) -> Vec<Problem> {
    let mut keys: BTreeMap<Vec<u8>, (Key, Vec<Trial>)> = BTreeMap::new();
    for record in records {
        // What cannot be encoded was never stored.
        let Ok(place) = record.key.encode() else { continue };
        keys.entry(place).or_insert_with(|| (record.key, Vec::new())).1.push(record.trial);
    }
    keys.into_values().filter_map(|(key, trials)| problem(current(&key), key, trials)).collect()
}

fn problem(current: Generation, key: Key, mut trials: Vec<Trial>) -> Option<Problem> {
    let is_current = trials.iter().any(|trial| trial.generation == current);
    let generation = match is_current {
        true => current,
        false => trials.iter().max_by_key(|trial| trial.provenance.unix_ms)?.generation.clone(),
    };
    trials.retain(|trial| trial.generation == generation);
    Some(Problem { trials: counting(&trials), times: ShownTimes::of(&trials), key, generation })
}

/// Of each configuration the trial that counts, in the order in which they were measured; `trials` are all of one key
/// and generation. Of one that is [`disqualified`] it is the trial that does it: what no plan takes wins nowhere else.
pub fn counting(trials: &[Trial]) -> Vec<Trial> {
    let disqualified = disqualified(trials);
    let mut best: BTreeMap<_, &Trial> =
        disqualified.values().map(|trial| (trial.config.hash(), *trial)).collect();
    for trial in cce_tuning_db::newest(trials) {
        if disqualified.contains_key(&(trial.config.hash(), &trial.generation)) {
            continue;
        }
        let slot = best.entry(trial.config.hash()).or_insert(trial);
        if trial.standing(slot).is_lt() {
            *slot = trial;
        }
    }
    let mut counting: Vec<Trial> = best.into_values().cloned().collect();
    counting.sort_by_key(|trial| trial.provenance.unix_ms);
    counting
}

/// Kernel Tuner's cache file: for its dashboard, its simulation mode and `kernel_tuner.tune_cache`. Times in ms.
pub fn kernel_tuner(problem: &Problem, loss: &str) -> String {
    let points: Vec<Vec<knobs::Knob>> = problem.trials.iter().map(|trial| point(&trial.config)).collect();
    let mut names: Vec<String> = Vec::new();
    for knob in points.iter().flatten() {
        if !names.contains(&knob.name) {
            names.push(knob.name.clone());
        }
    }
    let value_of = |point: &[knobs::Knob], name: &String| {
        let knob = point.iter().find(|knob| knob.name == *name);
        knob.map_or_else(|| json!("none"), |knob| knob.value.clone())
    };
    let mut parameters = Map::new();
    for name in &names {
        let mut values: Vec<Value> = Vec::new();
        for point in &points {
            let value = value_of(point, name);
            if !values.contains(&value) {
                values.push(value);
            }
        }
        values
            .sort_by(|a, b| order(a).total_cmp(&order(b)).then_with(|| knobs::text(a).cmp(&knobs::text(b))));
        parameters.insert(name.clone(), Value::Array(values));
    }
    let entries = problem.trials.iter().zip(&points).map(|(trial, point)| {
        let values: Vec<(String, Value)> =
            names.iter().map(|name| (name.clone(), value_of(point, name))).collect();
        let place: Vec<String> = values.iter().map(|(_, value)| knobs::text(value)).collect();
        let mut entry: Map<String, Value> = values.into_iter().collect();
        let time = problem
            .times
            .ms(trial)
            .map_or_else(|| json!(failed_in_kernel_tuner(&trial.status)), |ms| json!(ms));
        let benchmark: f64 = trial.samples.iter().sum();
        entry.insert("time".to_owned(), time);
        entry.insert("times".to_owned(), json!(trial.samples));
        for (name, ms) in [
            ("compile_time", 0.0),
            ("verification_time", 0.0),
            ("benchmark_time", benchmark),
            ("strategy_time", 0.0),
            ("framework_time", 0.0),
        ] {
            entry.insert(name.to_owned(), json!(ms));
        }
        entry.insert("timestamp".to_owned(), json!(timestamp(trial.provenance.unix_ms)));
        format!("{}:{}", json!(place.join(",")), Value::Object(entry))
    });
    let entries: Vec<String> = entries.collect();
    let shape =
        problem.trials.first().map(|trial| [trial.shape.tokens, trial.shape.hidden, trial.shape.vocab]);
    let head = [
        ("device_name", json!(problem.key.device.name())),
        ("kernel_name", json!(loss)),
        ("problem_size", json!(shape.unwrap_or_default())),
        ("tune_params_keys", json!(names)),
        ("tune_params", Value::Object(parameters)),
        ("objective", json!("time")),
    ];
    let head: Vec<String> = head.iter().map(|(name, value)| format!("{}:{value},\n", json!(name))).collect();
    // Kernel Tuner tells a finished file by its last three characters.
    format!("{{{}\"cache\":{{\n{}}}\n}}", head.concat(), entries.join(",\n"))
}

/// A configuration's knobs, with values that Python writes as they stand here.
fn point(config: &Config) -> Vec<knobs::Knob> {
    let plain = |value: Value| match value {
        Value::Number(number) if number.is_f64() => json!(number.to_string()),
        Value::Bool(value) => json!(if value { "yes" } else { "no" }),
        Value::String(text) => json!(text.replace(',', ";")),
        other => other,
    };
    let knobs = knobs::grouped(config).into_iter();
    knobs.map(|knob| knobs::Knob { value: plain(knob.value), ..knob }).collect()
}

/// Numbers in their order, before texts.
fn order(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::INFINITY)
}

fn failed_in_kernel_tuner(status: &Status) -> &'static str {
    match status {
        Status::Constraint(_) | Status::Resources(_) => "InvalidConfig",
        Status::Compile(_) => "CompilationFailedConfig",
        _ => "RuntimeFailedConfig",
    }
}

/// T4's results. Times in ms.
pub fn t4(problem: &Problem) -> Value {
    let results: Vec<Value> = problem.trials.iter().map(|trial| t4_result(trial, &problem.times)).collect();
    json!({"schema_version": "1.0.0", "metadata": {"timeunit": "milliseconds"}, "results": results})
}

fn t4_result(trial: &Trial, times: &ShownTimes) -> Value {
    let configuration: Map<String, Value> =
        point(&trial.config).into_iter().map(|knob| (knob.name, knob.value)).collect();
    let mut measurements = Vec::new();
    let mut measured = |name: &str, value: Option<Value>, unit: &str| {
        measurements.extend(value.map(|value| json!({"name": name, "value": value, "unit": unit})));
    };
    measured("time", times.ms(trial).map(|ms| json!(ms)), "ms");
    measured("spread", times.spread_ms(trial).map(|ms| json!(ms)), "ms");
    measured("gradient_error", trial.gradient_error.filter(|e| e.is_finite()).map(|e| json!(e)), "");
    if let Some(used) = trial.resources {
        measured("registers", Some(json!(used.registers)), "");
        measured("spill_bytes", Some(json!(used.spill_bytes)), "bytes");
        measured("shared_bytes", Some(json!(used.shared_bytes)), "bytes");
    }
    if !trial.status.reason().is_empty() {
        measured("reason", Some(json!(trial.status.reason())), "");
    }
    json!({
        "timestamp": timestamp(trial.provenance.unix_ms),
        "configuration": configuration,
        "times": {"compilation_time": 0.0, "runtimes": trial.samples, "framework": 0.0, "search_algorithm": 0.0,
                  "validation": 0.0},
        "invalidity": match &trial.status {
            Status::Ok => "correct",
            Status::Constraint(_) => "constraints",
            Status::Compile(_) | Status::Resources(_) => "compile",
            Status::Timeout(_) => "timeout",
            Status::Wrong(_) => "correctness",
            _ => "runtime",
        },
        "correctness": i32::from(trial.status == Status::Ok),
        "measurements": measurements,
        "objectives": ["time"],
    })
}

/// A time in UTC as ISO 8601 has it, such as `2023-11-14 22:13:20.000+00:00`, from ms since 1970.
pub fn timestamp(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}.{ms:03}+00:00", second % 60)
}

/// Year, month and day of a day after 1970-01-01, in the Gregorian calendar (Hinnant, "chrono-compatible low-level
/// date algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_tuning_db::{Device, ProgramHash, Provenance, Shape};

    fn trial(block: u32, status: Option<Status>, ms: f64, at: u64) -> Trial {
        let config =
            Config::new(json!({"cpu": {"token_block": block, "strip": 512, "walk": {"a": 1, "b": [2, 3]}}}));
        let (shape, generation) = (Shape::new(48, 16, 1500), Generation::new("1", "s"));
        let provenance = Provenance::new("here", at);
        match status {
            Some(status) => Trial::dropped(config, shape, status, generation, provenance),
            None => Trial::measured(config, shape, vec![ms, ms], generation, provenance).unwrap(),
        }
    }

    fn key() -> Key {
        let described = cce_tuning_db::Problem::new(Shape::new(48, 16, 1500));
        Key::new(ProgramHash::of(b"loss"), described, Device::cpu("a processor", 2))
    }

    fn made(trials: Vec<Trial>) -> Problem {
        let records = trials.into_iter().map(|trial| Record::new(key(), trial)).collect();
        problems(records, |_| Generation::new("1", "s")).remove(0)
    }

    #[test]
    fn the_newest_trial_of_a_configuration_is_the_one_that_counts() {
        let made = made(vec![trial(16, None, 1.0, 1), trial(16, None, 2.0, 5), trial(32, None, 3.0, 2)]);
        let times: Vec<f64> = made.trials.iter().filter_map(Trial::time).collect();
        assert_eq!(times, [3.0, 2.0]);
    }

    #[test]
    fn what_was_wrong_on_another_host_does_not_win() {
        let mut elsewhere = trial(16, Some(Status::Wrong("dE".into())), 0.0, 3);
        elsewhere.provenance.host = "there".to_owned();
        let made = made(vec![trial(16, None, 1.0, 5), elsewhere.clone(), trial(32, None, 2.0, 4)]);
        let times: Vec<f64> = made.trials.iter().filter_map(Trial::time).collect();
        assert_eq!(times, [2.0]);
        // Its host is there to be asked.
        assert!(made.trials.contains(&elsewhere));
    }

    #[test]
    fn a_cache_of_kernel_tuner_is_looked_up_by_values_and_ends_as_it_expects() {
        let failed = trial(64, Some(Status::Constraint("too, large".into())), 0.0, 2);
        let text = kernel_tuner(&made(vec![trial(16, None, 1.5, 1), failed]), "cross_entropy");
        assert!(text.ends_with("}\n}"));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["problem_size"], json!([48, 16, 1500]));
        assert_eq!(value["tune_params_keys"], json!(["strip", "token_block", "walk"]));
        assert_eq!(value["tune_params"]["token_block"], json!([16, 64]));
        let entry = &value["cache"]["512,16,a=1 b.0=2 b.1=3"];
        assert_eq!((entry["time"].clone(), entry["benchmark_time"].clone()), (json!(1.5), json!(3.0)));
        assert_eq!(value["cache"]["512,64,a=1 b.0=2 b.1=3"]["time"], json!("InvalidConfig"));
    }

    #[test]
    fn t4_says_how_each_trial_ended() {
        let wrong = trial(64, Some(Status::Wrong("dE".into())), 0.0, 2).with_gradient_error(f64::INFINITY);
        let value = t4(&made(vec![trial(16, None, 1.5, 1), wrong]));
        let results = value["results"].as_array().unwrap();
        assert_eq!(
            (results[0]["invalidity"].clone(), results[0]["correctness"].clone()),
            (json!("correct"), json!(1))
        );
        assert_eq!(results[0]["times"]["runtimes"], json!([1.5, 1.5]));
        assert_eq!(results[1]["invalidity"], json!("correctness"));
        assert_eq!(results[1]["measurements"], json!([{"name": "reason", "value": "dE", "unit": ""}]));
    }

    #[test]
    fn times_are_written_as_dates() {
        assert_eq!(timestamp(0), "1970-01-01 00:00:00.000+00:00");
        assert_eq!(timestamp(1_700_000_000_123), "2023-11-14 22:13:20.123+00:00");
        assert_eq!(timestamp(1_709_164_800_000), "2024-02-29 00:00:00.000+00:00");
        assert_eq!(timestamp(951_782_400_000), "2000-02-29 00:00:00.000+00:00");
    }
}
