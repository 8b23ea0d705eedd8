//! Medians, and how far they can be trusted: without an assumption on how the noise is distributed.

/// The median, by linear interpolation; NaN of nothing.
pub(super) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[half],
        _ => 0.5 * (sorted[half - 1] + sorted[half]),
    }
}

/// The middle of ratios: outliers are left out, which lie further from the median than three standard deviations
/// by the median absolute deviation, and further than 5 %; of the others, the median of the geometric means of
/// all pairs, each with itself too (Hodges and Lehmann 1963). As steady as a mean where a drift made some too
/// large and as many too small, and as hard to move as a median. NaN of nothing.
pub(crate) fn middle(ratios: &[f64]) -> f64 {
    let median_of_all = median(ratios);
    let distance = |ratio: f64| (ratio / median_of_all).ln().abs();
    let deviation = 1.4826 * median(&ratios.iter().map(|ratio| distance(*ratio)).collect::<Vec<f64>>());
    let far = (3.0 * deviation).max(0.05);
    let kept: Vec<f64> = ratios.iter().copied().filter(|ratio| distance(*ratio) <= far).collect();
    let pairs = kept.iter().enumerate().flat_map(|(at, a)| kept[at..].iter().map(move |b| (a * b).sqrt()));
    median(&pairs.collect::<Vec<f64>>())
}

/// An interval that the median of what the values are drawn from lies in, between two of them: at 90 % or
/// better from five values on, the smallest and the largest of fewer. The number of values below the median
/// is binomial, whatever their distribution (Conover, Practical Nonparametric Statistics, section 3.2).
pub(super) fn interval(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    let n = sorted.len();
    if n == 0 {
        return (f64::NAN, f64::NAN);
    }
    // P(at most k values are below the median) for k = 0, 1, ...: the largest k with at most 5 %.
    let (mut term, mut below, mut rank) = (0.5f64.powi(n as i32), 0.0, 0);
    for k in 0..n / 2 {
        below += term;
        if below > 0.05 {
            break;
        }
        rank = k;
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    (sorted[rank], sorted[n - 1 - rank])
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_middle_of_what_a_drift_moved_both_ways_is_between_the_two() {
        let moved = [1.02, 0.98, 1.02, 0.98, 1.02, 0.98, 1.02];
        assert!((middle(&moved) - 1.0).abs() < 1e-3, "{}", middle(&moved));
        assert!((median(&moved) - 1.02).abs() < 1e-12);
        // Two of five are no reason to move.
        let outliers = [1.0, 1.01, 0.99, 2.0, 1.7];
        assert!((middle(&outliers) - 1.0).abs() < 0.006, "{}", middle(&outliers));
        assert!(middle(&[]).is_nan());
    }

    #[test]
    fn the_interval_leaves_outliers_out_once_there_are_enough_values() {
        assert_eq!(interval(&[3.0, 1.0, 2.0]), (1.0, 3.0));
        let values: Vec<f64> = (0..11).map(f64::from).collect();
        // P(at most 2 of 11 below) = 67 / 2048 = 3.3 %, of at most 3: 11 %.
        assert_eq!(interval(&values), (2.0, 8.0));
    }

    #[test]
    fn the_interval_holds_the_median_nine_times_in_ten() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        for n in [5, 8, 11, 33] {
            let holds = (0..2000).filter(|_| {
                // Skewed: the median of -ln(u) is ln 2.
                let values: Vec<f64> = (0..n).map(|_| -random().ln()).collect();
                let (low, high) = interval(&values);
                (low..=high).contains(&std::f64::consts::LN_2)
            });
            let holds = holds.count();
            assert!(holds >= 1760, "{holds} of 2000 with {n} values");
        }
    }
}
