//! Loss, and loss with both gradients under each filter, beside cuBLASLt's product of the same shape (T), on
//! one GPU. T is by cuBLASLt's first proposal, as PyTorch takes it; its fastest one stands beside it.
//!
//! ```text
//! cargo bench --bench gpu -- head --tokens 8192 --hidden 2304 --vocab 256000 --dtype bf16
//! cargo bench --bench gpu -- head --data smollm2_head.safetensors
//! cargo bench --bench gpu -- head --sweep 512,1024,2048,4096,8192,16384 --hidden 2304 --vocab 256000
//! ```
//!
//! A ratio is the median over interleaved pairs (our call, then the product) after warm-up, inputs rotating
//! between two sets of hidden states. Errors are ||difference|| / ||reference|| against family `simt` in fp32
//! on the same inputs. Memory is what the plan asks for beyond inputs and outputs. Needs cuBLASLt
//! (`CCE_CUBLASLT_PATH`, or on the loader's path).

use crate::cublaslt;
use cce::{
    Call, Device, Element, Filter, GradientOutput, GradientViews, Inputs, Outputs, Plan, Schedule, Upstream,
};
use cce::{DType, View, ViewMut};
use cce_codegen::problem::Ignored;
use cce_codegen::schedule::{Family, Gpu, GpuSchedule};
use cce_runtime::driver::{Buffer, Context, Event, Stream};
use cce_tune::data::Head;
use rayon::prelude::*;

/// What to measure, and of what.
#[derive(clap::Args)]
pub struct Arguments {
    /// The GPU's ordinal.
    #[arg(long, default_value_t = 0)]
    gpu: usize,
    /// Tokens.
    #[arg(long, default_value_t = 8192)]
    tokens: usize,
    /// Hidden size.
    #[arg(long, default_value_t = 2304)]
    hidden: usize,
    /// Vocabulary entries.
    #[arg(long, default_value_t = 256_000)]
    vocab: usize,
    /// Type of hidden states and classifier.
    #[arg(long, value_enum, default_value = "bf16")]
    dtype: Type,
    /// A safetensors file with `e`, `c` (or `c_q`, `c_scale`) and `targets`, instead of a generated head.
    #[arg(long)]
    data: Option<std::path::PathBuf>,
    /// The kernel family: wgmma, mma, simt; without it, what a plan takes by itself.
    #[arg(long, value_parser = family)]
    family: Option<Family>,
    /// The first columns, which a sampled filter treats densely, instead of the schedule's number.
    #[arg(long)]
    hot: Option<u32>,
    /// Row blocks that walk over the vocabulary together, instead of the schedule's number.
    #[arg(long)]
    group: Option<u32>,
    /// Numbers of tokens to go through.
    #[arg(long, value_delimiter = ',')]
    sweep: Vec<usize>,
    /// Pairs to measure after warm-up.
    #[arg(long, default_value_t = 21)]
    pairs: usize,
    /// Largest workspace of the exact gradients, in MiB.
    #[arg(long)]
    workspace: Option<u64>,
    /// What to measure: loss, exact, sampled:LOG2:MAX (a step of 2^-LOG2, at most MAX entries a token).
    #[arg(long, value_delimiter = ',', default_value = "loss,exact,sampled:8:384,sampled:10:384")]
    what: Vec<What>,
    /// Skip the comparison with fp32.
    #[arg(long)]
    no_errors: bool,
    /// One JSON object a row instead of a table.
    #[arg(long)]
    json: bool,
}

fn family(text: &str) -> Result<Family, String> {
    Family::named(text).ok_or_else(|| format!("`{text}` is none of wgmma, mma, simt"))
}

/// A row of the table.
#[derive(Clone, Copy)]
enum What {
    Loss,
    Gradients(Filter),
}

impl std::str::FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<What, String> {
        let expected =
            || format!("`{text}` is none of loss, exact, sampled:LOG2:MAX, such as sampled:10:384");
        match text.split(':').collect::<Vec<_>>()[..] {
            ["loss"] => Ok(What::Loss),
            ["exact"] => Ok(What::Gradients(Filter::Exact)),
            ["sampled", log, most] => {
                let log: i32 = log.parse().map_err(|_| expected())?;
                let max_entries = most.parse().map_err(|_| expected())?;
                Ok(What::Gradients(Filter::Sampled { eps: 2f32.powi(-log), max_entries }))
            }
            _ => Err(expected()),
        }
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            What::Loss => "loss".to_owned(),
            What::Gradients(Filter::Sampled { eps, max_entries }) => {
                format!("sampled 2^{} {max_entries}", eps.log2())
            }
            What::Gradients(_) => "exact".to_owned(),
        };
        f.pad(&text)
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Type {
    F32,
    F16,
    Bf16,
}

impl From<Type> for DType {
    fn from(kind: Type) -> DType {
        match kind {
            Type::F32 => DType::F32,
            Type::F16 => DType::F16,
            Type::Bf16 => DType::Bf16,
        }
    }
}

pub fn run(arguments: &Arguments) {
    let device = match Device::cuda(arguments.gpu) {
        Ok(device) => device,
        Err(error) => return println!("not run, this benchmark needs a GPU: {error}"),
    };
    let dtype = arguments.dtype.into();
    let sizes = if arguments.sweep.is_empty() { vec![arguments.tokens] } else { arguments.sweep.clone() };
    let most = sizes.iter().copied().max().unwrap_or(arguments.tokens);
    let head = match &arguments.data {
        Some(path) => Head::load(path).unwrap().converted(dtype),
        None => Head::generated(most, arguments.hidden, arguments.vocab, 1, dtype),
    };
    let sizes =
        if arguments.data.is_some() && arguments.sweep.is_empty() { vec![head.tokens] } else { sizes };
    let bench = Bench::new(&device, arguments, head);
    if !arguments.json {
        println!("{}", device.name());
        println!(
            "{:>6} {:>6} {:>7} {:>8} {:>7} | {:<18} | {:>7} {:>8} {:>9} | {:>9} {:>9} | {:>9} {:>9}",
            "N",
            "D",
            "V",
            "T ms",
            "best/T",
            "what",
            "x T",
            "ms",
            "MB",
            "dE error",
            "dC error",
            "worst dE",
            "worst dC"
        );
    }
    for tokens in sizes {
        bench.rows(tokens);
    }
}

struct Bench<'a> {
    device: &'a Device,
    context: Context,
    stream: Stream,
    arguments: &'a Arguments,
    head: Head,
    hidden: [Buffer; 2],
    classifier: Buffer,
    targets: [Buffer; 2],
}

/// One plan with everything it writes to.
struct Runner {
    plan: Plan,
    workspace: cce::Workspace<'static>,
    loss: Buffer,
    gradients: Option<[Buffer; 2]>,
}

impl<'a> Bench<'a> {
    fn new(device: &'a Device, arguments: &'a Arguments, head: Head) -> Bench<'a> {
        let context = Context::new(arguments.gpu).unwrap();
        let stream = context.new_stream().unwrap();
        let upload = |bytes: &[u8], what: &str| {
            let buffer = context.alloc(bytes.len(), what).unwrap();
            stream.upload(&buffer, 0, bytes).unwrap();
            buffer
        };
        let turned = head.rotated_tokens(head.tokens / 2);
        let sets = [(&head.hidden, &head.targets), (&turned.0, &turned.1)];
        let hidden = sets.map(|(hidden, _)| upload(&hidden.to_bytes(), "hidden states"));
        let targets = sets.map(|(_, targets)| {
            let bytes: Vec<u8> = targets.to_i32().iter().flat_map(|y| y.to_ne_bytes()).collect();
            upload(&bytes, "targets")
        });
        let classifier = upload(&head.classifier.to_bytes(), "the classifier");
        Bench { device, stream, arguments, hidden, classifier, targets, head, context }
    }

    fn runner(&self, tokens: usize, what: What, reference: bool) -> Runner {
        let (gradients, filter) = match what {
            What::Loss => (false, Filter::Exact),
            What::Gradients(filter) => (true, filter),
        };
        let (width, vocab, dtype) = (self.head.width, self.head.vocab, self.head.dtype());
        let out = GradientOutput { dtype: if reference { DType::F32 } else { dtype }, accumulate: false };
        let wanted = gradients.then_some(out);
        let mut builder = Plan::builder(&cce::losses::cross_entropy::program(), tokens, width, vocab)
            .dtype(dtype)
            .filter(filter)
            .ignore_index(None)
            .hidden_gradient(wanted)
            .classifier_gradient(wanted);
        if let Some(limit) = self.arguments.workspace.filter(|_| !reference) {
            builder = builder.workspace_limit(limit << 20);
        }
        let family = if reference { Some(Family::Simt) } else { self.arguments.family };
        let varied = !reference && (self.arguments.hot.is_some() || self.arguments.group.is_some());
        if family.is_some() || varied {
            let mut problem = cce_codegen::problem::Problem::new(tokens, width, vocab, dtype);
            problem.filter = filter;
            problem.ignored = Ignored::None;
            problem.hidden_gradient = wanted;
            problem.classifier_gradient = wanted;
            let info = self.context.info();
            let gpu = Gpu {
                name: info.name.clone(),
                capability: info.compute_capability,
                multiprocessors: info.multiprocessors,
                shared_per_block: info.shared_per_block,
                l2_bytes: info.l2_bytes,
            };
            let program = cce::losses::cross_entropy::program();
            let mut schedule = match family {
                Some(family) => GpuSchedule::of_family(family, &program, &problem, &gpu),
                None => GpuSchedule::default_for(&program, &problem, &gpu),
            };
            if varied {
                schedule.hot = self.arguments.hot.unwrap_or(schedule.hot);
                schedule.group = self.arguments.group.unwrap_or(schedule.group);
            }
            builder = builder.schedule(Schedule::Gpu(schedule));
        }
        let plan = builder.build(self.device).unwrap();
        let workspace = plan.allocate().unwrap();
        let room = |elements: usize| {
            let buffer = self.context.alloc(elements * out.dtype.bytes(), "a gradient").unwrap();
            self.stream.poison(&buffer, u32::MAX).unwrap();
            buffer
        };
        let gradients = gradients.then(|| [room(tokens * width), room(vocab * width)]);
        let loss = self.context.alloc(4, "the loss").unwrap();
        Runner { plan, workspace, loss, gradients }
    }

    fn view(&self, buffer: &Buffer, elements: usize, element: Element) -> View<'static> {
        // SAFETY: the buffers live as long as the benchmark and hold at least as many elements.
        unsafe { View::device(buffer.ptr().0, elements, element, self.arguments.gpu) }
    }

    fn view_mut(&self, buffer: &Buffer, elements: usize, element: Element) -> ViewMut<'static> {
        // SAFETY: as above; one call at a time writes to them.
        unsafe { ViewMut::device(buffer.ptr().0, elements, element, self.arguments.gpu) }
    }

    fn run(&self, runner: &mut Runner, tokens: usize, set: usize) {
        let (width, vocab) = (self.head.width, self.head.vocab);
        let element = self.head.dtype().into();
        let inputs = Inputs::new(
            self.view(&self.hidden[set], tokens * width, element),
            self.view(&self.classifier, vocab * width, element),
        )
        .targets(self.view(&self.targets[set], tokens, Element::I32));
        let call = Call::new().stream(self.stream.raw().0 as u64);
        let outputs = Outputs::new().reduced("loss", self.view_mut(&runner.loss, 1, Element::F32));
        match &runner.gradients {
            None => {
                let _ = runner.plan.forward(&inputs, &call, &mut runner.workspace, outputs).unwrap();
            }
            Some([hidden, classifier]) => {
                let element = runner.plan.problem().hidden_gradient.unwrap().dtype.into();
                let gradients = GradientViews::new()
                    .hidden(self.view_mut(hidden, tokens * width, element))
                    .classifier(self.view_mut(classifier, vocab * width, element));
                let upstream = Upstream::new().scalar("loss", 1.0f32);
                runner
                    .plan
                    .step(&inputs, &upstream, &call, &mut runner.workspace, outputs, gradients)
                    .unwrap();
            }
        }
    }

    /// Median of (ours / product) and of both times, over interleaved pairs.
    fn pairs(&self, product: &cublaslt::Product, mut ours: impl FnMut(usize)) -> (f32, f32, f32) {
        let marks: [Event; 3] = std::array::from_fn(|_| self.context.new_event().unwrap());
        let mut seen = Vec::new();
        for at in 0..self.arguments.pairs + 4 {
            marks[0].record(&self.stream).unwrap();
            ours(at % 2);
            marks[1].record(&self.stream).unwrap();
            product.run(&self.stream).unwrap();
            marks[2].record(&self.stream).unwrap();
            marks[2].synchronize().unwrap();
            let ours = marks[1].elapsed_ms_since(&marks[0]).unwrap();
            let product = marks[2].elapsed_ms_since(&marks[1]).unwrap();
            if at >= 4 {
                seen.push((ours / product, ours, product));
            }
        }
        let median = |key: fn(&(f32, f32, f32)) -> f32| {
            let mut values: Vec<f32> = seen.iter().map(key).collect();
            values.sort_by(f32::total_cmp);
            values[values.len() / 2]
        };
        (median(|s| s.0), median(|s| s.1), median(|s| s.2))
    }

    fn rows(&self, tokens: usize) {
        let (width, vocab, dtype) = (self.head.width, self.head.vocab, self.head.dtype());
        let logits = self.context.alloc(tokens * vocab * dtype.bytes(), "the product's logits").unwrap();
        let scratch = self.context.alloc(cublaslt::WORKSPACE, "cuBLASLt's workspace").unwrap();
        let places = [&self.classifier, &self.hidden[0], &logits, &scratch].map(|buffer| buffer.ptr().0);
        let shape = [tokens, width, vocab];
        let product = cublaslt::Product::new(&self.context, &self.stream, dtype, shape, places).unwrap();
        let (best, ..) = self.pairs(&product, |_| product.run_fastest(&self.stream).unwrap());
        for &what in &self.arguments.what {
            let mut runner = self.runner(tokens, what, false);
            let (ratio, ms, t) = self.pairs(&product, |set| self.run(&mut runner, tokens, set));
            let errors = match what {
                What::Gradients(_) if !self.arguments.no_errors => self.errors(&mut runner, tokens),
                _ => [[f64::NAN; 2]; 2],
            };
            let memory = runner.plan.workspace().peak as f64 / 1e6;
            if self.arguments.json {
                println!(
                    "{{\"gpu\":{:?},\"n\":{tokens},\"d\":{width},\"v\":{vocab},\"dtype\":{:?},\"t_ms\":{t},\
                     \"fastest_ratio\":{best},\"what\":\"{what}\",\"ratio\":{ratio},\"ms\":{ms},\
                     \"workspace_mb\":{memory},\"de_error\":{},\"dc_error\":{}}}",
                    self.device.name(),
                    dtype.name(),
                    number(errors[0][0]),
                    number(errors[1][0])
                );
            } else {
                println!(
                    "{tokens:>6} {width:>6} {vocab:>7} {t:>8.3} {best:>7.3} | {what:<18} | {ratio:>7.3} {ms:>8.3} \
                     {memory:>9.2} | {:>9.2e} {:>9.2e} | {:>9.2e} {:>9.2e}",
                    errors[0][0], errors[1][0], errors[0][1], errors[1][1]
                );
            }
        }
    }

    /// For dE and dC: ||difference|| / ||reference||, of the whole and of the worst row that is not tiny.
    fn errors(&self, grads: &mut Runner, tokens: usize) -> [[f64; 2]; 2] {
        let width = self.head.width;
        let mut reference = self.runner(tokens, What::Gradients(Filter::Exact), true);
        self.run(&mut reference, tokens, 0);
        self.run(grads, tokens, 0);
        let (ours, exact) = (grads.gradients.as_ref().unwrap(), reference.gradients.as_ref().unwrap());
        std::array::from_fn(|at| {
            let dtype = grads.plan.problem().hidden_gradient.unwrap().dtype;
            let ours = self.download(&ours[at], dtype);
            let exact = self.download(&exact[at], DType::F32);
            let rows: Vec<(f64, f64)> = ours
                .par_chunks(width)
                .zip(exact.par_chunks(width))
                .map(|(a, b)| {
                    let square = |x: f64| x * x;
                    let difference =
                        a.iter().zip(b).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
                    (difference, b.iter().map(|b| square(f64::from(*b))).sum())
                })
                .collect();
            let (difference, norm) = rows.iter().fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
            let floor = norm / rows.len() as f64 * 1e-6;
            let worst = rows.iter().filter(|row| row.1 > floor).map(|row| (row.0 / row.1).sqrt());
            [(difference / norm).sqrt(), worst.fold(0.0, |a: f64, b| if b.is_nan() { b } else { a.max(b) })]
        })
    }

    fn download(&self, buffer: &Buffer, dtype: DType) -> Vec<f32> {
        let mut bytes = vec![0u8; buffer.bytes()];
        self.stream.download(buffer, 0, &mut bytes).unwrap();
        match dtype {
            DType::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            DType::F16 => {
                bytes.chunks_exact(2).map(|b| half::f16::from_ne_bytes([b[0], b[1]]).to_f32()).collect()
            }
            DType::Bf16 => {
                bytes.chunks_exact(2).map(|b| half::bf16::from_ne_bytes([b[0], b[1]]).to_f32()).collect()
            }
        }
    }
}

/// A number as JSON has it.
fn number(x: f64) -> String {
    if x.is_finite() { format!("{x:e}") } else { "null".to_owned() }
}
