//! What the flags of a problem and its inputs mean: the task, the data file, where a head comes from.

use super::programs::Programs;
use crate::Error;
use crate::data::{Head, HeadSource, IGNORED, Targets};
use crate::task::Task;
use cce_codegen::ir::Program;
use cce_codegen::problem::{DType, IndexType};
use cce_runtime::DeviceKind;
use clap::Args;

/// What is tuned, on which inputs.
#[derive(Debug, Args)]
pub(super) struct InputArgs {
    #[command(flatten)]
    pub(super) problem: ProblemArgs,
    /// Hidden states, classifier and targets of your own: a safetensors file with e [N, D], c [V, D] and
    /// targets [N]. References in it (lse, loss, de_rows, dc_rows) are checked.
    #[arg(long, value_name = "FILE")]
    pub(super) data: Option<std::path::PathBuf>,
    /// A value for a Scalar input of the loss; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::values::scalar)]
    pub(super) scalar: Vec<(String, f32)>,
    /// Generate a head before its training (uniform softmax) instead of one shaped like a trained model's.
    #[arg(long, conflicts_with = "data")]
    pub(super) untrained: bool,
    /// The seed of the generated head.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub(super) seed: u64,
}

impl InputArgs {
    /// Whether a flag says something of the inputs that are measured on: what no key has a place for.
    pub(super) fn states_inputs(&self) -> bool {
        self.data.is_some() || self.untrained || self.seed != 0 || !self.scalar.is_empty()
    }
}

/// The problem.
#[derive(Debug, Args)]
pub(super) struct ProblemArgs {
    /// A shipped loss by its name, or a file saved with Program::save.
    #[arg(long, default_value = "cross_entropy", value_name = "NAME|FILE")]
    pub(super) loss: String,
    /// N, the number of tokens [default: 8192 on a GPU, 256 on the CPU device; with --data, all].
    #[arg(long, value_name = "N", value_parser = super::values::count)]
    pub(super) tokens: Option<usize>,
    /// D, the hidden size [default: 2304 on a GPU, 576 on the CPU device].
    #[arg(long, value_name = "D", value_parser = super::values::count)]
    pub(super) hidden: Option<usize>,
    /// V, the vocabulary's size [default: 256000 on a GPU, 8192 on the CPU device].
    #[arg(long, value_name = "V", value_parser = super::values::count)]
    pub(super) vocab: Option<usize>,
    /// Type of hidden states and classifier: f32, f16, bf16 [default: bf16 on a GPU, f32 on the CPU device;
    /// with --data, the file's].
    #[arg(long, value_name = "TYPE", value_parser = super::values::dtype)]
    pub(super) dtype: Option<cce_codegen::problem::DType>,
    /// The filter: exact, sampled, sampled:EPS, sampled:EPS,MAX_ENTRIES or blocks:EPS [default: sampled where
    /// loss and device allow it].
    #[arg(long, value_name = "FILTER", value_parser = super::values::filter)]
    pub(super) filter: Option<cce_codegen::problem::Filter>,
    /// What is minimised: the time of the loss alone (loss), or with gradients (gradients, hidden,
    /// classifier).
    #[arg(long, default_value = "gradients", value_name = "OBJECTIVE", value_parser = super::values::objective)]
    pub(super) objective: cce_runtime::Gradients,
    /// The gradient of a Row, Col or Scalar input of the loss is computed too; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub(super) input_gradient: Vec<String>,
    /// The most workspace that a schedule may need, such as 512M.
    #[arg(long, value_name = "BYTES", value_parser = super::values::bytes)]
    pub(super) memory_limit: Option<u64>,
    /// Tune for calls in which every token counts: none is ignored.
    #[arg(long)]
    pub(super) no_ignored: bool,
}

/// Loss, data file and head source of a command line.
pub(super) struct Stated {
    pub(super) program: Program,
    pub(super) file: Option<File>,
    pub(super) source: HeadSource,
}

impl Stated {
    /// # Errors
    /// When there is no such loss or file, or the flags contradict the file.
    pub(super) fn of(args: &InputArgs, programs: &Programs) -> Result<Stated, Error> {
        let program = programs.find(&args.problem.loss)?;
        let file = match &args.data {
            Some(path) => {
                for (given, flag) in [(args.problem.hidden, "--hidden"), (args.problem.vocab, "--vocab")] {
                    if given.is_some() {
                        let reason = format!("{flag} comes from the file with --data; leave it out");
                        return Err(Error::Usage { reason });
                    }
                }
                let file = File::of(Head::load(path)?, args.problem.tokens)?;
                if args.problem.no_ignored {
                    file.has_none_ignored()?;
                }
                Some(file)
            }
            None => None,
        };
        let source = match &args.data {
            // Workers may be started elsewhere.
            Some(path) => HeadSource::File {
                path: std::path::absolute(path)
                    .map_err(|source| Error::Read { path: path.clone(), source })?,
            },
            None if args.untrained => HeadSource::Untrained { seed: args.seed },
            None => HeadSource::Generated { seed: args.seed },
        };
        Ok(Stated { program, file, source })
    }

    /// The task on devices of a kind.
    pub(super) fn task(&self, args: &InputArgs, kind: DeviceKind) -> Task {
        task(&args.problem, self.program.clone(), kind, self.file.as_ref().map(|file| &file.head))
    }

    /// How many of the task's tokens are not ignored.
    pub(super) fn counted(&self, task: &Task) -> usize {
        match &self.file {
            Some(File { head, .. }) if task.program.has_target() => {
                (0..head.tokens).filter(|&token| head.targets.get(token) != IGNORED).count()
            }
            _ => task.tokens,
        }
    }
}

/// The data file.
pub(super) struct File {
    /// As many of its tokens as are asked for.
    pub(super) head: Head,
    /// The references that were lost on the way.
    pub(super) left_out: Option<&'static str>,
}

impl File {
    fn of(head: Head, tokens: Option<usize>) -> Result<File, Error> {
        let usage = |reason| Err(Error::Usage { reason });
        if let Some(tokens) = tokens.filter(|&tokens| tokens > head.tokens) {
            return usage(format!("--tokens {tokens} are more than the file's {}", head.tokens));
        }
        let left_out = tokens.is_some_and(|tokens| tokens < head.tokens) && head.references.has_gradients();
        let head = head.first_tokens(tokens.unwrap_or(head.tokens));
        if (0..head.tokens).all(|token| head.targets.get(token) == IGNORED) {
            return usage(format!(
                "all {} targets are {IGNORED}, so that every token is ignored and there is nothing to measure",
                head.tokens
            ));
        }
        let reason = "not compared: the file's gradients, which are of the mean over all of its tokens; \
                      leave out --tokens";
        Ok(File { head, left_out: left_out.then_some(reason) })
    }

    /// What `--no-ignored` says.
    fn has_none_ignored(&self) -> Result<(), Error> {
        let head = &self.head;
        match (0..head.tokens).find(|&token| head.targets.get(token) == IGNORED) {
            None => Ok(()),
            Some(token) => Err(Error::Usage {
                reason: format!(
                    "token {token} of the file is ignored (its target is {IGNORED}); leave out --no-ignored"
                ),
            }),
        }
    }
}

/// The task that the flags describe on a device.
pub(super) fn task(args: &ProblemArgs, program: Program, kind: DeviceKind, file: Option<&Head>) -> Task {
    let (tokens, width, vocab, dtype) = match (file, kind) {
        (Some(head), _) => (head.tokens, head.width, head.vocab, head.dtype()),
        (None, DeviceKind::Cuda) => (8192, 2304, 256_000, DType::Bf16),
        (None, DeviceKind::Cpu) => (256, 576, 8192, DType::F32),
    };
    let index = match file.map(|head| &head.targets) {
        Some(Targets::I64(_)) => IndexType::I64,
        _ => IndexType::I32,
    };
    Task {
        program,
        tokens: args.tokens.map_or(tokens, |given| if file.is_some() { given.min(tokens) } else { given }),
        width: args.hidden.unwrap_or(width),
        vocab: args.vocab.unwrap_or(vocab),
        dtype: args.dtype.unwrap_or(dtype),
        filter: args.filter,
        gradients: args.objective,
        input_gradients: args.input_gradient.clone(),
        index,
        ignored: !args.no_ignored,
        memory_limit: args.memory_limit,
    }
}
