//! What a call costs the host: the time until forward and backward of a small head return, beside that of the driver's
//! own parts of it.
//!
//! ```text
//! cargo bench --bench gpu -- host
//! cargo bench --bench gpu -- host --tokens 1024 --hidden 576 --vocab 4096 --launches
//! ```
//!
//! Medians, in microseconds, over rounds of calls between which the GPU is waited for, so that its queue is never full.
//! `driver` is what launches of an empty kernel cost, as many as the pass has, and one tensor map for each that they take.

use cce::{
    Call, DType, Device, Element, Filter, GradientViews, Gradients, IndexType, Inputs, Outputs, Plan,
    Upstream, View, ViewMut,
};
use cce_runtime::driver::{
    Buffer, Context, DevicePtr, Function, LaunchArgs, LaunchConfig, MatrixShape, Stream,
};
use cce_runtime::nvrtc::{Nvrtc, Options, Source};
use std::time::Instant;

/// Of which problem, and how often.
#[derive(clap::Args)]
pub struct Arguments {
    /// Tokens.
    #[arg(long, default_value_t = 1024)]
    tokens: usize,
    /// Hidden size.
    #[arg(long, default_value_t = 576)]
    hidden: usize,
    /// Vocabulary entries.
    #[arg(long, default_value_t = 4096)]
    vocab: usize,
    /// Calls between two waits for the GPU.
    #[arg(long, default_value_t = 20)]
    calls: usize,
    /// Rounds of calls; medians are printed.
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Also lists the launches.
    #[arg(long)]
    launches: bool,
}

/// A kernel of as many parameters as the widest of ours has, that does nothing.
const EMPTY: &str = "\
struct Map { alignas(64) char bytes[128]; };
extern \"C\" __global__ void empty(
    const __grid_constant__ Map, const __grid_constant__ Map, void*, void*, void*, void*, void*, void*, void*, void*,
    void*, void*, int, int, int, int) {}
";

pub fn run(arguments: &Arguments) {
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("not run, this benchmark needs a GPU: {error}");
            std::process::exit(1);
        }
    };
    let context = Context::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let head = Head::new(arguments, &device, &context, &stream);
    let driver = DriverParts::of(arguments, &context, &stream, &head.buffers[1]);
    println!("{}, N {}, D {}, V {}", device.name(), arguments.tokens, arguments.hidden, arguments.vocab);
    println!("driver: {:.2} us a launch, {:.2} us a tensor map", driver.launch, driver.tensor_map);
    println!(
        "{:<18} {:<9} {:>9} {:>12} {:>8} {:>8}",
        "filter", "pass", "launches", "tensor maps", "host", "driver"
    );
    for filter in [Filter::SAMPLED, Filter::Exact] {
        head.measure(arguments, filter, &driver);
    }
}

/// What the driver's own calls take, in microseconds.
struct DriverParts {
    launch: f64,
    tensor_map: f64,
}

impl DriverParts {
    fn of(arguments: &Arguments, context: &Context, stream: &Stream, matrix: &Buffer) -> DriverParts {
        let shape = MatrixShape::Rows {
            rows: arguments.vocab as u64,
            columns: arguments.hidden as u64,
            row_bytes: arguments.hidden as u64 * 2,
        };
        let encode = || context.tensor_map(matrix.ptr(), &shape, 128).unwrap();
        let kernel = empty(context);
        let (mut args, map) = (LaunchArgs::new(), encode());
        args.push_bytes(&map).push_bytes(&map);
        (0..10).for_each(|_| _ = args.push(DevicePtr::NULL));
        (0..4).for_each(|_| _ = args.push(0i32));
        let config = LaunchConfig::linear(1, 32);
        // SAFETY: the arguments are the kernel's, which reads none of them.
        let launch = || unsafe { kernel.launch(stream, &config, &args) }.unwrap();
        DriverParts {
            launch: median(arguments, stream, launch),
            tensor_map: median(arguments, stream, || _ = std::hint::black_box(encode())),
        }
    }
}

fn empty(context: &Context) -> Function {
    let (driver, arch) = (context.info().driver, context.info().arch());
    let nvrtc = Nvrtc::find(Some(driver), Some(arch)).unwrap();
    let source = Source { text: EMPTY, name: "empty.cu", loss: "none" };
    let compiled = nvrtc.compile(&source, arch, &Options::default()).unwrap();
    context.load_module(&compiled.cubin).unwrap().function("empty").unwrap()
}

/// Microseconds of the host until `work` returns.
fn median(arguments: &Arguments, stream: &Stream, mut work: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = Vec::new();
    // The first round warms up.
    for round in 0..=arguments.rounds {
        stream.synchronize().unwrap();
        let start = Instant::now();
        (0..arguments.calls).for_each(|_| work());
        if round > 0 {
            rounds.push(start.elapsed().as_secs_f64() * 1e6 / arguments.calls as f64);
        }
    }
    stream.synchronize().unwrap();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

/// A head's tensors on the GPU.
struct Head<'a> {
    device: &'a Device,
    stream: &'a Stream,
    shape: [usize; 3],
    /// E, C, dE, dC.
    buffers: [Buffer; 4],
    targets: Buffer,
    loss: Buffer,
}

impl<'a> Head<'a> {
    fn new(arguments: &Arguments, device: &'a Device, context: &'a Context, stream: &'a Stream) -> Head<'a> {
        let (n, d, v) = (arguments.tokens, arguments.hidden, arguments.vocab);
        let room = |bytes: usize, pattern| {
            let buffer = context.alloc(bytes, "a buffer").unwrap();
            stream.poison(&buffer, pattern).unwrap();
            buffer
        };
        // 2^-9 everywhere: times matter here, not values.
        let buffers = [n * d, v * d, n * d, v * d].map(|elements| room(elements * 2, 0x3b00_3b00));
        Head { device, stream, shape: [n, d, v], buffers, targets: room(n * 8, 0), loss: room(4, 0) }
    }

    fn measure(&self, arguments: &Arguments, filter: Filter, driver: &DriverParts) {
        let [n, d, v] = self.shape;
        let plan = Plan::builder(&cce::losses::cross_entropy::program(), n, d, v)
            .dtype(DType::Bf16)
            .index(IndexType::I64)
            .ignore_index(Some(cce_tune::data::IGNORED))
            .filter(filter)
            .gradients(Gradients::both())
            .build(self.device)
            .unwrap();
        let mut workspace = plan.allocate().unwrap();
        // SAFETY: buffers of these sizes, which outlive the calls.
        let view = |buffer: &Buffer, len, element| unsafe { View::device(buffer.ptr().0, len, element, 0) };
        // SAFETY: as above; one call at a time writes to them.
        let view_mut =
            |buffer: &Buffer, len, element| unsafe { ViewMut::device(buffer.ptr().0, len, element, 0) };
        let [e, c, de, dc] = &self.buffers;
        let call = Call::new().stream(self.stream.raw().0 as u64);
        let inputs = || {
            Inputs::new(view(e, n * d, Element::Bf16), view(c, v * d, Element::Bf16)).targets(view(
                &self.targets,
                n,
                Element::I64,
            ))
        };
        let mut forward = || {
            let outputs = Outputs::new().reduced("loss", view_mut(&self.loss, 1, Element::F32));
            plan.forward(&inputs(), &call, &mut workspace, outputs).unwrap()
        };
        let host = median(arguments, self.stream, || _ = forward());
        let saved = forward();
        let backward = || {
            let gradients = GradientViews::new()
                .hidden(view_mut(de, n * d, Element::Bf16))
                .classifier(view_mut(dc, v * d, Element::Bf16));
            let upstream = Upstream::new().scalar("loss", view_scalar(&self.loss));
            let saved = saved.clone();
            plan.backward(saved, &inputs(), &upstream, &call, &mut workspace, gradients).unwrap();
        };
        let hosts = [host, median(arguments, self.stream, backward)];
        for ((pass, launches), host) in passes(&plan).into_iter().zip(hosts) {
            let maps = launches.iter().map(|launch| launch.matches("by boxes of").count()).sum::<usize>();
            let count = launches.len();
            let parts = count as f64 * driver.launch + maps as f64 * driver.tensor_map;
            let filter = filter.to_string();
            println!("{filter:<18} {pass:<9} {count:>9} {maps:>12} {host:>8.1} {parts:>8.1}");
            if arguments.launches {
                launches.iter().for_each(|launch| println!("    {launch}"));
            }
        }
    }
}

fn view_scalar(value: &Buffer) -> cce::ScalarArg<'static> {
    // SAFETY: one f32 on the device, which outlives the calls.
    unsafe { cce::Arg::device(value.ptr().0, 0) }
}

/// The launches of forward and backward, as the plan's text has them.
fn passes(plan: &Plan) -> [(&'static str, Vec<String>); 2] {
    let text = plan.dump("plan").unwrap();
    let of = |title: &str| {
        let lines = text.lines().skip_while(move |line| *line != title).skip(1);
        lines.take_while(|line| line.starts_with("  ")).map(|line| line.trim().to_owned()).collect()
    };
    [("forward", of("forward:")), ("backward", of("backward:"))]
}
