//! The worker's side: does what it is asked, one thing after the other, and dies with its parent.

use super::message::{Failed, Reply, Request};
use super::{Job, frame};
use crate::Error;
use crate::bench::{DeviceBench, DeviceCompiler};
use crate::search::{Bench, Compile, Failure};
use cce_codegen::schedule::Schedule;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{Read, Write};
use std::sync::mpsc;

/// What a worker makes of a job.
pub trait Host {
    /// What measures.
    type Bench: Bench;

    /// Inputs on the device, and the reference.
    ///
    /// # Errors
    /// Why nothing can be measured.
    fn bench(&self, job: &Job) -> Result<Self::Bench, Error>;

    /// What compiles.
    ///
    /// # Errors
    /// Why nothing can be compiled.
    fn compiler(&self, job: &Job) -> Result<Box<dyn Compile>, Error>;
}

/// Plans on the job's device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plans;

impl Host for Plans {
    type Bench = DeviceBench;

    fn bench(&self, job: &Job) -> Result<DeviceBench, Error> {
        let (task, device) = (job.task()?, job.device()?);
        let problem = job.problem.as_ref().ok_or(Error::NoCandidate)?;
        DeviceBench::prepare(&device, &task, || job.head(), &job.arguments(&task)?, problem)
    }

    fn compiler(&self, job: &Job) -> Result<Box<dyn Compile>, Error> {
        let problem = job.problem.clone().ok_or(Error::NoCandidate)?;
        let index = job.gpu.ok_or(Error::NoCandidate)?;
        let info = cce_runtime::driver::Devices::get(index)?;
        Ok(Box::new(DeviceCompiler::new(info, job.task()?.program, problem)))
    }
}

/// Serves requests from `input` until it ends, which ends the process at once, whatever it is doing: whoever
/// asked is gone.
///
/// # Errors
/// When the replies cannot be written, or a request is none.
pub fn serve<H: Host>(
    host: &H,
    mut input: impl Read + Send + 'static,
    mut output: impl Write,
) -> Result<(), Error> {
    let (sender, requests) = mpsc::channel::<Request>();
    std::thread::spawn(move || {
        while let Ok(Some(request)) = frame::read(&mut input) {
            if sender.send(request).is_err() {
                break;
            }
        }
        end_at_once();
    });
    let mut reply = |reply: &Reply| {
        frame::write(&mut output, reply).map_err(|source| Error::Write { path: "the pipe".into(), source })
    };
    let refused = |error: Error| Reply::Refused { mistake: error.is_mistake(), reason: error.to_string() };
    match requests.recv() {
        Ok(Request::Bench(job)) => match host.bench(&job) {
            Ok(bench) => {
                reply(&Reply::Ready { phases: bench.phases() })?;
                let mut serving = Serving { bench, built: HashMap::new() };
                for request in requests {
                    reply(&serving.answer(request))?;
                }
            }
            Err(error) => reply(&refused(error))?,
        },
        Ok(Request::Compiler(job)) => match host.compiler(&job) {
            Ok(compiler) => {
                reply(&Reply::Ready { phases: Vec::new() })?;
                for request in requests {
                    reply(&match request {
                        Request::Compile(schedule) => match compiler.compile(&schedule) {
                            Ok(resources) => Reply::Compiled(resources),
                            Err(failure) => failed(failure),
                        },
                        other => unexpected(&other),
                    })?;
                }
            }
            Err(error) => reply(&refused(error))?,
        },
        Ok(other) => reply(&unexpected(&other))?,
        Err(_) => {}
    }
    Ok(())
}

fn unexpected(request: &Request) -> Reply {
    let reason = format!("this worker was asked for what it does not do: {request:?}");
    Reply::Refused { reason, mistake: false }
}

/// Without destructors and exit handlers, which may wait for a device that hangs.
fn end_at_once() {
    #[cfg(unix)]
    // Fails only for a process that is not there.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    #[cfg(not(unix))]
    std::process::abort();
}

struct Serving<B: Bench> {
    bench: B,
    built: HashMap<u64, B::Built>,
}

impl<B: Bench> Serving<B> {
    fn answer(&mut self, request: Request) -> Reply {
        let outcome = match request {
            Request::Check { number, schedule, gone } => self.check(number, &schedule, &gone),
            Request::Time { number, schedule, round, gone } => self.time(number, &schedule, round, &gone),
            other => Ok(unexpected(&other)),
        };
        outcome.unwrap_or_else(failed)
    }

    fn check(&mut self, number: u64, schedule: &Schedule, gone: &[u64]) -> Result<Reply, Failure> {
        let (bench, built) = self.built(number, schedule, gone)?;
        let error = bench.check(built)?.to_bits();
        Ok(Reply::Checked { error, resources: bench.resources(built), clocks: bench.clocks() })
    }

    fn time(
        &mut self,
        number: u64,
        schedule: &Schedule,
        round: usize,
        gone: &[u64],
    ) -> Result<Reply, Failure> {
        let known = self.built.contains_key(&number);
        let (bench, built) = self.built(number, schedule, gone)?;
        if !known {
            // Built anew: its first run is not like the others'.
            bench.check(built)?;
        }
        let ms = bench.time(built, round)?;
        Ok(Reply::Timed { ms, clocks: bench.clocks() })
    }

    /// What is built under a number, built if it is not.
    fn built(
        &mut self,
        number: u64,
        schedule: &Schedule,
        gone: &[u64],
    ) -> Result<(&mut B, &mut B::Built), Failure> {
        for gone in gone {
            self.built.remove(gone);
        }
        let built = match self.built.entry(number) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => free.insert(self.bench.build(schedule)?),
        };
        Ok((&mut self.bench, built))
    }
}

fn failed(failure: Failure) -> Reply {
    Reply::Failed(Failed::from(failure))
}
