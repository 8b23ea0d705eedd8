//! What a schedule changes of another: what one problem's winner says of another problem.
//!
//! A default schedule is derived from its problem: columns that are hot, rows that fit a cache, tiles that divide
//! what there is. So a winner's own numbers mean little for another shape. What carries over is how it differs from
//! the default of *its* problem: the other tile, half the rows, twice the columns.
//!
//! Invariants: a change that is put on the default it was taken from is the schedule itself, up to whole tiles;
//! no change at all leaves a default as it is. Whether the outcome fits its problem is for its check to say.

use super::{CpuSchedule, GpuSchedule, Schedule, Tile};

/// Numbers that differ by less than this factor are alike: whole tiles of another size make as much.
const ALIKE: f64 = 1.2;

/// The parts in which a schedule differs from another of the same kind of device and family.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Change {
    /// Of logits, their gradient, dE and dC; a schedule of the CPU device has none.
    tiles: [Option<Tile>; 4],
    /// The factor on each number: of a GPU hot columns, rows that walk together, chunk and splits, of the CPU
    /// device token block and strip.
    factors: [Option<f64>; 4],
}

impl Change {
    /// What `schedule` changes of `base`; `None` between different kinds of devices or families.
    pub fn of(schedule: &Schedule, base: &Schedule) -> Option<Change> {
        let alike = match (schedule, base) {
            (Schedule::Gpu(schedule), Schedule::Gpu(base)) => schedule.family == base.family,
            (Schedule::Cpu(_), Schedule::Cpu(_)) => true,
            _ => false,
        };
        if !alike {
            return None;
        }
        let mut change = Change::default();
        let tiles = tiles(schedule).into_iter().zip(tiles(base));
        for (changed, (new, old)) in change.tiles.iter_mut().zip(tiles) {
            *changed = new.filter(|_| new != old);
        }
        let numbers = numbers(schedule).into_iter().zip(numbers(base));
        for (changed, (new, old)) in change.factors.iter_mut().zip(numbers) {
            let factor = f64::from(new.max(1)) / f64::from(old.max(1));
            *changed = (factor.ln().abs() > ALIKE.ln()).then_some(factor);
        }
        Some(change)
    }

    /// What is left of it in parts that another schedule of the same problem changes too: tiles to whichever other,
    /// numbers in the same direction. So of two that are as fast as each other: where one has the base's part, that
    /// part is not what made the other fast.
    #[must_use]
    pub fn shared_with(&self, other: &Change) -> Change {
        let mut shared = *self;
        for (ours, theirs) in shared.tiles.iter_mut().zip(other.tiles) {
            *ours = ours.filter(|_| theirs.is_some());
        }
        for (ours, theirs) in shared.factors.iter_mut().zip(other.factors) {
            *ours = ours.filter(|ours| theirs.is_some_and(|theirs| same_way(*ours, theirs)));
        }
        shared
    }

    /// What is left of it in parts that most agree on, itself and those of other problems: the same tile, numbers in
    /// the same direction.
    #[must_use]
    pub fn confirmed_by(&self, others: &[Change]) -> Change {
        let most = |agreeing: usize| 2 * (agreeing + 1) > others.len() + 1;
        let mut confirmed = *self;
        for (part, ours) in confirmed.tiles.iter_mut().enumerate() {
            let agreeing = others.iter().filter(|other| other.tiles[part] == *ours).count();
            *ours = ours.filter(|_| most(agreeing));
        }
        for (part, ours) in confirmed.factors.iter_mut().enumerate() {
            let agrees = |ours: f64| {
                let other =
                    |other: &&Change| other.factors[part].is_some_and(|theirs| same_way(ours, theirs));
                most(others.iter().filter(other).count())
            };
            *ours = ours.filter(|ours| agrees(*ours));
        }
        confirmed
    }

    /// The base with these parts changed, its numbers whole tiles again.
    #[must_use]
    pub fn on(&self, base: Schedule) -> Schedule {
        let scaled = |number: u32, factor: Option<f64>, step: u32| match factor {
            // A cast of a float saturates.
            Some(factor) => (f64::from(number) * factor / f64::from(step)).round().max(1.0) as u32 * step,
            None => number,
        };
        let [first, second, third, fourth] = self.factors;
        match base {
            Schedule::Cpu(cpu) => Schedule::Cpu(CpuSchedule {
                token_block: scaled(cpu.token_block, first, 1),
                strip: scaled(cpu.strip, second, 1),
            }),
            Schedule::Gpu(gpu) => {
                let [logits, logits_gradient, hidden_gradient, classifier_gradient] = self.tiles;
                let logits = logits.unwrap_or(gpu.logits);
                let classifier_gradient = classifier_gradient.unwrap_or(gpu.classifier_gradient);
                let rows = scaled(rows(&gpu), second, 1);
                Schedule::Gpu(GpuSchedule {
                    logits,
                    logits_gradient: logits_gradient.unwrap_or(gpu.logits_gradient),
                    hidden_gradient: hidden_gradient.unwrap_or(gpu.hidden_gradient),
                    classifier_gradient,
                    hot: scaled(gpu.hot, first, logits.n).next_multiple_of(logits.n),
                    group: (rows / logits.walk_rows(gpu.family)).max(1),
                    chunk: scaled(gpu.chunk, third, classifier_gradient.walk_rows(gpu.family)),
                    splits: scaled(gpu.splits, fourth, 1),
                    ..gpu
                })
            }
        }
    }
}

fn same_way(one: f64, other: f64) -> bool {
    (one > 1.0) == (other > 1.0)
}

fn tiles(schedule: &Schedule) -> [Option<Tile>; 4] {
    match schedule {
        Schedule::Gpu(gpu) => {
            [gpu.logits, gpu.logits_gradient, gpu.hidden_gradient, gpu.classifier_gradient].map(Some)
        }
        Schedule::Cpu(_) => [None; 4],
    }
}

fn numbers(schedule: &Schedule) -> [u32; 4] {
    match schedule {
        Schedule::Gpu(gpu) => [gpu.hot, rows(gpu), gpu.chunk, gpu.splits],
        Schedule::Cpu(cpu) => [cpu.token_block, cpu.strip, 1, 1],
    }
}

/// Rows that walk together.
fn rows(gpu: &GpuSchedule) -> u32 {
    gpu.group.saturating_mul(gpu.logits.walk_rows(gpu.family))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{DType, Filter, Problem};
    use crate::schedule::sample::normaliser;
    use crate::schedule::{Gpu, GpuSpace};

    fn problem(tokens: usize, hidden: usize, vocab: usize) -> Problem {
        Problem { filter: Filter::SAMPLED, ..Problem::new(tokens, hidden, vocab, DType::Bf16) }
    }

    fn default(problem: &Problem) -> GpuSchedule {
        GpuSchedule::default_for(&normaliser(), problem, &Gpu::h100())
    }

    #[test]
    fn a_change_on_the_base_it_was_taken_from_is_the_schedule_itself() {
        let problem = problem(8192, 2304, 256_000);
        let mut space = GpuSpace::of(&normaliser(), &problem, &Gpu::h100());
        space.limit(600);
        let base = Schedule::Gpu(*space.base());
        let mut seen = 0;
        for (schedule, _) in space.schedules().filter(|(schedule, _)| schedule.family == space.base().family)
        {
            let schedule = Schedule::Gpu(schedule);
            let again = Change::of(&schedule, &base).unwrap().on(base);
            assert_eq!(again, schedule);
            seen += 1;
        }
        assert!(seen > 100, "{seen} schedules");
        assert_eq!(Change::of(&base, &base), Some(Change::default()));
    }

    #[test]
    fn tiles_are_taken_over_and_numbers_by_their_factor() {
        let (there, here) = (problem(8192, 896, 151_936), problem(8192, 4096, 128_256));
        let (base, other) = (default(&there), default(&here));
        let stages = Tile { stages: 3, ..base.logits };
        let winner = GpuSchedule { logits: stages, hot: base.hot / 2, group: base.group / 2, ..base };
        let change = Change::of(&Schedule::Gpu(winner), &Schedule::Gpu(base)).unwrap();
        let Schedule::Gpu(carried) = change.on(Schedule::Gpu(other)) else { panic!("not a GPU's") };
        assert_eq!(carried.logits, stages);
        assert_eq!((carried.hot, carried.group), (other.hot / 2, other.group / 2));
        // What the winner left as it was is the other problem's own.
        assert_eq!(carried.hidden_gradient, other.hidden_gradient);
        assert_eq!(carried.check(&here, &Gpu::h100()), Ok(()));
    }

    #[test]
    fn what_is_not_shared_or_confirmed_is_left_out() {
        let base = default(&problem(8192, 2304, 256_000));
        let with = |n: u32, hot: u32| {
            let gradient = Tile { n, ..base.logits_gradient };
            Change::of(
                &Schedule::Gpu(GpuSchedule { logits_gradient: gradient, hot, ..base }),
                &Schedule::Gpu(base),
            )
            .unwrap()
        };
        let (narrow, narrower) = (with(192, base.hot / 2), with(128, base.hot / 4));
        let (same, other_way) = (with(base.logits_gradient.n, base.hot), with(192, base.hot * 2));
        assert_eq!(narrow.shared_with(&narrower), narrow);
        assert_eq!(narrow.shared_with(&same), Change::default());
        let hot_only = with(base.logits_gradient.n, base.hot / 2);
        assert_eq!(narrow.confirmed_by(&[narrower]), hot_only);
        let tile_only = with(192, base.hot);
        assert_eq!(narrow.confirmed_by(&[other_way]), tile_only);
        // Two of three are enough, one of three is not.
        assert_eq!(narrow.confirmed_by(&[narrower, other_way]), narrow);
        assert_eq!(narrow.confirmed_by(&[same, tile_only]), tile_only);
        assert_eq!(narrow.confirmed_by(&[]), narrow);
    }

    #[test]
    fn other_families_and_devices_have_nothing_in_common() {
        let problem = problem(8192, 2304, 256_000);
        let of =
            |family| Schedule::Gpu(GpuSchedule::of_family(family, &normaliser(), &problem, &Gpu::h100()));
        let (wgmma, mma) = (of(crate::schedule::Family::Wgmma), of(crate::schedule::Family::Mma));
        let cpu = Schedule::Cpu(CpuSchedule { token_block: 64, strip: 512 });
        assert_eq!(Change::of(&wgmma, &mma), None);
        assert_eq!(Change::of(&cpu, &wgmma), None);
        let strips = Schedule::Cpu(CpuSchedule { token_block: 64, strip: 2048 });
        let other = Schedule::Cpu(CpuSchedule { token_block: 128, strip: 1024 });
        let carried = Change::of(&strips, &cpu).unwrap().on(other);
        assert_eq!(carried, Schedule::Cpu(CpuSchedule { token_block: 128, strip: 4096 }));
    }
}
