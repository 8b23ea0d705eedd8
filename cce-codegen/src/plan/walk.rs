//! How many partials the forward pass leaves: the counterpart of `kernels/walk.cuh` and `kernels/blocks/walk.cuh`.

/// A walk over row blocks and tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// Rows of a row block.
    pub(super) rows: u64,
    /// Row blocks, at most.
    pub(super) row_blocks: u64,
    /// Whether there may be fewer, which only the device knows.
    pub(super) any_fewer: bool,
    pub(super) division: Division,
}

/// How a walk is divided.
#[derive(Clone, Copy, Debug)]
pub(super) enum Division {
    /// Among persistent clusters.
    Clusters {
        /// Row blocks of a group, at most: those that walk at once.
        group: u64,
        tiles: u64,
        clusters: u64,
    },
    /// Into so many parts of every row block.
    Parts(u64),
}

impl Walk {
    /// The most that `size(row blocks, parts of a row block)` may be.
    pub(super) fn most(&self, size: impl Fn(u64, u64) -> u64) -> u64 {
        let fewest = if self.any_fewer { 1 } else { self.row_blocks };
        (fewest..=self.row_blocks).map(|live| size(live, self.parts(live))).max().unwrap_or(0)
    }

    /// The most parts of a row block: of clusters one for each set of walkers, and two for the tail that is
    /// left over.
    fn parts(&self, row_blocks: u64) -> u64 {
        let (group, tiles, clusters) = match self.division {
            Division::Parts(parts) => return parts,
            Division::Clusters { group, tiles, clusters } => (group, tiles, clusters),
        };
        let groups = row_blocks.div_ceil(group).max(1);
        let sizes = [row_blocks / groups, row_blocks.div_ceil(groups)];
        let parts = |size: u64| {
            let busy = clusters / size * size;
            let walked = (tiles * busy).div_ceil(clusters);
            clusters / size + if walked < tiles { 2 } else { 0 }
        };
        sizes.into_iter().filter(|&size| size > 0).map(parts).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_clusters(row_blocks: u64, any_fewer: bool, group: u64, tiles: u64, clusters: u64) -> Walk {
        Walk { rows: 256, row_blocks, any_fewer, division: Division::Clusters { group, tiles, clusters } }
    }

    /// `begin_of_piece` of `kernels/walk.cuh`.
    fn begin_of_piece(n: i32, pieces: i32, at: i32) -> i32 {
        n / pieces * at + at.min(n % pieces)
    }

    /// `piece_of` of `kernels/walk.cuh`.
    fn piece_of(n: i32, pieces: i32, thing: i32) -> i32 {
        let (each, larger) = (n / pieces, n % pieces);
        let cut = larger * (each + 1);
        if thing < cut { thing / (each + 1) } else { larger + (thing - cut) / each }
    }

    /// `struct Walk` of `kernels/walk.cuh`, in 32 bits as there.
    struct Device {
        row_blocks: i32,
        tiles: i32,
        clusters: i32,
        groups: i32,
    }

    struct Segment {
        row_block: i32,
        first: i32,
        last: i32,
        part: i32,
        last_part: bool,
        is_tail: bool,
    }

    impl Device {
        fn of(walk: &Walk, row_blocks: u64) -> Device {
            let Division::Clusters { group, tiles, clusters } = walk.division else { panic!("of clusters") };
            let (row_blocks, group) = (row_blocks as i32, group as i32);
            let groups = (row_blocks + group - 1) / group;
            Device { row_blocks, tiles: tiles as i32, clusters: clusters as i32, groups }
        }

        fn begin_of(&self, group: i32) -> i32 {
            begin_of_piece(self.row_blocks, self.groups, group)
        }

        fn walked(&self, size: i32) -> i32 {
            (self.tiles * (self.clusters / size * size) + self.clusters - 1) / self.clusters
        }

        fn parts(&self, size: i32) -> i32 {
            self.clusters / size + if self.walked(size) < self.tiles { 2 } else { 0 }
        }

        fn parts_of(&self, row_block: i32) -> i32 {
            let group = piece_of(self.row_blocks, self.groups, row_block);
            self.parts(self.begin_of(group + 1) - self.begin_of(group))
        }

        fn most_parts(&self) -> i32 {
            let smaller = self.parts(self.row_blocks / self.groups);
            smaller.max(self.parts((self.row_blocks + self.groups - 1) / self.groups))
        }

        /// `struct Segments` of `kernels/walk.cuh`: all that a cluster goes through.
        fn segments_of(&self, cluster: i32) -> Vec<Segment> {
            let mut segments = Vec::new();
            for group in 0..self.groups {
                let begin = self.begin_of(group);
                let size = self.begin_of(group + 1) - begin;
                let (walkers, walked, walker) = (self.clusters / size, self.walked(size), cluster / size);
                if walker < walkers {
                    segments.push(Segment {
                        row_block: begin + cluster % size,
                        first: begin_of_piece(walked, walkers, walker),
                        last: begin_of_piece(walked, walkers, walker + 1),
                        part: walker,
                        last_part: false,
                        is_tail: false,
                    });
                    continue;
                }
                let (tail, spare) = (self.tiles - walked, self.clusters - walkers * size);
                let place = cluster - walkers * size;
                let mut done = 0;
                loop {
                    let from = begin_of_piece(size * tail, spare, place) + done;
                    let to = begin_of_piece(size * tail, spare, place + 1);
                    if from >= to {
                        break;
                    }
                    let (row, first) = (from / tail, from % tail);
                    let last = tail.min(first + to - from);
                    done += last - first;
                    segments.push(Segment {
                        row_block: begin + row,
                        first: walked + first,
                        last: walked + last,
                        part: walkers + i32::from(first > 0),
                        last_part: first == 0 && last == tail,
                        is_tail: true,
                    });
                }
            }
            segments
        }
    }

    #[test]
    fn segments_cover_every_tile_once_and_write_every_part_once() {
        let mut tails = 0;
        for clusters in [1, 2, 5, 54, 57, 66] {
            for row_blocks in (1..=34).chain([50, 65, 66, 67, 131, 200]) {
                for group in [1, 2, 3, 5, 8, 13, 16, 32, 66] {
                    for tiles in [1, 2, 7, 16, 100, 193, 1000] {
                        let walk = of_clusters(row_blocks, false, group, tiles, clusters);
                        tails += usize::from(is_covered(&walk));
                    }
                }
            }
        }
        assert!(tails > 1000, "clusters were left over {tails} times");
    }

    /// Checks a walk; whether some clusters shared tails.
    fn is_covered(walk: &Walk) -> bool {
        let device = Device::of(walk, walk.row_blocks);
        let what = format!("{walk:?}");
        let rows = walk.row_blocks as usize;
        let (mut covered, mut written) = (vec![Vec::new(); rows], vec![Vec::new(); rows]);
        let mut any_tail = false;
        for segment in (0..device.clusters).flat_map(|cluster| device.segments_of(cluster)) {
            let row = segment.row_block as usize;
            assert!(0 <= segment.first && segment.last <= device.tiles, "{what}");
            covered[row].push((segment.first, segment.last));
            written[row].push(segment.part);
            written[row].extend(segment.last_part.then_some(segment.part + 1));
            any_tail |= segment.is_tail;
        }
        for row in 0..rows {
            covered[row].sort_unstable();
            let mut at = 0;
            for &(first, last) in &covered[row] {
                assert!(first == at && last >= first, "{what}: row block {row}, {:?}", covered[row]);
                at = last;
            }
            assert_eq!(at, device.tiles, "{what}: row block {row}");
            written[row].sort_unstable();
            let parts = device.parts_of(row as i32);
            assert!(written[row].iter().copied().eq(0..parts), "{what}: row block {row}, {:?}", written[row]);
            assert!(parts <= device.most_parts(), "{what}");
        }
        let most = walk.most(|blocks, parts| blocks * parts);
        assert_eq!(most, walk.row_blocks * device.most_parts() as u64, "{what}");
        any_tail
    }

    #[test]
    fn the_most_of_a_number_of_rows_that_only_the_device_knows_is_enough_for_each() {
        for (row_blocks, group, clusters) in [(17, 6, 66), (34, 16, 66), (5, 5, 54), (100, 16, 57)] {
            let walk = of_clusters(row_blocks, true, group, 193, clusters);
            let most = walk.most(|blocks, parts| blocks * parts);
            let needed = (1..=row_blocks).map(|live| live * Device::of(&walk, live).most_parts() as u64);
            assert_eq!(needed.max(), Some(most));
        }
    }
}
