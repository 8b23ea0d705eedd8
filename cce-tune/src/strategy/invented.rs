//! Recordings of an invented GPU, for tests: every kernel has a time of its own, some pairs of parts meet in a cache,
//! some tiles spill, and no measurement repeats exactly.

use crate::data::random::{Purpose, Stream};
use crate::recording::{Recorded, Recording};
use crate::space::{SEARCHED, Space};
use cce_codegen::problem::{DType, Filter, Problem};
use cce_codegen::schedule::{Gpu, GpuSchedule, Schedule, Tile};
use cce_runtime::selection;
use cce_tuning_db::{Device, Generation, Provenance, Status, Trial};

/// A head: of another shape and filter for each number.
fn problem(number: u64) -> Problem {
    let (tokens, hidden, vocab) = match number % 3 {
        0 => (8192, 2304, 256_000),
        1 => (4096, 4096, 128_256),
        _ => (16_384, 896, 151_936),
    };
    let filter = if number.is_multiple_of(2) { Filter::SAMPLED } else { Filter::Exact };
    Problem { filter, ..Problem::new(tokens, hidden, vocab, DType::Bf16) }
}

/// The trials of a problem, each an invented GPU's.
pub(crate) fn recording(number: u64) -> Recording {
    of(number, problem(number))
}

/// The same GPU's, of a shape with half the tokens.
pub(crate) fn near(number: u64) -> Recording {
    let whole = problem(number);
    of(number, Problem { tokens: whole.tokens / 2, ..whole })
}

/// The tile of the logits.
pub(crate) fn logits_of(schedule: &Schedule) -> Option<Tile> {
    match schedule {
        Schedule::Gpu(gpu) => Some(gpu.logits),
        Schedule::Cpu(_) => None,
    }
}

fn of(number: u64, problem: Problem) -> Recording {
    let program = cce::losses::named("cross_entropy").unwrap();
    let space = Space::gpu(&program, &problem, &Gpu::h100(), SEARCHED).unwrap();
    let device = Device::gpu("an invented gpu", (9, 0), 132, 232_448, 50 << 20);
    let key = selection::key(&program, &problem, device).unwrap();
    let (shape, generation) = (selection::shape(&problem), Generation::new("1", "s"));
    let mut trials: Vec<Trial> = Vec::new();
    for (at, candidate) in space.candidates.iter().enumerate() {
        let Schedule::Gpu(schedule) = candidate.schedule else { continue };
        let provenance = Provenance::new("here", at as u64);
        let (config, generation) = (candidate.config.clone(), generation.clone());
        trials.push(match cost(number, &schedule, at as u64) {
            Some(ms) => Trial::measured(config, shape, vec![ms], generation, provenance).unwrap(),
            None => {
                let status = Status::Resources("spilled 80 bytes".to_owned());
                Trial::dropped(config, shape, status, generation, provenance)
            }
        });
    }
    let recording = Recording::of(&format!("invented {number}"), &key, shape, &generation, &trials).unwrap();
    assert!(recording.trials.iter().any(|trial| matches!(trial, Recorded { time: Some(_), .. })));
    recording
}

/// A number from 0 to 1 that belongs to these.
fn chance(number: u64, what: u64, of: u64) -> f64 {
    Stream::new(number ^ what << 32, Purpose::Search, of).uniform()
}

fn id(tile: &Tile) -> u64 {
    u64::from(tile.n * 10 + tile.stages)
}

/// ms; `None`: it spills.
fn cost(number: u64, s: &GpuSchedule, at: u64) -> Option<f64> {
    let part = |what: u64, weight: f64, tile: &Tile| weight * (1.0 + 0.4 * chance(number, what, id(tile)));
    // Every other problem has a tile that spills in the logits' gradient.
    if number % 2 == 1 && s.logits_gradient.n == 192 {
        return None;
    }
    let bowl = |x: f64, best: f64, weight: f64| weight * (x / best).log2().powi(2);
    let best_hot = 1024.0 * (1.0 + chance(number, 7, 0));
    let best_rows = 2048.0 * (1.0 + 2.0 * chance(number, 8, 0));
    let rows = f64::from(s.group * 2 * s.logits.m);
    let time = part(1, 6.0, &s.logits)
        + part(2, 1.5, &s.logits_gradient)
        + part(3, 1.5, &s.classifier_gradient)
        + part(4, 1.5, &s.hidden_gradient)
        + bowl(f64::from(s.hot), best_hot, 0.3)
        + bowl(rows, best_rows, 0.25)
        + bowl(f64::from(s.chunk), 8192.0, 0.1)
        // What meets in a cache: the forward tile and the rows that walk together, hot columns and dC's tile.
        + 0.6 * chance(number, 5, id(&s.logits) * 100_000 + u64::from(s.group))
        + 0.3 * chance(number, 6, id(&s.classifier_gradient) * 100_000 + u64::from(s.hot / 512));
    Some(time * (1.0 + 0.006 * (chance(number, 9, at) - 0.5)))
}
