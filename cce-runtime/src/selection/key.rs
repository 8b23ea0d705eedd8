//! Programs, problems, devices and schedules in the words of the tuning database.

use crate::driver::DeviceInfo;
use cce_codegen::ir::{InputKind, Program};
use cce_codegen::problem::{DType, Filter, Ignored, Problem};
use cce_codegen::schedule::{Gpu, Schedule};
use cce_tuning_db as db;
use cce_tuning_db::{Config, Key};

/// The key of a GPU.
pub fn gpu(info: &DeviceInfo) -> db::Device {
    let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    db::Device::gpu(
        info.name.clone(),
        (small(info.compute_capability.0), small(info.compute_capability.1)),
        info.multiprocessors,
        info.shared_per_block.into(),
        info.l2_bytes,
    )
}

/// A stored GPU as schedules know it; `None` for the CPU device.
pub fn gpu_of(device: &db::Device) -> Option<Gpu> {
    match device {
        db::Device::Gpu(gpu) => Some(Gpu {
            name: gpu.name.clone(),
            capability: (gpu.compute_capability.0.into(), gpu.compute_capability.1.into()),
            multiprocessors: gpu.sms,
            shared_per_block: u32::try_from(gpu.shared_memory_bytes).unwrap_or(u32::MAX),
            l2_bytes: gpu.l2_bytes,
        }),
        _ => None,
    }
}

/// The tightest workspace limit of a class, in bytes; `None`: no limit.
pub fn limit_of(memory: db::MemoryClass) -> Option<u64> {
    match memory {
        db::MemoryClass::AtMost { log2_bytes } => Some(1u64 << log2_bytes.min(63)),
        _ => None,
    }
}

/// The key of the CPU device: the processor's model and the threads of the rayon pool that it is called from.
pub fn cpu() -> db::Device {
    let cores = u32::try_from(rayon::current_num_threads()).unwrap_or(u32::MAX);
    db::Device::cpu(cpu_model(), cores)
}

/// The processor's model as the system names it, else its architecture.
fn cpu_model() -> String {
    let named = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    named.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// What the tuner stores trials under, and a plan asks for.
///
/// # Errors
/// When the filter's threshold is no positive number.
pub fn key(program: &Program, problem: &Problem, device: db::Device) -> db::Result<Key> {
    let shape = shape(problem);
    let is_value = |kind| matches!(kind, InputKind::Row | InputKind::Col | InputKind::Scalar);
    let values = program.inputs().iter().enumerate().filter(|(_, input)| is_value(input.kind));
    let inputs = values
        .enumerate()
        .filter(|(_, (id, _))| problem.input_gradients.iter().any(|wanted| wanted.index() == *id))
        .fold(0u64, |mask, (ordinal, _)| mask | 1 << (ordinal % 64));
    let accumulates =
        |output: Option<cce_codegen::problem::GradientOutput>| output.is_some_and(|o| o.accumulate);
    let gradients =
        db::Gradients::new(problem.hidden_gradient.is_some(), problem.classifier_gradient.is_some());
    let described = db::Problem::new(shape)
        .with_gradients(gradients.with_inputs(inputs))
        .with_ignored(problem.ignored == Ignored::Possible)
        .with_accumulate(accumulates(problem.hidden_gradient) || accumulates(problem.classifier_gradient));
    let objective = match problem.wants_gradients() {
        true => db::Objective::LossAndGradients,
        false => db::Objective::Loss,
    };
    let dtype = match problem.dtype {
        DType::Bf16 => db::Dtype::Bf16,
        DType::F16 => db::Dtype::F16,
        DType::F32 => db::Dtype::F32,
    };
    let filter = match problem.filter {
        Filter::Exact => db::Filter::Exact,
        Filter::Blocks { eps } => db::Filter::Blocks { eps: db::Eps::new(eps.into())? },
        Filter::Sampled { eps, max_entries } => {
            db::Filter::Sampled { eps: db::Eps::new(eps.into())?, max_entries }
        }
    };
    Ok(Key::new(db::ProgramHash::from_bytes(program.hash()), described, device)
        .with_objective(objective)
        .with_memory(db::MemoryClass::of_limit(problem.workspace_limit))
        .with_dtype(dtype)
        .with_filter(filter))
}

/// N, D and V as they are stored with a measurement.
pub fn shape(problem: &Problem) -> db::Shape {
    db::Shape::new(problem.tokens as u64, problem.hidden as u64, problem.vocab as u64)
}

/// A schedule as it is stored.
///
/// # Errors
/// Those of serialisation, which a schedule of plain numbers does not meet.
pub fn config(schedule: &Schedule) -> serde_json::Result<Config> {
    serde_json::to_value(schedule).map(Config::new)
}

/// The schedule that was stored.
///
/// # Errors
/// When this version does not know such a schedule: in words, for a note.
pub fn schedule(config: &Config) -> Result<Schedule, String> {
    use serde::Deserialize;
    Schedule::deserialize(config.value()).map_err(|error| format!("not a schedule of this version: {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::cpu_space;
    use super::super::tests::{device, program};
    use super::*;
    use cce_codegen::ir::InputId;

    #[test]
    fn everything_that_a_kernel_is_specialised_on_makes_another_key() {
        let base = Problem::new(256, 64, 512, DType::F32);
        let of = |problem: &Problem| key(&program(), problem, device()).unwrap();
        let variants = [
            Problem { tokens: 1024, ..base.clone() },
            Problem { hidden: 65, ..base.clone() },
            Problem { vocab: 513, ..base.clone() },
            Problem { dtype: DType::Bf16, ..base.clone() },
            Problem { filter: Filter::SAMPLED, ..base.clone() },
            Problem { ignored: Ignored::None, ..base.clone() },
            Problem { hidden_gradient: None, ..base.clone() },
            Problem { classifier_gradient: None, ..base.clone() },
            Problem { input_gradients: vec![InputId(2)], ..base.clone() },
            Problem { workspace_limit: Some(1 << 30), ..base.clone() },
        ];
        for variant in &variants {
            assert_ne!(of(variant), of(&base), "{variant:?}");
        }
        assert_eq!(of(&Problem { tokens: 250, ..base.clone() }), of(&base));
        let no_number = Filter::Sampled { eps: 0.0, max_entries: 1 };
        assert!(key(&program(), &Problem { filter: no_number, ..base }, device()).is_err());
    }

    #[test]
    fn a_schedule_survives_storage_and_an_unknown_one_is_refused_in_words() {
        for schedule_stored in cpu_space(&Problem::new(4096, 576, 49152, DType::F32)) {
            let stored = config(&Schedule::Cpu(schedule_stored)).unwrap();
            assert_eq!(schedule(&stored), Ok(Schedule::Cpu(schedule_stored)));
        }
        let foreign = Config::new(serde_json::json!({"tpu": {}}));
        assert!(schedule(&foreign).unwrap_err().contains("not a schedule of this version"));
    }
}
