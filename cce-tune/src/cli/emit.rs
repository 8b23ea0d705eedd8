//! `cce-tune emit`: a loss at every level from what the user wrote to PTX. Needs no GPU.

use super::EXIT_OK;
use super::inputs::ProblemArgs;
use super::output::Output;
use super::programs::Programs;
use crate::Error;
use crate::task::Task;
use cce_codegen::ir::{Level, Program};
use cce_codegen::plan::GpuPlan;
use cce_codegen::problem::{DType, Problem};
use cce_codegen::schedule::{Family, Gpu, GpuSchedule};
use cce_runtime::DeviceKind;
use cce_runtime::nvrtc::{Arch, Nvrtc, Options, Source};
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct EmitArgs {
    #[command(flatten)]
    pub(super) problem: ProblemArgs,
    /// What to print: program, gradient, plan, cuda or ptx.
    #[arg(long, default_value = "program", value_name = "LEVEL", value_parser = level)]
    pub(super) dump: cce_codegen::ir::Level,
    /// The architecture that CUDA and PTX are for: sm_80, sm_90a ...
    #[arg(long, default_value = "sm_90a", value_name = "ARCH", value_parser = arch)]
    pub(super) arch: cce_runtime::nvrtc::Arch,
    /// The kernel family: auto (the fastest that can run the problem), wgmma, mma or simt.
    #[arg(long, default_value = "auto", value_name = "FAMILY", value_parser = ["auto", "wgmma", "mma", "simt"])]
    pub(super) family: String,
    /// Print only this module, such as logits_forward.
    #[arg(long, value_name = "NAME")]
    pub(super) module: Option<String>,
}

/// The parser of `--dump`.
pub(super) fn level(text: &str) -> Result<Level, String> {
    text.parse()
}

/// The parser of `--arch`.
pub(super) fn arch(text: &str) -> Result<Arch, String> {
    let arch = text.parse::<Arch>().map_err(|error| error.to_string())?;
    match arch.major {
        5..=12 => Ok(arch),
        _ => Err(format!("expected an architecture from sm_50 to sm_121, such as sm_90a, found {text}")),
    }
}

pub(super) fn run(args: &EmitArgs, programs: &Programs, output: &Output) -> Result<u8, Error> {
    let program = programs.find(&args.problem.loss)?;
    let text = match args.dump {
        Level::Program | Level::Gradient => {
            program.dump(args.dump).map_err(|error| Error::Emit { reason: error.to_string() })?
        }
        level => from_plan(args, &program, level)?,
    };
    let value = serde_json::json!({
        "schema": 1,
        "loss": program.name(),
        "level": args.dump.name(),
        "arch": args.arch.to_string(),
        "text": text,
    });
    output.either(|| if text.ends_with('\n') { text.clone() } else { format!("{text}\n") }, &value)?;
    Ok(EXIT_OK)
}

fn from_plan(args: &EmitArgs, program: &Program, level: Level) -> Result<String, Error> {
    let gpu = match args.arch {
        Arch { major: 9, minor: 0, .. } => Gpu::h100(),
        arch => Gpu::of_capability(arch.major, arch.minor),
    };
    let problem = problem(args, program)?;
    let schedule = match Family::named(&args.family) {
        Some(family) => GpuSchedule::of_family(family, program, &problem, &gpu),
        None => GpuSchedule::default_for(program, &problem, &gpu),
    };
    let plan = GpuPlan::build(program, &problem, &schedule, &gpu)
        .map_err(|error| Error::Emit { reason: error.to_string() })?;
    let is_wanted = |name: &str| args.module.as_deref().is_none_or(|wanted| wanted == name);
    let modules: Vec<_> = plan.modules.iter().filter(|module| is_wanted(module.name)).collect();
    if modules.is_empty() {
        let names: Vec<&str> = plan.modules.iter().map(|module| module.name).collect();
        let reason = format!(
            "there is no module {}; expected one of {}",
            args.module.as_deref().unwrap_or_default(),
            names.join(", ")
        );
        return Err(Error::Usage { reason });
    }
    let mut text = String::new();
    match level {
        Level::Cuda => {
            for module in modules {
                text += &format!("// ==== module {}\n{}\n", module.name, module.source);
            }
        }
        Level::Ptx => {
            let nvrtc = Nvrtc::find(None, Some(args.arch))?;
            for module in modules {
                let file = format!("{}.cu", module.name);
                let source = Source { text: &module.source, name: &file, loss: program.name() };
                let ptx = nvrtc.ptx(&source, args.arch, &Options::default())?;
                text += &format!("// ==== module {}\n{ptx}\n", module.name);
            }
        }
        _ => text = plan.dump(),
    }
    Ok(text)
}

/// The problem as a GPU's plan would have it, with the GPU's defaults.
fn problem(args: &EmitArgs, program: &Program) -> Result<Problem, Error> {
    let flags = &args.problem;
    let task = Task {
        tokens: flags.tokens.unwrap_or(8192),
        width: flags.hidden.unwrap_or(2304),
        vocab: flags.vocab.unwrap_or(256_000),
        dtype: flags.dtype.unwrap_or(DType::Bf16),
        ..super::inputs::task(flags, program.clone(), DeviceKind::Cpu, None)
    };
    task.gpu_problem()
}

/// `emit` takes the flags of a problem too. It measures nothing and runs nothing: what they say is what the
/// kernels are printed for.
pub(super) fn for_emission(emit: clap::Command) -> clap::Command {
    let helps = [
        ("tokens", "N, the number of tokens [default: 8192]"),
        ("hidden", "D, the hidden size [default: 2304]"),
        ("vocab", "V, the vocabulary's size [default: 256000]"),
        ("dtype", "Type of hidden states and classifier: f32, f16, bf16 [default: bf16]"),
        (
            "filter",
            "The filter: exact, sampled, sampled:EPS, sampled:EPS,MAX_ENTRIES or blocks:EPS [default: that of a plan on such a GPU]",
        ),
        (
            "objective",
            "What the kernels compute: the loss alone (loss), or with gradients (gradients, hidden, classifier)",
        ),
        ("memory_limit", "The most workspace that the plan may need, such as 512M"),
        ("no_ignored", "Print kernels for calls in which every token counts: none is ignored"),
    ];
    helps.into_iter().fold(emit, |emit, (flag, help)| emit.mut_arg(flag, |arg| arg.help(help)))
}
