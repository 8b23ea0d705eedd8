//! The worker that misbehaves, and the tests of its parent.

use cce_codegen::problem::{DType, Filter};
use cce_codegen::schedule::{CpuSchedule, Schedule};
use cce_runtime::{Device, Element, View, ViewMut, selection};
use cce_tune::Error;
use cce_tune::bench::{Built, Comparison, DeviceBench, HostData, HostMemory, Memory, PlanBench};
use cce_tune::data::HeadSource;
use cce_tune::progress::Silent;
use cce_tune::search::{
    Bench, Candidate, Compile, Effort, Ended, Failure, Ranking, Store, search, search_on,
};
use cce_tune::stop::Stop;
use cce_tune::task::Task;
use cce_tune::worker::{Host, Job, Plans, RemoteBench, RemoteCompiler, WorkerCommand, serve};
use cce_tuning_db::{Clocks, Config, Database, Generation, Provenance, Resources, Status};
use rustix::process::{Pid, Signal, getpid, kill_process, test_kill_process};
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where the worker leaves its process's number, a line a start.
const STARTS: &str = "CCE_TEST_WORKER_STARTS";

/// Token blocks, and what the worker does with them.
const HANGS: u32 = 101;
const ABORTS: u32 = 102;
const IS_KILLED: u32 = 103;
const EXITS: u32 = 104;
const WRITES_GARBAGE: u32 = 105;
const IS_WRONG: u32 = 106;
const LEAVES_HOLES: u32 = 107;
const HANGS_WHEN_TIMED: u32 = 108;
const BREAKS_THE_DEVICE: u32 = 109;
const OVERFLOWS_THE_STACK: u32 = 110;

pub fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("worker") => {
            note_start();
            serve(&Misbehaving, std::io::stdin(), std::io::stdout()).unwrap();
        }
        Some("refuses") => serve(&Refuses, std::io::stdin(), std::io::stdout()).unwrap(),
        Some("dies") => std::process::abort(),
        Some("parent") => parent(),
        _ => run_tests(),
    }
}

/// What cargo and nextest expect of a test program: `--list`, a name or a part of one, `--exact`.
fn run_tests() {
    let flags: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| flags.iter().any(|given| given == flag);
    let wanted = flags.iter().find(|given| !given.starts_with('-') && *given != "terse");
    let is_wanted = |name: &str| match wanted {
        Some(wanted) if has("--exact") => name == wanted,
        Some(wanted) => name.contains(wanted.as_str()),
        None => true,
    };
    if has("--list") || has("--ignored") {
        if !has("--ignored") {
            TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    let mut failed = false;
    for (name, test) in TESTS.iter().filter(|(name, _)| is_wanted(name)) {
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed |= !passed;
    }
    std::process::exit(i32::from(failed));
}

const TESTS: &[(&str, fn())] = &[
    (
        "whatever_a_candidate_does_it_costs_that_candidate_only",
        whatever_a_candidate_does_it_costs_that_candidate_only,
    ),
    (
        "a_worker_that_is_killed_from_outside_is_started_again",
        a_worker_that_is_killed_from_outside_is_started_again,
    ),
    (
        "a_worker_that_cannot_be_prepared_ends_the_search_and_blames_nobody",
        a_worker_that_cannot_be_prepared_ends_the_search_and_blames_nobody,
    ),
    (
        "a_compiler_that_crashes_costs_its_candidate_and_one_that_hangs_ends_when_nobody_waits",
        a_compiler_that_crashes_costs_its_candidate_and_one_that_hangs_ends_when_nobody_waits,
    ),
    (
        "two_workers_share_the_candidates_and_each_one_is_tried_once",
        two_workers_share_the_candidates_and_each_one_is_tried_once,
    ),
    (
        "a_worker_does_not_outlive_its_parent_even_while_it_hangs",
        a_worker_does_not_outlive_its_parent_even_while_it_hangs,
    ),
    ("a_remote_bench_measures_what_a_bench_measures", a_remote_bench_measures_what_a_bench_measures),
];

/// Plans, some of which misbehave.
struct Misbehaving;

struct Spoiled {
    bench: PlanBench<SpoiledMemory>,
    memory: SpoiledMemory,
}

struct SpoiledBuilt {
    built: Built,
    block: u32,
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
    /// The token block that runs.
    block: Arc<AtomicU32>,
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
        match self.block.load(Ordering::SeqCst) {
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
        Ok(SpoiledBuilt { built: self.bench.build(schedule)?, block: cpu.token_block })
    }

    fn resources(&self, built: &SpoiledBuilt) -> Option<Resources> {
        self.bench.resources(&built.built)
    }

    fn check(&mut self, built: &mut SpoiledBuilt) -> Result<f64, Failure> {
        match built.block {
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
            block => {
                self.memory.block.store(block, Ordering::SeqCst);
                self.bench.check(&mut built.built)
            }
        }
    }

    fn time(&mut self, built: &mut SpoiledBuilt, round: usize) -> Result<f64, Failure> {
        match built.block {
            HANGS_WHEN_TIMED => hang(),
            _ => self.bench.time(&mut built.built, round),
        }
    }

    fn clocks(&self) -> Option<Clocks> {
        self.bench.clocks()
    }
}

/// A host that can prepare nothing.
struct Refuses;

impl Host for Refuses {
    type Bench = DeviceBench;

    fn bench(&self, _: &Job) -> Result<DeviceBench, Error> {
        Err(Error::Usage { reason: "the inputs are gone".to_owned() })
    }

    fn compiler(&self, _: &Job) -> Result<Box<dyn Compile>, Error> {
        Err(Error::NoCandidate)
    }
}

fn note_start() {
    let Some(path) = std::env::var_os(STARTS) else { return };
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    writeln!(file, "{}", getpid().as_raw_pid()).unwrap();
}

fn started(path: &Path) -> Vec<Pid> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| Pid::from_raw(line.parse().unwrap()).unwrap()).collect()
}

fn schedule(token_block: u32) -> Schedule {
    Schedule::Cpu(CpuSchedule { token_block, strip: 256 })
}

fn candidates(blocks: &[u32]) -> Vec<Candidate> {
    let of = |&block: &u32| {
        let config = Config::new(serde_json::to_value(schedule(block)).unwrap());
        Candidate { schedule: schedule(block), config, constraint: None, is_default: false }
    };
    blocks.iter().map(of).collect()
}

/// A problem that takes a fraction of a millisecond, and where it is stored.
struct Case {
    folder: tempfile::TempDir,
    job: Job,
}

impl Case {
    fn new() -> Case {
        let program = cce::losses::named("cross_entropy").unwrap();
        let task = Task { filter: Some(Filter::Exact), ..Task::new(program, 48, 16, 1500, DType::F32) };
        let problem = task.builder().build(&Device::cpu()).unwrap().problem().clone();
        let job = Job::new(&task, &[], HeadSource::Generated { seed: 0 }).on(&Device::cpu(), &problem);
        Case { folder: tempfile::tempdir().unwrap(), job }
    }

    fn starts(&self) -> PathBuf {
        self.folder.path().join("starts")
    }

    fn command(&self, role: &str) -> WorkerCommand {
        let this = std::env::current_exe().unwrap();
        WorkerCommand::new(this, [role.into()]).variable(STARTS, self.starts())
    }

    fn bench(&self, role: &str) -> RemoteBench {
        RemoteBench::start(self.command(role), self.job.clone()).check_limit(Duration::from_millis(1500))
    }

    fn store(&self) -> Store {
        let problem = self.job.problem.clone().unwrap();
        let key = selection::key(&self.job.task().unwrap().program, &problem, selection::cpu()).unwrap();
        let database = Database::open(&self.folder.path().join("database")).unwrap();
        let (made, here) = (Generation::new("1", "s"), Provenance::new("here", 0));
        Store::open(database, key, selection::shape(&problem), made, here).unwrap()
    }

    fn search(&self, blocks: &[u32], role: &str) -> Result<(Ended, Ranking), Error> {
        let candidates = candidates(blocks);
        let mut store = self.store();
        let effort = Effort {
            batch: 4,
            patience: Duration::from_millis(1500),
            timeout: Duration::from_millis(1500),
            ..Effort::default()
        };
        let bench = || Ok(self.bench(role));
        let ended = search(&candidates, &mut store, &effort, &Silent, &Stop::new(), bench)?;
        Ok((ended, Ranking::new(&candidates, &store)))
    }
}

fn is_running(pid: Pid) -> bool {
    // A process that has ended and was not waited for is a zombie, which can be signalled still.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.contains(") Z ")
}

fn whatever_a_candidate_does_it_costs_that_candidate_only() {
    let case = Case::new();
    let good = [8, 12, 16, 24, 32];
    let bad = [
        (HANGS, "timeout", "the check took longer than"),
        (ABORTS, "crashed", "SIGABRT"),
        (IS_KILLED, "crashed", "SIGKILL"),
        (EXITS, "crashed", "exit status: 7"),
        (WRITES_GARBAGE, "crashed", "no message: \"the resu\""),
        (IS_WRONG, "wrong", "differs"),
        (LEAVES_HOLES, "wrong", "not written"),
        (HANGS_WHEN_TIMED, "timeout", "a timed run took longer than"),
        (BREAKS_THE_DEVICE, "launch", "an illegal address"),
        (OVERFLOWS_THE_STACK, "crashed", "signal"),
    ];
    let mut all: Vec<u32> = bad.iter().map(|(block, ..)| *block).collect();
    for (at, block) in good.into_iter().enumerate() {
        all.insert(2 * at + 1, block);
    }
    let (ended, ranking) = case.search(&all, "worker").unwrap();
    assert_eq!(ended, Ended::Complete);
    let entry = |block: u32| ranking.entries.iter().find(|entry| entry.schedule == schedule(block)).unwrap();
    for (block, status, reason) in bad {
        let trial = entry(block).trial.as_ref().unwrap();
        assert_eq!(trial.status.name(), status, "{block}: {:?}", trial.status);
        assert!(trial.status.reason().contains(reason), "{block}: {:?}", trial.status);
    }
    for block in good {
        let trial = entry(block).trial.as_ref().unwrap();
        assert_eq!(trial.status, Status::Ok, "{block}");
        assert!(trial.gradient_error.unwrap() < 1e-4);
    }
    assert!(ranking.winner().is_some());
    // One start for each that its worker did not survive, and the first.
    let died = bad.iter().filter(|(_, status, _)| *status != "wrong").count();
    let starts = started(&case.starts());
    assert_eq!(starts.len(), died + 1);
    assert!(starts.iter().all(|pid| !is_running(*pid)), "a worker was left behind");
    // All of it is stored: a second search starts no worker.
    let (ended, again) = case.search(&all, "worker").unwrap();
    assert_eq!(ended, Ended::Complete);
    assert_eq!(again.counts(), ranking.counts());
    assert_eq!(started(&case.starts()).len(), starts.len());
}

fn a_worker_that_is_killed_from_outside_is_started_again() {
    let case = Case::new();
    let mut bench = case.bench("worker");
    let mut built = bench.build(&schedule(16)).unwrap();
    bench.check(&mut built).unwrap();
    let first = started(&case.starts())[0];
    kill_process(first, Signal::KILL).unwrap();
    let failure = bench.time(&mut built, 0).unwrap_err();
    assert!(matches!(&failure.status, Status::Crashed(how) if how.contains("SIGKILL")), "{failure:?}");
    assert!(!failure.fatal && !failure.blameless);
    // The schedule is built again in the next worker, without a word to the caller.
    assert!(bench.time(&mut built, 1).unwrap() > 0.0);
    assert_eq!(started(&case.starts()).len(), 2);
}

fn a_worker_that_cannot_be_prepared_ends_the_search_and_blames_nobody() {
    for (role, expected) in [("refuses", "the inputs are gone"), ("dies", "SIGABRT")] {
        let case = Case::new();
        let error = case.search(&[8, 16], role).unwrap_err();
        assert!(matches!(error, Error::Worker { .. }) && error.to_string().contains(expected), "{error}");
        let ranking = Ranking::new(&candidates(&[8, 16]), &case.store());
        assert_eq!(ranking.counts(), [("not tried", 2)]);
    }
    let case = Case::new();
    let nothing = WorkerCommand::new("/no/such/program", []);
    let mut bench = RemoteBench::start(nothing, case.job.clone());
    let mut built = bench.build(&schedule(16)).unwrap();
    let failure = bench.check(&mut built).unwrap_err();
    assert!(failure.blameless && failure.status.reason().contains("/no/such/program"), "{failure:?}");
}

/// A parent whose worker hangs: says so, and waits.
fn parent() {
    let case = Case::new();
    let mut bench = case.bench("worker").check_limit(Duration::from_secs(600));
    let mut built = bench.build(&schedule(16)).unwrap();
    bench.check(&mut built).unwrap();
    println!("{}", started(&case.starts())[0].as_raw_pid());
    let mut hanging = bench.build(&schedule(HANGS)).unwrap();
    let _ = bench.check(&mut hanging);
}

fn a_worker_does_not_outlive_its_parent_even_while_it_hangs() {
    let this = std::env::current_exe().unwrap();
    let mut parent = Command::new(this).arg("parent").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let worker = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(is_running(worker));
    parent.kill().unwrap();
    parent.wait().unwrap();
    let killed = Instant::now();
    while is_running(worker) {
        assert!(killed.elapsed() < Duration::from_secs(10), "the worker outlives its parent");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn a_compiler_that_crashes_costs_its_candidate_and_one_that_hangs_ends_when_nobody_waits() {
    let case = Case::new();
    let compiler = RemoteCompiler::new(case.command("worker"), case.job.clone());
    assert_eq!(compiler.compile(&schedule(16)), Ok(Some(Resources::new(16, 0, 1024))));
    let spilled = compiler.compile(&schedule(IS_WRONG)).unwrap_err();
    assert_eq!(spilled.status, Status::Resources("spilled 80 bytes".to_owned()));
    let crashed = compiler.compile(&schedule(ABORTS)).unwrap_err();
    assert!(matches!(&crashed.status, Status::Crashed(how) if how.contains("SIGABRT")), "{crashed:?}");
    assert_eq!(compiler.compile(&schedule(24)), Ok(Some(Resources::new(24, 0, 1024))));
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| compiler.compile(&schedule(HANGS)));
        std::thread::sleep(Duration::from_millis(200));
        compiler.cancel();
        assert!(hanging.join().unwrap().unwrap_err().blameless);
    });
    compiler.resume();
    assert_eq!(compiler.compile(&schedule(32)), Ok(Some(Resources::new(32, 0, 1024))));
    assert_eq!(compiler.compile(&schedule(40)), Ok(Some(Resources::new(40, 0, 1024))));
    drop(compiler);
    let starts = started(&case.starts());
    // One until it aborted, the next until it was cancelled, the last for all that came after.
    assert_eq!(starts.len(), 3);
    assert!(starts.iter().all(|pid| !is_running(*pid)), "a compiler was left behind");
}

fn two_workers_share_the_candidates_and_each_one_is_tried_once() {
    let case = Case::new();
    let blocks: Vec<u32> = (8..24).chain([ABORTS, IS_WRONG]).collect();
    let candidates = candidates(&blocks);
    let mut store = case.store();
    let effort = Effort { batch: 3, ..Effort::default() };
    let benches = || Ok(vec![case.bench("worker"), case.bench("worker")]);
    let ended = search_on(&candidates, &mut store, &effort, &Silent, &Stop::new(), benches).unwrap();
    assert_eq!(ended, Ended::Complete);
    let ranking = Ranking::new(&candidates, &store);
    assert_eq!(ranking.counts(), [("ok", 16), ("wrong", 1), ("crashed", 1)]);
    // Two, and one for the one that aborted.
    assert_eq!(started(&case.starts()).len(), 3);
}

fn a_remote_bench_measures_what_a_bench_measures() {
    let case = Case::new();
    let mut here = Plans.bench(&case.job).unwrap();
    let mut there = case.bench("worker");
    for block in [8, 24] {
        let (mut mine, mut its) =
            (here.build(&schedule(block)).unwrap(), there.build(&schedule(block)).unwrap());
        // The same inputs, to the bit: the same error against the same reference, up to its schedule.
        let (mine_error, its_error) = (here.check(&mut mine).unwrap(), there.check(&mut its).unwrap());
        assert!((mine_error - its_error).abs() < 1e-6, "{mine_error} {its_error}");
        assert!(there.time(&mut its, 0).unwrap() > 0.0);
    }
}
