//! What this version of the code generator is, in one short text: what a measurement holds for.
//!
//! The kernels are what nominal plans emit: whatever changes in skeletons or emission shows there, and nothing else does.

use crate::ir::{InputId, InputKind, Program, UnaryOp};
use crate::plan::GpuPlan;
use crate::problem::{DType, Filter, Problem};
use crate::schedule::{Family, Gpu, GpuSchedule};
use crate::valid::{ProgramBuilder, Site};

/// The kernels that this version emits, as 16 hexadecimal digits. It takes a few milliseconds, most of them the memory's: a
/// crate that uses this one had better ask while it is built.
pub fn kernels() -> String {
    let mut hasher = blake3::Hasher::new();
    for plan in nominal_plans().flatten() {
        for module in plan.modules {
            hasher.update(module.source.as_bytes());
        }
    }
    hasher.finalize().to_hex().as_str()[..16].to_owned()
}

/// The schedules that a search begins with, on a GPU of each of the two best families: another space is another list.
pub fn space() -> Vec<GpuSchedule> {
    let Some(program) = transformed() else { return Vec::new() };
    let of = |gpu: &Gpu| GpuSchedule::space(&program, &nominal_problem(), gpu);
    let gpus = [Gpu::h100(), Gpu::of_capability(8, 0)];
    gpus.iter().flat_map(of).map(|(schedule, _)| schedule).collect()
}

fn nominal_problem() -> Problem {
    Problem::new(4096, 576, 49152, DType::Bf16)
}

/// Of each family an exact plan and one that samples, and one plan that skips tiles; built one at a time, in the memory of
/// the one before. `None` where one was not built, which the tests rule out.
fn nominal_plans() -> impl Iterator<Item = Option<GpuPlan>> {
    let exact = |family| (transformed(), family, nominal_problem());
    let sampled = |family| {
        let input_gradients = vec![InputId(2)];
        (smoothed(), family, Problem { filter: Filter::SAMPLED, input_gradients, ..nominal_problem() })
    };
    let blocks = (transformed(), Family::Mma, Problem { filter: Filter::BLOCKS, ..nominal_problem() });
    let gpu = Gpu::h100();
    Family::ALL.map(exact).into_iter().chain(Family::ALL.map(sampled)).chain([blocks]).map(
        move |(program, family, problem)| {
            let program = program?;
            let schedule = GpuSchedule::of_family(family, &program, &problem, &gpu);
            GpuPlan::build(&program, &problem, &schedule, &gpu).ok()
        },
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nominal_plans_are_of_every_family_and_filter() {
        let plans: Vec<GpuPlan> = nominal_plans().map(|plan| plan.unwrap()).collect();
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
        assert!(space().len() > 10);
    }

    #[test]
    fn the_kernels_have_a_name_that_is_not_that_of_nothing() {
        let nothing = blake3::Hasher::new().finalize().to_hex();
        assert_eq!(kernels().len(), 16);
        assert_ne!(kernels(), nothing.as_str()[..16]);
    }
}
