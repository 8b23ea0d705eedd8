//! Which tokens are ignored: padding and prompts, as a share of all, scattered or in runs.

use super::Targets;
use super::random::{Purpose, Stream};
use std::ops::RangeInclusive;

impl Targets {
    /// These targets with about `share` of them ignored, each at random.
    #[must_use]
    pub fn with_ignored(&self, share: f64, seed: u64) -> Targets {
        let mut targets = self.clone();
        targets.ignore(|token| Stream::new(seed, Purpose::Ignored, token as u64).uniform() < share);
        targets
    }

    /// These targets with `share` of them ignored, to the nearest token, in runs of so many tokens (the last
    /// run may be shorter) at random distances: the prompts and the padding of packed sequences.
    #[must_use]
    pub fn with_ignored_runs(&self, share: f64, lengths: RangeInclusive<usize>, seed: u64) -> Targets {
        let mut stream = Stream::new(seed, Purpose::IgnoredRuns, 0);
        // In 0..=most.
        let mut up_to = |most: usize| ((stream.uniform() * (most + 1) as f64) as usize).min(most);
        let all = self.len();
        let ignored = ((share.clamp(0.0, 1.0) * all as f64).round() as usize).min(all);
        let (least, most) = ((*lengths.start()).max(1), (*lengths.end()).max(1));
        let mut runs = Vec::new();
        let mut left = ignored;
        while left > 0 {
            let run = (least + up_to(most.saturating_sub(least))).min(left);
            runs.push(run);
            left -= run;
        }
        // A run begins where so many tokens that count have gone by.
        let mut begins: Vec<usize> = runs.iter().map(|_| up_to(all - ignored)).collect();
        begins.sort_unstable();
        let mut marked = vec![false; all];
        let mut before = 0;
        for (run, begin) in runs.into_iter().zip(begins) {
            marked[begin + before..begin + before + run].fill(true);
            before += run;
        }
        let mut targets = self.clone();
        targets.ignore(|token| marked[token]);
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::IGNORED;

    fn numbered(count: i32) -> Targets {
        Targets::I32((0..count).collect())
    }

    #[test]
    fn the_share_in_runs_is_that_asked_for_to_the_token_and_the_rest_stays() {
        for (count, share, ignored) in
            [(16_384, 0.5, 8192), (5000, 0.31, 1550), (100, 0.5, 50), (7, 1.0, 7), (9, 0.0, 0), (0, 0.5, 0)]
        {
            let targets = numbered(count).with_ignored_runs(share, 256..=1024, 3);
            assert_eq!(targets.len() - targets.counted(), ignored, "{count} {share}");
            let stays = |token: usize| [IGNORED, token as i64].contains(&targets.get(token));
            assert!((0..targets.len()).all(stays));
        }
    }

    #[test]
    fn runs_are_as_long_as_asked_for_or_several_of_them() {
        let targets = numbered(16_384).with_ignored_runs(0.5, 256..=1024, 3);
        let mut runs = Vec::new();
        for token in 0..targets.len() {
            let ignored = targets.get(token) == IGNORED;
            match runs.last_mut() {
                Some((last, length)) if *last == ignored => *length += 1,
                _ => runs.push((ignored, 1usize)),
            }
        }
        let ignored: Vec<usize> = runs.into_iter().filter(|run| run.0).map(|run| run.1).collect();
        assert!((4..=32).contains(&ignored.len()), "{ignored:?}");
        assert!(ignored.iter().filter(|&&length| length < 256).count() <= 1, "{ignored:?}");
    }

    #[test]
    fn seeds_place_runs_elsewhere_and_one_seed_always_in_the_same_place() {
        let place = |seed| numbered(4096).with_ignored_runs(0.25, 256..=512, seed);
        assert_eq!(place(1), place(1));
        assert_ne!(place(1), place(2));
    }
}
