//! Who wins a run-off: the default schedule unless it is clearly beaten, else the simplest of those that tie with
//! the fastest.
//!
//! What wins must not depend on the noise of one run, so no decision may hang on a candidate that lies at an edge:
//! - Compared are the middles of the ratios within a round ([`middle`]) to the fastest.
//! - The default holds as long as the interval of its ratio reaches into the [`Band`]: another one has to be faster
//!   by more than the band's width, and clearly so. What is tuned is never slower than what is not.
//! - Where it does not hold, ties end in the widest gap between two candidates within the band, not at a number
//!   that somebody may sit on.

use super::rounds::Entrant;
use super::statistics::{interval, median, middle};

/// How far behind the fastest, as parts of its time, ties end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Band {
    /// Whoever is so near ties.
    pub least: f64,
    /// Nobody ties who is farther; the default, which holds, may be.
    pub most: f64,
    /// Where runs deviate so much that nothing is clear, the default holds no farther than this.
    pub farthest: f64,
}

/// What came out of a run-off. Entrants are told by their number.
pub(super) struct Decision {
    /// Best first.
    pub order: Vec<usize>,
    /// Of each its time over the fastest's.
    pub ratios: Vec<f64>,
    /// Of each whether the winner counts as being as fast.
    pub ties: Vec<bool>,
    /// The fastest.
    pub leader: usize,
}

/// Decides a run-off; `None` of nobody. `simple` orders entrants, the simplest first.
pub(super) fn decide<B, K: Ord>(
    entrants: &[Entrant<B>],
    default: Option<usize>,
    band: Band,
    simple: impl Fn(usize) -> K,
) -> Option<Decision> {
    let leader = leader(entrants)?;
    let against = |at: usize| entrants[at].ratios(&entrants[leader]);
    let ratio = |at: usize| if at == leader { 1.0 } else { middle(&against(at)) };
    let ratios: Vec<f64> = (0..entrants.len()).map(ratio).collect();
    // In a few noisy rounds one may be faster than the leader in pairs with it: it is the fastest then.
    let still = (0..entrants.len()).filter(|&at| !entrants[at].out);
    let fastest = still.map(|at| ratios[at]).fold(1.0, f64::min);
    let ratios: Vec<f64> = ratios.into_iter().map(|ratio| ratio / fastest).collect();
    let holds = |&at: &usize| {
        let may = ratios[at] <= 1.0 + band.farthest && !entrants[at].out;
        at == leader || may && interval(&against(at)).0 <= 1.0 + band.most
    };
    let incumbent = default.filter(holds);
    let edge = edge(&ratios, band);
    let edge = incumbent.map_or(edge, |at| edge.max(ratios[at]));
    let ties: Vec<bool> = ratios.iter().map(|ratio| *ratio <= edge).collect();
    let mut order: Vec<usize> = (0..entrants.len()).collect();
    order.sort_by(|&a, &b| {
        let first = |at: usize| Some(at) == incumbent;
        let by_time = || if ties[a] { std::cmp::Ordering::Equal } else { ratios[a].total_cmp(&ratios[b]) };
        (first(b).cmp(&first(a)))
            .then(ties[b].cmp(&ties[a]))
            .then_with(by_time)
            .then_with(|| simple(a).cmp(&simple(b)))
    });
    Some(Decision { order, ratios, ties, leader })
}

/// The middle of the widest gap that these ratios leave in the band.
fn edge(ratios: &[f64], band: Band) -> f64 {
    let (from, to) = (1.0 + band.least, 1.0 + band.most);
    let mut inside: Vec<f64> = ratios.iter().copied().filter(|ratio| (from..to).contains(ratio)).collect();
    inside.sort_by(f64::total_cmp);
    inside.push(to);
    let (mut low, mut widest, mut edge) = (from, 0.0, from);
    for high in inside {
        if high - low > widest {
            (widest, edge) = (high - low, 0.5 * (low + high));
        }
        low = high;
    }
    edge
}

/// Leaves out of further rounds whoever clearly does not tie; returns whether further rounds could change who wins.
pub(super) fn is_undecided<B>(entrants: &mut [Entrant<B>], default: Option<usize>, band: Band) -> bool {
    let Some(leader) = leader(entrants) else { return false };
    let (least, most) = (1.0 + band.least, 1.0 + band.most);
    let (mut undecided, mut holds) = (false, default == Some(leader));
    for at in (0..entrants.len()).filter(|at| *at != leader) {
        let (low, high) = interval(&entrants[at].ratios(&entrants[leader]));
        let may_tie = !entrants[at].out && low <= most;
        let is_default = Some(at) == default;
        holds |= is_default && may_tie && high <= most;
        undecided |= may_tie && (is_default || least <= high);
        entrants[at].out = !may_tie;
    }
    undecided && !holds
}

/// Whether more rounds could change who is within this multiple of the fastest's time.
pub(super) fn is_open<B>(entrants: &[Entrant<B>], edge: f64) -> bool {
    let Some(leader) = leader(entrants) else { return false };
    entrants.iter().enumerate().filter(|(at, entrant)| *at != leader && !entrant.out).any(|(_, entrant)| {
        let (low, high) = interval(&entrant.ratios(&entrants[leader]));
        low <= edge && edge <= high
    })
}

/// The fastest of those that are not out: by the middle over the rounds of its time over the round's own median.
pub(super) fn leader<B>(entrants: &[Entrant<B>]) -> Option<usize> {
    let there: Vec<usize> = (0..entrants.len()).filter(|&at| !entrants[at].out).collect();
    let rounds = there.iter().map(|&at| entrants[at].times.len()).max()?;
    let of_round = |round: usize| -> f64 {
        let times = there.iter().filter_map(|&at| entrants[at].time_in(round));
        median(&times.collect::<Vec<f64>>())
    };
    let usual: Vec<f64> = (0..rounds).map(of_round).collect();
    let score = |entrant: &Entrant<B>| {
        let relative = usual.iter().enumerate();
        let relative = relative.filter_map(|(round, usual)| Some(entrant.time_in(round)? / usual));
        middle(&relative.collect::<Vec<f64>>())
    };
    let scores = there.iter().map(|&at| (at, score(&entrants[at])));
    scores.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::random::{Purpose, Stream};

    const BAND: Band = Band { least: 0.003, most: 0.01, farthest: 0.03 };

    /// Entrants of these times, each run deviating by up to `noise` of it, in nine rounds.
    fn entrants(times: &[f64], noise: f64) -> Vec<Entrant<()>> {
        let run = |at: usize, round: usize| noise * (((7 * at + 5 * round) % 9) as f64 / 4.0 - 1.0);
        let of = |(index, ms): (usize, &f64)| Entrant {
            index,
            built: (),
            resources: None,
            error: 0.0,
            times: (0..9).map(|round| Some(ms * (1.0 + run(index, round)))).collect(),
            counts: Vec::new(),
            out: false,
        };
        times.iter().enumerate().map(of).collect()
    }

    /// The first is the default; those that come later are the simpler.
    fn order(times: &[f64], noise: f64) -> Vec<usize> {
        decide(&entrants(times, noise), Some(0), BAND, std::cmp::Reverse).unwrap().order
    }

    #[test]
    fn nobody_ties_beyond_the_band_however_noisy_a_few_rounds_are() {
        let mut noise = Stream::new(3, Purpose::Search, 0);
        for _ in 0..2000 {
            let mut run = |_| Some(1.0 + 0.2 * f64::from(noise.normal()).clamp(-3.0, 3.0));
            let of = |index: usize, times: Vec<Option<f64>>| Entrant {
                times,
                ..entrants(&[1.0; 4], 0.0).swap_remove(index)
            };
            let all: Vec<Entrant<()>> =
                (0..4).map(|index| of(index, (0..3).map(&mut run).collect())).collect();
            let decision = decide(&all, None, BAND, std::cmp::Reverse).unwrap();
            let winner = decision.ratios[decision.order[0]];
            for (ratio, ties) in decision.ratios.iter().zip(&decision.ties) {
                assert!(!ties || (ratio / winner - 1.0).abs() <= 1.01 * BAND.most, "{:?}", decision.ratios);
            }
        }
    }

    #[test]
    fn the_default_wins_unless_another_is_faster_by_more_than_the_band_and_clearly_so() {
        assert_eq!(order(&[1.009, 1.0, 1.02], 0.0), [0, 1, 2]);
        assert_eq!(order(&[1.012, 1.0, 1.02], 0.0), [1, 0, 2]);
        // By more than the band, but within the noise.
        assert_eq!(order(&[1.012, 1.0, 1.02], 0.004)[0], 0);
        assert_eq!(order(&[1.05, 1.0, 1.02], 0.004)[0], 1);
        // Nothing is clear.
        assert_eq!(order(&[1.018, 1.0, 1.1], 0.02)[0], 0);
        assert_eq!(order(&[1.03, 1.0, 1.1], 0.02)[0], 1);
    }

    #[test]
    fn without_the_default_the_simplest_before_the_widest_gap_wins() {
        // 1.006 sits in the middle of the band, and the gap is behind it, or before it.
        assert_eq!(order(&[1.2, 1.0, 1.004, 1.006], 0.0), [3, 2, 1, 0]);
        assert_eq!(order(&[1.2, 1.0, 1.001, 1.0085, 1.009], 0.0), [2, 1, 3, 4, 0]);
        // At the band's end nobody ties.
        assert_eq!(order(&[1.2, 1.0, 1.0101], 0.0), [1, 2, 0]);
        assert!((edge(&[1.0, 1.5], BAND) - 1.0065).abs() < 1e-12);
    }

    #[test]
    fn everybody_that_is_not_slower_than_a_default_that_holds_ties_with_it() {
        let decision = decide(&entrants(&[1.009, 1.0, 1.0085, 1.02], 0.0), Some(0), BAND, |at| at).unwrap();
        assert_eq!((decision.leader, decision.order), (1, vec![0, 1, 2, 3]));
        assert_eq!(decision.ties, [true, true, true, false]);
    }

    #[test]
    fn what_clearly_does_not_tie_is_out_and_a_default_that_clearly_holds_ends_it() {
        let mut all = entrants(&[1.3, 1.0, 1.2, 1.006], 0.002);
        assert!(is_undecided(&mut all, Some(0), BAND));
        assert_eq!(all.iter().map(|entrant| entrant.out).collect::<Vec<_>>(), [true, false, true, false]);
        let mut clear = entrants(&[1.3, 1.0, 1.2], 0.002);
        assert!(!is_undecided(&mut clear, Some(0), BAND));
        let mut holds = entrants(&[1.002, 1.0, 1.006], 0.002);
        assert!(!is_undecided(&mut holds, Some(0), BAND) && is_undecided(&mut holds, None, BAND));
    }
}
