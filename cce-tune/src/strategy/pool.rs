//! The schedules that a strategy chooses from, and how alike they are, part by part.

use cce_codegen::schedule::{Family, GpuSchedule, Schedule, Tile};
use std::collections::HashMap;

/// Schedules that may be tried, the default first.
#[derive(Clone, Debug)]
pub struct Pool {
    schedules: Vec<Schedule>,
    places: HashMap<Schedule, usize>,
    parts: Vec<Vec<Features>>,
    /// Of each schedule and part the number of its value among the values of the part.
    values: Vec<Vec<usize>>,
    counts: Vec<usize>,
}

/// What a part of a schedule is made of, as numbers of which 1 is a factor of two.
pub(super) type Features = Vec<f64>;

impl Pool {
    /// The pool of these schedules; one that comes twice is there once.
    pub fn new(schedules: impl IntoIterator<Item = Schedule>) -> Pool {
        let mut pool = Pool {
            schedules: Vec::new(),
            places: HashMap::new(),
            parts: Vec::new(),
            values: Vec::new(),
            counts: Vec::new(),
        };
        let mut numbers: Vec<HashMap<Vec<u64>, usize>> = Vec::new();
        for schedule in schedules {
            if pool.places.contains_key(&schedule) {
                continue;
            }
            let parts = parts(&schedule);
            numbers.resize_with(numbers.len().max(parts.len()), HashMap::new);
            let values = parts.iter().zip(&mut numbers).map(|(part, numbers)| {
                let bits = part.iter().map(|x| x.to_bits()).collect();
                let next = numbers.len();
                *numbers.entry(bits).or_insert(next)
            });
            pool.values.push(values.collect());
            pool.places.insert(schedule, pool.schedules.len());
            pool.schedules.push(schedule);
            pool.parts.push(parts);
        }
        pool.counts = numbers.iter().map(HashMap::len).collect();
        pool
    }

    /// How many schedules there are.
    pub fn len(&self) -> usize {
        self.schedules.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.schedules.is_empty()
    }

    /// The schedules, in order.
    pub fn schedules(&self) -> &[Schedule] {
        &self.schedules
    }

    /// The parts of every schedule.
    pub(super) fn parts(&self) -> &[Vec<Features>] {
        &self.parts
    }

    /// Of each part of a schedule the number of its value.
    pub(super) fn values(&self, at: usize) -> &[usize] {
        &self.values[at]
    }

    /// How many values each part has.
    pub(super) fn counts(&self) -> &[usize] {
        &self.counts
    }

    /// The place of a schedule.
    pub fn place(&self, schedule: &Schedule) -> Option<usize> {
        self.places.get(schedule).copied()
    }
}

/// The parts of a schedule as numbers. Schedules of the same kind of device have the same parts.
pub(super) fn parts(schedule: &Schedule) -> Vec<Features> {
    let log = |x: u32| f64::from(x.max(1)).log2();
    let tile = |t: &Tile| vec![log(t.m), log(t.n), log(t.k), log(t.stages), log(t.warps_m), log(t.warps_n)];
    match schedule {
        Schedule::Cpu(cpu) => vec![vec![log(cpu.token_block)], vec![log(cpu.strip)]],
        Schedule::Gpu(gpu) => {
            // Another family is far away in each part.
            let family = 8.0
                * match gpu.family {
                    Family::Wgmma => 0.0,
                    Family::Mma => 1.0,
                    Family::Simt => 2.0,
                };
            vec![
                vec![family],
                tile(&gpu.logits),
                vec![log(gpu.group.saturating_mul(gpu.logits.m))],
                vec![log(gpu.splits)],
                vec![log(gpu.hot)],
                tile(&gpu.logits_gradient),
                tile(&gpu.hidden_gradient),
                tile(&gpu.classifier_gradient),
                vec![log(gpu.chunk)],
            ]
        }
    }
}

/// How far two schedules with the same tiles are apart in their numbers, a factor of two as 1; `None` if a tile
/// differs, or they are of different kinds of devices.
pub(crate) fn far_apart(a: &Schedule, b: &Schedule) -> Option<f64> {
    let (a, b) = (parts(a), parts(b));
    let numbers = |(a, b): (&Features, &Features)| match (a.as_slice(), b.as_slice()) {
        ([a], [b]) => Some((a - b) * (a - b)),
        (a, b) => (a == b).then_some(0.0),
    };
    let squares: Option<f64> = a.iter().zip(&b).map(numbers).sum();
    squares.filter(|_| a.len() == b.len()).map(f64::sqrt)
}

/// A part that is given from one schedule to another of the same family.
pub(super) type Give = fn(&mut Schedule, &Schedule);

/// The parts of schedules that vary by themselves: each sets the part of the first to that of the second. Hot
/// columns stay whole tiles of the logits. Those that do not fit the kind of device do nothing.
pub(super) const PARTS: [Give; 8] = [
    |to, from| {
        gpu(to, from, |to, from| {
            (to.logits, to.splits, to.group) = (from.logits, from.splits, from.group);
            to.hot = to.hot.next_multiple_of(to.logits.n);
        });
    },
    |to, from| gpu(to, from, |to, from| to.logits_gradient = from.logits_gradient),
    |to, from| gpu(to, from, |to, from| to.classifier_gradient = from.classifier_gradient),
    |to, from| gpu(to, from, |to, from| to.hidden_gradient = from.hidden_gradient),
    |to, from| gpu(to, from, |to, from| to.chunk = from.chunk),
    |to, from| gpu(to, from, |to, from| to.hot = from.hot.next_multiple_of(to.logits.n)),
    |to, from| {
        if let (Schedule::Cpu(to), Schedule::Cpu(from)) = (to, from) {
            to.token_block = from.token_block;
        }
    },
    |to, from| {
        if let (Schedule::Cpu(to), Schedule::Cpu(from)) = (to, from) {
            to.strip = from.strip;
        }
    },
];

fn gpu(to: &mut Schedule, from: &Schedule, give: impl FnOnce(&mut GpuSchedule, &GpuSchedule)) {
    if let (Schedule::Gpu(to), Schedule::Gpu(from)) = (to, from)
        && to.family == from.family
    {
        give(to, from);
    }
}
