//! The random numbers of generated heads, and of what a search leaves to chance: a stream a row, so that any
//! thread may make any row and the bits stay the same.
//!
//! Integer arithmetic only (SplitMix64 over a counter), so that the draws themselves do not depend on the
//! platform either.

/// The step of SplitMix64's counter: 2^64 divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014;
/// Stafford's mix 13).
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a stream is for: streams of different purposes are independent of each other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    VocabularyOrder = 1,
    Classifier = 2,
    Hidden = 3,
    Candidates = 4,
    Target = 5,
    Ignored = 6,
    IgnoredRuns = 7,
    Search = 8,
}

/// The random numbers of one row.
#[derive(Clone, Debug)]
pub(crate) struct Stream(u64);

impl Stream {
    pub(crate) const fn new(seed: u64, purpose: Purpose, row: u64) -> Stream {
        Stream(mix(mix(mix(seed ^ GOLDEN) ^ purpose as u64) ^ row.wrapping_mul(GOLDEN)))
    }

    pub(crate) const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Uniform in [0, 1), 53 bits.
    pub(crate) const fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Mean 0, variance 1: the sum of eight 16-bit uniforms. Its excess kurtosis is -0.15 and its support 4.9
    /// standard deviations; what is made of it here are dot products of many, in which no difference from a
    /// normal one is left. It costs 3 ns, without a logarithm whose last bit depends on the platform.
    pub(crate) const fn normal(&mut self) -> f32 {
        let mut sum = 0i32;
        let mut half = 0;
        while half < 2 {
            let bits = self.bits();
            sum += (bits & 0xffff) as i32;
            sum += (bits >> 16 & 0xffff) as i32;
            sum += (bits >> 32 & 0xffff) as i32;
            sum += (bits >> 48) as i32;
            half += 1;
        }
        // Eight uniforms over 0..=65535: mean 8 * 65535 / 2, variance 8 * (65536^2 - 1) / 12.
        const DEVIATION: f32 = 53_509.918;
        (sum - 4 * 65_535) as f32 / DEVIATION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let mut stream = Stream::new(3, Purpose::Classifier, 7);
        let draws: Vec<f64> = (0..200_000).map(|_| f64::from(stream.normal())).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| x * x).sum::<f64>() / draws.len() as f64;
        let fourth = draws.iter().map(|x| x.powi(4)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.01, "{mean}");
        assert!((variance - 1.0).abs() < 0.02, "{variance}");
        assert!((fourth - 2.85).abs() < 0.06, "{fourth}");
    }

    #[test]
    fn streams_of_neighbouring_rows_and_purposes_are_uncorrelated() {
        let correlation = |mut a: Stream, mut b: Stream| {
            (0..20_000).map(|_| f64::from(a.normal()) * f64::from(b.normal())).sum::<f64>() / 20_000.0
        };
        for row in [0, 1, 255, 1 << 40] {
            let here = Stream::new(0, Purpose::Hidden, row);
            assert!(correlation(here.clone(), Stream::new(0, Purpose::Hidden, row + 1)).abs() < 0.04);
            assert!(correlation(here.clone(), Stream::new(0, Purpose::Classifier, row)).abs() < 0.04);
            assert!(correlation(here, Stream::new(1, Purpose::Hidden, row)).abs() < 0.04);
        }
    }
}
