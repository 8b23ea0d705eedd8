//! Where the time of a tuning goes: named phases and their seconds.

use serde::{Deserialize, Serialize};
use std::time::Instant;

/// A part of the work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Phase {
    /// What was done.
    pub name: String,
    /// How long it took, in s.
    pub seconds: f64,
}

/// Phases one after the other, each of them from the end of the one before.
#[derive(Clone, Debug)]
pub struct Stopwatch {
    since: Instant,
    phases: Vec<Phase>,
}

impl Stopwatch {
    /// The first phase begins now.
    pub fn start() -> Stopwatch {
        Stopwatch { since: Instant::now(), phases: Vec::new() }
    }

    /// A phase has ended, and the next begins; one that was there before takes so much longer.
    pub fn lap(&mut self, name: &str) {
        let now = Instant::now();
        let seconds = now.duration_since(self.since).as_secs_f64();
        self.since = now;
        match self.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.seconds += seconds,
            None => self.phases.push(Phase { name: name.to_owned(), seconds }),
        }
    }

    /// The phases, in the order in which each ended first.
    pub fn phases(self) -> Vec<Phase> {
        self.phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn phases_follow_each_other_and_one_that_comes_again_adds_up() {
        let mut watch = Stopwatch::start();
        for name in ["a", "b", "a"] {
            std::thread::sleep(Duration::from_millis(5));
            watch.lap(name);
        }
        let phases = watch.phases();
        assert_eq!(phases.iter().map(|phase| phase.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(phases[0].seconds >= 0.01 && phases[1].seconds >= 0.005, "{phases:?}");
    }
}
