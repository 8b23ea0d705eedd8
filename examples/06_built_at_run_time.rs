//! A program without the macro: built operation by operation, as a front end in another language
//! does, saved and loaded again; and what the builder says of a wrong one.
//!
//! `cargo run --release --example 06_built_at_run_time`

use cce::{Diagnostic, InputKind, Level, Program, ProgramBuilder, Site};

fn label_smoothing(eps: f64) -> Result<Program, Vec<Diagnostic>> {
    // A site is a place in the source that the front end reads, a line's number, say: errors bring
    // it back.
    let line = Site;
    let mut b = ProgramBuilder::new(line(0), "label_smoothing");
    let x = b.input(line(1), "x", InputKind::Logit);
    let y = b.input(line(2), "y", InputKind::Target);
    let l = b.lse(line(3), x);
    let at = b.call(line(4), line(4), "at", &[x, y]);
    let nll = b.sub(line(4), l, at);
    let mean = b.mean(line(5), x);
    let uniform = b.sub(line(5), l, mean);
    let (eps, rest) = (b.constant(line(6), eps), b.constant(line(6), 1.0 - eps));
    let (nll, uniform) = (b.mul(line(6), rest, nll), b.mul(line(6), eps, uniform));
    let loss = b.add(line(6), nll, uniform);
    b.output(line(6), "loss", loss);
    b.finish()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let program = label_smoothing(0.1).map_err(|mistakes| format!("{mistakes:?}"))?;
    let text = program.save();
    let loaded = Program::load(&text)?;
    assert_eq!(loaded, program);
    println!("{text}\n{}", loaded.dump(Level::Program)?);

    for mistake in label_smoothing(f64::NAN).err().into_iter().flatten() {
        println!("line {}: {mistake}", mistake.site.0);
    }
    Ok(())
}
