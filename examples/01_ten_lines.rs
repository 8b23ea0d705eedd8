//! Host data in, loss and gradients out.
//!
//! `cargo run --release --example 01_ten_lines`

use cce::prelude::*;

fn main() -> cce::Result<()> {
    let (tokens, hidden, vocab) = (64, 32, 1000);
    let e: Vec<f32> = (0..tokens * hidden).map(|i| (i as f32 * 0.37).sin()).collect();
    let c: Vec<f32> = (0..vocab * hidden).map(|i| (i as f32 * 0.11).cos()).collect();
    let y: Vec<i32> = (0..tokens).map(|i| (i * 7919 % vocab) as i32).collect();

    let device = Device::auto()?;
    let plan = Plan::builder(&cce::losses::cross_entropy::program(), tokens, hidden, vocab).build(&device)?;
    let inputs = Inputs::new(View::host(&e), View::host(&c)).targets(View::host(&y));
    let result = plan.run(&inputs, &Call::new())?;

    println!("on {}: mean loss {:.4}", device.name(), result.loss);
    println!("dE [{tokens}, {hidden}] begins {:.5?}", &result.hidden_gradient[..4]);
    println!("dC [{vocab}, {hidden}] begins {:.5?}", &result.classifier_gradient[..4]);
    Ok(())
}
