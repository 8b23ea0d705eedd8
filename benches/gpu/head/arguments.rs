//! The command line of `head`.

use cce::{DType, Filter};
use cce_codegen::schedule::Family;

/// What to measure, and of what.
#[derive(clap::Args)]
pub struct Arguments {
    /// The GPU's ordinal.
    #[arg(long, default_value_t = 0)]
    pub gpu: usize,
    /// Tokens.
    #[arg(long, default_value_t = 8192)]
    pub tokens: usize,
    /// Hidden size.
    #[arg(long, default_value_t = 2304)]
    pub hidden: usize,
    /// Vocabulary entries.
    #[arg(long, default_value_t = 256_000)]
    pub vocab: usize,
    /// Six models' heads one after the other, GPT-2 to Gemma 3, instead of one of --hidden and --vocab.
    #[arg(long, conflicts_with_all = ["data", "hidden", "vocab"])]
    pub heads: bool,
    /// Type of hidden states and classifier.
    #[arg(long, value_enum, default_value = "bf16")]
    pub dtype: Type,
    /// A safetensors file with `e`, `c` (or `c_q`, `c_scale`) and `targets`, instead of a generated head.
    #[arg(long)]
    pub data: Option<std::path::PathBuf>,
    /// A head before its training, whose softmax is nearly uniform, instead of one like a trained model's.
    #[arg(long, conflicts_with = "data")]
    pub uniform: bool,
    /// The share of the targets, 0 to 1, that is ignored; `x full` is then the time over that of the same
    /// call with none ignored, by a plan that allows none.
    #[arg(long, value_parser = share)]
    pub ignored: Option<f64>,
    /// Ignored tokens stand in runs of 256 to 1024, not scattered.
    #[arg(long, requires = "ignored")]
    pub ignored_in_runs: bool,
    /// The kernel family: wgmma, mma, simt; without it, what a plan takes by itself.
    #[arg(long, value_parser = family)]
    pub family: Option<Family>,
    /// The first columns, which a sampled filter treats densely, instead of the schedule's number.
    #[arg(long)]
    pub hot: Option<u32>,
    /// Row blocks that walk over the vocabulary together, instead of the schedule's number.
    #[arg(long)]
    pub group: Option<u32>,
    /// Numbers of tokens to go through; at the end, the time a token of each over the best of them.
    #[arg(long, value_delimiter = ',')]
    pub sweep: Vec<usize>,
    /// Pairs to measure after warm-up.
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: u32,
    /// Largest workspace of the exact gradients, in MiB.
    #[arg(long)]
    pub workspace: Option<u64>,
    /// What to measure: loss, or loss and gradients under a filter: exact, sampled:EPS,MAX_ENTRIES or
    /// blocks:EPS.
    #[arg(long, num_args = 1.., default_values = ["loss", "exact", "sampled:2^-8,384", "sampled:2^-10,384"])]
    pub what: Vec<What>,
    /// Skip the comparison with fp32.
    #[arg(long)]
    pub no_errors: bool,
    /// One JSON object a row instead of a table; a value that is not measured is null.
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    /// Whether the schedule differs from what a plan takes by itself.
    pub fn varies_schedule(&self) -> bool {
        self.hot.is_some() || self.group.is_some()
    }
}

fn family(text: &str) -> Result<Family, String> {
    Family::named(text).ok_or_else(|| format!("`{text}` is none of wgmma, mma, simt"))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is no share from 0 to 1, such as 0.5"))
}

/// A row of the table.
#[derive(Clone, Copy)]
pub enum What {
    Loss,
    Gradients(Filter),
}

impl std::str::FromStr for What {
    type Err = String;

    fn from_str(text: &str) -> Result<What, String> {
        match text {
            "loss" => Ok(What::Loss),
            filter => {
                filter.parse().map(What::Gradients).map_err(|error: String| format!("loss, or: {error}"))
            }
        }
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self {
            What::Loss => "loss".to_owned(),
            What::Gradients(filter) => filter.to_string(),
        };
        f.pad(&text)
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Type {
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
