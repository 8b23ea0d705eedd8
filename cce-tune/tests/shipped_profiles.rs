//! The profiles that ship fit this version, or are stale and harmless.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use cce_codegen::problem::DType;
use cce_codegen::schedule::{GpuSchedule, Schedule};
use cce_runtime::selection::{self, SHIPPED, Shipped};
use cce_tune::{stored, task::Task};
use cce_tuning_db::{
    Config, Device, Generation, Grade, KeyWinners, Profile, Provenance, Trial, Warning, Winners,
};

/// What of a profile does not fit: (mistakes, remarks). A winner of this version's kernels has to keep its
/// constraints; what an older version measured may have lost them, which is a remark.
fn looked_at(profile: &Profile) -> (Vec<String>, Vec<String>) {
    let (mut mistakes, mut remarks) = (Vec::new(), Vec::new());
    for entry in &profile.entries {
        let generation = selection::generation(&entry.key.device);
        let named = |(_, program): &&(&str, fn() -> cce_codegen::ir::Program)| {
            program().hash() == *entry.key.program.as_bytes()
        };
        let program = cce::losses::ALL.iter().find(named).map(|(_, program)| program());
        for winner in &entry.winners {
            let found = match &program {
                None => Err("its loss does not ship".to_owned()),
                Some(program) => stored::check(program, &entry.key, winner),
            };
            if let Err(why) = found {
                let line = format!("{}: {}: {why}", profile.name, winner.config.text());
                let current = winner.generation == generation;
                if current { mistakes.push(line) } else { remarks.push(line) }
            }
        }
        if entry.winners.iter().all(|winner| winner.generation != generation) {
            remarks.push(format!("{}: stale at {:?}", profile.name, entry.key.problem));
        }
    }
    (mistakes, remarks)
}

fn h100() -> Device {
    Device::gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 232_448, 50 << 20)
}

fn head() -> Task {
    Task::new(cce::losses::cross_entropy::program(), 8192, 2304, 256_000, DType::Bf16)
}

/// A profile of one winner: the default with this many stages.
fn made(stages: Option<u32>, generation: Generation) -> Profile {
    let problem = head().gpu_problem().unwrap();
    let mut schedule =
        GpuSchedule::default_for(&head().program, &problem, &selection::gpu_of(&h100()).unwrap());
    schedule.logits.stages = stages.unwrap_or(schedule.logits.stages);
    let key = selection::key(&head().program, &problem, h100()).unwrap();
    let config: Config = selection::config(&Schedule::Gpu(schedule)).unwrap();
    let shape = selection::shape(&problem);
    let trial = Trial::measured(config, shape, vec![15.0], generation, Provenance::new("there", 1)).unwrap();
    Profile::new("made", Provenance::new("there", 1), vec![KeyWinners::choose(key, [&trial])])
}

#[test]
fn every_shipped_winner_of_these_kernels_keeps_its_constraints_and_older_ones_are_listed() {
    for Shipped { file, text, .. } in SHIPPED {
        let (profile, _) = Profile::parse(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let (mistakes, remarks) = looked_at(&profile);
        remarks.iter().for_each(|line| println!("{line}"));
        assert!(
            mistakes.is_empty(),
            "{file} has to be made again with `cce-tune profile`:\n{}",
            mistakes.join("\n")
        );
    }
}

#[test]
fn a_profile_that_breaks_a_constraint_is_a_mistake_and_a_stale_one_that_does_a_remark() {
    let now = selection::generation(&h100());
    assert_eq!(looked_at(&made(None, now.clone())), (vec![], vec![]));
    let (mistakes, _) = looked_at(&made(Some(64), now));
    assert!(mistakes[0].contains("64 stages"), "{mistakes:?}");
    let (mistakes, remarks) = looked_at(&made(Some(64), Generation::new("0.0.1", "older")));
    assert_eq!(mistakes, Vec::<String>::new());
    assert!(remarks.len() == 2 && remarks[1].contains("stale"), "{remarks:?}");
}

#[test]
fn a_stale_shipped_profile_is_used_graded_lower_and_remarked_on_once() {
    let older = made(None, Generation::new("0.0.1", "older"));
    let text = older.to_json().unwrap();
    let read = || Winners::empty().with_shipped_profile("made.json", &text);
    let winners = read();
    let problem = head().gpu_problem().unwrap();
    let choose = |winners: &Winners| selection::choose_from(winners, &head().program, &problem, h100(), Ok);
    let first = choose(&winners);
    assert_eq!(first.grade, Grade::Stale);
    assert!(first.value.is_some());
    assert!(first.notes.len() == 1 && first.notes[0].contains("shipped profile made"), "{:?}", first.notes);
    assert_eq!(choose(&winners).notes, Vec::<String>::new());
    // Winners that are read again, because the tuner wrote meanwhile, do not repeat it.
    let again = read().after(&winners);
    assert_eq!(choose(&again).notes, Vec::<String>::new());
    assert_eq!(choose(&again).grade, Grade::Stale);
    let unreadable = Winners::empty().with_shipped_profile("made.json", "{}");
    assert!(
        matches!(&unreadable.take_warnings()[..], [Warning::Unreadable { path, .. }] if path.ends_with("made.json"))
    );
    assert_eq!(choose(&unreadable).grade, Grade::Default);
}
