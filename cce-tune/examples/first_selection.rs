//! How long the first selection of a process takes: the winners of this machine are read, and a schedule is chosen for a
//! problem of an H100 that was not tuned, by near shapes. Needs no GPU.
//!
//! `cargo run --release -p cce-tune --example first_selection`

use cce_codegen::problem::{DType, Filter, Ignored, Problem};
use cce_runtime::selection;
use std::time::Instant;

fn main() {
    let device = cce_tuning_db::Device::gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 232_448, 52_428_800);
    let program = cce::losses::cross_entropy::program();
    let mut problem = Problem::new(8192, 2048, 128_256, DType::Bf16);
    (problem.filter, problem.ignored) = (Filter::SAMPLED, Ignored::Possible);
    for which in ["first", "second"] {
        let start = Instant::now();
        let chosen = selection::choose(&program, &problem, device.clone(), Ok);
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        println!("{which} selection: {milliseconds:.2} ms, grade {}", chosen.grade);
        chosen.notes.iter().for_each(|note| println!("{note}"));
    }
}
