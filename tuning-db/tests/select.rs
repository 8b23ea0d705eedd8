//! Selection: grades, their order, validation, warnings, profiles.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use cce_tuning_db::{
    Database, Device, Eps, Filter, Generation, Grade, Indexing, Key, MemoryClass, Problem, Profile,
    Provenance, Record, Request, Shape, Source, Status, Trial, Warning, Winners,
};
use common::{config, folder, generation, key, measured, provenance};

fn request(key: Key) -> Request {
    Request::new(key, generation())
}

fn stored(records: &[Record]) -> (tempfile::TempDir, Winners) {
    let folder = folder();
    let mut database = Database::open(folder.path()).unwrap();
    database.append(records).unwrap();
    assert_eq!(database.close().unwrap(), Indexing::Done { repairs: vec![] });
    let winners = Winners::open(folder.path());
    assert_eq!(winners.take_warnings(), []);
    (folder, winners)
}

fn tiles(winners: &Winners, request: &Request) -> Vec<u64> {
    winners
        .select(request)
        .candidates
        .iter()
        .map(|c| c.winner.config.value()["tile"].as_u64().unwrap())
        .collect()
}

#[test]
fn the_fastest_correct_trial_is_selected_as_exact() {
    let slow = measured(1, 3.0);
    let fast = measured(2, 1.0);
    let wrong =
        Trial::dropped(config(3), fast.shape, Status::Wrong("off".into()), generation(), provenance(0));
    let records: Vec<_> = [slow, fast, wrong].into_iter().map(|t| Record::new(key(), t)).collect();
    let (_folder, winners) = stored(&records);
    let selection = winners.select(&request(key()));
    assert_eq!(tiles(&winners, &request(key())), [2, 1]);
    assert_eq!(selection.candidates[0].grade, Grade::Exact);
    assert_eq!(selection.candidates[0].source, Source::Database);
    assert_eq!(selection.warnings, []);
}

#[test]
fn a_winner_that_does_not_fit_the_call_gives_way_to_the_next_and_then_to_the_default() {
    let (_folder, winners) =
        stored(&[Record::new(key(), measured(1, 1.0)), Record::new(key(), measured(2, 2.0))]);
    let selection = winners.select(&request(key()));
    let choice = selection.choose(|c| {
        if c.winner.config.value()["tile"] == 2 { Ok("second") } else { Err("needs 16-byte rows".to_owned()) }
    });
    assert_eq!(choice.grade, Grade::Exact);
    assert_eq!(choice.chosen.unwrap().1, "second");
    assert_eq!(choice.rejected.len(), 1);
    assert_eq!(choice.rejected[0].reason, "needs 16-byte rows");
    let none = selection.choose(|_| Err::<(), _>("no".to_owned()));
    assert_eq!((none.grade, none.chosen, none.rejected.len()), (Grade::Default, None, 2));
}

#[test]
fn a_winner_of_another_generation_is_stale_used_and_warned_about_once() {
    let (_folder, winners) = stored(&[Record::new(key(), measured(1, 1.0))]);
    for now in [Generation::new("2", "s1"), Generation::new("codegen 1", "space 2")] {
        let winners = &winners;
        let asked = Request::new(key(), now);
        let selection = winners.select(&asked);
        assert_eq!(selection.candidates[0].grade, Grade::Stale);
        assert!(matches!(&selection.warnings[..], [Warning::Stale { source: Source::Database, .. }]));
        assert_eq!(winners.select(&asked).warnings, []);
    }
}

#[test]
fn of_a_stale_winner_of_a_near_shape_nothing_is_said_here_for_it_is_the_caller_s_to_use_or_not() {
    let (_folder, winners) = stored(&[Record::new(key(), measured(1, 1.0))]);
    let mut near = key();
    near.problem.vocab /= 2;
    let selection = winners.select(&Request::new(near, Generation::new("2", "s1")));
    assert!(
        matches!(selection.candidates[0].grade, Grade::NearShape { .. }) && selection.candidates[0].stale
    );
    assert_eq!(selection.warnings, []);
}

#[test]
fn fresh_winners_go_before_faster_stale_ones() {
    let mut old = measured(1, 0.5);
    old.generation = Generation::new("0", "s1");
    let (_folder, winners) = stored(&[Record::new(key(), old), Record::new(key(), measured(2, 1.0))]);
    let grades: Vec<_> = winners.select(&request(key())).candidates.into_iter().map(|c| c.grade).collect();
    assert_eq!(grades, [Grade::Exact, Grade::Stale]);
}

fn key_of(shape: Shape) -> Key {
    let mut key = key();
    key.problem = Problem::new(shape).with_gradients(key.problem.gradients);
    key
}

fn measured_at(tile: u32, shape: Shape) -> Record {
    let trial = Trial::measured(config(tile), shape, vec![1.0], generation(), provenance(0)).unwrap();
    Record::new(key_of(shape), trial)
}

#[test]
fn an_unseen_shape_takes_the_nearest_within_the_snap_limit() {
    let near = measured_at(1, Shape::new(4000, 2304, 256_000));
    let nearer = measured_at(2, Shape::new(8192, 2304, 128_000));
    let far = measured_at(3, Shape::new(8192, 2304, 8_000));
    let (_folder, winners) = stored(&[near, nearer, far]);
    let asked = request(key_of(Shape::new(8192, 2304, 200_000)));
    assert_eq!(tiles(&winners, &asked), [2, 1], "the far one is beyond the snap limit");
    let first = winners.select(&asked).candidates.remove(0);
    assert_eq!(first.grade, Grade::NearShape { from: Shape::new(8192, 2304, 128_000) });
    assert_eq!(tiles(&winners, &asked.clone().with_snap_limit(6.0)), [2, 1, 3]);
    assert_eq!(tiles(&winners, &asked.with_snap_limit(0.0)), [0_u64; 0]);
}

#[test]
fn tokens_of_one_bucket_are_the_same_key_but_other_hidden_sizes_are_not() {
    let (_folder, winners) = stored(&[measured_at(1, Shape::new(8000, 2304, 256_000))]);
    let grade = |shape| winners.select(&request(key_of(shape))).candidates.first().map(|c| c.grade.clone());
    assert_eq!(grade(Shape::new(8192, 2304, 256_000)), Some(Grade::Exact));
    let from = Shape::new(8000, 2304, 256_000);
    assert_eq!(grade(Shape::new(8192, 2048, 256_000)), Some(Grade::NearShape { from }));
}

#[test]
fn another_gpu_of_the_same_architecture_comes_after_everything_of_this_one() {
    let h200 = Device::gpu("NVIDIA H200", (9, 0), 132, 232_448, 62_914_560);
    let a100 = Device::gpu("NVIDIA A100", (8, 0), 108, 166_912, 41_943_040);
    let cpu = Device::cpu("some cpu", 8);
    let on = |tile, device: &Device| Record::new(key().with_device(device.clone()), measured(tile, 1.0));
    let near = measured_at(4, Shape::new(4096, 2304, 256_000));
    let (_folder, winners) = stored(&[on(1, &a100), on(2, &h200), on(3, &cpu), near]);
    let selection = winners.select(&request(key()));
    assert_eq!(tiles(&winners, &request(key())), [4, 2, 1], "a CPU's winner means nothing to a GPU");
    assert_eq!(selection.candidates[1].grade, Grade::OtherGpu { from: h200 });
    assert_eq!(selection.candidates[2].grade, Grade::OtherGpu { from: a100 });
}

#[test]
fn program_objective_dtype_filter_and_gradients_are_never_crossed() {
    use cce_tuning_db::{Dtype, Gradients, Objective, ProgramHash};
    let (_folder, winners) = stored(&[Record::new(key(), measured(1, 1.0))]);
    let eps = Eps::power_of_two(-10).unwrap();
    let mut others = vec![
        key().with_objective(Objective::LossAndGradients),
        key().with_dtype(Dtype::F32),
        key().with_filter(Filter::Sampled { eps, max_entries: 384 }),
        key().with_filter(Filter::Blocks { eps }),
    ];
    let mut program = key();
    program.program = ProgramHash::of(b"another loss");
    let mut gradients = key();
    gradients.problem = gradients.problem.with_gradients(Gradients::new(true, false));
    others.extend([program, gradients]);
    for other in others {
        assert_eq!(tiles(&winners, &request(other.clone())), [0_u64; 0], "{other:?}");
    }
}

#[test]
fn other_memory_classes_and_flags_are_near_with_the_tighter_class_first() {
    let tight = key().with_memory(MemoryClass::of_limit(Some(1 << 30)));
    let loose = key().with_memory(MemoryClass::Unlimited);
    let (_folder, winners) =
        stored(&[Record::new(loose, measured(1, 1.0)), Record::new(tight, measured(2, 2.0))]);
    let asked = key().with_memory(MemoryClass::of_limit(Some(3 << 30)));
    assert_eq!(tiles(&winners, &request(asked.clone())), [2, 1]);
    assert!(matches!(winners.select(&request(asked)).candidates[0].grade, Grade::NearShape { .. }));
    let mut ignored = key();
    ignored.problem = ignored.problem.with_ignored(true);
    assert_eq!(tiles(&winners, &request(ignored)), [1, 2]);
}

#[test]
fn other_drivers_and_compilers_are_remarked_on_once() {
    let mut trial = measured(1, 1.0);
    trial.provenance = trial.provenance.with_driver("570.1").with_nvrtc("12.9");
    let (_folder, winners) = stored(&[Record::new(key(), trial)]);
    let now = Provenance::new("elsewhere", 5).with_driver("580.2").with_nvrtc("12.9");
    let asked = request(key()).with_provenance(now);
    let warnings = winners.select(&asked).warnings;
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["the winner in the tuning database was measured with another setup: driver 570.1 then, 580.2 now"]
    );
    assert_eq!(winners.select(&asked).warnings, []);
}

fn profile(tile: u32, ms: f64, made_by: &Generation) -> Profile {
    let mut trial = measured(tile, ms);
    trial.generation = made_by.clone();
    let winners = cce_tuning_db::KeyWinners::choose(key(), &[trial]);
    Profile::new("h100", provenance(0), vec![winners])
}

#[test]
fn a_profile_is_the_lowest_layer_but_its_exact_winner_beats_a_stale_one() {
    let (folder, winners) = stored(&[Record::new(key(), measured(1, 2.0))]);
    let winners = winners.with_profile(profile(2, 1.0, &generation()));
    assert_eq!(tiles(&winners, &request(key())), [1, 2], "what was measured here comes first");
    let next = Generation::new("2", "s1");
    let winners = Winners::open(folder.path()).with_profile(profile(2, 9.0, &next));
    assert_eq!(tiles(&winners, &Request::new(key(), next)), [2, 1]);
}

#[test]
fn what_this_machine_found_wrong_no_profile_offers_until_it_is_found_right_here() {
    let wrong = |ms| {
        let status = Status::Wrong("dC differs".into());
        Record::new(
            key(),
            Trial::dropped(config(2), measured(2, 1.0).shape, status, generation(), provenance(ms)),
        )
    };
    let (folder, _) = stored(&[wrong(1)]);
    let all = || Winners::open(folder.path()).with_profile(profile(2, 1.0, &generation()));
    let offered = |winners: &Winners| (tiles(winners, &request(key())).len(), winners.all().len());
    assert_eq!(offered(&all()), (0, 0));
    // Neither where the log is all that there is.
    std::fs::remove_file(folder.path().join("winners.snap")).unwrap();
    assert_eq!(offered(&all()), (0, 0));
    // What was found is of one key and one generation.
    let elsewhere = profile(2, 1.0, &Generation::new("2", "s1"));
    assert_eq!(offered(&Winners::open(folder.path()).with_profile(elsewhere)), (1, 1));
    let mut near = key();
    near.problem.vocab /= 2;
    assert_eq!(tiles(&all(), &request(near.clone())), [0; 0], "what is near is told of it");
    let of_near = cce_tuning_db::KeyWinners::choose(near.clone(), [&measured(2, 1.0)]);
    let of_near = Profile::new("near", provenance(0), vec![of_near]);
    assert_eq!(tiles(&all().with_profile(of_near), &request(near)), [2]);
    let mut right = measured(2, 3.0);
    right.provenance = provenance(2);
    let mut database = Database::open(folder.path()).unwrap();
    database.append(&[Record::new(key(), right)]).unwrap();
    database.close().unwrap();
    assert_eq!(offered(&all()), (2, 2));
}

#[test]
fn a_profile_tells_what_is_wrong_and_joined_with_another_takes_that_one_s_winner_out() {
    let found = Trial::dropped(
        config(2),
        measured(2, 1.0).shape,
        Status::Wrong("dC differs".into()),
        generation(),
        provenance(9),
    );
    let told = cce_tuning_db::KeyWinners::choose(key(), [&found, &measured(1, 5.0)]);
    let told = Profile::new("told", provenance(0), vec![told]);
    let (read, skipped) = Profile::parse(&told.to_json().unwrap()).unwrap();
    assert_eq!((&read, skipped.len()), (&told, 0));
    let winners = Winners::empty().with_profile(read).with_profile(profile(2, 1.0, &generation()));
    assert_eq!(tiles(&winners, &request(key())), [1]);
    for joined in [
        told.clone().merged_with(profile(2, 1.0, &generation())),
        profile(2, 1.0, &generation()).merged_with(told),
    ] {
        assert_eq!(tiles(&Winners::empty().with_profile(joined), &request(key())), [1]);
    }
}

#[test]
fn a_stale_profile_is_used_with_one_warning() {
    let winners = Winners::empty().with_profile(profile(1, 1.0, &Generation::new("0", "s0")));
    let first = winners.select(&request(key()));
    assert_eq!(first.candidates[0].grade, Grade::Stale);
    assert_eq!(first.warnings.len(), 1);
    assert!(first.warnings[0].to_string().contains("profile h100"), "{}", first.warnings[0]);
    assert_eq!(winners.select(&request(key())).warnings, []);
}

#[test]
fn a_profile_file_survives_a_round_trip_and_one_bad_entry_costs_only_itself() {
    let folder = folder();
    let path = folder.path().join("h100.json");
    let made = profile(1, 1.0, &generation());
    made.write(&path).unwrap();
    assert_eq!(Profile::read(&path).unwrap(), (made.clone(), vec![]));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut bad = json["entries"][0].clone();
    bad["key"]["dtype"] = "int3".into();
    let mut later = json["entries"][0].clone();
    later["key"]["schema"] = 2.into();
    json["entries"].as_array_mut().unwrap().extend([bad, later]);
    std::fs::write(&path, json.to_string()).unwrap();
    let winners = Winners::empty().with_profile_file(&path);
    let selection = winners.select(&request(key()));
    assert_eq!(selection.candidates.len(), 1);
    let said: Vec<_> = selection.warnings.iter().map(ToString::to_string).collect();
    assert!(said[0].contains("int3") && said[1].contains("schema 2"), "{said:?}");
}

#[test]
fn profiles_that_are_no_profiles_warn_and_select_nothing() {
    let folder = folder();
    let path = folder.path().join("bad.json");
    for text in [
        "",
        "{",
        "[]",
        r#"{"schema": 9, "name": "x", "provenance": {"host": "h", "unix_ms": 0}, "entries": []}"#,
    ] {
        std::fs::write(&path, text).unwrap();
        let winners = Winners::empty().with_profile_file(&path);
        let selection = winners.select(&request(key()));
        assert_eq!((selection.candidates.len(), selection.warnings.len()), (0, 1), "{text}");
    }
    let missing = Winners::empty().with_profile_file(&folder.path().join("none.json"));
    assert_eq!(missing.take_warnings().len(), 1);
}

#[test]
fn merged_profiles_keep_the_better_record_with_its_provenance() {
    let mut other = profile(1, 1.0, &generation());
    other.entries[0].winners[0].provenance.host = "faster".into();
    let merged =
        profile(1, 2.0, &generation()).merged_with(other).merged_with(profile(2, 3.0, &generation()));
    let winners = &merged.entries[0].winners;
    assert_eq!(merged.entries.len(), 1);
    assert_eq!(winners.iter().map(|w| w.median).collect::<Vec<_>>(), [1.0, 3.0]);
    assert_eq!(winners[0].provenance.host, "faster");
}

#[test]
fn a_folder_that_does_not_exist_selects_nothing_and_says_nothing() {
    let folder = folder();
    let winners = Winners::open(&folder.path().join("none"));
    assert_eq!(winners.select(&request(key())), cce_tuning_db::Selection::default());
}

#[test]
fn winners_are_shared_between_threads() {
    let (_folder, winners) = stored(&[Record::new(key(), measured(1, 1.0))]);
    let asked = Request::new(key(), Generation::new("2", "s1"));
    let warnings: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| winners.select(&asked).warnings.len())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(warnings, 1, "what is said once is said once by all threads together");
}

#[test]
fn a_listing_shows_every_layer_with_its_source() {
    let (folder, winners) = stored(&[Record::new(key(), measured(1, 2.0))]);
    let winners = winners.with_profile(profile(2, 1.0, &generation()));
    let sources = |winners: &Winners| winners.all().into_iter().map(|(source, _)| source).collect::<Vec<_>>();
    let both = [Source::Database, Source::Profile("h100".into())];
    assert_eq!(sources(&winners), both);
    // A damaged snapshot changes where the database's winners are read from, not what is listed.
    let path = folder.path().join("winners.snap");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let winners = Winners::open(folder.path()).with_profile(profile(2, 1.0, &generation()));
    assert_eq!(tiles(&winners, &request(key())), [1, 2]);
    assert_eq!(sources(&winners), both);
}

#[test]
fn shipped_profiles_come_last_and_what_is_stale_of_one_source_is_remarked_on_once() {
    let older = |codegen: &str| Generation::new(codegen, "s0");
    let mut near = key();
    near.problem.vocab = 200_000;
    let mut second = profile(2, 2.0, &older("0.2"));
    second.entries[0].key = near.clone();
    let two = profile(1, 1.0, &older("0.1")).merged_with(second);
    let text = two.to_json().unwrap();
    let shipped = || Winners::empty().with_shipped_profile("h100.json", &text);
    let winners = shipped();
    for asked in [key(), near.clone(), key()] {
        assert!(!winners.select(&request(asked)).candidates.is_empty());
    }
    let stale: Vec<Warning> =
        [key(), near].into_iter().flat_map(|k| shipped().select(&request(k)).warnings).collect();
    assert_eq!(stale.len(), 2, "two that never heard of each other: {stale:?}");
    let said = shipped();
    assert_eq!(said.select(&request(key())).warnings.len(), 1);
    assert_eq!(shipped().after(&said).select(&request(key())).warnings, []);

    let own = Winners::empty()
        .with_profile(profile(3, 3.0, &generation()))
        .with_shipped_profile("h100.json", &text);
    let selection = own.select(&request(key()));
    assert_eq!(selection.candidates[0].source, Source::Profile("h100".into()));
    assert_eq!(selection.candidates[1].source, Source::Shipped("h100".into()));
    assert_eq!(selection.warnings, []);
}
