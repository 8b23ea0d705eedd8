//! A loss of your own: several outputs, inputs of every kind; what the compiler made of it.
//!
//! `cargo run --release --example 02_your_own_loss`

use cce::Level;
use cce::prelude::*;

#[derive(cce::Outputs)]
struct Confident {
    loss: Row,
    entropy: Row,
    guess: Row,
}

/// Cross entropy with a bias, and a penalty on distributions that are surer than they need to be.
#[cce::loss]
fn confident(x: Logit, y: Target, bias: Col, weight: Row, penalty: Scalar) -> Confident {
    let z = x + bias;
    let l = lse(z);
    let entropy = l - expect(z, z);
    let missing = if entropy < 1.0 { 1.0 - entropy } else { 0.0 };
    Confident { loss: weight * (l - at(z, y) + penalty * missing), entropy, guess: argmax(z) }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let program = confident::program();
    println!("{}", program.dump(Level::Program)?);
    println!("{}", program.dump(Level::Gradient)?);

    let (tokens, hidden, vocab) = (4, 16, 100);
    let e: Vec<f32> = (0..tokens * hidden).map(|i| (i as f32 * 0.37).sin()).collect();
    let c: Vec<f32> = (0..vocab * hidden).map(|i| (i as f32 * 0.11).cos()).collect();
    let y = [17, 3, 99, 42];
    let (bias, weight) = (vec![0.1; vocab], [1.0, 0.5, 1.0, 0.0]);

    let plan = Plan::builder(&program, tokens, hidden, vocab).filter(Filter::Exact).build(&Device::auto()?)?;
    let inputs = Inputs::new(View::host(&e), View::host(&c))
        .targets(View::host(&y))
        .col("bias", View::host(&bias))
        .row("weight", View::host(&weight))
        .scalar("penalty", 0.1);
    let result = plan.run(&inputs, &Call::new().reduction(TokenReduction::Sum))?;
    println!("summed loss {:.4}", result.loss);
    for (name, values) in &result.outputs {
        println!("{name} of each token: {values:.3?}");
    }
    Ok(())
}
