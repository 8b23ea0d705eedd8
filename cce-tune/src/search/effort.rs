//! How much is measured, and for how long.

use std::time::{Duration, Instant};

/// The part of a budget, and the most of it, that is for what comes before and after the search: the driver starts, workers
/// end, the database is published.
const AROUND: (f64, Duration) = (0.12, Duration::from_millis(1200));
/// The part of a budget by which a run-off may outlast it that is the least to know a winner by.
const GRACE: f64 = 0.5;
/// A budget below this is short.
const SHORT: Duration = Duration::from_secs(20);
/// The candidates of a batch, at most, where the time is short.
const SMALL_BATCH: usize = 4;

/// The candidates of a batch, at most, however many cores compile them: a strategy that chooses more at a time has learned
/// less of those before, and tunes on another machine would choose others.
const LARGEST_BATCH: usize = 16;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Rounds of the screening; up to twice as many where they leave open who is near the best.
    pub screening: usize,
    /// Rounds of the run-off when the best takes less than 200 ms; slower ones take fewer. Up to three times
    /// as many runs where they leave open who wins.
    pub finals: usize,
    /// How many go to the run-off at least. 0: there is none; the best meet others in a later search.
    pub finalists: usize,
    /// How many go to the run-off at most, if the screening found so many within [`Effort::near`].
    pub most_finalists: usize,
    /// How far behind the third best, as a part of its time, a candidate may be in the screening and still win, and how
    /// far behind the fastest the default where runs deviate so much that nothing is clear.
    pub near: f64,
    /// Another one has to be faster by more than this, as a part of its time, to win against the default; no other
    /// that is farther behind the fastest ties with it.
    pub tie: f64,
    /// Whoever is this near to the fastest ties with it.
    pub least_tie: f64,
    /// Candidates that are built together and timed in turn.
    pub batch: usize,
    /// A candidate whose first two runs both take this much longer than the best is not timed again; a default that
    /// does is not in the run-off.
    pub hopeless: f64,
    /// A run longer than this ends the candidate.
    pub timeout: Duration,
    /// The shortest limit of a run: nothing is given up before.
    pub patience: Duration,
    /// What no schedule can be faster than, in ms, where it is known.
    pub floor_ms: Option<f64>,
    /// The search is over when the best is within this part of the floor.
    pub near_floor: f64,
    /// When the screening ends, whatever is left to try.
    pub screen_until: Option<Instant>,
    /// When the run-off ends.
    pub until: Option<Instant>,
    /// How much later than that the least run-off may end.
    pub grace: Option<Duration>,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort {
            screening: 5,
            finals: 11,
            finalists: 6,
            most_finalists: 12,
            near: 0.03,
            tie: 0.01,
            least_tie: 0.003,
            batch: rayon::current_num_threads().clamp(8, LARGEST_BATCH),
            hopeless: 3.0,
            timeout: Duration::from_secs(60),
            patience: Duration::from_secs(2),
            floor_ms: None,
            near_floor: 0.05,
            screen_until: None,
            until: None,
            grace: None,
        }
    }
}

impl Effort {
    /// Ends the search so that all is over this long after now; the last fifth is the run-off's, if there is one. A short
    /// one goes in small batches, so that what is compiled first does not wait for the rest.
    #[must_use]
    pub fn within(self, budget: Option<Duration>) -> Effort {
        let now = Instant::now();
        let (part, most) = AROUND;
        let searched = budget.map(|budget| budget - budget.mul_f64(part).min(most));
        let after = |part: f64| searched.and_then(|searched| now.checked_add(searched.mul_f64(part)));
        let screening = if self.finalists == 0 { 1.0 } else { 0.8 };
        let batch = match budget {
            Some(budget) if budget < SHORT => self.batch.min(SMALL_BATCH),
            _ => self.batch,
        };
        let grace = budget.map(|budget| budget.mul_f64(GRACE));
        Effort { screen_until: after(screening), until: after(1.0), grace, batch, ..self }
    }

    /// Rounds of the run-off when the best takes `ms`: steps, so that a measurement that comes out a little
    /// different asks for the same number.
    pub(super) fn final_rounds(&self, ms: f64) -> usize {
        match ms {
            ms if ms < 200.0 => self.finals,
            ms if ms < 2000.0 => self.finals.min(7),
            _ => self.finals.min(3),
        }
    }

    /// How long one run may take when the best takes `best` ms: what takes twenty times as long hangs, or
    /// might as well.
    pub fn limit(&self, best: f64) -> Duration {
        let twenty = Duration::try_from_secs_f64(20.0 * best / 1e3).unwrap_or(self.timeout);
        twenty.max(self.patience).min(self.timeout)
    }

    /// Whether the screening's time is over.
    pub(super) fn screening_is_over(&self) -> bool {
        self.screen_until.is_some_and(|until| Instant::now() >= until)
    }

    /// Whether all time is over.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Whether all time will be over in so many ms.
    pub(super) fn is_over_after(&self, ms: f64) -> bool {
        let ahead = Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default();
        self.until.is_some_and(|until| Instant::now() + ahead >= until)
    }

    /// Whether a run-off of so many ms would end too late to be begun.
    pub(super) fn is_too_late(&self, ms: f64) -> bool {
        let over = |until: Instant| until.checked_add(self.grace?);
        let ahead = Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default();
        self.until.and_then(over).is_some_and(|end| Instant::now() + ahead >= end)
    }

    /// Whether nothing that is left to try can be worth the time. What is below the floor was measured on other data, of
    /// which more tokens were ignored, or the floor is no floor: it says nothing then.
    pub(super) fn is_at_floor(&self, best: f64) -> bool {
        let near = |floor: f64| (floor..=floor * (1.0 + self.near_floor)).contains(&best);
        self.floor_ms.is_some_and(near)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_kept_for_a_run_off_only_where_there_is_one() {
        // 100 for the search, the rest for what comes before and after.
        let budget = Some(Duration::from_millis(101_200));
        let kept = |effort: Effort| {
            let effort = effort.within(budget);
            effort.until.unwrap() - effort.screen_until.unwrap()
        };
        assert_eq!(kept(Effort::default()), Duration::from_secs(20));
        assert_eq!(kept(Effort { finalists: 0, ..Effort::default() }), Duration::ZERO);
    }

    #[test]
    fn a_search_ends_before_its_budget_does() {
        let now = Instant::now();
        let until = Effort::default().within(Some(Duration::from_secs(10))).until.unwrap();
        assert!(
            until <= Instant::now() + Duration::from_millis(8800) && until > now + Duration::from_secs(8)
        );
        assert_eq!(Effort::default().within(None).until, None);
    }

    #[test]
    fn a_time_near_the_floor_ends_the_search_and_one_below_it_says_that_the_floor_is_another_data_s() {
        let effort = Effort { floor_ms: Some(10.0), ..Effort::default() };
        assert!(effort.is_at_floor(10.0) && effort.is_at_floor(10.4));
        assert!(!effort.is_at_floor(10.6) && !effort.is_at_floor(5.3));
        assert!(!Effort::default().is_at_floor(10.0));
    }

    #[test]
    fn the_limit_of_a_run_follows_the_best_between_patience_and_timeout() {
        let effort = Effort::default();
        assert_eq!(effort.limit(1.0), Duration::from_secs(2));
        assert_eq!(effort.limit(500.0), Duration::from_secs(10));
        assert_eq!(effort.limit(1e9), Duration::from_secs(60));
        assert_eq!(effort.limit(f64::INFINITY), Duration::from_secs(60));
    }
}
