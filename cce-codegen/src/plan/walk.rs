//! How many partials the clusters of the forward pass leave: the counterpart of `kernels/walk.cuh`.

/// Row blocks times parts, at most, of a walk of up to `row_blocks` row blocks (all of them, unless tokens may
/// be ignored) of which `together` walk at once, over `tiles` tiles, by `clusters` clusters.
pub(super) fn most_partials(
    row_blocks: u64,
    together: u64,
    tiles: u64,
    clusters: u64,
    any_fewer: bool,
) -> u64 {
    let fewest = if any_fewer { 1 } else { row_blocks };
    (fewest..=row_blocks).map(|live| live * most_parts(live, together, tiles, clusters)).max().unwrap_or(0)
}

/// Parts of a row block: one for each set of walkers, and two for the tail that is left over.
fn most_parts(row_blocks: u64, together: u64, tiles: u64, clusters: u64) -> u64 {
    let groups = row_blocks.div_ceil(together);
    let sizes = [row_blocks / groups, row_blocks.div_ceil(groups)];
    let parts = |size: u64| {
        let busy = clusters / size * size;
        let walked = (tiles * busy).div_ceil(clusters);
        clusters / size + if walked < tiles { 2 } else { 0 }
    };
    sizes.into_iter().map(parts).max().unwrap_or(0)
}
