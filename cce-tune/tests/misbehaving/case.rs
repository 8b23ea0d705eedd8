//! The problem that the workers are given, and which of them were started.

use cce_codegen::problem::{DType, Filter};
use cce_codegen::schedule::{CpuSchedule, Schedule};
use cce_runtime::{Device, selection};
use cce_tune::Error;
use cce_tune::data::HeadSource;
use cce_tune::progress::Silent;
use cce_tune::search::{Candidate, Effort, Ended, Ranking, Store, search};
use cce_tune::stop::Stop;
use cce_tune::task::Task;
use cce_tune::worker::{Job, RemoteBench, WorkerCommand};
use cce_tuning_db::{Config, Database, Generation, Provenance};
use rustix::process::{Pid, getpid, test_kill_process};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the worker leaves its process's number, a line a start.
const STARTS: &str = "CCE_TEST_WORKER_STARTS";

pub(super) fn note_start() {
    let Some(path) = std::env::var_os(STARTS) else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    // In one piece: several start at once.
    file.write_all(format!("{}\n", getpid().as_raw_pid()).as_bytes()).unwrap();
}

pub(super) fn started(path: &Path) -> Vec<Pid> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| Pid::from_raw(line.parse().unwrap()).unwrap()).collect()
}

pub(super) fn schedule(token_block: u32) -> Schedule {
    Schedule::Cpu(CpuSchedule { token_block, strip: 256 })
}

pub(super) fn candidates(blocks: &[u32]) -> Vec<Candidate> {
    let of = |&block: &u32| {
        let config = Config::new(serde_json::to_value(schedule(block)).unwrap());
        Candidate { schedule: schedule(block), config, constraint: None, is_default: false }
    };
    blocks.iter().map(of).collect()
}

/// A problem that takes a fraction of a millisecond, and where it is stored.
pub(super) struct Case {
    pub(super) folder: tempfile::TempDir,
    pub(super) job: Job,
}

impl Case {
    pub(super) fn new() -> Case {
        let program = cce::losses::named("cross_entropy").unwrap();
        let task = Task { filter: Some(Filter::Exact), ..Task::new(program, 48, 16, 1500, DType::F32) };
        let problem = task.builder().build(&Device::cpu()).unwrap().problem().clone();
        let job = Job::new(&task, &[], HeadSource::Generated { seed: 0 }).on(&Device::cpu(), &problem);
        Case { folder: tempfile::tempdir().unwrap(), job }
    }

    pub(super) fn starts(&self) -> PathBuf {
        self.folder.path().join("starts")
    }

    pub(super) fn command(&self, role: &str) -> WorkerCommand {
        let this = std::env::current_exe().unwrap();
        WorkerCommand::new(this, [role.into()]).variable(STARTS, self.starts())
    }

    pub(super) fn bench(&self, role: &str) -> RemoteBench {
        RemoteBench::start(self.command(role), self.job.clone()).check_limit(Duration::from_millis(1500))
    }

    pub(super) fn store(&self) -> Store {
        let problem = self.job.problem.clone().unwrap();
        let key = selection::key(&self.job.task().unwrap().program, &problem, selection::cpu()).unwrap();
        let database = Database::open(&self.folder.path().join("database")).unwrap();
        let (made, here) = (Generation::new("1", "s"), Provenance::new("here", 0));
        Store::open(database, key, selection::shape(&problem), made, here).unwrap()
    }

    pub(super) fn search(&self, blocks: &[u32], role: &str) -> Result<(Ended, Ranking), Error> {
        self.search_until(&Stop::new(), blocks, role)
    }

    pub(super) fn search_until(
        &self,
        stop: &Stop,
        blocks: &[u32],
        role: &str,
    ) -> Result<(Ended, Ranking), Error> {
        let candidates = candidates(blocks);
        let mut store = self.store();
        let effort = Effort {
            batch: 4,
            patience: Duration::from_millis(1500),
            timeout: Duration::from_millis(1500),
            ..Effort::default()
        };
        let bench = || Ok(self.bench(role).stopped_by(stop.clone()));
        let ended = search(&candidates, &mut store, &effort, &Silent, stop, bench)?;
        Ok((ended, Ranking::new(&candidates, &store)))
    }
}

pub(super) fn is_running(pid: Pid) -> bool {
    // A process that has ended and was not waited for is a zombie, which can be signalled still.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}
