//! The strategies that learn nothing: the controls of the others.

use super::{Outcome, Pool, Strategy, untried};
use crate::data::random::{Purpose, Stream};

/// Every schedule of the pool, in its order: the default first.
#[derive(Clone, Copy, Debug)]
pub struct Exhaustive;

impl Strategy for Exhaustive {
    fn next(&self, _: &Pool, outcomes: &[Option<Outcome>], most: usize) -> Vec<usize> {
        untried(outcomes).take(most).collect()
    }
}

/// The default, then others in an order of chance.
#[derive(Clone, Copy, Debug)]
pub struct Random {
    /// Another order for each.
    pub seed: u64,
}

impl Strategy for Random {
    fn next(&self, pool: &Pool, outcomes: &[Option<Outcome>], most: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (1..pool.len()).collect();
        shuffle(&mut order, self.seed);
        order.insert(0, 0);
        order.into_iter().filter(|&at| outcomes.get(at).is_some_and(Option::is_none)).take(most).collect()
    }
}

/// An order of chance.
pub(super) fn shuffle(order: &mut [usize], seed: u64) {
    order.sort_by_key(|&at| (Stream::new(seed, Purpose::Search, at as u64).bits(), at));
}
