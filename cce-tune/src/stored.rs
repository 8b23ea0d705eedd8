//! Stored keys and winners, back in the words of tasks, GPUs and schedules.
//!
//! The reverse of `cce_runtime::selection::key`: what was measured can be measured again, and checked against the
//! constraints of this version, from a key alone.

use crate::search::describe;
use crate::task::Task;
use cce_codegen::ir::{InputKind, Program};
use cce_codegen::plan::GpuPlan;
use cce_codegen::problem::{DType, Filter, IndexType, Problem};
use cce_codegen::schedule::{Gpu, Schedule};
use cce_runtime::{Device, Gradients, selection};
use cce_tuning_db::{self as db, Config, Dtype, Key, Shape, Winner};

/// A stored configuration in a few words; of another version's, which this one does not know, its text.
pub fn schedule_text(config: &Config) -> String {
    selection::schedule(config).map_or_else(|_| config.text().to_owned(), |schedule| describe(&schedule))
}

/// The task that a key describes, at the shape of a measurement.
///
/// # Errors
/// In words, what of the key no task of this version has.
pub fn task(program: &Program, key: &Key, shape: Shape) -> Result<Task, String> {
    let gradients = key.problem.gradients;
    if key.problem.accumulate {
        return Err("it is for gradients that are accumulated, which the tuner does not measure".to_owned());
    }
    let size =
        |value: u64| usize::try_from(value).map_err(|_| format!("a size of {value} is too large here"));
    let is_value = |kind| matches!(kind, InputKind::Row | InputKind::Col | InputKind::Scalar);
    let values: Vec<&str> = program
        .inputs()
        .iter()
        .filter(|input| is_value(input.kind))
        .map(|input| input.name.as_ref())
        .collect();
    let named = |place: usize| match values.get(place) {
        Some(name) => Ok((*name).to_owned()),
        None => Err(format!("it asks for the gradient of input {place}, and the loss has {}", values.len())),
    };
    let input_gradients = (0..64)
        .filter(|place| gradients.inputs >> place & 1 != 0)
        .map(named)
        .collect::<Result<Vec<String>, String>>()?;
    Ok(Task {
        program: program.clone(),
        tokens: size(shape.tokens)?,
        width: size(shape.hidden)?,
        vocab: size(shape.vocab)?,
        dtype: dtype(key.dtype)?,
        filter: Some(filter(key.filter)?),
        gradients: Gradients { hidden: gradients.hidden, classifier: gradients.classifier },
        input_gradients,
        index: IndexType::I32,
        ignored: key.problem.ignored,
        memory_limit: selection::limit_of(key.memory),
    })
}

/// The problem that a key describes, as a plan on its device has it.
///
/// # Errors
/// In words, what of the key no plan of this version has.
pub fn problem(program: &Program, key: &Key, shape: Shape) -> Result<Problem, String> {
    let task = task(program, key, shape)?;
    let built = match selection::gpu_of(&key.device) {
        Some(_) => task.gpu_problem(),
        None => task.builder().build(&Device::cpu()).map(|plan| plan.problem().clone()).map_err(Into::into),
    };
    built.map_err(|error| error.to_string())
}

/// What was timed, in a word.
pub fn objective(key: &Key) -> &'static str {
    let gradients = key.problem.gradients;
    match (key.objective, gradients.hidden, gradients.classifier) {
        (db::Objective::Loss, ..) => "loss",
        (_, true, true) => "gradients",
        (_, true, false) => "dE",
        (_, false, true) => "dC",
        (_, false, false) => "input gradients",
    }
}

/// The element type of a key.
///
/// # Errors
/// For one that this version does not know.
pub fn dtype(stored: Dtype) -> Result<DType, String> {
    Ok(match stored {
        Dtype::Bf16 => DType::Bf16,
        Dtype::F16 => DType::F16,
        Dtype::F32 => DType::F32,
        other => return Err(format!("this version does not know the type {other:?}")),
    })
}

/// The filter of a key.
///
/// # Errors
/// For one that this version does not know.
pub fn filter(stored: db::Filter) -> Result<Filter, String> {
    Ok(match stored {
        db::Filter::Exact => Filter::Exact,
        db::Filter::Sampled { eps, max_entries } => Filter::Sampled { eps: eps.value() as f32, max_entries },
        db::Filter::Blocks { eps } => Filter::Blocks { eps: eps.value() as f32 },
        other => return Err(format!("this version does not know the filter {other:?}")),
    })
}

/// Whether a winner can run on the device it is stored for, as far as constraints say; needs no GPU.
///
/// # Errors
/// The first constraint of this version that it breaks, in words.
pub fn check(program: &Program, key: &Key, winner: &Winner) -> Result<Schedule, String> {
    let schedule = selection::schedule(&winner.config)?;
    let task = task(program, key, winner.shape)?;
    let problem = problem(program, key, winner.shape)?;
    fits(&task, &problem, schedule, selection::gpu_of(&key.device).as_ref())?;
    match selection::key(program, &problem, key.device.clone()) {
        Ok(asked) if asked == *key => Ok(schedule),
        Ok(_) => Err("a plan of this version asks under another key, and does not find it".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a plan with this schedule can be built, as far as constraints say: on the GPU, or without one on the CPU
/// device. `problem` is the task's there. What a plan passes over does not fit; needs no GPU.
///
/// # Errors
/// The first constraint of this version that it breaks, in words.
pub fn fits(task: &Task, problem: &Problem, schedule: Schedule, gpu: Option<&Gpu>) -> Result<(), String> {
    match (schedule, gpu) {
        (Schedule::Gpu(schedule), Some(gpu)) => GpuPlan::build(&task.program, problem, &schedule, gpu)
            .map(drop)
            .map_err(|error| error.to_string()),
        (Schedule::Cpu(_), None) => {
            task.plan(&Device::cpu(), schedule).map(drop).map_err(|error| error.to_string())
        }
        (Schedule::Gpu(_), None) => Err("it is a GPU's schedule under a key of the CPU device".to_owned()),
        (Schedule::Cpu(_), Some(_)) => Err("it is the CPU device's schedule under a key of a GPU".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::schedule::{CpuSchedule, GpuSchedule};
    use cce_tuning_db::{Config, Generation, Provenance, Trial};

    fn h100() -> db::Device {
        db::Device::gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 232_448, 50 << 20)
    }

    fn winner(shape: Shape, schedule: &Schedule) -> Winner {
        let config = selection::config(schedule).unwrap();
        let (generation, provenance) = (Generation::new("1", "s"), Provenance::new("here", 1));
        Winner::of(&Trial::measured(config, shape, vec![1.0], generation, provenance).unwrap()).unwrap()
    }

    fn tasks() -> Vec<Task> {
        let plain = Task::new(cce::losses::cross_entropy::program(), 1000, 576, 49152, DType::Bf16);
        let gemma = cce::losses::named("gemma2").unwrap();
        vec![
            plain.clone(),
            Task { gradients: Gradients::none(), ignored: false, ..plain.clone() },
            Task { gradients: Gradients::hidden(), filter: Some(Filter::Exact), ..plain.clone() },
            Task { filter: Some(Filter::BLOCKS), memory_limit: Some(1 << 30), ..plain.clone() },
            Task {
                program: gemma,
                input_gradients: vec!["bias".to_owned()],
                filter: Some(Filter::Exact),
                ..plain.clone()
            },
            Task { dtype: DType::F32, ..plain },
        ]
    }

    #[test]
    fn what_a_key_says_is_the_task_that_made_it() {
        for task in tasks() {
            let problem = task.gpu_problem().unwrap();
            let key = selection::key(&task.program, &problem, h100()).unwrap();
            let read = super::task(&task.program, &key, selection::shape(&problem)).unwrap();
            assert_eq!(read.gpu_problem().unwrap(), problem, "{task:?}");
            let schedule = Schedule::Gpu(GpuSchedule::default_for(
                &task.program,
                &problem,
                &selection::gpu_of(&h100()).unwrap(),
            ));
            let stored = winner(selection::shape(&problem), &schedule);
            assert_eq!(check(&task.program, &key, &stored), Ok(schedule));
        }
    }

    #[test]
    fn a_winner_that_breaks_a_constraint_of_this_version_is_refused_in_words() {
        let task = &tasks()[0];
        let problem = task.gpu_problem().unwrap();
        let key = selection::key(&task.program, &problem, h100()).unwrap();
        let shape = selection::shape(&problem);
        let mut large =
            GpuSchedule::default_for(&task.program, &problem, &selection::gpu_of(&h100()).unwrap());
        large.logits.stages = 64;
        let refused = |schedule| check(&task.program, &key, &winner(shape, &schedule)).unwrap_err();
        assert!(refused(Schedule::Gpu(large)).contains("64 stages"), "{}", refused(Schedule::Gpu(large)));
        let cpu = Schedule::Cpu(CpuSchedule { token_block: 16, strip: 512 });
        assert!(refused(cpu).contains("under a key of a GPU"));
        let fits = GpuSchedule::default_for(&task.program, &problem, &selection::gpu_of(&h100()).unwrap());
        let other = winner(Shape::new(1000, shape.hidden + 8, shape.vocab), &Schedule::Gpu(fits));
        assert!(check(&task.program, &key, &other).unwrap_err().contains("under another key"));
        let mut foreign = winner(shape, &cpu);
        foreign.config = Config::new(serde_json::json!({"tpu": 1}));
        assert!(check(&task.program, &key, &foreign).unwrap_err().contains("not a schedule of this version"));
    }
}
