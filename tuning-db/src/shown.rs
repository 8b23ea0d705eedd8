//! The times to show of a key's trials.
//!
//! What counts when trials are put in order ([`Trial::deciding_time`]) compares those of one series: of one
//! generation, host and shape, since they were last measured [anew](Trial::anew). It is on the scale of the series'
//! first batch, whatever the clocks became afterwards. Shown is every time on the scale of the last runs of the series'
//! winner, so that the winner's is the median of these, and the order stays.

use std::collections::BTreeMap;

use crate::key::Shape;
use crate::provenance::Generation;
use crate::trial::Trial;
use crate::winner::newest;
use crate::wrong::disqualified;

/// The times to show of a key's trials, in ms.
#[derive(Clone, Debug, Default)]
pub struct ShownTimes(Vec<Series>);

/// The trials of one generation, host and shape, since one moment.
#[derive(Clone, Debug)]
struct Series {
    generation: Generation,
    host: String,
    shape: Shape,
    anew: Option<u64>,
    /// The winner's time that counts, and the median of its last runs, in ms.
    winner: (f64, f64),
}

impl ShownTimes {
    /// Of these trials of one key. What is [`disqualified`] wins no series.
    #[must_use]
    pub fn of<'a>(trials: impl IntoIterator<Item = &'a Trial>) -> Self {
        let trials: Vec<&Trial> = trials.into_iter().collect();
        let wrong = disqualified(trials.iter().copied());
        let mut all: BTreeMap<(&Generation, &str, Shape, Option<u64>), Vec<&Trial>> = BTreeMap::new();
        for trial in trials {
            if !wrong.contains_key(&(trial.config.hash(), &trial.generation)) {
                let of = (&trial.generation, trial.provenance.host.as_str(), trial.shape, trial.anew);
                all.entry(of).or_default().push(trial);
            }
        }
        let series = all.into_iter().filter_map(|((generation, host, shape, anew), trials)| {
            let winner = newest(trials).min_by(|a, b| a.standing(b))?;
            let winner = (winner.deciding_time()?, winner.time()?);
            Some(Series { generation: generation.clone(), host: host.to_owned(), shape, anew, winner })
        });
        Self(series.collect())
    }

    /// The time to show of one of the trials, in ms; `None` of one that did not end well.
    #[must_use]
    pub fn ms(&self, trial: &Trial) -> Option<f64> {
        let ms = trial.deciding_time()?;
        let is_its = |series: &&Series| {
            series.generation == trial.generation
                && series.host == trial.provenance.host
                && series.shape == trial.shape
                && series.anew == trial.anew
        };
        let series = self.0.iter().find(is_its);
        Some(series.map_or(ms, |series| ms / series.winner.0 * series.winner.1))
    }

    /// The interquartile range of its runs on that scale, in ms.
    #[must_use]
    pub fn spread_ms(&self, trial: &Trial) -> Option<f64> {
        Some(self.ms(trial)? * trial.relative_spread()?)
    }
}

#[cfg(test)]
mod tests {
    use super::ShownTimes;
    use crate::key::Shape;
    use crate::sample;
    use crate::trial::{Settled, Status, Trial};

    /// Of a search whose first batch ran at half of the speed, the winner and one of the first batch.
    fn series() -> [Trial; 2] {
        let winner = sample::trial(1, 1.1).with_settled(Settled::placed(2.0, 0));
        [winner, sample::trial(2, 3.1).with_settled(Settled::paired(3.0))]
    }

    fn near(ms: Option<f64>, expected: f64) -> bool {
        ms.is_some_and(|ms| (ms - expected).abs() < 1e-12)
    }

    #[test]
    fn the_winner_is_shown_with_its_median_and_the_others_relative_to_it() {
        let [winner, mut other] = series();
        other.spread = Some(0.31);
        let times = ShownTimes::of([&other, &winner]);
        assert_eq!(times.ms(&winner), Some(1.1));
        assert!(near(times.ms(&other), 1.65) && near(times.spread_ms(&other), 0.165));
        other.status = Status::Wrong("dE differs".to_owned());
        assert_eq!(times.ms(&other), None);
    }

    #[test]
    fn each_shape_host_generation_and_measurement_anew_has_a_scale_of_its_own() {
        let [winner, other] = series();
        let changes: [fn(&mut Trial); 4] = [
            |trial| trial.shape = Shape::new(7, trial.shape.hidden, trial.shape.vocab),
            |trial| trial.provenance.host = "another".to_owned(),
            |trial| trial.generation.codegen = "another".to_owned(),
            |trial| trial.anew = Some(1),
        ];
        for change in changes {
            let mut steady = sample::trial(1, 4.2).with_settled(Settled::placed(4.2, 0));
            steady.provenance.unix_ms += 1;
            change(&mut steady);
            let times = ShownTimes::of([&winner, &other, &steady]);
            assert_eq!(times.ms(&steady), Some(4.2));
            assert!(near(times.ms(&other), 1.65));
        }
    }

    #[test]
    fn what_was_measured_again_or_is_wrong_elsewhere_is_no_winner() {
        let [mut winner, other] = series();
        let mut again = sample::trial(1, 1.4).with_settled(Settled::placed(2.1, 0));
        again.provenance.unix_ms += 1;
        assert!(near(ShownTimes::of([&winner, &again, &other]).ms(&other), 2.0));
        winner.status = Status::Wrong("dE differs".to_owned());
        winner.provenance.host = "another".to_owned();
        assert!(near(ShownTimes::of([&winner, &again, &other]).ms(&other), 3.1));
    }
}
