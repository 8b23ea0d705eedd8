//! The search on a bench of invented times.

use super::*;
use crate::progress::Silent;
use cce_codegen::schedule::CpuSchedule;
use cce_tuning_db::{Database, Device, Generation, Key, Problem, ProgramHash, Provenance, Shape};
use std::path::Path;
use std::sync::Mutex;

/// A bench on which a schedule's token block says how it behaves.
pub(super) struct Invented<'a> {
    /// ms of a run of this token block in this round.
    pub(super) time: fn(u32, usize) -> f64,
    /// Why a token block fails, if it does.
    pub(super) fails: fn(u32) -> Option<Failure>,
    pub(super) events: &'a Mutex<Vec<String>>,
    pub(super) stop_after: Option<(&'a Stop, usize)>,
}

impl Invented<'_> {
    fn event(&self, what: &str, block: u32) {
        let mut events = self.events.lock().unwrap();
        events.push(format!("{what} {block}"));
        if let Some((stop, after)) = self.stop_after
            && events.len() >= after
        {
            stop.request();
        }
    }
}

impl Bench for Invented<'_> {
    type Built = u32;

    fn build(&self, schedule: &Schedule) -> Result<u32, Failure> {
        let Schedule::Cpu(cpu) = schedule else { return Err(Failure::new(Status::Compile("no".into()))) };
        self.event("build", cpu.token_block);
        Ok(cpu.token_block)
    }

    fn resources(&self, _: &u32) -> Option<Resources> {
        None
    }

    fn check(&mut self, built: &mut u32) -> Result<f64, Failure> {
        self.event("check", *built);
        (self.fails)(*built).map_or(Ok(1e-7), Err)
    }

    fn time(&mut self, built: &mut u32, round: usize) -> Result<f64, Failure> {
        self.event("time", *built);
        Ok((self.time)(*built, round))
    }

    fn clocks(&self) -> Option<Clocks> {
        None
    }
}

pub(super) fn candidates(blocks: impl IntoIterator<Item = u32>) -> Vec<Candidate> {
    let schedule = |token_block| Schedule::Cpu(CpuSchedule { token_block, strip: 512 });
    blocks
        .into_iter()
        .map(|block| Candidate {
            schedule: schedule(block),
            config: Config::new(serde_json::to_value(schedule(block)).unwrap()),
            constraint: (block == 99).then(|| "99 is too odd".to_owned()),
            is_default: false,
        })
        .collect()
}

pub(super) fn store(folder: &Path) -> Store {
    let shape = Shape::new(8, 8, 8);
    let key = Key::new(ProgramHash::of(b"p"), Problem::new(shape), Device::cpu("invented", 1));
    let database = Database::open(folder).unwrap();
    Store::open(database, key, shape, Generation::new("1", "s"), Provenance::new("here", 0)).unwrap()
}

fn effort() -> Effort {
    Effort { batch: 4, screening: 3, finalists: 2, finals: 5, ..Effort::default() }
}

struct Outcome {
    ended: Ended,
    events: Vec<String>,
    ranking: Ranking,
}

fn run(
    folder: &Path,
    blocks: &[u32],
    fails: fn(u32) -> Option<Failure>,
    stop_after: Option<usize>,
) -> Result<Outcome, Error> {
    let (events, stop) = (Mutex::new(Vec::new()), Stop::new());
    let mut store = store(folder);
    let candidates = candidates(blocks.iter().copied());
    let stop_after = stop_after.map(|after| (&stop, after));
    let time = |block, round| f64::from(block) + 0.01 * round as f64;
    let bench = || Ok(Invented { time, fails, events: &events, stop_after });
    let ended = search(&candidates, &mut store, &effort(), &Silent, &stop, bench)?;
    let ranking = Ranking::new(&candidates, &store);
    store.publish()?;
    Ok(Outcome { ended, events: events.into_inner().unwrap(), ranking })
}

pub(super) fn none(_: u32) -> Option<Failure> {
    None
}

pub(super) fn blocks(ranking: &Ranking) -> Vec<u32> {
    let block = |ranked: &Ranked| match ranked.schedule {
        Schedule::Cpu(cpu) => cpu.token_block,
        Schedule::Gpu(_) => 0,
    };
    ranking.entries.iter().map(block).collect()
}

#[test]
fn the_fastest_wins_and_the_others_say_by_how_much_they_lost() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(folder.path(), &[31, 10, 11, 20, 15, 12], none, None).unwrap();
    assert_eq!(outcome.ended, Ended::Complete);
    assert_eq!(blocks(&outcome.ranking), [10, 11, 12, 15, 20, 31]);
    let reasons: Vec<&str> = outcome.ranking.entries.iter().map(|e| e.reason.as_str()).collect();
    assert_eq!(reasons[0], "");
    assert_eq!(reasons[1], "10 % slower");
    assert!(reasons[5].contains("3.1 times the best"), "{}", reasons[5]);
    // The best and those near the third went through the run-off; what could not win took three samples, the
    // hopeless one two.
    let samples = |at: usize| outcome.ranking.entries[at].trial.samples.len();
    assert_eq!([0, 1, 2, 3, 5].map(samples), [5, 5, 5, 3, 2]);
}

#[test]
fn rounds_are_interleaved_there_and_back_and_then_another_candidate_goes_first() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(folder.path(), &[1000, 1001, 1002], none, None).unwrap();
    let timed: Vec<&str> =
        outcome.events.iter().filter_map(|event| event.strip_prefix("time ")).take(9).collect();
    let (a, b, c) = ("1000", "1001", "1002");
    assert_eq!(timed, [a, b, c, c, b, a, b, c, a]);
}

#[test]
fn a_second_run_measures_nothing() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &[10, 11, 12, 99], none, None).unwrap();
    let again = run(folder.path(), &[10, 11, 12, 99], none, None).unwrap();
    assert_eq!(again.ended, Ended::Complete);
    assert!(again.events.is_empty(), "{:?}", again.events);
    assert_eq!(blocks(&again.ranking), [10, 11, 12, 99]);
}

#[test]
fn what_breaks_a_constraint_is_never_built_and_what_is_wrong_is_never_timed() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = |block| {
        (block == 10)
            .then(|| Failure { error: Some(0.5), ..Failure::new(Status::Wrong("dE differs by 5e-1".into())) })
    };
    let outcome = run(folder.path(), &[10, 11, 99], wrong, None).unwrap();
    assert!(!outcome.events.iter().any(|event| event == "build 99" || event == "time 10"));
    assert_eq!(blocks(&outcome.ranking), [11, 10, 99]);
    assert_eq!(outcome.ranking.entries[1].reason, "dE differs by 5e-1");
    assert_eq!(outcome.ranking.entries[1].trial.gradient_error, Some(0.5));
    assert_eq!(outcome.ranking.entries[2].reason, "99 is too odd");
    assert_eq!(outcome.ranking.counts(), [("ok", 1), ("wrong", 1), ("constraint", 1)]);
}

#[test]
fn a_stopped_search_keeps_whole_batches_and_goes_on_from_there() {
    let all: Vec<u32> = (10..22).collect();
    // A batch of 4: 4 builds, 4 checks, 12 timed runs. Stops in the second batch.
    let folder = tempfile::tempdir().unwrap();
    let stopped = run(folder.path(), &all, none, Some(26)).unwrap();
    assert_eq!(stopped.ended, Ended::Stopped);
    assert_eq!(stopped.ranking.counts(), [("ok", 4)]);
    let resumed = run(folder.path(), &all, none, None).unwrap();
    assert_eq!(resumed.ended, Ended::Complete);
    assert!(!resumed.events.iter().any(|event| event == "build 13"));
    assert_eq!(blocks(&resumed.ranking), all);
}

#[test]
fn a_stop_at_any_moment_ends_in_the_same_result_after_a_second_run() {
    for after in (1..60).step_by(3) {
        let folder = tempfile::tempdir().unwrap();
        let all = [14, 13, 12, 11, 10, 99];
        run(folder.path(), &all, none, Some(after)).unwrap();
        let resumed = run(folder.path(), &all, none, None).unwrap();
        assert_eq!(resumed.ended, Ended::Complete);
        assert_eq!(blocks(&resumed.ranking), [10, 11, 12, 13, 14, 99], "stopped after {after} events");
        assert!(resumed.ranking.winner().unwrap().trial.samples.len() >= 5);
    }
}

#[test]
fn a_lost_device_ends_the_search_and_the_next_one_goes_on_behind_the_culprit() {
    let folder = tempfile::tempdir().unwrap();
    let lost = |block| {
        (block == 11)
            .then(|| Failure { fatal: true, ..Failure::new(Status::Launch("illegal address".into())) })
    };
    let error = run(folder.path(), &[10, 11, 12], lost, None).err().unwrap();
    assert!(error.to_string().contains("illegal address"), "{error}");
    let resumed = run(folder.path(), &[10, 11, 12], none, None).unwrap();
    assert_eq!(resumed.ended, Ended::Complete);
    assert!(!resumed.events.iter().any(|event| event == "build 11"));
    assert_eq!(blocks(&resumed.ranking), [10, 12, 11]);
}

#[test]
fn what_is_not_the_candidates_fault_is_no_trial() {
    let folder = tempfile::tempdir().unwrap();
    let lost = |block| {
        (block == 11).then(|| Failure { blameless: true, ..Failure::new(Status::Launch("no GPU".into())) })
    };
    let error = run(folder.path(), &[10, 11, 12], lost, None).err().unwrap();
    assert!(matches!(error, Error::Worker { .. }), "{error}");
    let resumed = run(folder.path(), &[10, 11, 12], none, None).unwrap();
    assert_eq!(blocks(&resumed.ranking), [10, 11, 12]);
}

#[test]
fn a_spent_budget_leaves_candidates_untried_and_gives_the_one_that_there_is_its_run_off() {
    let folder = tempfile::tempdir().unwrap();
    let (events, stop) = (Mutex::new(Vec::new()), Stop::new());
    let all: Vec<u32> = (10..40).collect();
    let candidates = candidates(all.iter().copied());
    let bench = || {
        let time = |block, _| f64::from(block);
        Ok(Invented { time, fails: |block| none(block), events: &events, stop_after: None })
    };
    let spent = effort().within(Some(std::time::Duration::ZERO));
    let mut kept = store(folder.path());
    let ended = search(&candidates, &mut kept, &spent, &Silent, &stop, bench).unwrap();
    assert_eq!(ended, Ended::Spent);
    let ranking = Ranking::new(&candidates, &kept);
    assert_eq!(ranking.counts(), [("ok", 1)]);
    assert!(ranking.winner().unwrap().trial.settled.unwrap().place == Some(0));
    // Without a budget it goes on from there.
    let ended = search(&candidates, &mut kept, &effort(), &Silent, &stop, bench).unwrap();
    assert_eq!(ended, Ended::Complete);
    assert_eq!(blocks(&Ranking::new(&candidates, &kept)), all);
}

#[test]
fn a_run_off_that_would_end_long_after_the_time_is_left_for_another_search() {
    let folder = tempfile::tempdir().unwrap();
    let (events, stop) = (Mutex::new(Vec::new()), Stop::new());
    let candidates = candidates([10, 11]);
    let mut kept = store(folder.path());
    let screening = Effort { finalists: 0, ..effort() };
    let over = Some(std::time::Instant::now());
    // Two runs of the two, of 10 ms each, and three rounds: 80 ms.
    let late = |ms| Effort { until: over, grace: Some(std::time::Duration::from_millis(ms)), ..effort() };
    for (effort, ended, placed) in [
        (screening, Ended::Complete, false),
        (late(79), Ended::Spent, false),
        (late(60_000), Ended::Spent, true),
    ] {
        let bench = || {
            let time = |block, _| f64::from(block);
            Ok(Invented { time, fails: none, events: &events, stop_after: None })
        };
        assert_eq!(search(&candidates, &mut kept, &effort, &Silent, &stop, bench).unwrap(), ended);
        let winner = Ranking::new(&candidates, &kept).entries[0].trial.settled.unwrap();
        assert_eq!(winner.place.is_some(), placed, "{:?}", effort.grace);
    }
    assert_eq!(undecided(&candidates, &kept, &effort()), 2);
}

#[test]
fn a_run_off_that_the_time_cuts_short_says_so_and_a_later_search_compares_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (events, stop) = (Mutex::new(Vec::new()), Stop::new());
    let candidates = candidates([1000, 1001, 1002, 1003, 1004, 1005]);
    let mut kept = store(folder.path());
    let mut searched = |time: fn(u32, usize) -> f64, effort: &Effort| {
        let bench = || Ok(Invented { time, fails: none, events: &events, stop_after: None });
        let ended = search(&candidates, &mut kept, effort, &Silent, &stop, bench).unwrap();
        (ended, undecided(&candidates, &kept, effort), Ranking::new(&candidates, &kept))
    };
    // In the screening 1000 seems the best, and 1005 is.
    let lucky = |block, _| if block == 1000 { 990.0 } else { f64::from(block) };
    let only_screening = Effort { finalists: 0, ..effort() };
    assert_eq!(searched(lucky, &only_screening).0, Ended::Complete);
    let truth = |block, _| if block == 1005 { 900.0 } else { f64::from(block) };
    let over = Effort { finalists: 6, until: Some(std::time::Instant::now()), ..effort() };
    let (ended, open, ranking) = searched(truth, &over);
    assert_eq!((ended, open, blocks(&ranking)[0]), (Ended::Spent, 6, 1000));
    let settled = |ranking: &Ranking| ranking.winner().unwrap().trial.settled.unwrap();
    assert!(settled(&ranking).cut_short);
    let whole = Effort { finalists: 6, ..effort() };
    let (ended, open, ranking) = searched(truth, &whole);
    assert_eq!((ended, open, blocks(&ranking)[0]), (Ended::Complete, 0, 1005));
    assert!(!settled(&ranking).cut_short);
}

/// What is measured of a token block in a round.
type Times = fn(u32, usize) -> f64;

/// A search of `all`, of which the first two have been in a whole run-off that 1001 won; the others were `screened` after
/// it. Ends as `effort` and `times` let it: how, how many are undecided then, and the winner.
fn after_a_whole_run_off(all: &[u32], screened: Times, effort: &Effort, times: Times) -> (Ended, usize, u32) {
    let folder = tempfile::tempdir().unwrap();
    let (events, stop) = (Mutex::new(Vec::new()), Stop::new());
    let mut kept = store(folder.path());
    let mut searched = |all: &[u32], time: Times, effort: &Effort| {
        let candidates = candidates(all.iter().copied());
        let bench = || Ok(Invented { time, fails: none, events: &events, stop_after: None });
        let ended = search(&candidates, &mut kept, effort, &Silent, &stop, bench).unwrap();
        (ended, undecided(&candidates, &kept, effort), blocks(&Ranking::new(&candidates, &kept))[0])
    };
    let truth = |block, _| if block == 1001 { 0.9 } else { f64::from(block) / 1e3 };
    let whole = Effort { finalists: 3, ..super::tests::effort() };
    assert_eq!(searched(&all[..2], truth, &whole), (Ended::Complete, 0, 1001));
    searched(all, screened, &Effort { finalists: 0, ..whole });
    searched(all, times, effort)
}

#[test]
fn what_a_whole_run_off_decided_is_not_undone_by_one_that_is_cut_short() {
    // A third seems as fast as the winner; in the rounds that come then, all seem as slow as the first.
    let third: Times = |block, _| if block == 1000 { 1.0 } else { 0.89 };
    let of = |effort: &Effort, times| after_a_whole_run_off(&[1000, 1001, 1002], third, effort, times);
    let whole = Effort { finalists: 3, ..effort() };
    assert_eq!(of(&whole, |_, _| 1.0), (Ended::Complete, 0, 1000));
    let cut = |ms| {
        let until = std::time::Instant::now() + std::time::Duration::from_millis(ms);
        let times: Times = |_, _| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            1.0
        };
        of(&Effort { until: Some(until), ..whole }, times)
    };
    // Before it begins, and in its rounds.
    for ms in [0, 400] {
        assert_eq!(cut(ms), (Ended::Spent, 1, 1001), "{ms} ms");
    }
}

#[test]
fn who_won_a_whole_run_off_is_in_the_next_wherever_the_screening_saw_the_others() {
    let lucky: Times = |block, _| if block > 1001 { 0.5 } else { f64::from(block) / 1e3 };
    let all: Vec<u32> = (1000..1010).collect();
    let truth: Times = |block, _| if block == 1001 { 0.9 } else { f64::from(block) / 1e3 };
    let whole = Effort { finalists: 3, most_finalists: 4, ..effort() };
    let (ended, _, first) = after_a_whole_run_off(&all, lucky, &whole, truth);
    assert_eq!((ended, first), (Ended::Complete, 1001));
    let over = Effort { until: Some(std::time::Instant::now()), ..whole };
    let (ended, open, first) = after_a_whole_run_off(&all, lucky, &over, truth);
    assert_eq!((ended, open, first), (Ended::Spent, 3, 1001));
}

#[test]
fn the_default_is_in_the_run_off_wherever_the_screening_saw_it() {
    let folder = tempfile::tempdir().unwrap();
    let (events, stop) = (Mutex::new(Vec::new()), Stop::new());
    let mut candidates = candidates([1400, 1000, 1001, 1002, 1003]);
    candidates[0].is_default = true;
    let mut store = store(folder.path());
    let bench = || {
        let time = |block, _| f64::from(block);
        Ok(Invented { time, fails: none, events: &events, stop_after: None })
    };
    assert_eq!(search(&candidates, &mut store, &effort(), &Silent, &stop, bench).unwrap(), Ended::Complete);
    let ranking = Ranking::new(&candidates, &store);
    let default = &ranking.default().unwrap().trial;
    assert!(default.settled.unwrap().place.is_some(), "{default:?}");
    assert!((ranking.of_default().unwrap() - 1000.0 / 1400.0).abs() < 1e-9);
    // What is shown of those that tie is what each took.
    let shown = |at: usize| ranking.entries[at].ms.unwrap();
    assert!((shown(1) / shown(0) - 1.001).abs() < 1e-9, "{}", shown(1) / shown(0));
    assert_eq!(ranking.entries[1].reason, "0.1 % slower, a tie: the best is simpler");
}

#[test]
fn a_winner_near_the_floor_ends_the_search() {
    let folder = tempfile::tempdir().unwrap();
    let (events, stop) = (Mutex::new(Vec::new()), Stop::new());
    let candidates = candidates(10..40);
    let bench = || {
        let time = |block, _| f64::from(block);
        Ok(Invented { time, fails: none, events: &events, stop_after: None })
    };
    let near = Effort { floor_ms: Some(9.8), ..effort() };
    let mut store = store(folder.path());
    assert_eq!(search(&candidates, &mut store, &near, &Silent, &stop, bench).unwrap(), Ended::AtFloor);
    assert_eq!(Ranking::new(&candidates, &store).counts(), [("ok", 4)]);
}

/// Compiles odd token blocks in no time and none of the others, on threads of its own.
struct OddOnly;

impl Compile for OddOnly {
    fn compile(&self, schedule: &Schedule) -> Result<Option<Resources>, Failure> {
        match schedule {
            Schedule::Cpu(cpu) if cpu.token_block % 2 == 1 => Ok(None),
            _ => Err(Failure::new(Status::Resources("spilled 80 bytes".to_owned()))),
        }
    }

    fn threads(&self) -> usize {
        3
    }
}

/// An invented bench with a compiler beside it.
struct Compiled<'a>(Invented<'a>);

impl Bench for Compiled<'_> {
    type Built = u32;

    fn build(&self, schedule: &Schedule) -> Result<u32, Failure> {
        self.0.build(schedule)
    }

    fn resources(&self, built: &u32) -> Option<Resources> {
        self.0.resources(built)
    }

    fn check(&mut self, built: &mut u32) -> Result<f64, Failure> {
        self.0.check(built)
    }

    fn time(&mut self, built: &mut u32, round: usize) -> Result<f64, Failure> {
        self.0.time(built, round)
    }

    fn clocks(&self) -> Option<Clocks> {
        self.0.clocks()
    }

    fn compiler(&self) -> Option<Arc<dyn Compile>> {
        Some(Arc::new(OddOnly))
    }
}

#[test]
fn what_the_compiler_refuses_is_never_built_and_keeps_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (events, stop) = (Mutex::new(Vec::new()), Stop::new());
    let candidates = candidates(10..40);
    let bench = || {
        let time = |block, _| f64::from(block);
        Ok(Compiled(Invented { time, fails: none, events: &events, stop_after: None }))
    };
    let mut store = store(folder.path());
    assert_eq!(search(&candidates, &mut store, &effort(), &Silent, &stop, bench).unwrap(), Ended::Complete);
    let ranking = Ranking::new(&candidates, &store);
    assert_eq!(ranking.counts(), [("ok", 15), ("resources", 15)]);
    assert_eq!(blocks(&ranking)[0], 11);
    let events = events.into_inner().unwrap();
    assert!(events.iter().all(|event| !event.ends_with(['0', '2', '4', '6', '8'])), "{events:?}");
}

#[test]
fn trials_of_another_code_generator_are_not_taken_for_this_ones() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &[10, 11], none, None).unwrap();
    let shape = Shape::new(8, 8, 8);
    let key = store(folder.path()).key().clone();
    let database = Database::open(folder.path()).unwrap();
    let other =
        Store::open(database, key, shape, Generation::new("2", "s"), Provenance::new("here", 0)).unwrap();
    assert_eq!(other.reused(), 0);
    assert_eq!(store(folder.path()).reused(), 2);
}
