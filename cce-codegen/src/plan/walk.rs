//! How many partials the clusters of the forward pass leave: the counterpart of `kernels/walk.cuh`.

/// A walk over row blocks and tiles.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// Row blocks, at most.
    pub(super) row_blocks: u64,
    /// Whether there may be fewer, which only the device knows.
    pub(super) any_fewer: bool,
    /// Row blocks that walk at once, at most.
    pub(super) together: u64,
    pub(super) tiles: u64,
    pub(super) clusters: u64,
}

impl Walk {
    /// The most that `size(row blocks, parts of a row block)` may be.
    pub(super) fn most(&self, size: impl Fn(u64, u64) -> u64) -> u64 {
        let fewest = if self.any_fewer { 1 } else { self.row_blocks };
        (fewest..=self.row_blocks).map(|live| size(live, self.parts(live))).max().unwrap_or(0)
    }

    /// The most parts of a row block: one for each set of walkers, and two for the tail that is left over.
    fn parts(&self, row_blocks: u64) -> u64 {
        let groups = row_blocks.div_ceil(self.together).max(1);
        let sizes = [row_blocks / groups, row_blocks.div_ceil(groups)];
        let parts = |size: u64| {
            let busy = self.clusters / size * size;
            let walked = (self.tiles * busy).div_ceil(self.clusters);
            self.clusters / size + if walked < self.tiles { 2 } else { 0 }
        };
        sizes.into_iter().filter(|&size| size > 0).map(parts).max().unwrap_or(0)
    }
}
