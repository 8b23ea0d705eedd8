//! One trial: a configuration that was considered, and everything that is known about it.
//!
//! Every trial is kept, failures with their reason too: the search learns from them, and a person can ask
//! why a configuration did not win.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::key::{Key, Shape};
use crate::provenance::{Generation, Provenance};

/// The layout of [`Record`] and [`Trial`] that this version writes and reads.
pub const RECORD_SCHEMA: u32 = 1;

/// A trial with the key it belongs to: the unit of the log, of merging and of export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// Layout of this structure: [`RECORD_SCHEMA`].
    pub schema: u32,
    /// What the trial was for.
    pub key: Key,
    /// The trial.
    pub trial: Trial,
}

impl Record {
    /// Puts a trial under its key.
    #[must_use]
    pub fn new(key: Key, trial: Trial) -> Self {
        Self { schema: RECORD_SCHEMA, key, trial }
    }
}

/// A configuration that was considered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Trial {
    /// What was tried.
    pub config: Config,
    /// The exact shape it was tried on.
    pub shape: Shape,
    /// How it ended.
    pub status: Status,
    /// Every timed run, in ms, in the order taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<f64>,
    /// Median of the samples, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median: Option<f64>,
    /// Interquartile range of the samples, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<f64>,
    /// What the compiled kernels use, when they were compiled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Relative error of the gradients against the reference, ||difference|| / ||reference||, the worst
    /// of them. May be infinite or NaN for a wrong result.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "any_float")]
    pub gradient_error: Option<f64>,
    /// What counts when trials are put in order, where it is not the median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Settled>,
    /// Where everything of its problem was asked to be measured anew, that moment, in ms since 1970. What its host
    /// measured before of it, at this shape, counts until something since then has a whole run-off, and not any more then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anew: Option<u64>,
    /// Clocks right before the samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks_before: Option<Clocks>,
    /// Clocks right after the samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks_after: Option<Clocks>,
    /// What generated the code: compared at selection.
    pub generation: Generation,
    /// Who measured, when and with what: recorded, compared, warned about.
    pub provenance: Provenance,
}

impl Trial {
    /// A correct candidate with its timed runs in ms.
    ///
    /// # Errors
    /// When there is no sample, or one that is not a positive finite time.
    pub fn measured(
        config: Config,
        shape: Shape,
        samples: Vec<f64>,
        generation: Generation,
        provenance: Provenance,
    ) -> Result<Self> {
        if samples.is_empty() {
            return Err(Error::Invalid {
                what: "samples of a measured trial",
                expected: "at least one",
                found: "none".to_owned(),
            });
        }
        let mut trial = Self::bare(config, shape, Status::Ok, generation, provenance);
        trial.median = Some(quantile(&samples, 0.5));
        trial.spread = Some(quantile(&samples, 0.75) - quantile(&samples, 0.25));
        trial.samples = samples;
        trial.check()?;
        Ok(trial)
    }

    /// A candidate that was dropped, with the reason in `status`.
    #[must_use]
    pub fn dropped(
        config: Config,
        shape: Shape,
        status: Status,
        generation: Generation,
        provenance: Provenance,
    ) -> Self {
        Self::bare(config, shape, status, generation, provenance)
    }

    fn bare(
        config: Config,
        shape: Shape,
        status: Status,
        generation: Generation,
        provenance: Provenance,
    ) -> Self {
        Self {
            config,
            shape,
            status,
            samples: Vec::new(),
            median: None,
            spread: None,
            resources: None,
            gradient_error: None,
            settled: None,
            anew: None,
            clocks_before: None,
            clocks_after: None,
            generation,
            provenance,
        }
    }

    /// Adds what the compiled kernels use.
    #[must_use]
    pub fn with_resources(mut self, resources: Resources) -> Self {
        self.resources = Some(resources);
        self
    }

    /// Adds the worst relative error of the gradients.
    #[must_use]
    pub fn with_gradient_error(mut self, error: f64) -> Self {
        self.gradient_error = Some(error);
        self
    }

    /// Adds the clocks before and after the samples.
    #[must_use]
    pub fn with_clocks(mut self, before: Option<Clocks>, after: Option<Clocks>) -> Self {
        self.clocks_before = before;
        self.clocks_after = after;
        self
    }

    /// Adds the moment since which everything is measured anew.
    #[must_use]
    pub fn with_anew(mut self, anew: Option<u64>) -> Self {
        self.anew = anew;
        self
    }

    /// Adds what counts when trials are put in order.
    #[must_use]
    pub fn with_settled(mut self, settled: Settled) -> Self {
        self.settled = Some(settled);
        self
    }

    /// The time that counts of a trial that ended well, in ms: the settled one, else the median. `None` for every
    /// other. To compare trials of a problem by, not to be shown: it is on the scale of the first batch that was
    /// measured, whatever the clocks became afterwards: see [`ShownTimes`](crate::ShownTimes).
    #[must_use]
    pub fn deciding_time(&self) -> Option<f64> {
        self.time().map(|median| self.settled.map_or(median, |settled| settled.ms))
    }

    /// The interquartile range relative to the median, of a trial that ended well.
    #[must_use]
    pub fn relative_spread(&self) -> Option<f64> {
        Some(self.spread? / self.time()?)
    }

    /// The order of trials of one problem: those that ended well first, and of these what was in a run-off first,
    /// as what was not had lost to it before. Then the faster by the time that counts, of what ties with a winner
    /// by the winner's ([`Settled::order_ms`]), the better placed, the steadier, and the configuration's hash, so that
    /// every machine orders the same trials the same way.
    #[must_use]
    pub fn standing(&self, other: &Self) -> Ordering {
        let standing = |trial: &Self| Some(Standing::of(trial.settled, trial.time()?, trial.spread));
        let by_hash = || self.config.hash().cmp(&other.config.hash());
        match (standing(self), standing(other)) {
            (Some(own), Some(others)) => own.cmp(&others).then_with(by_hash),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => by_hash(),
        }
    }

    /// The median of a trial that ended well; `None` for every other.
    #[must_use]
    pub fn time(&self) -> Option<f64> {
        self.median.filter(|ms| self.status == Status::Ok && ms.is_finite() && *ms > 0.0)
    }

    /// JSON has no NaN: a time that is none must not reach the log, where it would be read back as nothing.
    pub(crate) fn check(&self) -> Result<()> {
        let settled = self.settled.map(|settled| settled.ms);
        let tie = self.settled.and_then(|settled| settled.tie_ms);
        let times = self.samples.iter().chain(&self.median).chain(&settled).chain(&tie);
        if let Some(bad) = times.copied().find(|ms| !ms.is_finite() || *ms <= 0.0) {
            return Err(Error::Invalid {
                what: "time of a trial",
                expected: "a positive finite number of ms",
                found: bad.to_string(),
            });
        }
        if let Some(bad) = self.spread.filter(|ms| !ms.is_finite() || *ms < 0.0) {
            return Err(Error::Invalid {
                what: "spread of a trial",
                expected: "a finite number of ms, 0 or more",
                found: bad.to_string(),
            });
        }
        Ok(())
    }
}

/// How a trial ended, with the reason in the words to be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", content = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// It broke a constraint of the schedule and was not generated.
    Constraint(String),
    /// It did not compile.
    Compile(String),
    /// It spilled, or needs more registers or shared memory than there are.
    Resources(String),
    /// The launch failed.
    Launch(String),
    /// It did not finish in time.
    Timeout(String),
    /// It ran and its result was wrong.
    Wrong(String),
    /// The process that ran it ended, or answered with something that is no answer. Versions that do not
    /// know this status leave such a record out.
    Crashed(String),
    /// It ran, was right, and was timed.
    Ok,
}

impl Status {
    /// Why it was dropped; empty for [`Status::Ok`].
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Constraint(why)
            | Self::Compile(why)
            | Self::Resources(why)
            | Self::Launch(why)
            | Self::Timeout(why)
            | Self::Wrong(why)
            | Self::Crashed(why) => why,
            Self::Ok => "",
        }
    }

    /// The name in tables and JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Constraint(_) => "constraint",
            Self::Compile(_) => "compile",
            Self::Resources(_) => "resources",
            Self::Launch(_) => "launch",
            Self::Timeout(_) => "timeout",
            Self::Wrong(_) => "wrong",
            Self::Crashed(_) => "crashed",
            Self::Ok => "ok",
        }
    }
}

/// What counts when trials are put in order: measured against others, and not by the clock alone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Settled {
    /// The time that counts, in ms: corrected for the drift of the clocks by pairs of runs, the one of this
    /// configuration, the other of a yardstick.
    pub ms: f64,
    /// The place in the run-off, 0 for the winner; `None` for what was not in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u32>,
    /// Of a configuration that ties with the winner of its run-off, the winner's time in ms: it is put in order by
    /// this, and by its place, so that one that is faster by less than counts does not come before the winner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie_ms: Option<f64>,
    /// Whether the run-off was ended before all that were to be compared were, often enough.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_short: bool,
}

impl Settled {
    /// By pairs with a yardstick, outside a run-off.
    #[must_use]
    pub fn paired(ms: f64) -> Self {
        Self { ms, place: None, tie_ms: None, cut_short: false }
    }

    /// In a run-off.
    #[must_use]
    pub fn placed(ms: f64, place: u32) -> Self {
        Self { ms, place: Some(place), tie_ms: None, cut_short: false }
    }

    /// In a tie with the winner of the run-off, which takes so many ms.
    #[must_use]
    pub fn tying(self, winner_ms: f64) -> Self {
        Self { tie_ms: Some(winner_ms), ..self }
    }

    /// In a run-off that was cut short.
    #[must_use]
    pub fn in_a_cut(self, cut_short: bool) -> Self {
        Self { cut_short, ..self }
    }

    /// Whether it ties with the winner of its run-off, or is it.
    #[must_use]
    pub fn ties_with(&self, winner: &Settled) -> bool {
        // Records of before `tie_ms` have the winner's time.
        self.place.is_some() && (self.place == winner.place || self.tie_ms.is_some() || self.ms == winner.ms)
    }

    /// The time that it is put in order by, in ms: the winner's for what ties with it.
    #[must_use]
    pub fn order_ms(&self) -> f64 {
        self.tie_ms.unwrap_or(self.ms)
    }
}

/// What trials and winners are put in order by.
pub(crate) struct Standing {
    place: Option<u32>,
    ms: f64,
    spread: f64,
}

impl Standing {
    /// Of what was settled, else the median in ms, and the interquartile range in ms.
    pub(crate) fn of(settled: Option<Settled>, median: f64, spread: Option<f64>) -> Self {
        Self {
            place: settled.and_then(|settled| settled.place),
            ms: settled.map_or(median, |settled| settled.order_ms()),
            spread: spread.unwrap_or(f64::INFINITY),
        }
    }

    pub(crate) fn cmp(&self, other: &Self) -> Ordering {
        (self.place.is_none().cmp(&other.place.is_none()))
            .then(self.ms.total_cmp(&other.ms))
            .then(self.place.cmp(&other.place))
            .then(self.spread.total_cmp(&other.spread))
    }
}

/// What compiled kernels use; the maximum over the kernels of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Resources {
    /// Registers a thread.
    pub registers: u32,
    /// Bytes spilled to local memory a thread.
    pub spill_bytes: u32,
    /// Shared memory a block, in bytes.
    pub shared_bytes: u64,
}

impl Resources {
    /// Registers a thread, bytes spilled a thread, bytes of shared memory a block.
    #[must_use]
    pub fn new(registers: u32, spill_bytes: u32, shared_bytes: u64) -> Self {
        Self { registers, spill_bytes, shared_bytes }
    }
}

/// State of a device's clocks; what is unknown is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Clocks {
    /// SM (or core) clock, in MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_mhz: Option<u32>,
    /// Memory clock, in MHz.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mhz: Option<u32>,
    /// Power drawn, in mW.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_mw: Option<u32>,
    /// Temperature, in degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub celsius: Option<i32>,
    /// Throttle reasons, as NVML's bit mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_reasons: Option<u64>,
}

impl Clocks {
    /// Core and memory clock in MHz.
    #[must_use]
    pub fn new(core_mhz: Option<u32>, memory_mhz: Option<u32>) -> Self {
        Self { core_mhz, memory_mhz, ..Self::default() }
    }

    /// Adds power in mW, temperature in degrees Celsius and NVML's throttle reasons.
    #[must_use]
    pub fn with_state(
        mut self,
        power_mw: Option<u32>,
        celsius: Option<i32>,
        throttle_reasons: Option<u64>,
    ) -> Self {
        self.power_mw = power_mw;
        self.celsius = celsius;
        self.throttle_reasons = throttle_reasons;
        self
    }
}

/// Linear interpolation between the closest ranks (Hyndman and Fan 1996, definition 7).
fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = q * (sorted.len().saturating_sub(1)) as f64;
    let below = position.floor();
    let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
    let low = at(below as usize);
    let high = at((below as usize + 1).min(sorted.len().saturating_sub(1)));
    low + (high - low) * (position - below)
}

/// An optional float that survives JSON when it is infinite or NaN, as the word.
mod any_float {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(f64),
        Word(String),
    }

    #[expect(clippy::ref_option, reason = "the signature that serde calls")]
    pub(super) fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value
            .map(|v| if v.is_finite() { Form::Number(v) } else { Form::Word(v.to_string()) })
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        Ok(match Option::<Form>::deserialize(deserializer)? {
            None => None,
            Some(Form::Number(v)) => Some(v),
            Some(Form::Word(word)) => Some(word.parse().map_err(de::Error::custom)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_off_comes_before_a_faster_screening_and_what_was_dropped_comes_last() {
        let screened = crate::sample::trial(1, 1.0);
        let paired = crate::sample::trial(2, 0.9).with_settled(Settled::paired(1.1));
        let first = crate::sample::trial(3, 1.6).with_settled(Settled::placed(1.5, 0));
        let second = crate::sample::trial(4, 1.4).with_settled(Settled::placed(1.495, 1).tying(1.5));
        let mut dropped = crate::sample::trial(5, 0.1);
        dropped.status = Status::Wrong("dE differs".to_owned());
        let mut all = [&dropped, &paired, &second, &screened, &first];
        all.sort_by(|a, b| a.standing(b));
        assert_eq!(all, [&first, &second, &screened, &paired, &dropped]);
    }

    #[test]
    fn median_and_spread_interpolate_between_ranks() {
        assert_eq!(quantile(&[3.0], 0.5), 3.0);
        assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!(quantile(&[5.0, 1.0, 2.0, 4.0, 3.0], 0.25), 2.0);
        assert_eq!(quantile(&[5.0, 1.0, 2.0, 4.0, 3.0], 0.75), 4.0);
    }

    #[test]
    fn a_status_is_written_as_its_name_and_its_reason() {
        let text = |s: &Status| serde_json::to_string(s).unwrap();
        assert_eq!(
            text(&Status::Wrong("dE off by 3e-1".into())),
            r#"{"is":"wrong","reason":"dE off by 3e-1"}"#
        );
        assert_eq!(text(&Status::Ok), r#"{"is":"ok"}"#);
        for status in [Status::Timeout("2 s".into()), Status::Crashed("signal 9".into()), Status::Ok] {
            assert_eq!(serde_json::from_str::<Status>(&text(&status)).unwrap(), status);
        }
    }

    #[test]
    fn an_infinite_gradient_error_survives_json() {
        let generation = Generation::new("1", "s");
        let config = Config::new(serde_json::json!({"a": 1}));
        for error in [0.1 + 0.2, f64::INFINITY, f64::NEG_INFINITY, 5e-324] {
            let trial = Trial::dropped(
                config.clone(),
                Shape::new(1, 2, 3),
                Status::Wrong("x".into()),
                generation.clone(),
                Provenance::new("h", 0),
            )
            .with_gradient_error(error);
            let text = serde_json::to_string(&trial).unwrap();
            assert_eq!(serde_json::from_str::<Trial>(&text).unwrap(), trial, "{text}");
        }
    }

    #[test]
    fn times_that_are_none_are_refused() {
        for samples in [vec![], vec![f64::NAN], vec![1.0, f64::INFINITY], vec![0.0], vec![-1.0]] {
            let made = Trial::measured(
                Config::new(serde_json::json!({})),
                Shape::new(1, 2, 3),
                samples.clone(),
                Generation::new("1", "s"),
                Provenance::new("h", 0),
            );
            assert!(made.is_err(), "{samples:?}");
        }
    }
}
