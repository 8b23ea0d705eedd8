//! What generates the code in this build: a winner of another generation is stale.

use super::{config, cpu_space};
use cce_codegen::ir::{InputKind, Program, UnaryOp};
use cce_codegen::plan::GpuPlan;
use cce_codegen::problem::{DType, Problem};
use cce_codegen::schedule::{Gpu, GpuSchedule, Schedule};
use cce_codegen::valid::{ProgramBuilder, Site};
use cce_tuning_db as db;
use cce_tuning_db::Generation;
use std::sync::OnceLock;

/// Raised when the CPU device's loops change so much that its schedules should be measured again.
const CPU_REVISION: u32 = 1;

/// What generates the code here, for a device of this kind: a stored winner of another generation is stale.
pub fn generation(device: &db::Device) -> Generation {
    let nominal = Problem::new(4096, 576, 49152, DType::F32);
    let version = env!("CARGO_PKG_VERSION");
    match device {
        db::Device::Cpu(_) => Generation::new(
            format!("{version}, cpu device {CPU_REVISION}"),
            space_hash(cpu_space(&nominal).into_iter().map(Schedule::Cpu)),
        ),
        // The same in every process of a build, and not for nothing: asked for once.
        _ => {
            static GPU: OnceLock<Generation> = OnceLock::new();
            GPU.get_or_init(|| gpu_generation(version)).clone()
        }
    }
}

/// The kernels are what a nominal plan of each family emits: whatever changes in skeletons or emission shows
/// there.
fn gpu_generation(version: &str) -> Generation {
    let gpu = Gpu::h100();
    let problem = Problem::new(4096, 576, 49152, DType::Bf16);
    let (mut hasher, mut space) = (blake3::Hasher::new(), Vec::new());
    if let Some(program) = nominal_program() {
        let schedules =
            [GpuSchedule::default_for(&program, &problem, &gpu), GpuSchedule::simt(&program, &problem, &gpu)];
        let plans = schedules.iter().filter_map(|s| GpuPlan::build(&program, &problem, s, &gpu).ok());
        for module in plans.flat_map(|plan| plan.modules) {
            hasher.update(module.source.as_bytes());
        }
        space = GpuSchedule::space(&program, &problem, &gpu);
    }
    let kernels = &hasher.finalize().to_hex().as_str()[..16].to_owned();
    Generation::new(
        format!("{version}, kernels {kernels}"),
        space_hash(space.into_iter().map(|(schedule, _)| Schedule::Gpu(schedule))),
    )
}

/// Softcapped cross entropy with a bias: transform, Col input and target, all that a skeleton has holes for.
fn nominal_program() -> Option<Program> {
    let site = Site::default();
    let mut builder = ProgramBuilder::new(site, "nominal");
    let x = builder.input(site, "x", InputKind::Logit);
    let y = builder.input(site, "y", InputKind::Target);
    let bias = builder.input(site, "bias", InputKind::Col);
    let cap = builder.input(site, "cap", InputKind::Scalar);
    let (biased, tanh) = (builder.add(site, x, bias), UnaryOp::Tanh);
    let scaled = builder.div(site, biased, cap);
    let bounded = builder.unary(site, tanh, scaled);
    let z = builder.mul(site, cap, bounded);
    let (lse, at) = (builder.lse(site, z), builder.at(site, z, y));
    let loss = builder.sub(site, lse, at);
    builder.output(site, "loss", loss);
    builder.finish().ok()
}

fn space_hash(space: impl Iterator<Item = Schedule>) -> String {
    let mut hasher = blake3::Hasher::new();
    for config in space.filter_map(|schedule| config(&schedule).ok()) {
        hasher.update(config.hash().as_bytes());
    }
    hasher.finalize().to_hex().as_str()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::device;
    use super::*;

    #[test]
    fn the_generation_of_a_gpu_names_the_kernels_and_the_space_that_there_are() {
        assert!(nominal_program().is_some());
        let gpu = db::Device::gpu("a gpu", (9, 0), 132, 232_448, 1 << 25);
        let made = generation(&gpu);
        let nothing = blake3::Hasher::new().finalize().to_hex();
        assert!(!made.codegen.ends_with(&nothing.as_str()[..16]), "{made:?}");
        assert_ne!(made.search_space, nothing.as_str()[..16], "{made:?}");
        assert_ne!(made, generation(&device()));
    }
}
