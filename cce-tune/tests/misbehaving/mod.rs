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
use cce_tune::worker::{Host, Job, Plans, RemoteBench, RemoteCompiler, WorkerCommand, own_streams, serve};
use cce_tuning_db::{Clocks, Config, Database, Generation, Profile, Provenance, Resources, Status};
use rustix::process::{Pid, Signal, getpid, kill_process, test_kill_process};
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
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
const PRINTS: u32 = 111;

/// Which schedules misbehave besides, and how: `BLOCK/STRIP=ONE OF THE ABOVE`, separated by commas.
const MISBEHAVE: &str = "CCE_TEST_MISBEHAVE";

pub fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("worker") => {
            note_start();
            serve(&Misbehaving, std::io::stdin(), std::io::stdout()).unwrap();
        }
        Some("protected") => {
            let (requests, replies) = own_streams().unwrap();
            serve(&Misbehaving, requests, replies).unwrap();
        }
        Some("refuses") => serve(&Refuses, std::io::stdin(), std::io::stdout()).unwrap(),
        Some("dies") => std::process::abort(),
        Some("parent") => parent(),
        // The command line, whose workers are this program.
        Some("profile" | "verify") => return cce_tune::run([]),
        _ => return run_tests(),
    }
    ExitCode::SUCCESS
}

/// What cargo and nextest expect of a test program: `--list`, a name or a part of one, `--exact`.
fn run_tests() -> ExitCode {
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
        return ExitCode::SUCCESS;
    }
    let mut failed = false;
    for (name, test) in TESTS.iter().filter(|(name, _)| is_wanted(name)) {
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed |= !passed;
    }
    ExitCode::from(u8::from(failed))
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
    ("what_a_library_prints_is_no_message", what_a_library_prints_is_no_message),
    (
        "a_worker_that_finds_another_device_refuses_and_says_why",
        a_worker_that_finds_another_device_refuses_and_says_why,
    ),
    (
        "a_profile_is_made_whatever_candidates_do_and_holds_none_that_failed",
        a_profile_is_made_whatever_candidates_do_and_holds_none_that_failed,
    ),
    (
        "winners_that_hang_crash_or_are_wrong_are_what_verify_reports",
        winners_that_hang_crash_or_are_wrong_are_what_verify_reports,
    ),
];

/// Plans, some of which misbehave.
struct Misbehaving;

struct Spoiled {
    bench: PlanBench<SpoiledMemory>,
    memory: SpoiledMemory,
}

struct SpoiledBuilt {
    built: Built,
    behaviour: u32,
}

/// What the worker does with a schedule: any other number than those above is good behaviour.
fn behaviour(cpu: CpuSchedule) -> u32 {
    let place = format!("{}/{}", cpu.token_block, cpu.strip);
    let stated = std::env::var(MISBEHAVE).unwrap_or_default();
    let mut stated = stated.split(',').filter_map(|one| one.split_once('='));
    stated.find(|(of, _)| *of == place).map_or(cpu.token_block, |(_, what)| what.parse().unwrap())
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
    // In one piece: several start at once.
    file.write_all(format!("{}\n", getpid().as_raw_pid()).as_bytes()).unwrap();
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

fn what_a_library_prints_is_no_message() {
    let case = Case::new();
    let mut bench = case.bench("protected");
    let mut built = bench.build(&schedule(PRINTS)).unwrap();
    assert!(bench.check(&mut built).unwrap() < 1e-4);
    assert!(bench.time(&mut built, 0).unwrap() > 0.0);
}

fn a_worker_that_finds_another_device_refuses_and_says_why() {
    let case = Case::new();
    let another = case.command("worker").variable("RAYON_NUM_THREADS", "97");
    let mut bench = RemoteBench::start(another, case.job.clone());
    let mut built = bench.build(&schedule(16)).unwrap();
    let failure = bench.check(&mut built).unwrap_err();
    let reason = failure.status.reason();
    assert!(failure.blameless && reason.contains("with 97 threads, expected "), "{reason}");
    let error = Error::Worker { reason: reason.to_owned() };
    assert!(matches!(bench.refusal().instead_of(error), Error::Inputs { .. }));
}

/// The command line, with workers that misbehave so.
fn command_line(folder: &Path, args: &[&str], misbehave: &[(CpuSchedule, u32)]) -> Output {
    let stated: Vec<String> =
        misbehave.iter().map(|(cpu, how)| format!("{}/{}={how}", cpu.token_block, cpu.strip)).collect();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(args).current_dir(folder).env(MISBEHAVE, stated.join(",")).env_remove("CCE_PROFILE");
    command.env("CCE_TUNING_DIR", folder.join("database")).output().unwrap()
}

const PROFILE: [&str; 16] = [
    "profile",
    "--gpu",
    "cpu",
    "--heads",
    "16x1500",
    "--tokens",
    "48",
    "--objective",
    "gradients",
    "--filter",
    "exact",
    "--budget",
    "none",
    "--keep",
    "8",
    "--json",
];

fn profile_of(folder: &Path, misbehave: &[(CpuSchedule, u32)]) -> Vec<CpuSchedule> {
    let ran = command_line(folder, &[&PROFILE[..], &["--out", "tiny.json"]].concat(), misbehave);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let (profile, skipped) = Profile::read(&folder.join("tiny.json")).unwrap();
    assert!(skipped.is_empty() && profile.entries.len() == 1);
    let of = |winner: &cce_tuning_db::Winner| match selection::schedule(&winner.config).unwrap() {
        Schedule::Cpu(cpu) => cpu,
        Schedule::Gpu(_) => panic!("a schedule of another device"),
    };
    profile.entries[0].winners.iter().map(of).collect()
}

const fn cpu(token_block: u32, strip: u32) -> CpuSchedule {
    CpuSchedule { token_block, strip }
}

fn a_profile_is_made_whatever_candidates_do_and_holds_none_that_failed() {
    let folder = tempfile::tempdir().unwrap();
    let bad = [
        (cpu(16, 512), HANGS, "timeout"),
        (cpu(16, 1024), ABORTS, "crashed"),
        (cpu(16, 2048), EXITS, "crashed"),
        (cpu(32, 512), IS_WRONG, "wrong"),
        (cpu(32, 1024), OVERFLOWS_THE_STACK, "crashed"),
        (cpu(32, 2048), LEAVES_HOLES, "wrong"),
        (cpu(64, 512), HANGS_WHEN_TIMED, "timeout"),
    ];
    let winners = profile_of(folder.path(), &bad.map(|(cpu, how, _)| (cpu, how)));
    assert!(!winners.is_empty());
    let records = Database::open(&folder.path().join("database")).unwrap().records().unwrap();
    let mut tried = 0;
    for (cpu, _, status) in bad {
        assert!(!winners.contains(&cpu), "{cpu:?}");
        // The strategy may do without some.
        let of = |record: &&cce_tuning_db::Record| {
            selection::schedule(&record.trial.config).unwrap() == Schedule::Cpu(cpu)
        };
        for record in records.iter().filter(of) {
            assert_eq!(record.trial.status.name(), status, "{cpu:?}");
            tried += 1;
        }
    }
    assert!(tried >= 3, "{tried} misbehaved");
}

fn winners_that_hang_crash_or_are_wrong_are_what_verify_reports() {
    let folder = tempfile::tempdir().unwrap();
    let winners = profile_of(folder.path(), &[]);
    let rounds: [&[(u32, &str)]; 2] = [
        &[
            (HANGS, "timeout: the check took longer than 5.0 s"),
            (ABORTS, "crashed: the check: the worker ended"),
            (HANGS_WHEN_TIMED, "timeout: a timed run took longer than 2.0 s"),
        ],
        &[(IS_WRONG, "wrong: "), (IS_KILLED, "crashed: the check: the worker ended")],
    ];
    for hows in rounds {
        assert!(winners.len() > hows.len(), "{winners:?}");
        let misbehave: Vec<_> = winners.iter().zip(hows).map(|(cpu, (how, _))| (*cpu, *how)).collect();
        let flags = ["verify", "tiny.json", "--gpu", "cpu", "--best", "4", "--rounds", "3", "--json"];
        let ran = command_line(folder.path(), &flags, &misbehave);
        assert_eq!(ran.status.code(), Some(5), "{}", String::from_utf8_lossy(&ran.stderr));
        let value: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        let lines = value["problems"][0]["schedules"].as_array().unwrap();
        for (line, (_, expected)) in lines.iter().zip(hows) {
            assert!(line["failure"].as_str().unwrap_or_default().contains(expected), "{line}");
            assert!(line["ms"].is_null(), "{line}");
        }
        // Those that behave are measured beside them.
        assert!(lines[hows.len()]["ms"].as_f64().unwrap() > 0.0, "{}", lines[hows.len()]);
        let said = value["problems"][0]["moved"].to_string();
        assert!(said.contains("number 1 (") && said.contains("no longer runs"), "{said}");
    }
}
