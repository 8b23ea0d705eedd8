//! What a tile needs, and why one may not be possible.

use super::{Family, Gpu, GpuSchedule, Tile};
use crate::problem::{DType, Filter, Layout, Problem};
use thiserror::Error;

/// Why a schedule does not fit a problem or a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// The family cannot run this problem here.
    #[error("family `{}` {reason}; the best family that can run this is `{}`", family.name(), best.name())]
    Family {
        /// The family.
        family: Family,
        /// What it needs and what was found.
        reason: String,
        /// The fastest that can run the problem on this GPU.
        best: Family,
    },
    /// A tile's numbers do not go together.
    #[error("the {which} tile {m} x {n} x {k} {reason}")]
    Tile {
        /// Which of the schedule's tiles.
        which: &'static str,
        /// Rows.
        m: u32,
        /// Columns.
        n: u32,
        /// Depth.
        k: u32,
        /// What is wrong with it.
        reason: String,
    },
    /// A tile's ring is larger than a block's shared memory.
    #[error(
        "the {which} tile needs {needed} bytes of shared memory a block, but {gpu} has {available}; take fewer \
         stages or a smaller tile"
    )]
    Shared {
        /// Which of the schedule's tiles.
        which: &'static str,
        /// Bytes needed.
        needed: u32,
        /// Bytes there are.
        available: u32,
        /// The GPU.
        gpu: String,
    },
    /// A number that must be at least one, or a multiple of something.
    #[error("{what} is {found}; it must be {expected}")]
    Number {
        /// The schedule's field.
        what: &'static str,
        /// Its value.
        found: u32,
        /// What it must be.
        expected: &'static str,
    },
}

/// Blocks of a cluster of family `wgmma`, one tile each.
pub(crate) const CLUSTER: u32 = 2;

/// Rows of a tile that a consumer warpgroup of family `wgmma` multiplies.
pub(crate) const WARPGROUP_ROWS: u32 = 64;

/// Room of a ring's barriers in family `wgmma`: two of 8 bytes a stage.
pub(crate) const BARRIER_BYTES: u32 = 128;

/// Room in which a consumer warpgroup of family `wgmma` turns 64 columns of its sums into whole rows; in the
/// sampled walk, which writes no sums, its warps' queues.
pub(crate) const STAGING_BYTES: u32 = WARPGROUP_ROWS * 64 * 4;

impl Tile {
    /// Threads of a block.
    pub fn threads(&self, family: Family) -> u32 {
        match family {
            // A warpgroup that copies beside the warps that multiply.
            Family::Wgmma => 128 + self.warps_m * self.warps_n * 32,
            Family::Mma => self.warps_m * self.warps_n * 32,
            Family::Simt => 256,
        }
    }

    /// Bytes of the shared-memory ring.
    pub fn ring_bytes(&self, family: Family) -> u32 {
        match family {
            Family::Wgmma | Family::Mma => self.stages * (self.m + self.n) * self.k * 2,
            // Two buffers of floats, rows padded by four against bank conflicts.
            Family::Simt => 2 * self.k * (self.m + self.n + 8) * 4,
        }
    }

    /// Rows that a cluster of family `wgmma` takes: a tile a block.
    pub(crate) fn cluster_rows(&self) -> u32 {
        CLUSTER * self.m
    }

    /// Rows of tiles that are taken together: a cluster's or a block's.
    pub(crate) fn walk_rows(&self, family: Family) -> u32 {
        if family == Family::Wgmma { self.cluster_rows() } else { self.m }
    }

    /// Warps that have different columns of the same rows of a finished tile, which a sampled walk samples by
    /// themselves.
    pub(crate) fn bands(&self, family: Family) -> u32 {
        if family == Family::Mma { self.warps_n } else { 1 }
    }

    /// Bytes of what the shared memory of families `mma` and `simt` holds at different times: the ring, or a
    /// finished tile's sums with 8 floats between rows.
    pub(crate) fn tile_bytes(&self, family: Family) -> u32 {
        self.ring_bytes(family).max(self.m * (self.n + 8) * 4)
    }

    /// Bytes of shared memory of a block: the ring or a finished tile's sums, then two ints a row. Family
    /// `wgmma`: the ring, aligned to 1024 bytes, its barriers, and each consumer warpgroup's staging, beside
    /// the ring because the next tile's copies are under way.
    pub fn shared_bytes(&self, family: Family) -> u32 {
        match family {
            Family::Wgmma => {
                let staging = self.m / WARPGROUP_ROWS * STAGING_BYTES;
                1024 + self.ring_bytes(family) + BARRIER_BYTES + staging
            }
            Family::Mma | Family::Simt => self.tile_bytes(family) + 8 * self.m,
        }
    }

    /// Bytes of shared memory beside those, where a block of the forward pass keeps the largest logits of its
    /// rows: one f32 a row of each of the warps that share it.
    pub(crate) fn exchanged_maxima(&self, family: Family) -> u32 {
        match family {
            Family::Mma => 4 * self.warps_n * self.m,
            Family::Wgmma | Family::Simt => 0,
        }
    }

    /// The most f32 a token that a block of the forward pass can exchange between its warps, in the place of
    /// the ring or of a tile's sums.
    pub(crate) fn most_statistics(&self, family: Family) -> usize {
        match family {
            Family::Wgmma => usize::MAX,
            Family::Mma => self.exchanged(family, self.warps_n * self.m),
            Family::Simt => self.exchanged(family, self.m),
        }
    }

    /// The most f32 a column that a block of the backward pass can exchange between its warps.
    pub(crate) fn most_column_sums(&self, family: Family) -> usize {
        match family {
            Family::Wgmma => usize::MAX,
            Family::Mma => self.exchanged(family, self.warps_m * self.n),
            Family::Simt => self.exchanged(family, 8 * self.n),
        }
    }

    fn exchanged(&self, family: Family, each: u32) -> usize {
        (self.tile_bytes(family) / (4 * each)) as usize
    }

    /// `beside`: bytes of shared memory that the tile leaves room for.
    fn check(
        &self,
        family: Family,
        which: &'static str,
        beside: u32,
        gpu: &Gpu,
    ) -> Result<(), ScheduleError> {
        let fail =
            |reason: String| Err(ScheduleError::Tile { which, m: self.m, n: self.n, k: self.k, reason });
        // Stored schedules come from files: nothing below may overflow.
        if self.m > 1024 || self.n > 1024 {
            return fail("has more than 1024 rows or columns".to_owned());
        }
        match family {
            Family::Wgmma => {
                if self.m != 128 || self.k != 64 || (self.warps_m, self.warps_n) != (8, 1) {
                    return fail(format!(
                        "of {} x {} warps must have 128 rows, 8 x 1 warps and stages 64 deep",
                        self.warps_m, self.warps_n
                    ));
                }
                if ![64, 128, 192, 256].contains(&self.n) {
                    return fail("must have 64, 128, 192 or 256 columns".to_owned());
                }
                if !(2..=8).contains(&self.stages) {
                    return fail(format!("has {} stages; 2 to 8 are possible", self.stages));
                }
            }
            Family::Simt => {
                if !self.m.is_multiple_of(64) || !self.n.is_multiple_of(64) || self.m == 0 || self.n == 0 {
                    return fail("must have rows and columns that are multiples of 64".to_owned());
                }
                if ![8, 16, 32].contains(&self.k) {
                    return fail("must be 8, 16 or 32 deep".to_owned());
                }
                if self.m * self.n > 128 * 128 {
                    return fail("holds more than 64 sums a thread".to_owned());
                }
            }
            Family::Mma => {
                if self.warps_m == 0 || self.warps_n == 0 || self.warps_m.saturating_mul(self.warps_n) > 32 {
                    return fail(format!(
                        "has {} x {} warps; 1 to 32 are possible",
                        self.warps_m, self.warps_n
                    ));
                }
                if !self.m.is_multiple_of(16 * self.warps_m)
                    || !self.n.is_multiple_of(16 * self.warps_n)
                    || self.m == 0
                    || self.n == 0
                {
                    return fail(format!(
                        "does not divide among {} x {} warps into multiples of 16",
                        self.warps_m, self.warps_n
                    ));
                }
                let sums = self.m * self.n / self.threads(family);
                if sums > 128 {
                    return fail(format!("holds {sums} sums a thread; 128 leave room for operands"));
                }
                if ![32, 64, 128].contains(&self.k) {
                    return fail("must be 32, 64 or 128 deep".to_owned());
                }
                if !(2..=8).contains(&self.stages) {
                    return fail(format!("has {} stages; 2 to 8 are possible", self.stages));
                }
                // Both operand layouts: rows (or k) divide among the threads' 16-byte copies, in steps of
                // whole swizzle periods.
                let threads = self.threads(family);
                for rows in [self.m, self.n] {
                    let k_step = threads * 8 / self.k;
                    let n_step = threads * 8 / rows;
                    if k_step == 0 || !k_step.is_multiple_of(8) || !rows.is_multiple_of(k_step) {
                        return fail(format!("does not divide among the copies of {threads} threads"));
                    }
                    if n_step == 0
                        || !self.k.is_multiple_of(n_step)
                        || !(threads * 8).is_multiple_of(rows)
                        || rows < 64
                    {
                        return fail(format!(
                            "does not divide among the transposed copies of {threads} threads"
                        ));
                    }
                }
            }
        }
        let needed = self.shared_bytes(family) + beside;
        if needed > gpu.shared_per_block {
            return Err(ScheduleError::Shared {
                which,
                needed,
                available: gpu.shared_per_block,
                gpu: gpu.name.clone(),
            });
        }
        Ok(())
    }
}

impl Family {
    /// Why the family cannot run a problem on a GPU, if it cannot: what it needs and what was found.
    pub fn refuses(self, problem: &Problem, gpu: &Gpu) -> Option<String> {
        if self == Family::Simt {
            return None;
        }
        if problem.dtype == DType::F32 {
            return Some("multiplies bf16 and f16 only, and the problem is f32".to_owned());
        }
        let (major, minor) = gpu.capability;
        let here = format!("and {} has {major}.{minor}", gpu.name);
        match self {
            Family::Mma if !gpu.has_mma() => Some(format!("needs compute capability 8.0 or newer, {here}")),
            Family::Wgmma if !gpu.has_wgmma() => Some(format!("needs compute capability 9.0, {here}")),
            Family::Wgmma if problem.tokens == 0 => {
                Some("needs at least one token, and there is none".to_owned())
            }
            Family::Wgmma if !problem.hidden.is_multiple_of(8) => {
                Some(format!("needs a hidden size that is a multiple of 8, and it is {}", problem.hidden))
            }
            Family::Wgmma => {
                let of = [
                    ("hidden states", &problem.hidden_layout),
                    ("the classifier", &problem.classifier_layout),
                ];
                let (what, layout) = of.into_iter().find(|(_, layout)| !copies_by_tma(layout))?;
                Some(format!(
                    "needs rows that are aligned to 16 bytes, and those of {what} begin at a multiple of {} and \
                     are {} bytes apart",
                    layout.align,
                    layout.row_stride * 2
                ))
            }
            _ => None,
        }
    }
}

/// Whether TMA can copy rows of 16-bit elements: base address and row stride are multiples of 16 bytes.
fn copies_by_tma(layout: &Layout) -> bool {
    layout.align.is_multiple_of(16) && (layout.row_stride * 2).is_multiple_of(16)
}

impl GpuSchedule {
    /// Whether the schedule can run this problem on this GPU. Registers are known only once a kernel is
    /// compiled.
    ///
    /// # Errors
    /// The first constraint that is broken.
    pub fn check(&self, problem: &Problem, gpu: &Gpu) -> Result<(), ScheduleError> {
        if let Some(reason) = self.family.refuses(problem, gpu) {
            let can = |family: &Family| family.refuses(problem, gpu).is_none();
            let best = Family::ALL.into_iter().find(can).unwrap_or(Family::Simt);
            return Err(ScheduleError::Family { family: self.family, reason, best });
        }
        let maxima = match problem.filter {
            Filter::Blocks { .. } => self.logits.exchanged_maxima(self.family),
            Filter::Exact | Filter::Sampled { .. } => 0,
        };
        for (which, tile, beside) in [
            ("logits", &self.logits, maxima),
            ("logits_gradient", &self.logits_gradient, 0),
            ("classifier_gradient", &self.classifier_gradient, 0),
            ("hidden_gradient", &self.hidden_gradient, 0),
        ] {
            tile.check(self.family, which, beside, gpu)?;
        }
        let number = |what, found, expected| Err(ScheduleError::Number { what, found, expected });
        if self.family == Family::Wgmma && self.splits != 1 {
            return number("splits", self.splits, "1 in family `wgmma`");
        }
        if self.splits == 0 || self.splits > 1024 {
            return number("splits", self.splits, "from 1 to 1024");
        }
        if self.group == 0 || self.group > 256 {
            return number("group", self.group, "from 1 to 256");
        }
        if !self.hot.is_multiple_of(self.logits.n) {
            return number("hot", self.hot, "a multiple of the logits' tile's columns");
        }
        let Tile { m, n, k, warps_n, .. } = self.logits;
        if matches!(problem.filter, Filter::Sampled { .. })
            && !(n / self.logits.bands(self.family)).is_multiple_of(32)
        {
            let reason = format!(
                "gives each of {warps_n} warps {} columns; the sampled filter takes 32 at a time",
                n / warps_n
            );
            return Err(ScheduleError::Tile { which: "logits", m, n, k, reason });
        }
        if self.chunk == 0 || !self.chunk.is_multiple_of(64) {
            return number("chunk", self.chunk, "a multiple of 64, at least 64");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::sample::normaliser as program;

    #[test]
    fn errors_say_what_was_found_and_what_can_be_done() {
        let said = |family, problem: &Problem, gpu: &Gpu| {
            let schedule = GpuSchedule::of_family(family, &program(), problem, gpu);
            schedule.check(problem, gpu).unwrap_err().to_string()
        };
        let problem = |hidden, dtype| Problem::new(300, hidden, 1000, dtype);
        assert_eq!(
            said(Family::Wgmma, &problem(123, DType::F16), &Gpu::h100()),
            "family `wgmma` needs a hidden size that is a multiple of 8, and it is 123; the best family that can \
             run this is `mma`"
        );
        assert_eq!(
            said(Family::Wgmma, &problem(64, DType::F16), &Gpu::of_capability(8, 0)),
            "family `wgmma` needs compute capability 9.0, and sm_80 has 8.0; the best family that can run this \
             is `mma`"
        );
        assert_eq!(
            said(Family::Mma, &problem(64, DType::F32), &Gpu::h100()),
            "family `mma` multiplies bf16 and f16 only, and the problem is f32; the best family that can run \
             this is `simt`"
        );
        let apart = Layout { row_stride: 65, align: 16 };
        assert_eq!(
            Family::Wgmma
                .refuses(&Problem { classifier_layout: apart, ..problem(64, DType::Bf16) }, &Gpu::h100()),
            Some(
                "needs rows that are aligned to 16 bytes, and those of the classifier begin at a multiple of 16 \
                 and are 130 bytes apart"
                    .to_owned()
            )
        );
        let wide = GpuSchedule::of_family(Family::Wgmma, &program(), &problem(64, DType::F16), &Gpu::h100());
        let eight = Tile { stages: 8, ..wide.logits };
        let schedule = GpuSchedule { logits: eight, ..wide };
        let error = schedule.check(&problem(64, DType::F16), &Gpu::h100()).unwrap_err().to_string();
        assert!(error.ends_with("but NVIDIA H100 80GB HBM3 has 232448; take fewer stages or a smaller tile"));
        let four = GpuSchedule { logits: Tile { warps_m: 4, ..wide.logits }, ..wide };
        let error = four.check(&problem(64, DType::F16), &Gpu::h100()).unwrap_err().to_string();
        assert!(error.contains("of 4 x 1 warps must have 128 rows, 8 x 1 warps"), "{error}");
    }
}
