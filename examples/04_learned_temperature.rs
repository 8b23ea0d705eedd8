//! Gradients of a loss's own inputs: the scale of the logits is learned, by gradient descent on it
//! alone.
//!
//! `cargo run --release --example 04_learned_temperature`

use cce::losses::scaled;
use cce::prelude::*;

fn main() -> cce::Result<()> {
    let (tokens, hidden, vocab) = (256, 16, 50);
    let e: Vec<f32> = (0..tokens * hidden).map(|i| (i as f32 * 1.37).sin()).collect();
    let c: Vec<f32> = (0..vocab * hidden).map(|i| (i as f32 * 2.11).cos()).collect();
    // The most likely entry is right four times out of five, so that some scale above zero is best.
    let best = |token: usize| {
        let dot =
            |entry: usize| (0..hidden).map(|k| e[token * hidden + k] * c[entry * hidden + k]).sum::<f32>();
        (0..vocab).max_by(|&a, &b| dot(a).total_cmp(&dot(b))).unwrap_or(0)
    };
    let y: Vec<i32> = (0..tokens).map(|i| if i % 5 == 0 { i % vocab } else { best(i) } as i32).collect();

    let plan = Plan::builder(&scaled::program(), tokens, hidden, vocab)
        .gradients(Gradients::none())
        .input_gradient("scale")
        .build(&Device::auto()?)?;
    let mut scale = 0.1f32;
    for step in 0..=40 {
        let inputs =
            Inputs::new(View::host(&e), View::host(&c)).targets(View::host(&y)).scalar("scale", scale);
        let result = plan.run(&inputs, &Call::new())?;
        let gradient = result.input_gradients["scale"][0];
        if step % 10 == 0 {
            println!(
                "step {step}: scale {scale:.3}, mean loss {:.4}, d loss / d scale {gradient:+.4}",
                result.loss
            );
        }
        scale -= 0.5 * gradient;
    }
    Ok(())
}
