//! Which parts of schedules make them fail.
//!
//! What spills, does not compile or is too large does so for the sake of one part as a rule: a kernel has one
//! tile. A value of a part that is in a schedule that ran is innocent. The failures of the others are shared among
//! their values that are not.

use super::{Outcome, Pool};

/// How likely a value that nobody tried is to fail.
const PRIOR: f64 = 0.05;

/// How likely each schedule is to run.
pub(super) fn chances(pool: &Pool, outcomes: &[Option<Outcome>]) -> Vec<f64> {
    let mut suspicion: Vec<Vec<f64>> = pool.counts().iter().map(|&count| vec![PRIOR; count]).collect();
    let values = |at: usize| pool.values(at).iter().copied().enumerate();
    let with = |wanted: fn(Outcome) -> bool| {
        outcomes.iter().enumerate().filter(move |(_, o)| o.is_some_and(wanted)).map(|(at, _)| at)
    };
    for at in with(|outcome| outcome.time().is_some()) {
        for (part, value) in values(at) {
            suspicion[part][value] = 0.0;
        }
    }
    let innocent = suspicion.clone();
    for at in with(|outcome| outcome.time().is_none()) {
        let suspects: Vec<(usize, usize)> =
            values(at).filter(|&(part, value)| innocent[part][value] > 0.0).collect();
        for &(part, value) in &suspects {
            suspicion[part][value] += 1.0 / suspects.len() as f64;
        }
    }
    // Laplace's rule with a weight of the prior: one failure that nobody else explains leaves a chance of PRIOR.
    let fails = |blame: f64| if blame > PRIOR { blame / (blame + PRIOR) } else { blame };
    (0..pool.len())
        .map(|at| values(at).map(|(part, value)| 1.0 - fails(suspicion[part][value])).product())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::schedule::{CpuSchedule, Schedule};

    fn pool() -> Pool {
        let schedules = [16, 32, 64].into_iter().flat_map(|token_block| {
            [512, 1024, 2048].map(|strip| Schedule::Cpu(CpuSchedule { token_block, strip }))
        });
        Pool::new(schedules)
    }

    #[test]
    fn a_value_is_blamed_only_while_no_schedule_with_it_ran() {
        let pool = pool();
        let mut outcomes = vec![None; pool.len()];
        let unknown = chances(&pool, &outcomes);
        assert!(unknown.iter().all(|&chance| chance > 0.8));
        // 32 with 512 failed, 16 with 512 ran: it is 32.
        outcomes[3] = Some(Outcome::Failed);
        outcomes[0] = Some(Outcome::Time(1.0));
        let known = chances(&pool, &outcomes);
        assert!(known[4] < 0.1 && known[5] < 0.1, "{known:?}");
        assert!(known[1] > 0.9 && known[7] > 0.8, "{known:?}");
        // 32 with 1024 ran: it was not 32 alone.
        outcomes[4] = Some(Outcome::Time(1.0));
        assert!(chances(&pool, &outcomes)[5] > 0.9);
    }

    #[test]
    fn a_failure_with_two_suspects_is_shared() {
        let pool = pool();
        let mut outcomes = vec![None; pool.len()];
        outcomes[0] = Some(Outcome::Failed);
        let known = chances(&pool, &outcomes);
        assert!(known[1] < known[4] && known[3] < known[4], "{known:?}");
    }
}
