//! What winners of near problems say of one that was not tuned: of the same device other shapes, or of another
//! device the same or near shapes.
//!
//! A near problem's winner is not launched as it is: its numbers were derived from another shape. What it changes
//! of the default of *its own* problem is put on the default of the problem at hand. A part is only changed where
//! there is reason to:
//!
//! - the near problem's winner changes it, and every other that is as fast does: where the default's part is as good
//!   as another, nothing was learned of it;
//! - most of the near problems that are [consulted](CONSULTED) agree with the nearest.
//!
//! So what comes out is the default where nothing is known better. A winner of another generation says nothing: the
//! default that it is compared with may have changed since.

use super::cpu_space;
use super::key::{gpu_of, limit_of, schedule};
use cce_codegen::ir::Program;
use cce_codegen::problem::{Layout, Problem};
use cce_codegen::schedule::{Change, Family, GpuSchedule, Schedule};
use cce_tuning_db as db;
use cce_tuning_db::{Candidate, Grade, Key, Winner};

/// How many near problems are asked, the nearest: of three, one other has to confirm what the nearest changes.
pub const CONSULTED: usize = 3;

/// Winners that were in no run-off, which decides who ties, are as fast as each other if they differ by no more.
const TIE: f64 = 0.01;

/// What one problem's winners say.
struct Lesson {
    /// Of its winners.
    family: Option<Family>,
    /// Whether that is another than its default's.
    moved: bool,
    change: Change,
}

/// The schedule that follows from these candidates, the nearest first, none of them stale, with the nearest's grade.
/// `None` if there are none.
pub(super) fn carried(
    program: &Program,
    problem: &Problem,
    device: &db::Device,
    candidates: &[Candidate],
    consulted: usize,
) -> Option<Result<(Grade, Schedule), String>> {
    let nearest = candidates.first()?;
    let mut keys: Vec<&Key> = Vec::new();
    for candidate in candidates {
        if !keys.contains(&&candidate.key) {
            keys.push(&candidate.key);
        }
    }
    let mut lessons = keys.into_iter().take(consulted.max(1)).map(|key| {
        // One layer's: times of different machines do not compare.
        let source = candidates.iter().find(|c| c.key == *key).map(|c| &c.source);
        let winners = candidates.iter().filter(|c| c.key == *key && Some(&c.source) == source);
        lesson(program, problem, key, winners.map(|candidate| &candidate.winner))
    });
    // One farther that cannot be read confirms nothing.
    let lesson = match lessons.next()? {
        Ok(nearest) => {
            confirmed(&std::iter::once(nearest).chain(lessons.flatten()).collect::<Vec<Lesson>>())?
        }
        Err(reason) => return Some(Err(reason)),
    };
    let base = match (lesson.family, gpu_of(device)) {
        (Some(family), Some(gpu)) if lesson.moved => {
            Some(Schedule::Gpu(GpuSchedule::of_family(family, program, problem, &gpu)))
        }
        _ => default(program, problem, device),
    };
    let base = base.ok_or_else(|| "the device has no default schedule here".to_owned());
    Some(base.map(|base| {
        let same_family = family_of(&base) == lesson.family;
        (nearest.grade.clone(), if same_family { lesson.change.on(base) } else { base })
    }))
}

/// What the winners of a key, the best first, change of its default: the best and all that are as fast.
fn lesson<'a>(
    program: &Program,
    problem: &Problem,
    key: &Key,
    winners: impl Iterator<Item = &'a Winner> + Clone,
) -> Result<Lesson, String> {
    let Some(best) = winners.clone().next() else { return Err("it has no winner".to_owned()) };
    let mut learned: Option<Lesson> = None;
    for winner in winners.filter(|winner| is_as_fast(winner, best)) {
        let schedule = schedule(&winner.config)?;
        let there = problem_of(problem, key, winner.shape);
        let default = default(program, &there, &key.device)
            .ok_or_else(|| format!("no default schedule of {} is known", key.device.name()))?;
        let family = family_of(&schedule);
        let moved = family != family_of(&default);
        let base = match (family, gpu_of(&key.device)) {
            (Some(family), Some(gpu)) if moved => {
                Schedule::Gpu(GpuSchedule::of_family(family, program, &there, &gpu))
            }
            _ => default,
        };
        let change = Change::of(&schedule, &base)
            .ok_or_else(|| "it is a schedule of another kind of device".to_owned())?;
        learned = Some(match learned {
            None => Lesson { family, moved, change },
            Some(so_far) if (so_far.family, so_far.moved) == (family, moved) => {
                Lesson { change: so_far.change.shared_with(&change), ..so_far }
            }
            // As fast in another family: neither is the reason.
            Some(so_far) => Lesson { moved: false, change: Change::default(), ..so_far },
        });
    }
    learned.ok_or_else(|| "it has no winner".to_owned())
}

/// Whether a winner ties with the best. Where a run-off decided, its word counts: what it found a little faster and not
/// clearly so lost, and what was not in it says nothing.
fn is_as_fast(winner: &Winner, best: &Winner) -> bool {
    let decided = |winner: &Winner| winner.settled.filter(|settled| settled.place.is_some());
    match (decided(winner), decided(best)) {
        (Some(settled), Some(best)) => settled.ties_with(&best),
        (None, Some(_)) => false,
        (_, None) => winner.deciding_time() <= best.deciding_time() * (1.0 + TIE),
    }
}

/// What the nearest says, as far as most of the others say so too.
fn confirmed(lessons: &[Lesson]) -> Option<Lesson> {
    let (nearest, others) = lessons.split_first()?;
    let alike = |other: &&Lesson| (other.family, other.moved) == (nearest.family, nearest.moved);
    // One in another family confirms nothing.
    let change = |other: &Lesson| if alike(&other) { other.change } else { Change::default() };
    let family_is_confirmed = 2 * (1 + others.iter().filter(alike).count()) > lessons.len();
    Some(Lesson {
        family: nearest.family,
        moved: nearest.moved && family_is_confirmed,
        change: match nearest.moved && !family_is_confirmed {
            true => Change::default(),
            false => nearest.change.confirmed_by(&others.iter().map(change).collect::<Vec<_>>()),
        },
    })
}

/// The problem that a key describes at a shape, in all else the one at hand: keys are only near when the rest is
/// the same.
fn problem_of(problem: &Problem, key: &Key, shape: db::Shape) -> Problem {
    let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let hidden = size(shape.hidden);
    let of_rows = |layout: Layout| Layout { row_stride: hidden, ..layout };
    Problem {
        tokens: size(shape.tokens),
        hidden,
        vocab: size(shape.vocab),
        hidden_layout: of_rows(problem.hidden_layout),
        classifier_layout: of_rows(problem.classifier_layout),
        workspace_limit: limit_of(key.memory),
        ..problem.clone()
    }
}

/// What a plan uses where nothing was tuned.
fn default(program: &Program, problem: &Problem, device: &db::Device) -> Option<Schedule> {
    match gpu_of(device) {
        Some(gpu) => Some(Schedule::Gpu(GpuSchedule::default_for(program, problem, &gpu))),
        None => cpu_space(problem).first().copied().map(Schedule::Cpu),
    }
}

fn family_of(schedule: &Schedule) -> Option<Family> {
    match schedule {
        Schedule::Gpu(gpu) => Some(gpu.family),
        Schedule::Cpu(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::program;
    use super::super::{Chosen, choose_from, config, generation, key, shape};
    use super::*;
    use cce_codegen::problem::{DType, Filter};
    use cce_codegen::schedule::Tile;
    use cce_tuning_db::{Generation, KeyWinners, Profile, Provenance, Settled, Trial, Winners};

    fn h100() -> db::Device {
        db::Device::gpu("an H100", (9, 0), 132, 232_448, 50 << 20)
    }

    fn problem(tokens: usize, hidden: usize, vocab: usize) -> Problem {
        Problem { filter: Filter::SAMPLED, ..Problem::new(tokens, hidden, vocab, DType::Bf16) }
    }

    fn default_of(problem: &Problem) -> GpuSchedule {
        match default(&program(), problem, &h100()) {
            Some(Schedule::Gpu(gpu)) => gpu,
            other => panic!("{other:?}"),
        }
    }

    /// What a winner changes of its default.
    type Changed = fn(GpuSchedule) -> GpuSchedule;

    /// The winners of a problem on a device, each with its time.
    type Stored<'a> = (&'a Problem, db::Device, &'a [(Changed, f64)]);

    fn stored(problems: &[Stored<'_>], made_by: &Generation) -> Winners {
        let entries = problems.iter().map(|(problem, device, winners)| {
            let Some(Schedule::Gpu(base)) = default(&program(), problem, device) else { panic!("no GPU") };
            let trials: Vec<Trial> = winners
                .iter()
                .map(|(change, ms)| {
                    let config = config(&Schedule::Gpu(change(base))).unwrap();
                    let here = Provenance::new("here", 1);
                    Trial::measured(config, shape(problem), vec![*ms], made_by.clone(), here).unwrap()
                })
                .collect();
            KeyWinners::choose(key(&program(), problem, device.clone()).unwrap(), &trials)
        });
        let profile = Profile::new("test", Provenance::new("here", 1), entries.collect());
        Winners::empty().with_profile(profile)
    }

    fn asked(winners: &Winners, problem: &Problem) -> Chosen<GpuSchedule> {
        choose_from(winners, &program(), problem, h100(), |schedule| match schedule {
            Schedule::Gpu(gpu) => Ok(gpu),
            Schedule::Cpu(_) => Err("not a GPU's".to_owned()),
        })
    }

    fn fewer_stages(base: GpuSchedule) -> GpuSchedule {
        GpuSchedule { logits: Tile { stages: base.logits.stages - 1, ..base.logits }, ..base }
    }

    fn half_the_rows(base: GpuSchedule) -> GpuSchedule {
        GpuSchedule { group: base.group / 2, ..base }
    }

    fn same(base: GpuSchedule) -> GpuSchedule {
        base
    }

    #[test]
    fn what_a_near_shape_s_winner_changes_is_put_on_the_default_of_the_shape_at_hand() {
        let (there, here) = (problem(8192, 896, 151_936), problem(8192, 1536, 151_936));
        let both = |base| half_the_rows(fewer_stages(base));
        let winners = stored(&[(&there, h100(), &[(both, 1.0)])], &generation(&h100()));
        let chosen = asked(&winners, &here);
        assert_eq!(chosen.grade, Grade::NearShape { from: shape(&there) });
        assert_eq!(chosen.value, Some(half_the_rows(fewer_stages(default_of(&here)))));
        assert_ne!(default_of(&here).hidden_gradient, default_of(&there).hidden_gradient);
        assert_eq!(chosen.notes, Vec::<String>::new());
    }

    #[test]
    fn a_part_of_which_the_default_s_is_as_fast_is_the_default_s() {
        let (there, here) = (problem(8192, 896, 151_936), problem(8192, 1536, 151_936));
        let both = |base| half_the_rows(fewer_stages(base));
        let with_second = |second: Changed, ms| {
            let winners = stored(&[(&there, h100(), &[(both, 1.0), (second, ms)])], &generation(&h100()));
            asked(&winners, &here).value.unwrap()
        };
        let default = default_of(&here);
        assert_eq!(with_second(same, 1.005), default);
        assert_eq!(with_second(half_the_rows, 1.005), half_the_rows(default));
        assert_eq!(with_second(same, 1.02), both(default), "2 % slower is no tie");
    }

    #[test]
    fn what_lost_a_run_off_or_was_in_none_says_nothing_however_fast_it_seemed() {
        let (there, here) = (problem(8192, 896, 151_936), problem(8192, 1536, 151_936));
        let base = default_of(&there);
        let trial = |schedule: GpuSchedule, settled: Settled| {
            let config = config(&Schedule::Gpu(schedule)).unwrap();
            let made_by = generation(&h100());
            let trial =
                Trial::measured(config, shape(&there), vec![1.0], made_by, Provenance::new("here", 1))
                    .unwrap();
            trial.with_settled(settled)
        };
        let asked_of = |trials: &[Trial]| {
            let entry = KeyWinners::choose(key(&program(), &there, h100()).unwrap(), trials);
            let profile = Profile::new("test", Provenance::new("here", 1), vec![entry]);
            asked(&Winners::empty().with_profile(profile), &here).value.unwrap()
        };
        let held = trial(base, Settled::placed(1.02, 0).tying(1.02));
        let lucky = trial(fewer_stages(base), Settled::paired(0.9));
        let slower = trial(half_the_rows(base), Settled::placed(1.04, 1));
        assert_eq!(asked_of(&[held.clone(), lucky.clone(), slower]), default_of(&here));
        // One that won says what it changes, whatever ties in its time alone.
        let won = trial(half_the_rows(base), Settled::placed(1.0, 0).tying(1.0));
        let lost = trial(base, Settled::placed(1.005, 1));
        assert_eq!(asked_of(&[won.clone(), lost, lucky]), half_the_rows(default_of(&here)));
        let tied = trial(base, Settled::placed(1.005, 1).tying(1.0));
        assert_eq!(asked_of(&[won, tied]), default_of(&here));
    }

    #[test]
    fn what_the_nearest_changes_needs_another_of_three_to_confirm_it() {
        let here = problem(8192, 2048, 151_936);
        let near = [problem(8192, 2304, 151_936), problem(8192, 2560, 151_936), problem(8192, 3072, 151_936)];
        let with_others = |others: [Changed; 2]| {
            let stored_there: Vec<[(Changed, f64); 1]> =
                [fewer_stages, others[0], others[1]].into_iter().map(|change| [(change, 1.0)]).collect();
            let problems: Vec<Stored<'_>> =
                near.iter().zip(&stored_there).map(|(p, winners)| (p, h100(), &winners[..])).collect();
            asked(&stored(&problems, &generation(&h100())), &here).value.unwrap()
        };
        let default = default_of(&here);
        assert_eq!(with_others([same, same]), default);
        assert_eq!(with_others([same, fewer_stages]), fewer_stages(default));
        assert_eq!(with_others([half_the_rows, half_the_rows]), default, "the nearest is asked first");
    }

    #[test]
    fn a_farther_problem_that_cannot_be_read_confirms_nothing_and_the_nearest_is_heard() {
        let here = problem(8192, 2048, 151_936);
        let (near, far) = (problem(8192, 2304, 151_936), problem(8192, 3072, 151_936));
        let entry = |problem: &Problem, config: db::Config| {
            let here = Provenance::new("here", 1);
            let trial =
                Trial::measured(config, shape(problem), vec![1.0], generation(&h100()), here).unwrap();
            KeyWinners::choose(key(&program(), problem, h100()).unwrap(), &[trial])
        };
        let unreadable = || db::Config::new(serde_json::json!({ "of": "another kind" }));
        let heard = |configs: [db::Config; 2]| {
            let [first, second] = configs;
            let entries = vec![entry(&near, first), entry(&far, second)];
            let profile = Profile::new("test", Provenance::new("here", 1), entries);
            asked(&Winners::empty().with_profile(profile), &here)
        };
        let changed = || config(&Schedule::Gpu(fewer_stages(default_of(&near)))).unwrap();
        assert_eq!(heard([changed(), unreadable()]).value, Some(fewer_stages(default_of(&here))));
        let chosen = heard([unreadable(), changed()]);
        assert_eq!((chosen.grade, chosen.value), (Grade::Default, None));
        assert!(!chosen.notes.is_empty());
    }

    #[test]
    fn near_winners_of_another_version_say_nothing_and_a_note_says_so() {
        let (there, here) = (problem(8192, 896, 151_936), problem(8192, 1536, 151_936));
        let old = Generation::new("0.0.1", "another");
        let winners = stored(&[(&there, h100(), &[(half_the_rows, 1.0)])], &old);
        let chosen = asked(&winners, &here);
        assert_eq!((chosen.grade, chosen.value), (Grade::Default, None));
        assert!(chosen.notes.len() == 1 && chosen.notes[0].contains("another version"), "{:?}", chosen.notes);
        // Its own are used.
        assert_eq!(asked(&winners, &there).grade, Grade::Stale);
    }

    #[test]
    fn another_gpu_s_winner_changes_the_default_of_this_one_if_both_run_the_same_family() {
        let here = problem(8192, 896, 151_936);
        let larger = db::Device::gpu("an H200", (9, 0), 132, 232_448, 60 << 20);
        let older = db::Device::gpu("an A100", (8, 0), 108, 166_912, 40 << 20);
        let winners = stored(&[(&here, larger.clone(), &[(fewer_stages, 1.0)])], &generation(&h100()));
        let chosen = asked(&winners, &here);
        assert_eq!(chosen.grade, Grade::OtherGpu { from: larger });
        assert_eq!(chosen.value, Some(fewer_stages(default_of(&here))));
        let winners = stored(&[(&here, older, &[(fewer_stages, 1.0)])], &generation(&h100()));
        assert_eq!(asked(&winners, &here).value, Some(default_of(&here)), "of family mma");
    }
}
