//! The sampled filter's mean, logit by logit: by size of probability, from 1 down to 1e-12.
//!
//! Token i's hidden state is [`SCALE`] at i and 0 elsewhere. Then a classifier row holds the logits of its
//! column, token by token, and a row of dC the gradients with respect to them.

use super::case::Reduction;
use super::compare::Report;
use super::data::rounded;
use super::device::{Bench, Choice};
use super::seeds::each_seed;
use super::{Case, Data, head, programs};
use cce::{DType, Filter};

/// Tokens, and elements of a row.
const TOKENS: usize = 64;

/// A power of two, so that logits of this times what bf16 has are exact.
const SCALE: f64 = 8.0;

const SEEDS: u64 = 48;

/// A bin is looked at if this many of its entries are expected to be kept under all seeds together.
const FEWEST: f64 = 50.0;

/// Standard errors that the mean of a bin may be off.
const WITHIN: f64 = 5.0;

/// What rounding may add, relative: a probability is the exponential of an fp32 difference of logits.
const ROUNDING: f64 = 3e-5;

/// Rows of one kind: token, column -> logit; targets by token.
struct Rows<'a> {
    kind: String,
    vocab: usize,
    logit: Box<dyn Fn(usize, usize) -> f64 + 'a>,
    target: fn(usize, usize) -> i64,
}

fn spread_targets(token: usize, vocab: usize) -> i64 {
    (token * 977 % vocab) as i64
}

/// The logits of the real head's first tokens.
fn real(report: &mut Report, run: &mut impl FnMut(&mut Report, Rows<'_>, Filter)) {
    let Some(path) = head::path() else { return };
    let head = head::load(&path).first_tokens(TOKENS);
    let (width, hidden, classifier) = (head.width, head.hidden.to_f32(), head.classifier.to_f32());
    let logits: Vec<f64> = (0..head.vocab * TOKENS)
        .map(|at| {
            let (column, token) = (at / TOKENS, at % TOKENS);
            let (e, c) = (&hidden[token * width..][..width], &classifier[column * width..][..width]);
            e.iter().zip(c).map(|(&e, &c)| f64::from(e) * f64::from(c)).sum()
        })
        .collect();
    for max_entries in [384, 16] {
        let rows = Rows {
            kind: "the real head".to_owned(),
            vocab: head.vocab,
            logit: Box::new(|token, column| logits[column * TOKENS + token]),
            target: spread_targets,
        };
        run(report, rows, Filter::Sampled { eps: 1.0 / 1024.0, max_entries });
    }
}

/// Every kind of row, every size of probability.
pub fn without_bias(bench: &Bench, choice: Choice) -> Report {
    let mut report = Report::default();
    let mut run = |report: &mut Report, rows: Rows<'_>, filter| check(report, bench, choice, &rows, filter);
    real(&mut report, &mut run);
    let uniform = Rows {
        kind: "nearly uniform".to_owned(),
        vocab: 20_000,
        logit: Box::new(|token, column| ((token + column) % 5) as f64 * 0.25),
        target: spread_targets,
    };
    run(&mut report, uniform, Filter::Sampled { eps: 1.0 / 1024.0, max_entries: 384 });
    // One entry has nearly all of the mass. The step is so small that some of the rest are kept, and targets are
    // among the rest.
    for exponent in [3, 6, 9, 12] {
        let size = 10f64.powi(-exponent);
        let rows =
            Rows {
                kind: format!("one entry, and the rest about 1e-{exponent}"),
                vocab: 6000,
                logit: Box::new(move |token, column| {
                    if column == 0 { 0.0 } else { size.ln() + ((token + column) % 5) as f64 * 0.5 }
                }),
                target: |token, vocab| (vocab - 1 - token) as i64,
            };
        run(&mut report, rows, Filter::Sampled { eps: (512.0 * size) as f32, max_entries: 384 });
    }
    report
}

/// Whether the mean over seeds of each bin's gradients is their sum, within its own scatter.
fn check(report: &mut Report, bench: &Bench, choice: Choice, rows: &Rows<'_>, filter: Filter) {
    let Filter::Sampled { eps, .. } = filter else { panic!("a sampled filter") };
    let case = Case::new(&programs::named("cross_entropy"), [TOKENS, TOKENS, rows.vocab], DType::Bf16)
        .gradients(DType::F32, false)
        .with(|case| (case.filter, case.reduction, case.hidden_gradient) = (filter, Reduction::Sum, None));
    let mut data: Data = case.data();
    data.scalars = vec![Some(1.0)];
    data.rows = vec![None];
    data.hidden.fill(0.0);
    for token in 0..TOKENS {
        data.hidden[token * TOKENS + token] = SCALE;
        data.targets[token] = (rows.target)(token, rows.vocab);
    }
    for (at, value) in data.classifier.iter_mut().enumerate() {
        *value = rounded((rows.logit)(at % TOKENS, at / TOKENS) / SCALE, DType::Bf16);
    }
    // The first columns may be dense, with gradients rounded to bf16.
    let dense = (rows.vocab / 8).min(4096).next_multiple_of(256);
    let mut bins: Vec<(usize, usize)> = Vec::new();
    let mut exact = [0.0; 16];
    for token in 0..TOKENS {
        let logit = |column: usize| SCALE * data.classifier[column * TOKENS + token];
        let largest = (0..rows.vocab).map(logit).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..rows.vocab).map(|column| (logit(column) - largest).exp()).sum();
        for column in dense..rows.vocab {
            let p = (logit(column) - largest).exp() / sum;
            let bin = (-p.log10()).floor().max(0.0) as usize;
            if column as i64 != data.targets[token] && bin < exact.len() {
                exact[bin] += p;
                bins.push((column * TOKENS + token, bin));
            }
        }
    }
    let label = format!("{}, {}: {case}", choice.name(), rows.kind);
    report.cases += 1;
    let seeds: Vec<u64> = (0..SEEDS).map(|seed| case.seed.wrapping_add(seed)).collect();
    let mut sums: Vec<[f64; 16]> = Vec::new();
    let run = each_seed(bench, choice, &case, &data, &seeds, |found| {
        let gradient = found.classifier.as_deref().expect("dC");
        let mut of_seed = [0.0; 16];
        for &(at, bin) in &bins {
            of_seed[bin] += gradient[at] / SCALE;
        }
        sums.push(of_seed);
    });
    if let Err(error) = run {
        report.fail(&label, error);
        return;
    }
    let (count, mut looked_at) = (SEEDS as f64, 0);
    for (bin, &exact) in exact.iter().enumerate() {
        if count * exact < FEWEST * f64::from(eps) {
            continue;
        }
        looked_at += 1;
        let mean = sums.iter().map(|sums| sums[bin]).sum::<f64>() / count;
        let variance = sums.iter().map(|sums| (sums[bin] - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let off = ((mean - exact).abs() - ROUNDING * exact).max(0.0);
        let errors = off / ((variance / count).sqrt() + 1e-9 * exact);
        report.check("standard errors of a bin", errors, WITHIN, &format!("p from 1e-{}, {label}", bin + 1));
    }
    if looked_at == 0 {
        report.fail(&label, "nothing of any size is kept".to_owned());
    }
}
