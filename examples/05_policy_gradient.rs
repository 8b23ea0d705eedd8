//! Reinforcement learning: the head gives log-probabilities and entropies; the objective (here
//! PPO's, with an entropy bonus) is plain code on N numbers, and its derivatives are the upstream
//! gradients.
//!
//! `cargo run --release --example 05_policy_gradient`

use cce::losses::token_logprob;
use cce::prelude::*;

fn main() -> cce::Result<()> {
    let (tokens, hidden, vocab) = (8, 32, 1000);
    let e: Vec<f32> = (0..tokens * hidden).map(|i| (i as f32 * 0.37).sin()).collect();
    let c: Vec<f32> = (0..vocab * hidden).map(|i| (i as f32 * 0.11).cos()).collect();
    let sampled: Vec<i32> = (0..tokens).map(|i| (i * 7919 % vocab) as i32).collect();
    let advantages: Vec<f32> = (0..tokens).map(|i| if i % 3 == 0 { 1.5 } else { -0.5 }).collect();

    let plan = Plan::builder(&token_logprob::program(), tokens, hidden, vocab).build(&Device::cpu())?;
    let mut workspace = plan.allocate()?;
    let inputs = Inputs::new(View::host(&e), View::host(&c)).targets(View::host(&sampled));
    let call = Call::new().reduction(TokenReduction::None).seed(1);

    let (mut logprob, mut entropy) = (vec![0.0f32; tokens], vec![0.0f32; tokens]);
    let outputs = Outputs::new()
        .row("logprob", ViewMut::host(&mut logprob))
        .row("entropy", ViewMut::host(&mut entropy));
    let saved = plan.forward(&inputs, &call, &mut workspace, outputs)?;

    // loss = -mean(min(r A, clip(r, 0.8, 1.2) A)) - 0.01 mean(entropy), r = exp(logprob - old)
    let old: Vec<f32> = logprob.iter().enumerate().map(|(i, l)| l + 0.1 * (i as f32 - 4.0)).collect();
    let n = tokens as f32;
    let through = |i: usize| {
        let (ratio, advantage) = ((logprob[i] - old[i]).exp(), advantages[i]);
        let clipped = ratio.clamp(0.8, 1.2) * advantage < ratio * advantage;
        if clipped { 0.0 } else { -ratio * advantage / n }
    };
    let d_logprob: Vec<f32> = (0..tokens).map(through).collect();
    let d_entropy = vec![-0.01 / n; tokens];

    let (mut de, mut dc) = (vec![0.0f32; tokens * hidden], vec![0.0f32; vocab * hidden]);
    let upstream =
        Upstream::new().rows("logprob", View::host(&d_logprob)).rows("entropy", View::host(&d_entropy));
    let gradients = GradientViews::new().hidden(ViewMut::host(&mut de)).classifier(ViewMut::host(&mut dc));
    plan.backward(saved, &inputs, &upstream, &call, &mut workspace, gradients)?;

    println!("log-probabilities {logprob:.3?}");
    println!("entropies {entropy:.3?}");
    println!("gradient through {:?}", d_logprob.iter().map(|d| *d != 0.0).collect::<Vec<_>>());
    println!("dE begins {:.5?}", &de[..4]);
    Ok(())
}
