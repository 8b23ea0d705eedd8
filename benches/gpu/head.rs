//! Loss, and loss with both gradients under each filter, beside cuBLASLt's product of the same shape (T), on
//! one GPU. T is by cuBLASLt's first proposal, as PyTorch takes it; its fastest one stands beside it.
//!
//! ```text
//! cargo bench --bench gpu -- head --tokens 8192 --hidden 2304 --vocab 256000 --dtype bf16
//! cargo bench --bench gpu -- head --data smollm2_head.safetensors
//! cargo bench --bench gpu -- head --heads --tokens 8192
//! cargo bench --bench gpu -- head --sweep 512,1024,2048,4096,8192,16384 --hidden 2304 --vocab 256000
//! cargo bench --bench gpu -- head --uniform --what sampled:2^-8,384 sampled:2^-10,384
//! cargo bench --bench gpu -- head --tokens 16384 --ignored 0.5 --ignored-in-runs
//! ```
//!
//! - A ratio is the median over interleaved pairs (our call, then the product) after warm-up, inputs rotating
//!   between two sets of hidden states. `x full` likewise: the call with tokens ignored, then the call with
//!   none ignored by a plan that allows none.
//! - Errors are ||difference|| / ||reference|| against family `simt` with fp32 gradients on the same inputs.
//! - `kept` is how many entries a sampled filter keeps a token that counts; targets and hot columns are not
//!   among them. Under `blocks:EPS` it is the share of the logits that lie in tiles which are not skipped, in
//!   JSON `kept_share`.
//! - Memory is what the plan asks for beyond inputs and outputs.
//! - Clock and power are medians of readings while our call runs, not the product, in pairs between those that
//!   are timed; the last column has whatever held the clock down at any of them. Without NVML there are none.
//! - After a sweep, a line a call: the time a token over that of the best number of tokens.
//!
//! What is not measured is a dash, in JSON null. Needs cuBLASLt (`CCE_CUBLASLT_PATH`, or on the loader's
//! path).

mod arguments;
mod errors;
mod input;
mod pairs;
mod report;
mod runner;

pub use arguments::Arguments;

use crate::cublaslt::{self, Product};
use arguments::What;
use cce::Device;
use cce_runtime::driver::{Context, Stream};
use cce_runtime::nvml::Sensors;
use input::{Input, TokenTargets, Wanted};
use report::{Row, Sweep};
use runner::Role;

pub fn run(arguments: &Arguments) {
    let device = match Device::cuda(arguments.gpu) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("not run, this benchmark needs a GPU: {error}");
            std::process::exit(1);
        }
    };
    let context = Context::new(arguments.gpu).unwrap();
    let stream = context.new_stream().unwrap();
    let sensors = Sensors::of(context.info().uuid).and_then(|sensors| sensors.read().map(|_| sensors));
    let sensors = sensors.inspect_err(|error| eprintln!("clock and power are not shown: {error}")).ok();
    if !arguments.json {
        println!("{}\n{}", device.name(), report::heading());
    }
    let most = arguments.sweep.iter().copied().max().unwrap_or(arguments.tokens);
    for wanted in Wanted::of(arguments) {
        let input = wanted.input(arguments, most, &context, &stream);
        let sizes = match (&arguments.sweep[..], &arguments.data) {
            ([], None) => vec![arguments.tokens],
            ([], Some(_)) => vec![input.tokens],
            (sweep, _) => sweep.to_vec(),
        };
        let bench = Bench {
            name: device.name(),
            device: &device,
            context: &context,
            stream: &stream,
            arguments,
            input,
            sensors,
        };
        let rows: Vec<Row<'_>> = sizes.into_iter().flat_map(|tokens| bench.rows(tokens)).collect();
        if !arguments.sweep.is_empty() {
            bench.print_sweep(&rows);
        }
    }
}

/// One head on one GPU.
struct Bench<'a> {
    device: &'a Device,
    /// The device's.
    name: String,
    context: &'a Context,
    stream: &'a Stream,
    arguments: &'a Arguments,
    input: Input,
    sensors: Option<Sensors>,
}

impl Bench<'_> {
    /// Measures and prints everything at one number of tokens.
    fn rows(&self, tokens: usize) -> Vec<Row<'_>> {
        let Input { width, vocab, dtype, .. } = self.input;
        let logits = self.context.alloc(tokens * vocab * dtype.bytes(), "the product's logits").unwrap();
        let scratch = self.context.alloc(cublaslt::WORKSPACE, "cuBLASLt's workspace").unwrap();
        let places = [&self.input.classifier, &self.input.hidden[0], &logits, &scratch];
        let places = places.map(|buffer| buffer.ptr().0);
        let shape = [tokens, width, vocab];
        let product = Product::new(self.context, self.stream, dtype, shape, places).unwrap();
        let fastest = self.pairs(|_| product.run_fastest(self.stream).unwrap(), self.turn_of(&product)).ratio;
        let targets = self.input.targets(tokens, self.arguments, self.context, self.stream);
        let mut reference = None;
        let mut rows = Vec::new();
        for &what in &self.arguments.what {
            let mut ours = self.runner(tokens, what, Role::Measured, &targets);
            let beside_product = self.pairs(|set| self.run(&mut ours, &targets, set), self.turn_of(&product));
            let over_full = targets.full.is_some().then(|| {
                let mut full = self.runner(tokens, what, Role::Full, &targets);
                let pairs = self.pairs(
                    |set| self.run(&mut ours, &targets, set),
                    |set| self.run(&mut full, &targets, set),
                );
                pairs.ratio
            });
            let errors = match what {
                What::Gradients(_) if !self.arguments.no_errors => {
                    let reference = reference.get_or_insert_with(|| self.reference(tokens, &targets));
                    self.errors(&mut ours, &targets, reference)
                }
                _ => None,
            };
            let row = Row {
                gpu: &self.name,
                input: &self.input,
                tokens,
                what,
                beside_product,
                fastest,
                ignored: ignored(tokens, &targets),
                in_runs: self.arguments.ignored_in_runs,
                over_full,
                kept: self.kept(&mut ours, &targets),
                workspace: ours.plan.workspace().peak,
                errors,
            };
            self.print(|| row.text(), || row.json());
            rows.push(row);
        }
        rows
    }

    /// The product, whose inputs do not alternate.
    fn turn_of(&self, product: &Product) -> impl FnMut(usize) {
        move |_| product.run(self.stream).unwrap()
    }

    fn print_sweep(&self, rows: &[Row<'_>]) {
        // Of each number of tokens there are as many rows, in the same order.
        let calls = self.arguments.what.len();
        for (at, &what) in self.arguments.what.iter().enumerate() {
            let times = rows.iter().skip(at).step_by(calls);
            let sweep = Sweep {
                gpu: &self.name,
                input: &self.input,
                what,
                times: times.map(|row| (row.tokens, row.beside_product.first_ms)).collect(),
            };
            self.print(|| sweep.text(), || sweep.json());
        }
    }

    fn print(&self, text: impl FnOnce() -> String, json: impl FnOnce() -> serde_json::Value) {
        if self.arguments.json {
            println!("{}", json());
        } else {
            println!("{}", text());
        }
    }
}

/// The share of ignored tokens, the mean of both sets.
fn ignored(tokens: usize, targets: &TokenTargets) -> f64 {
    let counted = targets.counted.iter().sum::<usize>() as f64 / 2.0;
    1.0 - counted / tokens.max(1) as f64
}
