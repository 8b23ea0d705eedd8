//! Compilers in other processes: NVRTC on all cores, and a crash of it costs one candidate.

use super::message::{Reply, Request};
use super::process::{Process, Silence};
use super::{Job, WorkerCommand};
use crate::search::{Compile, Failure};
use cce_codegen::schedule::Schedule;
use cce_tuning_db::{Resources, Status};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a compilation may take.
const LIMIT: Duration = Duration::from_secs(120);
/// How often the wait for a compilation looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);
/// Threads of one process: the modules of a plan compile in parallel.
const THREADS: usize = 4;

/// Compiles in worker processes, one a thread that asks, each with four threads of its own.
#[derive(Debug)]
pub struct RemoteCompiler {
    command: WorkerCommand,
    job: Job,
    processes: usize,
    idle: Mutex<Vec<Process>>,
    cancelled: AtomicBool,
}

impl RemoteCompiler {
    /// Processes are started as they are needed: enough for all cores of this tuning's but one, which is the measurement's.
    pub fn new(command: WorkerCommand, job: Job) -> RemoteCompiler {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let free = (cores / command.tunings.max(1)).saturating_sub(1).max(1);
        let threads = THREADS.min(free);
        RemoteCompiler {
            command: command.variable("RAYON_NUM_THREADS", threads.to_string()),
            job,
            processes: free.div_ceil(threads),
            idle: Mutex::default(),
            cancelled: AtomicBool::new(false),
        }
    }

    /// Compiles again after it was cancelled, in the processes that are there.
    pub fn resume(&self) {
        self.cancelled.store(false, Ordering::SeqCst);
    }

    fn ready(&self) -> Result<Process, Failure> {
        if let Some(idle) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(idle);
        }
        let program = self.command.program.display();
        let mut process = Process::start(&self.command)
            .map_err(|error| blameless(format!("cannot start the compiling worker {program}: {error}")))?;
        process.send(&Request::Compiler(Box::new(self.job.clone())));
        match self.reply(&mut process)? {
            Reply::Ready { .. } => Ok(process),
            Reply::Refused { reason, .. } => Err(blameless(reason)),
            other => Err(blameless(format!("the compiling worker answered {other:?}"))),
        }
    }

    /// The reply of a process, or why it has to be ended.
    fn reply(&self, process: &mut Process) -> Result<Reply, Failure> {
        let started = Instant::now();
        loop {
            match process.receive(LOOK) {
                Ok(reply) => return Ok(reply),
                Err(Silence::Crashed(how)) => {
                    return Err(Failure::new(Status::Crashed(format!("compilation: {how}"))));
                }
                Err(Silence::TooLate) if self.cancelled.load(Ordering::SeqCst) => {
                    return Err(blameless("the compilation was cancelled"));
                }
                Err(Silence::TooLate) if started.elapsed() > LIMIT => {
                    let limit = LIMIT.as_secs();
                    let why = format!("compilation took longer than {limit} s and was ended");
                    return Err(Failure::new(Status::Timeout(why)));
                }
                Err(Silence::TooLate) => {}
            }
        }
    }
}

fn blameless(reason: impl Into<String>) -> Failure {
    Failure { blameless: true, ..Failure::new(Status::Compile(reason.into())) }
}

impl Compile for RemoteCompiler {
    fn compile(&self, schedule: &Schedule) -> Result<Option<Resources>, Failure> {
        let mut process = self.ready()?;
        process.send(&Request::Compile(*schedule));
        // A process without a reply is dropped, and with that ended.
        let outcome = match self.reply(&mut process)? {
            Reply::Compiled(resources) => Ok(resources),
            Reply::Failed(failed) => Err(failed.into()),
            Reply::Refused { reason, .. } => Err(blameless(reason)),
            other => Err(blameless(format!("the compiling worker answered {other:?}"))),
        };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(process);
        outcome
    }

    fn threads(&self) -> usize {
        self.processes
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }
}
