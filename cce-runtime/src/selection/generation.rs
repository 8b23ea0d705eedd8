//! What generates the code in this build: a winner of another generation is stale.

use super::{config, cpu_space};
use cce_codegen::ir::{InputId, InputKind, Program, UnaryOp};
use cce_codegen::plan::GpuPlan;
use cce_codegen::problem::{DType, Filter, Problem};
use cce_codegen::schedule::{Family, Gpu, GpuSchedule, Schedule};
use cce_codegen::valid::{ProgramBuilder, Site};
use cce_tuning_db as db;
use cce_tuning_db::Generation;
use rayon::prelude::*;
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

/// The kernels are what nominal plans emit: whatever changes in skeletons or emission shows there. The space is
/// that of a GPU of each best family.
fn gpu_generation(version: &str) -> Generation {
    let mut hasher = blake3::Hasher::new();
    for plan in nominal_plans().into_iter().flatten() {
        for module in plan.modules {
            hasher.update(module.source.as_bytes());
        }
    }
    let kernels = &hasher.finalize().to_hex().as_str()[..16].to_owned();
    let space = transformed().map_or_else(Vec::new, |program| {
        [Gpu::h100(), Gpu::of_capability(8, 0)]
            .iter()
            .flat_map(|gpu| GpuSchedule::space(&program, &nominal_problem(), gpu))
            .collect()
    });
    Generation::new(
        format!("{version}, kernels {kernels}"),
        space_hash(space.into_iter().map(|(schedule, _)| Schedule::Gpu(schedule))),
    )
}

fn nominal_problem() -> Problem {
    Problem::new(4096, 576, 49152, DType::Bf16)
}

/// Of each family an exact plan and one that samples, and one plan that skips tiles. `None` where one was not built, which the tests rule out.
/// Each takes about a millisecond, and a process that is new waits for them: they are built at the same time.
fn nominal_plans() -> Vec<Option<GpuPlan>> {
    let exact = |family| (transformed(), family, nominal_problem());
    let sampled = |family| {
        let input_gradients = vec![InputId(2)];
        (smoothed(), family, Problem { filter: Filter::SAMPLED, input_gradients, ..nominal_problem() })
    };
    let blocks = (transformed(), Family::Mma, Problem { filter: Filter::BLOCKS, ..nominal_problem() });
    let [wgmma, mma, simt] = Family::ALL.map(exact);
    let [sampled_wgmma, sampled_mma, sampled_simt] = Family::ALL.map(sampled);
    let gpu = Gpu::h100();
    [wgmma, mma, simt, sampled_wgmma, sampled_mma, sampled_simt, blocks]
        .into_par_iter()
        .map(|(program, family, problem)| {
            let program = program?;
            let schedule = GpuSchedule::of_family(family, &program, &problem, &gpu);
            GpuPlan::build(&program, &problem, &schedule, &gpu).ok()
        })
        .collect()
}

/// Softcapped cross entropy with a bias: transform, Col input and target, all that a skeleton has holes for.
fn transformed() -> Option<Program> {
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

/// Smoothed cross entropy with a bias: what a GPU samples, uniform parts of all gradients included.
fn smoothed() -> Option<Program> {
    let site = Site::default();
    let mut builder = ProgramBuilder::new(site, "nominal");
    let x = builder.input(site, "x", InputKind::Logit);
    let y = builder.input(site, "y", InputKind::Target);
    let bias = builder.input(site, "bias", InputKind::Col);
    let z = builder.add(site, x, bias);
    let (lse, at, mean) = (builder.lse(site, z), builder.at(site, z, y), builder.mean(site, z));
    let (nll, smooth) = (builder.sub(site, lse, at), builder.sub(site, lse, mean));
    let loss = builder.add(site, nll, smooth);
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
        let gpu = db::Device::gpu("a gpu", (9, 0), 132, 232_448, 1 << 25);
        let plans: Vec<GpuPlan> = nominal_plans().into_iter().map(|plan| plan.unwrap()).collect();
        let [.., skipping] = &plans[..] else { panic!("no plans") };
        let (exact, sampled) = plans[..6].split_at(3);
        for plans in [exact, sampled] {
            assert!(plans.iter().map(|plan| plan.schedule.family).eq(Family::ALL));
        }
        let entries =
            |plan: &GpuPlan| -> Vec<&str> { plan.backward.iter().map(|launch| launch.entry).collect() };
        for entry in ["gather_columns", "sum_uniform_rows", "sum_classifier"] {
            assert!(sampled.iter().all(|plan| entries(plan).contains(&entry)), "{entry}");
        }
        assert!(skipping.live.is_some());
        let made = generation(&gpu);
        let nothing = blake3::Hasher::new().finalize().to_hex();
        assert!(!made.codegen.ends_with(&nothing.as_str()[..16]), "{made:?}");
        assert_ne!(made.search_space, nothing.as_str()[..16], "{made:?}");
        assert_ne!(made, generation(&device()));
    }
}
