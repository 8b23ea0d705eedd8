//! The two halves apart, on buffers of your own: an upstream gradient for every token, as a
//! trainer's autograd hands it back.
//!
//! `cargo run --release --example 03_forward_then_backward`

use cce::losses::z_loss;
use cce::prelude::*;

fn main() -> cce::Result<()> {
    let (tokens, hidden, vocab) = (64, 32, 1000);
    let e: Vec<f32> = (0..tokens * hidden).map(|i| (i as f32 * 0.37).sin()).collect();
    let c: Vec<f32> = (0..vocab * hidden).map(|i| (i as f32 * 0.11).cos()).collect();
    let y: Vec<i32> = (0..tokens).map(|i| (i * 7919 % vocab) as i32).collect();

    let device = Device::cpu();
    let plan =
        Plan::builder(&z_loss::program(), tokens, hidden, vocab).filter(Filter::Exact).build(&device)?;
    println!("{:?}", plan.workspace());

    let mut workspace = plan.allocate()?;
    let inputs = Inputs::new(View::host(&e), View::host(&c)).targets(View::host(&y)).scalar("weight", 1e-4);
    let call = Call::new().reduction(TokenReduction::None);
    let mut losses = vec![0.0f32; tokens];
    let outputs = Outputs::new().row("loss", ViewMut::host(&mut losses));
    let saved = plan.forward(&inputs, &call, &mut workspace, outputs)?;

    // Every second token counts twice.
    let upstream: Vec<f32> = (0..tokens).map(|i| if i % 2 == 0 { 2.0 } else { 1.0 }).collect();
    let (mut de, mut dc) = (vec![0.0f32; tokens * hidden], vec![0.0f32; vocab * hidden]);
    let gradients = GradientViews::new().hidden(ViewMut::host(&mut de)).classifier(ViewMut::host(&mut dc));
    let upstream = Upstream::new().rows("loss", View::host(&upstream));
    plan.backward(saved, &inputs, &upstream, &call, &mut workspace, gradients)?;

    println!("losses begin {:.4?}", &losses[..4]);
    println!("dE begins {:.5?}, dC begins {:.5?}", &de[..4], &dc[..4]);
    Ok(())
}
