//! The time to the first loss and gradients: with an empty cubin cache, and in a new process that finds a
//! filled one.
//!
//! ```text
//! cargo bench --bench gpu -- start --hidden 2304 --vocab 256000
//! ```
//!
//! Three parts of each start: the driver's own (its library, the device, the context), the plan (NVRTC,
//! compiling or the cache, loading the kernels) and the first call. Each process runs the benchmark itself
//! again with `--child`.

use cce::{
    Call, DType, Device, Element, Filter, GradientViews, Inputs, Outputs, Plan, Upstream, View, ViewMut,
};
use cce_runtime::driver::{Buffer, Context};
use std::process::Command;
use std::time::Instant;

/// Of which problem, and how often.
#[derive(clap::Args)]
pub struct Arguments {
    /// Tokens.
    #[arg(long, default_value_t = 8192)]
    tokens: usize,
    /// Hidden size.
    #[arg(long, default_value_t = 2304)]
    hidden: usize,
    /// Vocabulary entries.
    #[arg(long, default_value_t = 256_000)]
    vocab: usize,
    /// Starts with a filled cache; the median is printed.
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// One start, in this process.
    #[arg(long, hide = true)]
    child: bool,
}

pub fn run(arguments: &Arguments) {
    if arguments.child {
        let times = start(arguments);
        return println!("{} {} {}", times[0], times[1], times[2]);
    }
    if let Err(error) = Device::cuda(0) {
        eprintln!("not run, this benchmark needs a GPU: {error}");
        std::process::exit(1);
    }
    println!("{}", Device::cuda(0).unwrap().name());
    println!("{:<28} {:>10} {:>10} {:>10}", "milliseconds", "driver", "plan", "first call");
    let folder = tempfile::tempdir().unwrap();
    let row = |name: &str, [driver, plan, call]: [f64; 3]| {
        println!("{name:<28} {driver:>10.1} {plan:>10.1} {call:>10.1}");
    };
    row("empty cache", child(arguments, folder.path()));
    let mut warm: Vec<[f64; 3]> = (0..arguments.starts).map(|_| child(arguments, folder.path())).collect();
    warm.sort_by(|a, b| a[1].total_cmp(&b[1]));
    row("filled cache, new process", warm[warm.len() / 2]);
}

fn child(arguments: &Arguments, cache: &std::path::Path) -> [f64; 3] {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["start", "--child", "--tokens", &arguments.tokens.to_string()])
        .args(["--hidden", &arguments.hidden.to_string(), "--vocab", &arguments.vocab.to_string()])
        .env("CCE_CACHE_DIR", cache)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let times: Vec<f64> = text.split_whitespace().map(|time| time.parse().unwrap()).collect();
    [times[0], times[1], times[2]]
}

/// Milliseconds: driver, plan, first call.
fn start(arguments: &Arguments) -> [f64; 3] {
    let begin = Instant::now();
    let device = Device::cuda(0).unwrap();
    let context = Context::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let driver = begin.elapsed();

    let (n, d, v) = (arguments.tokens, arguments.hidden, arguments.vocab);
    let bytes = |elements: usize| elements * 2;
    let room = |bytes: usize| {
        let buffer = context.alloc(bytes, "a buffer").unwrap();
        // 2^-9 everywhere: times matter here, not values.
        stream.poison(&buffer, 0x3b00_3b00).unwrap();
        buffer
    };
    let [hidden, classifier, de, dc] = [n * d, v * d, n * d, v * d].map(|elements| room(bytes(elements)));
    let targets = context.alloc(n * 4, "targets").unwrap();
    stream.poison(&targets, 7).unwrap();
    let loss = room(4);
    stream.synchronize().unwrap();

    let begin = Instant::now();
    let plan = Plan::builder(&cce::losses::cross_entropy::program(), n, d, v)
        .dtype(DType::Bf16)
        .filter(Filter::Exact)
        .build(&device)
        .unwrap();
    let planned = begin.elapsed();
    let mut workspace = plan.allocate().unwrap();
    // SAFETY: buffers of these sizes, which outlive the call.
    let view = |buffer: &Buffer, len, element| unsafe { View::device(buffer.ptr().0, len, element, 0) };
    // SAFETY: as above; the call alone writes to them.
    let view_mut =
        |buffer: &Buffer, len, element| unsafe { ViewMut::device(buffer.ptr().0, len, element, 0) };
    let begin = Instant::now();
    let inputs = Inputs::new(view(&hidden, n * d, Element::Bf16), view(&classifier, v * d, Element::Bf16))
        .targets(view(&targets, n, Element::I32));
    let outputs = Outputs::new().reduced("loss", view_mut(&loss, 1, Element::F32));
    let gradients = GradientViews::new().hidden(view_mut(&de, n * d, Element::Bf16)).classifier(view_mut(
        &dc,
        v * d,
        Element::Bf16,
    ));
    let call = Call::new().stream(stream.raw().0 as u64);
    plan.step(&inputs, &Upstream::new().scalar("loss", 1.0f32), &call, &mut workspace, outputs, gradients)
        .unwrap();
    stream.synchronize().unwrap();
    [driver, planned, begin.elapsed()].map(|time| time.as_secs_f64() * 1e3)
}
