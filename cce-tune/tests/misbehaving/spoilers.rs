//! The worker that misbehaves: plans on the CPU device, some of which hang, crash, or spoil what they wrote.

use super::behaviours::*;
use super::case::schedule;
use cce_codegen::schedule::Schedule;
use cce_runtime::{Element, View, ViewMut};
use cce_tune::Error;
use cce_tune::bench::{Built, Comparison, DeviceBench, HostData, HostMemory, Memory, PlanBench};
use cce_tune::search::{Bench, Compile, Failure};
use cce_tune::worker::{Host, Job};
use cce_tuning_db::{Clocks, Resources, Status};
use rustix::process::{Signal, getpid, kill_process};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Plans, some of which misbehave.
pub(super) struct Misbehaving;

pub(super) struct Spoiled {
    bench: PlanBench<SpoiledMemory>,
    memory: SpoiledMemory,
}

pub(super) struct SpoiledBuilt {
    built: Built,
    behaviour: u32,
}

impl Host for Misbehaving {
    type Bench = Spoiled;

    fn bench(&self, job: &Job) -> Result<Spoiled, Error> {
        let (task, device, head) = (job.task()?, job.device()?, job.head()?);
        let (arguments, problem) = (job.arguments(&task)?, job.problem.clone().unwrap());
        let memory = SpoiledMemory::default();
        let mut bench =
            PlanBench::new(memory.clone(), device.clone(), task.clone(), &head, &arguments, Some(&problem))?;
        let plan = task.exact().plan(&device, schedule(24))?;
        bench.make_reference(&plan, &arguments)?;
        Ok(Spoiled { bench, memory })
    }

    fn compiler(&self, _: &Job) -> Result<Box<dyn Compile>, Error> {
        Ok(Box::new(SpoiledCompiler))
    }
}

/// Compiles nothing, well or badly.
struct SpoiledCompiler;

impl Compile for SpoiledCompiler {
    fn compile(&self, schedule: &Schedule) -> Result<Option<Resources>, Failure> {
        let Schedule::Cpu(cpu) = schedule else { panic!("a schedule of another device") };
        match cpu.token_block {
            HANGS => hang(),
            ABORTS => std::process::abort(),
            IS_WRONG => Err(Failure::new(Status::Resources("spilled 80 bytes".to_owned()))),
            block => Ok(Some(Resources::new(block, 0, 1024))),
        }
    }

    fn threads(&self) -> usize {
        1
    }
}

/// The host's memory, in which what a plan wrote is spoiled.
#[derive(Clone, Default)]
struct SpoiledMemory {
    host: HostMemory,
    /// That of the schedule that runs.
    behaviour: Arc<AtomicU32>,
}

impl Memory for SpoiledMemory {
    type Buffer = <HostMemory as Memory>::Buffer;

    fn upload(&self, values: HostData<'_>, what: &str) -> Result<Self::Buffer, Error> {
        self.host.upload(values, what)
    }

    fn duplicate(&self, buffer: &Self::Buffer, what: &str) -> Result<Self::Buffer, Error> {
        self.host.duplicate(buffer, what)
    }

    fn poisoned(&self, element: Element, len: usize, what: &str) -> Result<Self::Buffer, Error> {
        self.host.poisoned(element, len, what)
    }

    fn poison(&self, buffer: &mut Self::Buffer) -> Result<(), Error> {
        self.host.poison(buffer)
    }

    fn view<'a>(&self, buffer: &'a Self::Buffer) -> View<'a> {
        self.host.view(buffer)
    }

    fn view_mut<'a>(&self, buffer: &'a mut Self::Buffer) -> ViewMut<'a> {
        self.host.view_mut(buffer)
    }

    fn download(&self, buffer: &Self::Buffer) -> Result<Vec<f32>, Error> {
        let mut values = self.host.download(buffer)?;
        match self.behaviour.load(Ordering::SeqCst) {
            IS_WRONG => values.iter_mut().for_each(|x| *x *= 1.5),
            LEAVES_HOLES if values.len() > 100 => {
                // What poison leaves where a kernel writes nothing.
                let mut unwritten = self.poisoned(Element::F32, 1, "a hole")?;
                self.poison(&mut unwritten)?;
                values[77] = self.host.download(&unwritten)?[0];
            }
            _ => {}
        }
        Ok(values)
    }

    fn compare(&self, buffer: &Self::Buffer, reference: &Self::Buffer) -> Result<Comparison, Error> {
        Ok(Comparison::of(&self.download(buffer)?, &self.host.download(reference)?))
    }

    fn time(&self, work: impl FnOnce() -> Result<(), Error>) -> Result<f64, Error> {
        self.host.time(work)
    }

    fn free_bytes(&self) -> u64 {
        0
    }

    fn clocks(&self) -> Option<Clocks> {
        None
    }
}

fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

#[expect(unconditional_recursion, reason = "it is meant to fail")]
fn overflow(depth: u64) -> u64 {
    std::hint::black_box([depth; 1000]);
    overflow(depth + 1) + 1
}

impl Bench for Spoiled {
    type Built = SpoiledBuilt;

    fn build(&self, schedule: &Schedule) -> Result<SpoiledBuilt, Failure> {
        let Schedule::Cpu(cpu) = *schedule else { panic!("a schedule of another device") };
        Ok(SpoiledBuilt { built: self.bench.build(schedule)?, behaviour: behaviour(cpu) })
    }

    fn resources(&self, built: &SpoiledBuilt) -> Option<Resources> {
        self.bench.resources(&built.built)
    }

    fn check(&mut self, built: &mut SpoiledBuilt) -> Result<f64, Failure> {
        match built.behaviour {
            HANGS => hang(),
            ABORTS => std::process::abort(),
            IS_KILLED => {
                kill_process(getpid(), Signal::KILL).unwrap();
                hang()
            }
            EXITS => std::process::exit(7),
            WRITES_GARBAGE => {
                println!("the result is 42");
                hang()
            }
            OVERFLOWS_THE_STACK => Ok(overflow(0) as f64),
            BREAKS_THE_DEVICE => {
                let failure = Failure::new(Status::Launch("an illegal address".to_owned()));
                Err(Failure { fatal: true, ..failure })
            }
            behaviour => {
                if behaviour == PRINTS {
                    println!("the result is 42");
                }
                self.memory.behaviour.store(behaviour, Ordering::SeqCst);
                self.bench.check(&mut built.built)
            }
        }
    }

    fn time(&mut self, built: &mut SpoiledBuilt, round: usize) -> Result<f64, Failure> {
        match built.behaviour {
            HANGS_WHEN_TIMED => hang(),
            _ => self.bench.time(&mut built.built, round),
        }
    }

    fn clocks(&self) -> Option<Clocks> {
        self.bench.clocks()
    }
}

/// A host that can prepare nothing.
pub(super) struct Refuses;

impl Host for Refuses {
    type Bench = DeviceBench;

    fn bench(&self, _: &Job) -> Result<DeviceBench, Error> {
        Err(Error::Usage { reason: "the inputs are gone".to_owned() })
    }

    fn compiler(&self, _: &Job) -> Result<Box<dyn Compile>, Error> {
        Err(Error::NoCandidate)
    }
}
