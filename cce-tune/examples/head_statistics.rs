//! Statistics of a head's softmax: what the documentation of `cce_tune::data` quotes.
//!
//! ```text
//! cargo run --release -p cce-tune --example head_statistics -- TOKENS WIDTH VOCAB [SAMPLED_TOKENS]
//! cargo run --release -p cce-tune --example head_statistics -- FILE.safetensors [SAMPLED_TOKENS]
//! ```

use cce_codegen::problem::DType;
use cce_tune::data::Head;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: usize| arguments.get(at).map_or(Ok(or), |text| text.parse::<usize>());
    let started = Instant::now();
    let (head, sampled) = if arguments.first().is_some_and(|a| a.ends_with(".safetensors")) {
        (Head::load(&arguments[0])?, number(1, 256)?)
    } else {
        (
            Head::generated(number(0, 1024)?, number(1, 576)?, number(2, 49152)?, 0, DType::Bf16),
            number(3, 256)?,
        )
    };
    println!("{} x {} x {}, ready in {:.1?}", head.tokens, head.width, head.vocab, started.elapsed());

    let sampled = sampled.min(head.tokens);
    let (mut loss, mut entropy) = (0.0, 0.0);
    let ranks = [1usize, 2, 5, 10, 50, 100, 1000, 4000];
    let mut at_rank = [0.0; 8];
    let mut kept = [0.0; 2];
    let mut smallest_largest = (f64::INFINITY, f64::NEG_INFINITY);
    for sample in 0..sampled {
        let token = sample * head.tokens / sampled;
        let z = head.logits(token);
        let largest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let smallest = z.iter().copied().fold(f64::INFINITY, f64::min);
        smallest_largest = (smallest_largest.0.min(smallest), smallest_largest.1.max(largest));
        let lse = largest + z.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
        let mut p: Vec<f64> = z.iter().map(|x| (x - lse).exp()).collect();
        if let Ok(target) = usize::try_from(head.targets.get(token)) {
            loss += lse - z[target];
        }
        entropy += z.iter().zip(&p).map(|(x, p)| p * (lse - x)).sum::<f64>();
        p.sort_by(|a, b| b.total_cmp(a));
        for (sum, rank) in at_rank.iter_mut().zip(ranks) {
            *sum += p.get(rank - 1).copied().unwrap_or(0.0);
        }
        for (count, eps) in kept.iter_mut().zip([2f64.powi(-12), 2f64.powi(-10)]) {
            *count += p.partition_point(|&x| x >= eps) as f64;
        }
    }
    let n = sampled as f64;
    println!("tokens sampled     {sampled}");
    println!("loss               {:.4}", loss / n);
    println!("entropy            {:.4}", entropy / n);
    println!("logits             {:.2} to {:.2}", smallest_largest.0, smallest_largest.1);
    println!("entries p >= 2^-12 {:.1}", kept[0] / n);
    println!("entries p >= 2^-10 {:.1}", kept[1] / n);
    for (sum, rank) in at_rank.iter().zip(ranks) {
        println!("p at rank {rank:<8} {:.3e}", sum / n);
    }
    Ok(())
}
