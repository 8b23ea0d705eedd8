//! Which knobs a problem has, and what a grid of their values holds.

use super::{Gpu, GpuSchedule, GpuSpace, Part, ScheduleError};
use crate::ir::{InputId, InputKind, Program};
use crate::problem::{DType, Filter, Problem};
use crate::valid::{ProgramBuilder, Site};
use std::collections::HashSet;

fn program() -> Program {
    let here = Site(0);
    let mut b = ProgramBuilder::new(here, "normaliser");
    let x = b.input(here, "x", InputKind::Logit);
    let weight = b.input(here, "weight", InputKind::Row);
    let lse = b.lse(here, x);
    let loss = b.mul(here, weight, lse);
    b.output(here, "loss", loss);
    b.finish().unwrap()
}

fn gemma(filter: Filter) -> Problem {
    Problem { filter, ..Problem::new(8192, 2304, 256_000, DType::Bf16) }
}

fn loss_only(problem: Problem) -> Problem {
    Problem { hidden_gradient: None, classifier_gradient: None, ..problem }
}

fn on(space: &GpuSpace) -> Vec<Part> {
    space.knobs().iter().filter(|knob| knob.off.is_none()).map(|knob| knob.part).collect()
}

fn why(space: &GpuSpace, part: Part) -> String {
    space.knobs().iter().find(|knob| knob.part == part).unwrap().off.clone().unwrap()
}

#[test]
fn a_knob_that_cannot_matter_is_off_and_says_why() {
    let (program, h100) = (program(), Gpu::h100());
    let space = |problem: &Problem| GpuSpace::of(&program, problem, &h100);
    let products = [Part::LogitsGradient, Part::HiddenGradient, Part::ClassifierGradient];

    let exact = space(&gemma(Filter::Exact));
    assert_eq!(on(&exact), [&[Part::Logits, Part::Rows][..], &products, &[Part::Chunk]].concat());
    assert_eq!(why(&exact, Part::Hot), "the filter treats every column alike");
    assert!(why(&exact, Part::Splits).contains("wgmma"));

    let sampled = space(&gemma(Filter::SAMPLED));
    assert_eq!(on(&sampled), [&[Part::Logits, Part::Hot, Part::Rows][..], &products].concat());
    assert!(why(&sampled, Part::Chunk).contains("the only chunk"));

    let loss = space(&loss_only(gemma(Filter::SAMPLED)));
    assert_eq!(on(&loss), [Part::Logits, Part::Rows]);
    assert_eq!(why(&loss, Part::ClassifierGradient), "only the loss is wanted");

    let only_hidden = space(&Problem { classifier_gradient: None, ..gemma(Filter::SAMPLED) });
    assert!(!on(&only_hidden).contains(&Part::ClassifierGradient));
    assert_eq!(why(&only_hidden, Part::ClassifierGradient), "dC is not wanted");

    let of_weight = Problem { input_gradients: vec![InputId(1)], ..loss_only(gemma(Filter::Exact)) };
    assert!(why(&space(&of_weight), Part::Chunk).contains("nor the gradient of a Col input"));

    let small = space(&Problem { filter: Filter::SAMPLED, ..Problem::new(8192, 2304, 300, DType::Bf16) });
    assert!(why(&small, Part::Hot).contains("every column is hot"));
    assert!(
        why(&space(&Problem { tokens: 200, ..gemma(Filter::Exact) }), Part::Rows).contains("one row block")
    );
}

#[test]
fn parts_of_the_vocabulary_matter_until_row_blocks_fill_the_gpu() {
    let (program, a100) = (program(), Gpu::of_capability(8, 0));
    let of = |tokens| GpuSpace::of(&program, &Problem { tokens, ..gemma(Filter::Exact) }, &a100);
    assert!(on(&of(8192)).contains(&Part::Splits));
    assert!(why(&of(1 << 20), Part::Splits).contains("N is large"));
}

#[test]
fn the_space_begins_with_the_default_and_few_of_its_schedules_come_to_the_same() {
    let program = program();
    for (gpu, filter, dtype) in [
        (Gpu::h100(), Filter::SAMPLED, DType::Bf16),
        (Gpu::h100(), Filter::Exact, DType::F16),
        (Gpu::of_capability(8, 0), Filter::SAMPLED, DType::Bf16),
        (Gpu::of_capability(7, 5), Filter::Exact, DType::F32),
    ] {
        for tokens in [100, 1000, 8192] {
            let problem = Problem { tokens, dtype, ..gemma(filter) };
            let mut space = GpuSpace::of(&program, &problem, &gpu);
            let whole = space.size();
            space.limit(600);
            let all: Vec<_> = space.schedules().collect();
            assert_eq!(all.len() as u64, space.searched(), "{} {tokens}", gpu.name);
            assert!(all.len() <= 600 && all.len() as u64 <= whole);
            let base = GpuSchedule::default_for(&program, &problem, &gpu);
            assert_eq!(all[0], (base, Ok(())), "{} {tokens}", gpu.name);
            let distinct: HashSet<GpuSchedule> = all.iter().map(|(schedule, _)| *schedule).collect();
            assert!(distinct.len() * 10 >= all.len() * 8, "{} of {}", distinct.len(), all.len());
            let possible = all.iter().filter(|(_, fits)| fits.is_ok()).count();
            assert!(possible * 4 >= all.len() * 3, "{possible} of {}", all.len());
        }
    }
}

#[test]
fn a_grid_of_a_few_hundred_varies_every_knob_that_is_on() {
    let (program, gpu) = (program(), Gpu::h100());
    let limited = |problem: &Problem| {
        let mut space = GpuSpace::of(&program, problem, &gpu);
        space.limit(600);
        space
    };
    for filter in [Filter::SAMPLED, Filter::Exact] {
        let space = limited(&gemma(filter));
        assert!((200..=600).contains(&space.searched()), "{}", space.searched());
        assert!(space.knobs().iter().all(|knob| knob.off.is_some() || knob.searched >= 2));
    }
    let loss = limited(&loss_only(gemma(Filter::Exact)));
    assert!((100..=250).contains(&loss.searched()), "{}", loss.searched());
    let mut one = limited(&gemma(Filter::Exact));
    one.limit(1);
    assert_eq!(one.schedules().count(), 1);
}

#[test]
fn chunks_that_the_workspaces_limit_leaves_no_room_for_are_left_out_with_the_reason() {
    let (program, gpu) = (program(), Gpu::h100());
    let problem = Problem { workspace_limit: Some(96 << 20), ..gemma(Filter::Exact) };
    let space = GpuSpace::of(&program, &problem, &gpu);
    let chunk = space.knobs().iter().find(|knob| knob.part == Part::Chunk).unwrap();
    assert!(!chunk.left_out.is_empty());
    assert!(chunk.left_out.iter().all(|(_, why)| why.contains("limit leaves room for")));
}

#[test]
fn what_varies_one_knob_shows_the_constraints_too() {
    let problem = gemma(Filter::Exact);
    let space = GpuSchedule::space(&program(), &problem, &Gpu::of_capability(8, 6));
    assert!(space.iter().any(|(_, fits)| matches!(fits, Err(ScheduleError::Shared { .. }))));
    assert_eq!(space[0].1, Ok(()));
}
