//! A bench in another process.

use super::message::{Reply, Request};
use super::process::{Process, Silence};
use super::{Job, RemoteCompiler, WorkerCommand};
use crate::Error;
use crate::phases::Phase;
use crate::search::{Bench, Compile, Failure};
use crate::stop::Stop;
use cce_codegen::schedule::Schedule;
use cce_tuning_db::{Clocks, Resources, Status};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long inputs and reference may take.
const PREPARATION: Duration = Duration::from_secs(600);
/// How long a build and a check may take at least on a GPU: it may compile.
const CHECK: Duration = Duration::from_secs(60);
/// And on the CPU device, where nothing compiles.
const CHECK_ON_CPU: Duration = Duration::from_secs(5);
/// How often whoever waits for that looks whether it shall stop.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a worker that dies while it prepares is started again.
const ATTEMPTS: usize = 3;

/// A bench that forwards to a worker.
#[derive(Debug)]
pub struct RemoteBench {
    command: WorkerCommand,
    job: Job,
    /// How long a timed run may take.
    limit: Duration,
    /// The least that a build and a check may take.
    check: Duration,
    link: Mutex<Link>,
    gone: Arc<Mutex<Vec<u64>>>,
    /// Kept from batch to batch: its processes have loaded NVRTC.
    compiler: OnceLock<Arc<RemoteCompiler>>,
    refusal: Refusal,
    stop: Stop,
}

/// Why a worker could not make what candidates are compared with, where whoever stated task and inputs can mend it;
/// its clones share it.
#[derive(Clone, Debug, Default)]
pub struct Refusal(Arc<OnceLock<String>>);

impl Refusal {
    /// The refusal as an error, else `error`, which is what it looks like to a search.
    pub fn instead_of(&self, error: Error) -> Error {
        match (self.0.get(), &error) {
            (Some(reason), Error::Worker { .. }) => Error::Inputs { reason: reason.clone() },
            _ => error,
        }
    }
}

#[derive(Debug)]
struct Link {
    process: Option<Process>,
    /// When the process was started; `None`: it is ready.
    started: Option<Instant>,
    next: u64,
    clocks: Option<Clocks>,
    /// How long the preparation took.
    preparation: Duration,
    phases: Vec<Phase>,
}

/// A schedule that is built in the worker, or will be when it is needed.
#[derive(Debug)]
pub struct RemoteBuilt {
    number: u64,
    schedule: Schedule,
    resources: Option<Resources>,
    gone: Arc<Mutex<Vec<u64>>>,
}

impl Drop for RemoteBuilt {
    fn drop(&mut self) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).push(self.number);
    }
}

impl RemoteBench {
    /// Starts a worker, which prepares itself while the caller goes on. That it cannot be started is told by
    /// the first check.
    pub fn start(command: WorkerCommand, job: Job) -> RemoteBench {
        let mut link = Link {
            process: None,
            started: None,
            next: 0,
            clocks: None,
            preparation: Duration::ZERO,
            phases: Vec::new(),
        };
        // A failure is met again, and reported, where the worker is needed.
        let _ = link.begin(&command, &job);
        let check = job.gpu.map_or(CHECK_ON_CPU, |_| CHECK);
        RemoteBench {
            command,
            job,
            limit: PREPARATION,
            check,
            link: Mutex::new(link),
            gone: Arc::default(),
            compiler: OnceLock::new(),
            refusal: Refusal::default(),
            stop: Stop::new(),
        }
    }

    /// Gives up waiting for a worker that makes inputs and reference when it is asked to stop: what wanted it fails, for
    /// nobody's fault.
    #[must_use]
    pub fn stopped_by(self, stop: Stop) -> RemoteBench {
        RemoteBench { stop, ..self }
    }

    /// How long a build and a check may take at least: a minute (on the CPU device five seconds), if this is not
    /// called. A check may take ten times as long as inputs and reference took, if that is longer.
    #[must_use]
    pub fn check_limit(self, check: Duration) -> RemoteBench {
        RemoteBench { check, ..self }
    }

    /// Where it is told why there can be no worker.
    pub fn refusal(&self) -> Refusal {
        self.refusal.clone()
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> Vec<u64> {
        std::mem::take(&mut self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends a request and waits for the reply; `what` may not take longer than `limit`.
    fn ask(&self, request: &Request, limit: Option<Duration>, what: &str) -> Result<Reply, Failure> {
        let mut link = self.link();
        link.prepare(&self.command, &self.job, &self.refusal, &self.stop)?;
        let limit = limit.unwrap_or_else(|| self.check.max(10 * link.preparation));
        let Some(process) = &mut link.process else { return Err(blameless("there is no worker")) };
        process.send(request);
        let failure = match process.receive(limit) {
            Ok(Reply::Failed(failed)) if !failed.fatal => return Err(failed.into()),
            // The device is beyond use in that process.
            Ok(Reply::Failed(failed)) => failed.into(),
            Ok(Reply::Refused { reason, .. }) => blameless(reason),
            Ok(reply) => return Ok(reply),
            Err(Silence::TooLate) => {
                let limit = limit.as_secs_f64();
                Failure::new(Status::Timeout(format!("{what} took longer than {limit:.1} s and was ended")))
            }
            Err(Silence::Crashed(how)) => Failure::new(Status::Crashed(format!("{what}: {how}"))),
        };
        match link.end() {
            true => Err(failure),
            false => Err(blameless(format!(
                "the worker does not end when it is killed ({}): the device or its driver hangs",
                failure.status.reason()
            ))),
        }
    }
}

fn blameless(reason: impl Into<String>) -> Failure {
    Failure { blameless: true, ..Failure::new(Status::Launch(reason.into())) }
}

impl Link {
    /// Starts a worker and tells it to prepare itself.
    fn begin(&mut self, command: &WorkerCommand, job: &Job) -> std::io::Result<()> {
        let mut process = Process::start(command)?;
        process.send(&Request::Bench(Box::new(job.clone())));
        (self.process, self.started) = (Some(process), Some(Instant::now()));
        Ok(())
    }

    /// Waits until there is a worker that is ready.
    fn prepare(
        &mut self,
        command: &WorkerCommand,
        job: &Job,
        refusal: &Refusal,
        stop: &Stop,
    ) -> Result<(), Failure> {
        let mut reason = String::new();
        for _ in 0..ATTEMPTS {
            if self.process.is_none() {
                self.begin(command, job).map_err(|error| {
                    blameless(format!("cannot start the worker {}: {error}", command.program.display()))
                })?;
            }
            let (Some(process), Some(started)) = (&mut self.process, self.started) else { return Ok(()) };
            let reply = loop {
                match process.receive(PAUSE) {
                    Err(Silence::TooLate) if stop.requested() => {
                        self.end();
                        return Err(blameless(
                            "it was asked to stop while a worker made inputs and reference",
                        ));
                    }
                    Err(Silence::TooLate) if started.elapsed() < PREPARATION => {}
                    reply => break reply,
                }
            };
            match reply {
                Ok(Reply::Ready { phases }) => {
                    self.preparation = started.elapsed();
                    self.phases = phases;
                    self.started = None;
                    return Ok(());
                }
                Ok(Reply::Refused { reason, mistake }) => {
                    self.end();
                    if mistake {
                        // Every worker would say the same.
                        let _ = refusal.0.set(reason.clone());
                    }
                    return Err(blameless(reason));
                }
                Ok(other) => reason = format!("it answered {other:?}"),
                Err(Silence::TooLate) => reason = "it took longer than ten minutes".to_owned(),
                Err(Silence::Crashed(how)) => reason = how,
            }
            self.end();
        }
        Err(blameless(format!("no worker could make inputs and reference, the last of {ATTEMPTS}: {reason}")))
    }

    fn is_ready(&self) -> bool {
        self.process.is_some() && self.started.is_none()
    }

    /// Ends the worker; returns whether it is gone.
    fn end(&mut self) -> bool {
        self.started = None;
        self.process.take().is_none_or(Process::kill)
    }
}

impl Bench for RemoteBench {
    type Built = RemoteBuilt;

    fn build(&self, schedule: &Schedule) -> Result<RemoteBuilt, Failure> {
        let mut link = self.link();
        link.next += 1;
        let gone = self.gone.clone();
        Ok(RemoteBuilt { number: link.next, schedule: *schedule, resources: None, gone })
    }

    fn resources(&self, built: &RemoteBuilt) -> Option<Resources> {
        built.resources
    }

    fn check(&mut self, built: &mut RemoteBuilt) -> Result<f64, Failure> {
        let (number, schedule) = (built.number, built.schedule);
        match self.ask(&Request::Check { number, schedule, gone: self.gone() }, None, "the check")? {
            Reply::Checked { error, resources, clocks } => {
                built.resources = resources;
                self.link().clocks = clocks;
                Ok(f64::from_bits(error))
            }
            other => Err(blameless(format!("the worker answered a check with {other:?}"))),
        }
    }

    fn time(&mut self, built: &mut RemoteBuilt, round: usize) -> Result<f64, Failure> {
        let (number, schedule) = (built.number, built.schedule);
        // A worker that was started again makes everything again before it times.
        let limit = self.link().is_ready().then_some(self.limit);
        let request = Request::Time { number, schedule, round, gone: self.gone() };
        match self.ask(&request, limit, "a timed run")? {
            Reply::Timed { ms, clocks } => {
                self.link().clocks = clocks;
                Ok(ms)
            }
            other => Err(blameless(format!("the worker answered a timed run with {other:?}"))),
        }
    }

    fn clocks(&self) -> Option<Clocks> {
        self.link().clocks
    }

    fn phases(&self) -> Vec<Phase> {
        self.link().phases.clone()
    }

    fn limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    fn compiler(&self) -> Option<Arc<dyn Compile>> {
        self.job.gpu?;
        let made = || Arc::new(RemoteCompiler::new(self.command.clone(), self.job.clone()));
        let compiler = self.compiler.get_or_init(made);
        compiler.resume();
        Some(compiler.clone())
    }
}
