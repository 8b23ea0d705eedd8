//! Given schedules, each built, checked and timed in turns: what a search's rounds leave out.
//!
//! Invariant: a schedule has a time of every round or none at all, so that times of one round can be compared.

use crate::Error;
use crate::search::{Bench, Failure, describe};
use crate::stop::Stop;
use cce_codegen::schedule::Schedule;

/// A schedule's times.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// The schedule.
    pub schedule: Schedule,
    /// ms, one a round; none if it failed.
    pub samples: Vec<f64>,
    /// Why it was not timed.
    pub failure: Option<String>,
}

/// Times the schedules in so many rounds, another one first in each. `None`: asked to stop.
///
/// # Errors
/// When the device fails for good, or the bench can measure nothing, for no schedule's fault.
pub fn time<B: Bench>(
    schedules: &[Schedule],
    bench: &mut B,
    rounds: usize,
    stop: &Stop,
) -> Result<Option<Vec<Timed>>, Error> {
    let entrant = |schedule: &Schedule| Entrant::<B> {
        built: None,
        timed: Timed { schedule: *schedule, samples: Vec::new(), failure: None },
    };
    let mut entrants: Vec<Entrant<B>> = schedules.iter().map(entrant).collect();
    for entrant in &mut entrants {
        if stop.requested() {
            return Ok(None);
        }
        entrant.prepare(bench)?;
    }
    for round in 0..rounds {
        let first = round % entrants.len().max(1);
        entrants.rotate_left(first);
        for entrant in &mut entrants {
            if stop.requested() {
                return Ok(None);
            }
            entrant.time(bench, round)?;
        }
        entrants.rotate_right(first);
    }
    Ok(Some(entrants.into_iter().map(|entrant| entrant.timed).collect()))
}

struct Entrant<B: Bench> {
    built: Option<B::Built>,
    timed: Timed,
}

impl<B: Bench> Entrant<B> {
    fn prepare(&mut self, bench: &mut B) -> Result<(), Error> {
        let built = bench.build(&self.timed.schedule).and_then(|mut built| {
            bench.check(&mut built)?;
            Ok(built)
        });
        match built {
            Ok(built) => self.built = Some(built),
            Err(failure) => self.drop_for(&failure)?,
        }
        Ok(())
    }

    fn time(&mut self, bench: &mut B, round: usize) -> Result<(), Error> {
        let Some(built) = &mut self.built else { return Ok(()) };
        match bench.time(built, round) {
            Ok(ms) => self.timed.samples.push(ms),
            Err(failure) => self.drop_for(&failure)?,
        }
        Ok(())
    }

    fn drop_for(&mut self, failure: &Failure) -> Result<(), Error> {
        let reason = failure.status.reason().to_owned();
        if failure.blameless {
            return Err(Error::Worker { reason });
        }
        if failure.fatal {
            return Err(Error::DeviceLost { schedule: describe(&self.timed.schedule), reason });
        }
        (self.built, self.timed.samples) = (None, Vec::new());
        self.timed.failure = Some(format!("{}: {reason}", failure.status.name()));
        Ok(())
    }
}
