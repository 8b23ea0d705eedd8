//! The bench on the CPU device: what is right passes, what is wrong is found.

use super::host::HostBuffer;
use super::*;
use crate::arguments::Arguments;
use crate::data::Head;
use crate::search::{Bench, Failure};
use crate::task::Task;
use cce_codegen::problem::{DType, Filter};
use cce_codegen::schedule::{CpuSchedule, Schedule};
use cce_runtime::Device;
use cce_tuning_db::Status;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

const SCHEDULE: Schedule = Schedule::Cpu(CpuSchedule { token_block: 16, strip: 256 });

fn bench(task: &Task) -> PlanBench<HostMemory> {
    let head = Head::generated(task.tokens, task.width, task.vocab, 2, task.dtype);
    let arguments = Arguments::new(&task.program, task.tokens, task.vocab, &[]).unwrap();
    let problem = task.builder().build(&Device::cpu()).unwrap().problem().clone();
    PlanBench::new(HostMemory, Device::cpu(), task.clone(), &head, &arguments, Some(&problem)).unwrap()
}

fn cross_entropy(dtype: DType) -> Task {
    let program = cce::losses::named("cross_entropy").unwrap();
    Task { filter: Some(Filter::Exact), ..Task::new(program, 40, 24, 600, dtype) }
}

/// No values: cross entropy has no inputs of its own.
fn none() -> Arguments {
    Arguments::new(&cce::losses::named("cross_entropy").unwrap(), 0, 0, &[]).unwrap()
}

#[test]
fn every_shipped_loss_agrees_with_the_oracle_in_every_type() {
    for (name, program) in cce::losses::ALL {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let task = Task::new(program(), 20, 24, 300, dtype);
            let head = Head::generated(20, 24, 300, 1, dtype).with_ignored(0.2, 1);
            let arguments = Arguments::new(&task.program, 20, 300, &[]).unwrap();
            let checked = check_against_f64(HostMemory, &Device::cpu(), &task, &head, &arguments, SCHEDULE);
            assert!(checked.is_ok(), "{name} {}: {}", dtype.name(), checked.unwrap_err());
        }
    }
}

#[test]
fn a_schedule_that_is_right_passes_and_is_timed() {
    let mut bench = bench(&cross_entropy(DType::F32));
    let mut built = bench.build(&SCHEDULE).unwrap();
    let mut other = bench.build(&Schedule::Cpu(CpuSchedule { token_block: 7, strip: 100 })).unwrap();
    bench.make_reference(built.plan(), &none()).unwrap();
    assert_eq!(bench.check(&mut built).unwrap(), 0.0);
    assert!(bench.check(&mut other).unwrap() < 1e-5);
    for round in 0..5 {
        assert!(bench.time(&mut other, round).unwrap() > 0.0);
    }
}

#[test]
fn a_wrong_loss_a_wrong_gradient_and_a_missing_element_are_each_found() {
    let mut bench = bench(&cross_entropy(DType::F32));
    let mut built = bench.build(&SCHEDULE).unwrap();
    type Spoil = fn(&mut Results);
    let spoil: [(Spoil, &str); 5] = [
        (|r| r.reduced *= 1.001, "the mean loss differs"),
        (|r| r.outputs[0].1[3] += 0.1, "output loss differs"),
        (|r| r.gradients[0].1.iter_mut().for_each(|g| *g *= 1.01), "dE differs"),
        (|r| r.gradients[1].1[0] += 1.0, "dC differs"),
        (|r| r.gradients[1].1[5] = f32::NAN, "1 element is NaN or not written"),
    ];
    for (spoil, expected) in spoil {
        let plan = cross_entropy(DType::F32).plan(&Device::cpu(), SCHEDULE).unwrap();
        bench.make_reference(&plan, &none()).unwrap();
        bench.spoil_reference(spoil).unwrap();
        let failure = bench.check(&mut built).unwrap_err();
        let Failure { status: Status::Wrong(reason), fatal: false, .. } = failure else {
            panic!("{failure:?}")
        };
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_loss_that_is_not_finite_is_said_to_be_the_datas_or_the_scalars() {
    let program = cce::losses::named("softcapped").unwrap();
    let task = Task { filter: Some(Filter::Exact), ..Task::new(program, 40, 24, 600, DType::F32) };
    let head = Head::generated(40, 24, 600, 1, DType::F32);
    let check = |head: &Head, cap: f32| {
        let scalars = [("cap".to_owned(), cap)];
        let arguments = Arguments::new(&task.program, 40, 600, &scalars).unwrap();
        check_against_f64(HostMemory, &Device::cpu(), &task, head, &arguments, SCHEDULE)
    };
    assert!(check(&head, 30.0).is_ok());
    let message = check(&head, f32::NAN).unwrap_err().to_string();
    assert!(message.contains("no finite loss") && message.contains("cap = NaN"), "{message}");
    let mut spoiled = head.clone();
    let crate::data::Elements::F32(hidden) = &mut spoiled.hidden else { panic!("not f32") };
    hidden[3] = f32::INFINITY;
    assert!(check(&spoiled, 30.0).unwrap_err().to_string().contains("no finite loss"));
}

#[test]
fn a_sampled_gradient_is_noisy_but_right_and_its_loss_is_exact() {
    let task = Task { filter: Some(Filter::SAMPLED), ..cross_entropy(DType::F32) };
    let exact = cross_entropy(DType::F32);
    let mut bench = bench(&task);
    bench.make_reference(&exact.plan(&Device::cpu(), SCHEDULE).unwrap(), &none()).unwrap();
    let mut built = bench.build(&SCHEDULE).unwrap();
    let error = bench.check(&mut built).unwrap();
    assert!(error > 0.0 && error < 0.1, "{error}");
}

/// A problem of 32 tokens whose capped softmax is close to uniform: the noise is as large as the gradient.
fn noisy() -> (Task, Task, Arguments) {
    let program = cce::losses::named("softcapped").unwrap();
    let filter = Filter::Sampled { eps: 1.0 / 64.0, max_entries: 64 };
    let task = Task { filter: Some(filter), ..Task::new(program, 32, 24, 4000, DType::F32) };
    let arguments =
        Arguments::new(&task.program, task.tokens, task.vocab, &[("cap".to_owned(), 5.0)]).unwrap();
    (task.clone(), Task { filter: Some(Filter::Exact), ..task }, arguments)
}

fn noisy_bench(seed: u64) -> (PlanBench<HostMemory>, Built) {
    noisy_bench_in(HostMemory, seed, true)
}

fn noisy_bench_in<M: Memory>(memory: M, seed: u64, searches: bool) -> (PlanBench<M>, Built) {
    let (task, exact, arguments) = noisy();
    let head = Head::generated(task.tokens, task.width, task.vocab, seed, task.dtype);
    let problem = task.builder().build(&Device::cpu()).unwrap().problem().clone();
    let problem = Some(&problem).filter(|_| searches);
    let mut bench = PlanBench::new(memory, Device::cpu(), task, &head, &arguments, problem).unwrap();
    bench.make_reference(&exact.plan(&Device::cpu(), SCHEDULE).unwrap(), &arguments).unwrap();
    let built = bench.build(&SCHEDULE).unwrap();
    (bench, built)
}

/// The host's memory, watched: how often something ran and was compared, whether there is room for more, and which
/// comparison is of a result whose last element was not written.
#[derive(Default)]
struct Watched {
    runs: AtomicUsize,
    comparisons: AtomicUsize,
    is_full: AtomicBool,
    not_written_in: AtomicUsize,
}

impl Watched {
    fn room(&self, what: &str) -> Result<(), Error> {
        match self.is_full.load(Relaxed) {
            true => {
                Err(cce_runtime::Error::OutOfMemory { what: what.to_owned(), asked: 1, free: 0, total: 1 }
                    .into())
            }
            false => Ok(()),
        }
    }
}

impl Memory for &Watched {
    type Buffer = HostBuffer;

    fn upload(&self, values: HostData<'_>, what: &str) -> Result<HostBuffer, Error> {
        self.room(what)?;
        HostMemory.upload(values, what)
    }

    fn duplicate(&self, buffer: &HostBuffer, what: &str) -> Result<HostBuffer, Error> {
        self.room(what)?;
        HostMemory.duplicate(buffer, what)
    }

    fn poisoned(&self, element: Element, len: usize, what: &str) -> Result<HostBuffer, Error> {
        self.room(what)?;
        HostMemory.poisoned(element, len, what)
    }

    fn poison(&self, buffer: &mut HostBuffer) -> Result<(), Error> {
        HostMemory.poison(buffer)
    }

    fn view<'a>(&self, buffer: &'a HostBuffer) -> View<'a> {
        HostMemory.view(buffer)
    }

    fn view_mut<'a>(&self, buffer: &'a mut HostBuffer) -> ViewMut<'a> {
        HostMemory.view_mut(buffer)
    }

    fn download(&self, buffer: &HostBuffer) -> Result<Vec<f32>, Error> {
        HostMemory.download(buffer)
    }

    fn compare(&self, buffer: &HostBuffer, reference: &HostBuffer) -> Result<Comparison, Error> {
        let mut result = HostMemory.download(buffer)?;
        if self.comparisons.fetch_add(1, Relaxed) + 1 == self.not_written_in.load(Relaxed) {
            *result.last_mut().unwrap() = f32::NAN;
        }
        Ok(Comparison::of(&result, &HostMemory.download(reference)?))
    }

    fn time(&self, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
        self.runs.fetch_add(1, Relaxed);
        HostMemory.time(work)
    }

    fn free_bytes(&self) -> u64 {
        HostMemory.free_bytes()
    }

    fn clocks(&self) -> Option<cce_tuning_db::Clocks> {
        None
    }
}

#[test]
fn what_is_not_written_the_second_time_with_one_seed_is_wrong() {
    let memory = Watched::default();
    let (mut bench, mut built) = noisy_bench_in(&memory, 2, true);
    // dE and dC of two seeds with the reference and with each other, then of the repetition with the second.
    let before = memory.comparisons.load(Relaxed);
    memory.not_written_in.store(before + 8, Relaxed);
    let failure = bench.check(&mut built).unwrap_err();
    let reason = failure.status.reason();
    let expected = "dC: 1 element is NaN or not written in the second of two runs with one seed";
    assert!(matches!(failure.status, Status::Wrong(_)) && reason == expected, "{failure:?}");
    assert!(bench.check(&mut built).is_ok());
}

#[test]
fn a_gross_bias_under_noise_is_refused_within_a_few_runs() {
    let memory = Watched::default();
    let (mut bench, mut built) = noisy_bench_in(&memory, 2, true);
    bench.spoil_reference(|r| r.gradients[1].1.iter_mut().for_each(|g| *g = -*g)).unwrap();
    let before = memory.runs.load(Relaxed);
    let failure = bench.check(&mut built).unwrap_err();
    assert!(matches!(failure.status, Status::Wrong(_)), "{failure:?}");
    let runs = memory.runs.load(Relaxed) - before;
    assert!(runs <= 15, "{runs} runs: {failure:?}");
}

#[test]
fn the_check_of_a_search_has_its_memory_from_the_start_and_no_candidate_is_blamed_for_want_of_it() {
    let memory = Watched::default();
    let (mut bench, mut built) = noisy_bench_in(&memory, 2, true);
    memory.is_full.store(true, Relaxed);
    assert!(bench.check(&mut built).unwrap() > 0.3);
    let memory = Watched::default();
    let (mut bench, mut built) = noisy_bench_in(&memory, 2, false);
    memory.is_full.store(true, Relaxed);
    let failure = bench.check(&mut built).unwrap_err();
    assert!(failure.blameless && matches!(failure.status, Status::Resources(_)), "{failure:?}");
}

#[test]
fn noise_as_large_as_the_gradient_is_right_as_long_as_it_has_no_bias() {
    for seed in 0..12 {
        let (mut bench, mut built) = noisy_bench(seed);
        let error = bench.check(&mut built).unwrap();
        assert!(error > 0.3, "{error}: the noise is not large");
    }
}

#[test]
fn a_bias_under_noise_is_found() {
    type Spoil = fn(&mut Results);
    // With the noise above, and with that of a trained head, 1e-2.
    let large: [(Spoil, &str); 4] = [
        (|r| r.gradients[0].1.fill(0.0), "dE is off by"),
        (|r| r.gradients[1].1.iter_mut().for_each(|g| *g *= 4.0), "dC is off by"),
        (|r| r.gradients[1].1.iter_mut().for_each(|g| *g = -*g), "dC is off by"),
        (|r| r.gradients[1].1[5] = f32::NAN, "1 element is NaN or not written"),
    ];
    for (spoil, expected) in large {
        let (mut bench, mut built) = noisy_bench(2);
        bench.spoil_reference(spoil).unwrap();
        let reason = bench.check(&mut built).unwrap_err().status.reason().to_owned();
        assert!(reason.contains(expected), "{reason}");
    }
    let small: [(Spoil, &str); 2] = [
        (|r| r.gradients[0].1.iter_mut().for_each(|g| *g *= 1.05), "dE is off by"),
        (|r| r.gradients[1].1[..24 * 300].fill(0.0), "dC is off by"),
    ];
    for (spoil, expected) in small {
        let task = Task { filter: Some(Filter::SAMPLED), ..cross_entropy(DType::F32) };
        let mut bench = bench(&task);
        bench
            .make_reference(&cross_entropy(DType::F32).plan(&Device::cpu(), SCHEDULE).unwrap(), &none())
            .unwrap();
        let mut built = bench.build(&SCHEDULE).unwrap();
        assert!(bench.check(&mut built).is_ok());
        bench.spoil_reference(spoil).unwrap();
        let reason = bench.check(&mut built).unwrap_err().status.reason().to_owned();
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_schedule_of_another_device_is_a_constraint() {
    let bench = bench(&cross_entropy(DType::F32));
    let gpu = cce_codegen::schedule::Gpu::h100();
    let task = cross_entropy(DType::F32);
    let problem = task.builder().build(&Device::cpu()).unwrap().problem().clone();
    let schedule = cce_codegen::schedule::GpuSchedule::simt(&task.program, &problem, &gpu);
    let failure = bench.build(&Schedule::Gpu(schedule)).err().unwrap();
    assert!(matches!(failure.status, Status::Constraint(_)), "{failure:?}");
    let tight = Task { memory_limit: Some(16), ..task };
    let error = tight.plan(&Device::cpu(), SCHEDULE).unwrap_err();
    assert!(matches!(super::failure(&error).status, Status::Resources(_)), "{error}");
}
