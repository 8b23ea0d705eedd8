//! The CPU device's `Exact` against a plain version that materialises the logits: time and memory in one run.
//!
//! ```text
//! cargo bench --bench cpu_exact                      # N 4096, D 576, V 49152
//! cargo bench --bench cpu_exact -- --tokens 512      # within a minute on two cores
//! ```
//!
//! Both compute the mean cross entropy and both gradients in f32 with three products of the same matrix crate
//! each. The plain version writes all logits, takes one exponential an element and turns them into the
//! gradient in place. Ratios are medians over interleaved pairs; peaks are what each allocates beyond inputs
//! and outputs, counted by the allocator. The default filter, `Sampled`, runs once behind them.

#![expect(unsafe_code, reason = "a counting allocator, and the matrix crate's raw interface")]

use cce_codegen::ir::{InputKind, Program};
use cce_codegen::problem::Filter;
use cce_codegen::valid::{ProgramBuilder, Site};
use cce_runtime::{Call, Device, GradientViews, Inputs, Outputs, Plan, Upstream, View, ViewMut};
use rayon::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// The system's allocator, with the bytes in use and their peak.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let now = IN_USE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Seconds and peak bytes of a run.
fn measured(run: impl FnOnce()) -> (f64, usize) {
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let start = Instant::now();
    run();
    (start.elapsed().as_secs_f64(), PEAK.load(Ordering::Relaxed) - before)
}

/// Inputs and outputs of one problem.
struct Data {
    n: usize,
    d: usize,
    v: usize,
    e: Vec<f32>,
    c: Vec<f32>,
    targets: Vec<i32>,
    loss: [f32; 1],
    de: Vec<f32>,
    dc: Vec<f32>,
}

/// Row-major `dst [m, n] = lhs [m, k] rhs [k, n]`, strides as (row, column).
fn product(
    dst: &mut [f32],
    (m, n, k): (usize, usize, usize),
    (lhs, lhs_strides): (&[f32], (usize, usize)),
    (rhs, rhs_strides): (&[f32], (usize, usize)),
) {
    assert!(dst.len() == m * n && lhs.len() == m * k && rhs.len() == k * n);
    // SAFETY: the three slices have the sizes that the shapes say, and the strides are those of dense
    // matrices.
    unsafe {
        // The crate's kernels store columns: the transposed product fills dst row by row.
        gemm_f32::gemm::f32::get_gemm_fn()(
            n,
            m,
            k,
            dst.as_mut_ptr(),
            n as isize,
            1,
            false,
            rhs.as_ptr(),
            rhs_strides.0 as isize,
            rhs_strides.1 as isize,
            lhs.as_ptr(),
            lhs_strides.0 as isize,
            lhs_strides.1 as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm_common::Parallelism::Rayon(0),
        );
    }
}

/// The plain version; returns the seconds that its products took.
fn plain(data: &mut Data) -> f64 {
    let (n, d, v) = (data.n, data.d, data.v);
    let mut logits = vec![0.0f32; n * v];
    let start = Instant::now();
    product(&mut logits, (n, v, d), (&data.e, (d, 1)), (&data.c, (1, d)));
    let mut seconds = start.elapsed().as_secs_f64();
    let share = 1.0 / n as f32;
    let losses = logits.par_chunks_mut(v).zip(&data.targets).map(|(row, &target)| {
        let target = target as usize;
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let at_target = row[target] - largest;
        let mut sum = 0.0f64;
        for piece in row.chunks_mut(1024) {
            for x in piece.iter_mut() {
                *x = (*x - largest).exp();
            }
            sum += f64::from(piece.iter().sum::<f32>());
        }
        let scale = share / sum as f32;
        row.iter_mut().for_each(|x| *x *= scale);
        row[target] -= share;
        sum.ln() - f64::from(at_target)
    });
    data.loss[0] = (losses.sum::<f64>() * f64::from(share)) as f32;
    let start = Instant::now();
    product(&mut data.de, (n, d, v), (&logits, (v, 1)), (&data.c, (d, 1)));
    product(&mut data.dc, (v, d, n), (&logits, (1, v)), (&data.e, (d, 1)));
    seconds += start.elapsed().as_secs_f64();
    seconds
}

/// The plan, its workspace included.
fn planned(plan: &Plan, data: &mut Data) -> cce_runtime::Result<()> {
    let mut workspace = plan.allocate()?;
    let inputs = Inputs::new(View::host(&data.e), View::host(&data.c)).targets(View::host(&data.targets));
    let outputs = Outputs::new().reduced("loss", ViewMut::host(&mut data.loss));
    let gradients =
        GradientViews::new().hidden(ViewMut::host(&mut data.de)).classifier(ViewMut::host(&mut data.dc));
    let upstream = Upstream::new().scalar("loss", 1.0f32);
    plan.step(&inputs, &upstream, &Call::new(), &mut workspace, outputs, gradients)
}

fn cross_entropy() -> Result<Program, Vec<cce_codegen::valid::Diagnostic>> {
    let site = Site::default();
    let mut b = ProgramBuilder::new(site, "cross_entropy");
    let (x, y) = (b.input(site, "x", InputKind::Logit), b.input(site, "y", InputKind::Target));
    let (lse, at) = (b.lse(site, x), b.at(site, x, y));
    let loss = b.sub(site, lse, at);
    b.output(site, "loss", loss);
    b.finish()
}

/// Numbers in [-1, 1).
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn difference(a: &[f32], b: &[f32]) -> f64 {
    let (mut off, mut size) = (0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        off += (f64::from(a) - f64::from(b)).powi(2);
        size += f64::from(b).powi(2);
    }
    (off / size).sqrt()
}

/// The number behind `--name`, or the default.
fn argument(name: &str, default: usize) -> Result<usize, String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    match arguments.next() {
        None => Ok(default),
        Some(value) => value.parse().map_err(|_| format!("{name} takes a number, not {value}")),
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let (n, d) = (argument("--tokens", 4096)?, argument("--hidden", 576)?);
    let (v, pairs) = (argument("--vocab", 49152)?, argument("--pairs", 3)?.max(1));
    let mut data = Data {
        n,
        d,
        v,
        e: numbers(n * d, 1).into_iter().map(|x| x * 0.2).collect(),
        c: numbers(v * d, 2),
        targets: (0..n).map(|i| (i * 7919 % v) as i32).collect(),
        loss: [0.0],
        de: vec![0.0; n * d],
        dc: vec![0.0; v * d],
    };
    let program = cross_entropy().map_err(|errors| format!("{errors:?}"))?;
    let plan = Plan::builder(&program, n, d, v).filter(Filter::Exact).build(&Device::cpu())?;
    println!("N {n}, D {d}, V {v}, f32, loss and both gradients, {} threads", rayon::current_num_threads());
    print!("{}", plan.dump("plan")?);
    let (mut ratios, mut times, mut products, mut peaks) = (vec![], (vec![], vec![]), vec![], (0, 0));
    for pair in 0..=pairs {
        let mut seconds = 0.0;
        let (plain_time, plain_peak) = measured(|| seconds = plain(&mut data));
        let (loss, de, dc) = (data.loss[0], data.de.clone(), data.dc.clone());
        let mut result = Ok(());
        let (time, peak) = measured(|| result = planned(&plan, &mut data));
        result?;
        if pair == 0 {
            println!(
                "loss {} and {loss}; difference of dE {:.1e}, dC {:.1e}",
                data.loss[0],
                difference(&data.de, &de),
                difference(&data.dc, &dc)
            );
            // The first pair warms caches, threads and the packing buffers of the matrix crate.
            continue;
        }
        println!(
            "  plain {plain_time:.3} s (products {seconds:.3}), cce {time:.3} s: {:.3}",
            time / plain_time
        );
        ratios.push(time / plain_time);
        times.0.push(plain_time);
        times.1.push(time);
        products.push(seconds);
        peaks = (peaks.0.max(plain_peak), peaks.1.max(peak));
    }
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "plain   {:.3} s (products {:.3} s), peak {:.1} MiB",
        median(times.0),
        median(products),
        mib(peaks.0)
    );
    println!("cce     {:.3} s, peak {:.1} MiB", median(times.1), mib(peaks.1));
    let sampled = Plan::builder(&program, n, d, v).filter(Filter::SAMPLED).build(&Device::cpu())?;
    let (de, dc) = (data.de.clone(), data.dc.clone());
    let mut result = Ok(());
    let (time, peak) = measured(|| result = planned(&sampled, &mut data));
    result?;
    println!(
        "sampled {time:.3} s, peak {:.1} MiB; difference of dE {:.1e}, dC {:.1e}",
        mib(peak),
        difference(&data.de, &de),
        difference(&data.dc, &dc)
    );
    println!(
        "ratio   time {:.3} (at most 1.15), memory 1/{:.1} (at most 1/20 at N 4096)",
        median(ratios),
        peaks.0 as f64 / peaks.1 as f64
    );
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
