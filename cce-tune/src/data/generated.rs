//! Heads with a softmax shaped like a trained model's, from a seed.
//!
//! # The model
//! `C_v = (a_v, r_v)` and `E_i = (4, h_i)`, so that `E_i . C_v = 4 a_v + h_i . r_v`:
//! - `4 a_v = log(unigram probability of v)`, less a constant: Zipf's law `1 / (rank + 2.7)`. Ranks follow
//!   the entry's number only roughly (normal noise of 0.9 on the logarithm), as those of a BPE vocabulary do.
//! - `r_v` is a random direction of length about 1.
//! - `h_i = 0.55 noise + sum_k 15 exp(-0.09 k) s_i r_{cand(i, k)}`: 64 candidates a token, drawn from the
//!   unigram distribution to the power 0.7, with falling weights; `s_i`, uniform in [0.6, 1.4], makes tokens
//!   more or less certain.
//!
//! # Its statistics
//! Of the generated head in bf16, and of a small trained model's (SmolLM2-135M-Instruct on English text) for
//! comparison:
//!
//! | | 8192 x 2304 x 256000 | 8192 x 576 x 49152 | SmolLM2, 8192 x 576 x 49152 |
//! |---|---|---|---|
//! | mean loss (nats) | 1.8 | 1.3 | 3.2 |
//! | mean entropy (nats) | 1.7 | 1.3 | 3.0 |
//! | logits | -7 to 32 | -12 to 38 | -40 to 43 |
//! | mean probability at rank 1 | 0.69 | 0.72 | 0.42 |
//! | at rank 10 | 2.0e-3 | 1.7e-3 | 1.1e-2 |
//! | at rank 100 | 1.0e-4 | 8.5e-5 | 4.8e-4 |
//! | at rank 1000 | 9.6e-6 | 7.8e-6 | 2.0e-5 |
//! | entries a token with p >= 2^-12 | 44 | 38 | 159 |
//! | entries a token with p >= 2^-10 | 15 | 13 | 57 |
//!
//! So it is that of a more certain, larger model: a few strong entries over a Zipf-like tail.
//! `examples/head_statistics.rs` prints the table's columns.
//!
//! # Targets
//! The loss of a calibrated model equals its entropy: targets follow the model's own softmax. To draw them
//! exactly takes all N * V logits, most of a minute's work. Instead each token compares its 64 candidates,
//! whose logits are computed, with 64 entries drawn from the unigram distribution and weighted by `exp(h_i .
//! r_v)`: their mean weight is an unbiased estimate of the mass of all entries that are no candidates, and
//! one is drawn by weight (sampling, importance, resampling: Rubin 1987). So the shares of candidates and of
//! all others are right on average, and so is the mean loss.

use super::elements::Element;
use super::random::{Purpose, Stream};
use super::{Head, IGNORED, References, Targets};
use cce_codegen::problem::DType;
use half::{bf16, f16};
use rayon::prelude::*;

/// Candidates a token.
const CANDIDATES: usize = 64;
/// Weight of the first candidate.
const TOP: f64 = 15.0;
/// How fast the candidates' weights fall.
const DECAY: f64 = 0.09;
/// Standard deviation of the noise of a hidden state's elements.
const SIGMA: f32 = 0.55;
/// The first element of every hidden state: what the unigram direction is multiplied by.
const UNIGRAM: f32 = 4.0;
/// Draws from the unigram distribution that stand for all entries that are no candidates.
const PROPOSALS: usize = 64;
/// Standard deviation of the elements of an untrained head.
const UNTRAINED: f32 = 0.02;

impl Head {
    /// A head with a realistic softmax. The module's documentation has the model and its statistics; the same
    /// arguments give the same bits on any number of threads. Targets are i32; with `vocab` 0 there is none
    /// to draw and all are ignored.
    pub fn generated(tokens: usize, width: usize, vocab: usize, seed: u64, dtype: DType) -> Head {
        match dtype {
            DType::F32 => generate::<f32>(tokens, width, vocab, seed),
            DType::F16 => generate::<f16>(tokens, width, vocab, seed),
            DType::Bf16 => generate::<bf16>(tokens, width, vocab, seed),
        }
    }

    /// A head before its training: all elements normal with a standard deviation of 0.02, so that every
    /// probability is close to 1/V and the loss close to ln V; targets uniform, i32. The hardest input of a
    /// filter, and the first steps of every training run.
    pub fn untrained(tokens: usize, width: usize, vocab: usize, seed: u64, dtype: DType) -> Head {
        match dtype {
            DType::F32 => untrained::<f32>(tokens, width, vocab, seed),
            DType::F16 => untrained::<f16>(tokens, width, vocab, seed),
            DType::Bf16 => untrained::<bf16>(tokens, width, vocab, seed),
        }
    }
}

/// A \[rows, width\] matrix, each row made by `fill(row number, row)`.
fn rows<T: Element>(rows: usize, width: usize, fill: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    // In parallel, because it is the first touch of what may be gigabytes.
    let mut matrix: Vec<T> = rayon::iter::repeat_n(T::default(), rows * width).collect();
    if width > 0 {
        matrix.par_chunks_mut(width).enumerate().for_each(|(number, row)| fill(number, row));
    }
    matrix
}

fn untrained<T: Element>(tokens: usize, width: usize, vocab: usize, seed: u64) -> Head {
    let normal = |purpose| {
        move |number: usize, row: &mut [T]| {
            let mut stream = Stream::new(seed, purpose, number as u64);
            row.fill_with(|| T::of(UNTRAINED * stream.normal()));
        }
    };
    let target = |token: usize| match vocab {
        0 => IGNORED as i32,
        _ => (Stream::new(seed, Purpose::Target, token as u64).uniform() * vocab as f64) as i32,
    };
    Head {
        tokens,
        width,
        vocab,
        hidden: T::wrap(rows(tokens, width, normal(Purpose::Hidden))),
        classifier: T::wrap(rows(vocab, width, normal(Purpose::Classifier))),
        targets: Targets::I32((0..tokens).map(target).collect()),
        references: References::default(),
    }
}

/// A discrete distribution, drawn from by binary search in its running sums.
struct Discrete {
    running: Vec<f64>,
}

impl Discrete {
    fn new(weights: impl Iterator<Item = f64>) -> Discrete {
        let running = weights
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        Discrete { running }
    }

    fn total(&self) -> f64 {
        self.running.last().copied().unwrap_or(0.0)
    }

    /// An entry with probability weight / total; 0 if there is none.
    fn draw(&self, uniform: f64) -> usize {
        let at = uniform * self.total();
        self.running.partition_point(|&sum| sum <= at).min(self.running.len().saturating_sub(1))
    }
}

/// log of each entry's unigram probability: Zipf's law over ranks that follow the entries' numbers roughly.
fn unigram(vocab: usize, seed: u64) -> Vec<f64> {
    let mut stream = Stream::new(seed, Purpose::VocabularyOrder, 0);
    let place: Vec<f64> =
        (0..vocab).map(|entry| (entry as f64 + 20.0).ln() + 0.9 * f64::from(stream.normal())).collect();
    let mut order: Vec<u32> = (0..vocab as u32).collect();
    order.par_sort_by(|&a, &b| place[a as usize].total_cmp(&place[b as usize]).then(a.cmp(&b)));
    let normaliser = (0..vocab).map(|rank| 1.0 / (rank as f64 + 2.7)).sum::<f64>().ln();
    let mut log_probability = vec![0.0; vocab];
    for (rank, &entry) in order.iter().enumerate() {
        log_probability[entry as usize] = -(rank as f64 + 2.7).ln() - normaliser;
    }
    log_probability
}

fn generate<T: Element>(tokens: usize, width: usize, vocab: usize, seed: u64) -> Head {
    let log_probability = unigram(vocab, seed);
    let mean = log_probability.iter().sum::<f64>() / vocab.max(1) as f64;
    let length = (width.saturating_sub(1) as f32).sqrt();
    let classifier: Vec<T> = rows(vocab, width, |entry, row| {
        let mut stream = Stream::new(seed, Purpose::Classifier, entry as u64);
        row[0] = T::of((log_probability[entry] - mean) as f32 / UNIGRAM);
        row[1..].fill_with(|| T::of(stream.normal() / length));
    });

    let flattened = Discrete::new(log_probability.iter().map(|l| (0.7 * l).exp()));
    let candidates = |token: usize| -> (f32, [usize; CANDIDATES]) {
        let mut stream = Stream::new(seed, Purpose::Candidates, token as u64);
        let certainty = (0.6 + 0.8 * stream.uniform()) as f32;
        (certainty, std::array::from_fn(|_| flattened.draw(stream.uniform())))
    };
    let weights: [f32; CANDIDATES] = std::array::from_fn(|k| (TOP * (-DECAY * k as f64).exp()) as f32);
    let hidden: Vec<T> = rows(tokens, width, |token, row| {
        let mut stream = Stream::new(seed, Purpose::Hidden, token as u64);
        let mut state: Vec<f32> = (1..width).map(|_| SIGMA * stream.normal()).collect();
        if vocab > 0 {
            let (certainty, entries) = candidates(token);
            for (weight, entry) in weights.iter().zip(entries) {
                let direction = &classifier[entry * width + 1..(entry + 1) * width];
                for (sum, &r) in state.iter_mut().zip(direction) {
                    *sum += weight * certainty * r.value();
                }
            }
        }
        row[0] = T::of(UNIGRAM);
        for (element, value) in row[1..].iter_mut().zip(state) {
            *element = T::of(value);
        }
    });

    let proposals = Discrete::new(log_probability.iter().map(|l| l.exp()));
    let targets = (0..tokens)
        .into_par_iter()
        .map(|token| {
            if vocab == 0 || width == 0 {
                return IGNORED as i32;
            }
            let state = &hidden[token * width + 1..(token + 1) * width];
            let product = |entry: usize| -> f64 {
                f64::from(dot(state, &classifier[entry * width + 1..(entry + 1) * width]))
            };
            let mut known = candidates(token).1;
            known.sort_unstable();
            let mut stream = Stream::new(seed, Purpose::Target, token as u64);
            draw_target(&known, &log_probability, &proposals, product, &mut stream) as i32
        })
        .collect();

    Head {
        tokens,
        width,
        vocab,
        hidden: T::wrap(hidden),
        classifier: T::wrap(classifier),
        targets: Targets::I32(targets),
        references: References::default(),
    }
}

/// A target by sampling, importance, resampling; `known` are the candidates, sorted, perhaps repeated.
fn draw_target(
    known: &[usize],
    log_probability: &[f64],
    unigram: &Discrete,
    product: impl Fn(usize) -> f64,
    stream: &mut Stream,
) -> usize {
    let mut choices: Vec<(usize, f64)> = Vec::with_capacity(known.len() + PROPOSALS);
    for (at, &entry) in known.iter().enumerate() {
        if at == 0 || known[at - 1] != entry {
            choices.push((entry, log_probability[entry] + product(entry)));
        }
    }
    let share = (unigram.total() / PROPOSALS as f64).ln();
    for _ in 0..PROPOSALS {
        let entry = unigram.draw(stream.uniform());
        if known.binary_search(&entry).is_err() {
            choices.push((entry, share + product(entry)));
        }
    }
    let largest = choices.iter().map(|c| c.1).fold(f64::NEG_INFINITY, f64::max);
    let drawn = Discrete::new(choices.iter().map(|c| (c.1 - largest).exp())).draw(stream.uniform());
    choices.get(drawn).map_or(0, |c| c.0)
}

/// A product with eight running sums: the order of additions is fixed, so the bits are too.
fn dot<T: Element>(a: &[T], b: &[T]) -> f32 {
    let mut sums = [0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 =
        a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x.value() * y.value()).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            sums[lane] += x[lane].value() * y[lane].value();
        }
    }
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean entropy and mean loss from all logits in f64, and the mean probability of the likeliest entry.
    fn statistics(head: &Head) -> (f64, f64, f64) {
        let (mut entropy, mut loss, mut top) = (0.0, 0.0, 0.0);
        for token in 0..head.tokens {
            let z = head.logits(token);
            let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = largest + z.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
            entropy += z.iter().map(|x| (x - lse).exp() * (lse - x)).sum::<f64>();
            loss += lse - z[head.targets.get(token) as usize];
            top += (largest - lse).exp();
        }
        let n = head.tokens as f64;
        (entropy / n, loss / n, top / n)
    }

    #[test]
    fn targets_follow_the_softmax_so_that_the_loss_is_the_entropy() {
        let head = Head::generated(1024, 128, 2048, 5, DType::F32);
        let (entropy, loss, top) = statistics(&head);
        // The loss of one draw deviates from the entropy by about 2 nats a token, so by 0.06 in the mean of
        // 1024.
        assert!((loss - entropy).abs() < 0.2, "loss {loss}, entropy {entropy}");
        assert!(loss > 0.5 && loss < 0.7 * (2048f64).ln(), "loss {loss}: not the shape of a trained head");
        assert!(top > 0.2 && top < 0.9, "{top}");
    }

    #[test]
    fn an_untrained_head_has_a_uniform_softmax() {
        let head = Head::untrained(64, 96, 1000, 1, DType::Bf16);
        let (entropy, loss, top) = statistics(&head);
        assert!((entropy - 1000f64.ln()).abs() < 1e-3, "{entropy}");
        assert!((loss - 1000f64.ln()).abs() < 0.02, "{loss}");
        assert!(top < 2e-3, "{top}");
    }

    #[test]
    fn the_bits_do_not_depend_on_the_number_of_threads() {
        let make = |threads: usize| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap()
                .install(|| Head::generated(37, 29, 501, 9, DType::Bf16))
        };
        let (one, four) = (make(1), make(4));
        assert_eq!(one.hidden, four.hidden);
        assert_eq!(one.classifier, four.classifier);
        assert_eq!(one.targets, four.targets);
    }

    #[test]
    fn seeds_differ_and_every_target_is_an_entry() {
        let (a, b) =
            (Head::generated(64, 16, 100, 0, DType::F16), Head::generated(64, 16, 100, 1, DType::F16));
        assert_ne!(a.hidden, b.hidden);
        assert_ne!(a.targets, b.targets);
        assert!((0..64).all(|t| (0..100).contains(&a.targets.get(t))));
    }

    #[test]
    fn degenerate_shapes_are_made_too() {
        for (n, d, v) in [(0, 8, 9), (3, 1, 1), (3, 8, 0), (1, 0, 4), (0, 0, 0), (5, 2, 3)] {
            for head in [Head::generated(n, d, v, 1, DType::F32), Head::untrained(n, d, v, 1, DType::F32)] {
                assert_eq!(head.hidden.len(), n * d);
                assert_eq!(head.classifier.len(), v * d);
                assert_eq!(head.targets.len(), n);
                assert!(head.hidden.to_f32().iter().all(|x| x.is_finite()));
                assert!(head.classifier.to_f32().iter().all(|x| x.is_finite()));
            }
        }
    }

    #[test]
    fn ignored_tokens_are_about_the_share_asked_for() {
        let head = Head::untrained(4000, 4, 10, 1, DType::F32).with_ignored(0.05, 3);
        let ignored = 4000 - head.targets.counted();
        assert!((120..=280).contains(&ignored), "{ignored}");
    }
}
