//! The space of schedules of a problem: its knobs, the values of each, and what keeps a knob or a value out.
//!
//! - A knob that cannot change what a plan does for this problem is off, with the reason. A value that breaks a
//!   constraint whatever the others are is left out, with the reason.
//! - The space is the product of the values of the knobs that are on; it is enumerated, never stored. The first
//!   value of each knob is the default schedule's, the others follow in the order of promise.
//! - Values besides the default's lie on grids that are the same for every shape: what was measured on one shape
//!   can be looked up in another.

use super::defaults::{MMA, SIMT, SIMT_SMALL, places_of, rounded, samples, splits_of};
use super::{Family, Gpu, GpuSchedule, ScheduleError, Tile};
use crate::ir::{InputKind, Program};
use crate::plan::widest_chunk;
use crate::problem::Problem;
use serde::{Deserialize, Serialize};

/// Tiles of family `wgmma`: the widest with the deepest ring that fits first, then rings of fewer stages, which
/// begin and end sooner.
const WGMMA: [Tile; 18] = {
    const SIZES: [(u32, u32); 18] = [
        (256, 4),
        (128, 6),
        (192, 4),
        (64, 7),
        (256, 3),
        (128, 4),
        (192, 3),
        (64, 5),
        (128, 5),
        (64, 8),
        (256, 2),
        (192, 2),
        (128, 3),
        (64, 6),
        (64, 4),
        (128, 2),
        (64, 3),
        (64, 2),
    ];
    let mut tiles = [SIMT; 18];
    let mut at = 0;
    while at < 18 {
        let (n, stages) = SIZES[at];
        tiles[at] = Tile { m: 128, n, k: 64, stages, warps_m: 8, warps_n: 1 };
        at += 1;
    }
    tiles
};

/// Tiles that each product of the backward pass tries, at most: its time is a part of the whole.
const PRODUCT_TILES: usize = 8;

/// Rows that walk together: multiples of the largest row block, first in steps of two, then what lies between.
const ROWS: [[u32; 8]; 2] = [
    [256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768],
    [768, 1536, 3072, 6144, 12_288, 24_576, 49_152, 98_304],
];

/// Parts of the vocabulary, in hundredths of those that fill the GPU once.
const FILLS: [u32; 3] = [100, 200, 50];

/// Columns that a sampled plan treats densely.
const HOT: [u32; 7] = [256, 512, 1024, 2048, 4096, 8192, 16_384];

/// Columns of a chunk.
const CHUNKS: [u32; 8] = [1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072];

/// Values of a grid besides the default's that a knob takes: the nearest.
const MOST_OF_A_GRID: usize = 8;
const MOST_WIDTHS: usize = 4;

/// Values that differ from the default's by less than this factor tell nothing new.
const ALIKE: f64 = 1.2;

/// Row blocks that fill the GPU so many times over need no parts of the vocabulary.
const FULL_ENOUGH: usize = 4;

/// A part of a schedule that varies by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The tile of the forward walk.
    Logits,
    /// The first columns, which a sampled plan treats densely.
    Hot,
    /// The rows that walk together.
    Rows,
    /// The tile of the gradient of the logits.
    LogitsGradient,
    /// The tile of dE.
    HiddenGradient,
    /// The tile of dC.
    ClassifierGradient,
    /// The columns of a chunk of the backward pass.
    Chunk,
    /// The parts of the vocabulary that are walked independently.
    Splits,
}

impl Part {
    /// Every part, the one that decides most of the time first.
    pub const ALL: [Part; 8] = [
        Part::Logits,
        Part::Hot,
        Part::Rows,
        Part::LogitsGradient,
        Part::HiddenGradient,
        Part::ClassifierGradient,
        Part::Chunk,
        Part::Splits,
    ];

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Part::Logits => "logits tile",
            Part::Hot => "hot columns",
            Part::Rows => "rows that walk together",
            Part::LogitsGradient => "logits gradient tile",
            Part::HiddenGradient => "dE tile",
            Part::ClassifierGradient => "dC tile",
            Part::Chunk => "chunk",
            Part::Splits => "splits",
        }
    }
}

/// A value of a knob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// A tile.
    Tile(Tile),
    /// Tokens.
    Rows(u32),
    /// Columns of the vocabulary.
    Columns(u32),
    /// Parts, in hundredths of those that fill the GPU once.
    Fill(u32),
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Setting::Tile(t) => write!(f, "{}x{}x{}/{}", t.m, t.n, t.k, t.stages),
            Setting::Rows(count) | Setting::Columns(count) => write!(f, "{count}"),
            Setting::Fill(hundredths) => write!(f, "{hundredths} %"),
        }
    }
}

/// A part of the schedule and the values that are tried for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Knob {
    /// Which part.
    pub part: Part,
    /// Its values, the default's first; one alone: the knob is off.
    pub values: Vec<Setting>,
    /// Why the knob is off.
    pub off: Option<String>,
    /// Values that cannot be, and why.
    pub left_out: Vec<(Setting, String)>,
    /// The first so many values are searched: see [`GpuSpace::limit`].
    pub searched: usize,
}

/// The schedules of a problem on a GPU.
#[derive(Clone, Debug)]
pub struct GpuSpace {
    base: GpuSchedule,
    knobs: Vec<Knob>,
    others: Vec<GpuSchedule>,
    problem: Problem,
    gpu: Gpu,
}

impl GpuSpace {
    /// The space of a problem: that of the family of its default schedule; where that is `wgmma`, the default
    /// of `mma` besides, which small problems may prefer.
    pub fn of(program: &Program, problem: &Problem, gpu: &Gpu) -> GpuSpace {
        let base = GpuSchedule::default_for(program, problem, gpu);
        let others = match base.family {
            Family::Wgmma => vec![GpuSchedule::of_family(Family::Mma, program, problem, gpu)],
            Family::Mma | Family::Simt => Vec::new(),
        };
        let mut space =
            GpuSpace { base, knobs: Vec::new(), others, problem: problem.clone(), gpu: gpu.clone() };
        let wanted = Wanted::of(program, problem, &base);
        space.knobs = Part::ALL.map(|part| space.knob(part, &wanted, program)).into();
        space
    }

    /// The default schedule.
    pub fn base(&self) -> &GpuSchedule {
        &self.base
    }

    /// Every knob, those that are off too.
    pub fn knobs(&self) -> &[Knob] {
        &self.knobs
    }

    /// How many schedules there are, those that break a constraint together included.
    pub fn size(&self) -> u64 {
        self.knobs.iter().map(|knob| knob.values.len() as u64).product::<u64>() + self.others.len() as u64
    }

    /// How many of them [`GpuSpace::schedules`] goes through.
    pub fn searched(&self) -> u64 {
        self.knobs.iter().map(|knob| knob.searched as u64).product::<u64>() + self.others.len() as u64
    }

    /// Keeps of each knob the most promising values, so that no more than `most` schedules (but the default in
    /// any case) are left: a grid, in which every value meets every other. The knob with most values loses one
    /// first; of equals the one that decides least.
    pub fn limit(&mut self, most: u64) {
        while self.searched() > most {
            let Some(knob) = self.knobs.iter_mut().max_by_key(|knob| (knob.searched, knob.part)) else {
                break;
            };
            if knob.searched == 1 {
                self.others.clear();
                break;
            }
            knob.searched -= 1;
        }
    }

    /// The schedules that are searched, the default first, each with the constraint that it breaks, if any.
    pub fn schedules(&self) -> impl Iterator<Item = (GpuSchedule, Result<(), ScheduleError>)> + '_ {
        let product = self.knobs.iter().map(|knob| knob.searched as u64).product::<u64>();
        let of_the_product = (0..product).map(|mut number| {
            let mut schedule = self.base;
            // The last knob turns fastest; parts that depend on the forward tile come after it.
            let mut settings = [Setting::Rows(0); Part::ALL.len()];
            for (knob, setting) in self.knobs.iter().zip(&mut settings).rev() {
                *setting = knob.values[(number % knob.searched as u64) as usize];
                number /= knob.searched as u64;
            }
            for (knob, setting) in self.knobs.iter().zip(settings) {
                self.set(&mut schedule, knob.part, setting);
            }
            schedule
        });
        of_the_product.chain(self.others.iter().copied()).map(|schedule| {
            let fits = schedule.check(&self.problem, &self.gpu);
            (schedule, fits)
        })
    }

    /// The default, and every schedule that differs from it in one knob; with the constraint that it breaks, if
    /// any: what is left out is left out for a reason that can be shown.
    pub fn one_at_a_time(&self) -> Vec<(GpuSchedule, Result<(), ScheduleError>)> {
        let mut schedules = vec![self.base];
        let knobs = self.knobs.iter().filter(|knob| knob.off.is_none());
        let variations = knobs.flat_map(|knob| {
            let values = knob.values.iter().chain(knob.left_out.iter().map(|(setting, _)| setting));
            values.map(|&setting| self.varied(knob.part, setting))
        });
        for schedule in variations.chain(self.others.iter().copied()) {
            if !schedules.contains(&schedule) {
                schedules.push(schedule);
            }
        }
        schedules.into_iter().map(|schedule| (schedule, schedule.check(&self.problem, &self.gpu))).collect()
    }

    /// The default with one part changed, and what depends on it.
    fn varied(&self, part: Part, setting: Setting) -> GpuSchedule {
        let mut schedule = self.base;
        for other in Part::ALL {
            let setting = if other == part { setting } else { self.default(other) };
            self.set(&mut schedule, other, setting);
        }
        schedule
    }

    /// The default schedule's value of a part.
    fn default(&self, part: Part) -> Setting {
        let base = &self.base;
        match part {
            Part::Logits => Setting::Tile(base.logits),
            Part::LogitsGradient => Setting::Tile(base.logits_gradient),
            Part::HiddenGradient => Setting::Tile(base.hidden_gradient),
            Part::ClassifierGradient => Setting::Tile(base.classifier_gradient),
            Part::Hot => Setting::Columns(base.hot),
            Part::Rows => Setting::Rows(base.group * base.logits.walk_rows(base.family)),
            Part::Chunk => Setting::Columns(base.chunk),
            Part::Splits => Setting::Fill(FILLS[0]),
        }
    }

    fn set(&self, schedule: &mut GpuSchedule, part: Part, setting: Setting) {
        match (part, setting) {
            (Part::Logits, Setting::Tile(tile)) => schedule.logits = tile,
            (Part::LogitsGradient, Setting::Tile(tile)) => schedule.logits_gradient = tile,
            (Part::HiddenGradient, Setting::Tile(tile)) => schedule.hidden_gradient = tile,
            (Part::ClassifierGradient, Setting::Tile(tile)) => schedule.classifier_gradient = tile,
            // Whole tiles of the logits, and whole row blocks.
            (Part::Hot, Setting::Columns(hot)) => schedule.hot = hot.next_multiple_of(schedule.logits.n),
            (Part::Rows, Setting::Rows(rows)) => {
                schedule.group = (rows / schedule.logits.walk_rows(schedule.family)).max(1);
            }
            (Part::Chunk, Setting::Columns(chunk)) => schedule.chunk = chunk,
            (Part::Splits, Setting::Fill(hundredths)) => {
                let splits = splits_of(&self.problem, &self.gpu, schedule, hundredths);
                schedule.splits = splits;
            }
            _ => {}
        }
    }

    fn knob(&self, part: Part, wanted: &Wanted, program: &Program) -> Knob {
        let default = self.default(part);
        let others = match part {
            Part::Logits => self.tiles(usize::MAX),
            Part::LogitsGradient | Part::HiddenGradient | Part::ClassifierGradient => {
                self.tiles(PRODUCT_TILES)
            }
            Part::Hot => self.hot(),
            Part::Rows => self.rows(),
            Part::Chunk => self.chunks(),
            Part::Splits => FILLS.map(Setting::Fill).into(),
        };
        let mut knob = Knob {
            part,
            values: vec![default],
            off: wanted.off(part, self),
            left_out: Vec::new(),
            searched: 1,
        };
        if knob.off.is_some() {
            return knob;
        }
        let limit = match part {
            Part::Chunk => self.widest_chunk(program),
            _ => None,
        };
        // Values that come to the same (half of one part is one part) are one.
        for setting in others.into_iter().filter(|other| self.varied(part, *other) != self.base) {
            let why = self.why_not(part, setting, limit);
            match why {
                Some(why) => knob.left_out.push((setting, why)),
                None => knob.values.push(setting),
            }
        }
        knob.searched = knob.values.len();
        if knob.values.len() == 1 {
            knob.off = Some("no other value is possible here".to_owned());
        }
        knob
    }

    /// Why a value cannot be, whatever the other knobs say.
    fn why_not(&self, part: Part, setting: Setting, widest: Option<u32>) -> Option<String> {
        match setting {
            Setting::Columns(chunk) if part == Part::Chunk => {
                let widest = widest.filter(|&widest| chunk >= widest)?;
                Some(format!("the workspace's limit leaves room for {widest} columns"))
            }
            Setting::Tile(tile)
                if self.base.family != Family::Wgmma
                    && matches!(part, Part::Logits | Part::LogitsGradient | Part::HiddenGradient)
                    && tile.m > rounded(self.problem.tokens) =>
            {
                Some(format!("{} rows are more than there are tokens", tile.m))
            }
            Setting::Tile(_) => {
                let fits = self.varied(part, setting).check(&self.problem, &self.gpu);
                fits.err().map(|error| error.to_string())
            }
            Setting::Rows(_) | Setting::Columns(_) | Setting::Fill(_) => None,
        }
    }

    fn tiles(&self, most: usize) -> Vec<Setting> {
        let tiles: &[Tile] = match self.base.family {
            Family::Wgmma => &WGMMA,
            Family::Mma => &MMA,
            Family::Simt => &[SIMT, SIMT_SMALL],
        };
        tiles.iter().take(most).copied().map(Setting::Tile).collect()
    }

    fn hot(&self) -> Vec<Setting> {
        let possible = HOT.into_iter().filter(|&hot| (hot as usize) < self.problem.vocab);
        near(self.base.hot, possible, MOST_WIDTHS).into_iter().map(Setting::Columns).collect()
    }

    fn chunks(&self) -> Vec<Setting> {
        let possible = CHUNKS.into_iter().filter(|&chunk| (chunk as usize) < self.problem.vocab);
        near(self.base.chunk, possible, MOST_WIDTHS).into_iter().map(Setting::Columns).collect()
    }

    /// Rows that divide the row blocks into different numbers of groups.
    fn rows(&self) -> Vec<Setting> {
        let each = self.base.logits.walk_rows(self.base.family);
        let blocks = self.row_blocks();
        let most = match self.base.family {
            Family::Wgmma => self.gpu.clusters(),
            Family::Mma | Family::Simt => 256,
        };
        let groups = |rows: u32| blocks.div_ceil((rows / each).max(1));
        let default = self.base.group * each;
        let mut seen = vec![groups(default)];
        let grids = ROWS.into_iter().flat_map(|grid| {
            near(default, grid.into_iter().filter(|rows| rows / each <= most), MOST_OF_A_GRID)
        });
        let mut possible = Vec::new();
        for rows in grids {
            if !seen.contains(&groups(rows)) {
                seen.push(groups(rows));
                possible.push(Setting::Rows(rows));
            }
        }
        possible
    }

    fn row_blocks(&self) -> u32 {
        let rows = self.base.logits.walk_rows(self.base.family) as usize;
        u32::try_from(self.problem.tokens.div_ceil(rows).max(1)).unwrap_or(u32::MAX)
    }

    /// The widest chunk that the workspace's limit leaves room for, where there is a limit.
    fn widest_chunk(&self, program: &Program) -> Option<u32> {
        let limit = self.problem.workspace_limit?;
        let whole = u32::try_from(self.problem.vocab.next_multiple_of(64).max(64)).unwrap_or(u32::MAX - 63);
        let widest = GpuSchedule { chunk: whole, ..self.base };
        widest_chunk(program, &self.problem, &widest, &self.gpu, limit).ok().filter(|&chunk| chunk < whole)
    }
}

/// The values of a grid that differ enough from the default's, the nearest first, at most so many.
fn near(default: u32, grid: impl Iterator<Item = u32>, most: usize) -> Vec<u32> {
    let far = |value: u32| (f64::from(value.max(1)) / f64::from(default.max(1))).ln().abs();
    let mut values: Vec<u32> = grid.filter(|&value| far(value) > ALIKE.ln()).collect();
    values.sort_by(|&a, &b| far(a).total_cmp(&far(b)).then(a.cmp(&b)));
    values.truncate(most);
    values
}

/// What a problem makes a plan compute.
struct Wanted {
    /// Gradients of any kind.
    gradients: bool,
    /// Gradients that need the gradient of the logits in memory: dE, dC, those of Col inputs.
    logits: bool,
    hidden: bool,
    classifier: bool,
    /// Whether the columns behind the hot ones are sampled.
    sampled: bool,
    /// Whether the filter samples, but does nothing for this problem, and why.
    idle: &'static str,
}

impl Wanted {
    fn of(program: &Program, problem: &Problem, base: &GpuSchedule) -> Wanted {
        let (hidden, classifier) = (problem.hidden_gradient.is_some(), problem.classifier_gradient.is_some());
        let is_col = |index: usize| program.inputs().get(index).is_some_and(|i| i.kind == InputKind::Col);
        let cols = problem.input_gradients.iter().any(|input| is_col(input.index()));
        let all_hot = base.hot as usize >= problem.vocab;
        Wanted {
            gradients: problem.wants_gradients(),
            logits: hidden || classifier || cols,
            hidden,
            classifier,
            sampled: samples(problem) && (hidden || classifier) && !all_hot,
            idle: match (samples(problem), hidden || classifier) {
                (false, _) => "the filter treats every column alike",
                (true, false) => "nothing is sampled: neither dE nor dC is wanted",
                (true, true) => "every column is hot: the vocabulary is small",
            },
        }
    }

    /// Why a part cannot change what the plan does.
    fn off(&self, part: Part, space: &GpuSpace) -> Option<String> {
        let no_gradient = || match self.gradients {
            false => "only the loss is wanted".to_owned(),
            true => "neither dE nor dC nor the gradient of a Col input is wanted".to_owned(),
        };
        match part {
            Part::Logits => None,
            Part::Rows => (space.row_blocks() == 1).then(|| "all tokens are one row block".to_owned()),
            Part::Splits if space.base.family == Family::Wgmma => {
                Some("family wgmma divides its walk by the GPU's clusters".to_owned())
            }
            Part::Splits => {
                let blocks = space.problem.tokens.div_ceil(space.base.logits.m.max(1) as usize);
                let places = places_of(&space.gpu, &space.base.logits, space.base.family) as usize;
                (blocks >= FULL_ENOUGH * places).then(|| {
                    format!("N is large: {blocks} row blocks fill the GPU's {places} places over and over")
                })
            }
            Part::Hot if !self.gradients => Some(no_gradient()),
            Part::Hot => (!self.sampled).then(|| self.idle.to_owned()),
            Part::LogitsGradient => (!self.logits).then(no_gradient),
            Part::HiddenGradient if !self.gradients => Some(no_gradient()),
            Part::HiddenGradient => (!self.hidden).then(|| "dE is not wanted".to_owned()),
            Part::ClassifierGradient if !self.gradients => Some(no_gradient()),
            Part::ClassifierGradient => (!self.classifier).then(|| "dC is not wanted".to_owned()),
            Part::Chunk if !self.logits => Some(no_gradient()),
            Part::Chunk => {
                self.sampled.then(|| "of a sampled plan the hot columns are the only chunk".to_owned())
            }
        }
    }
}

impl GpuSchedule {
    /// The default schedule of a problem, and every one that differs from it in one knob, each with the
    /// constraint that it breaks, if any.
    pub fn space(
        program: &Program,
        problem: &Problem,
        gpu: &Gpu,
    ) -> Vec<(GpuSchedule, Result<(), ScheduleError>)> {
        GpuSpace::of(program, problem, gpu).one_at_a_time()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::InputId;
    use crate::problem::{DType, Filter};
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
            why(&space(&Problem { tokens: 200, ..gemma(Filter::Exact) }), Part::Rows)
                .contains("one row block")
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
}
