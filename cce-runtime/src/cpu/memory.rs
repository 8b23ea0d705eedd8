//! How a CPU plan lays out its workspace.
//!
//! A layout is a list of regions, each a run of one plain type at a cache line's boundary. Regions do not
//! overlap, so that [`Carver`] can lend them all at once.

use crate::workspace::RawWorkspace;
use std::marker::PhantomData;

/// A type for which every bit pattern is a value.
pub(crate) trait Plain: Copy + Send + Sync + 'static {}
impl Plain for f32 {}
impl Plain for f64 {}
impl Plain for u32 {}

/// Boundary of regions in bytes.
const BOUNDARY: usize = 64;

/// A run of `len` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region<T> {
    offset: usize,
    len: usize,
    kind: PhantomData<fn() -> T>,
}

/// Places regions one behind the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planner {
    at: usize,
}

impl Planner {
    /// The next region.
    pub(crate) fn place<T: Plain>(&mut self, len: usize) -> Region<T> {
        let region = Region { offset: self.at, len, kind: PhantomData };
        self.at = (self.at + len * size_of::<T>()).next_multiple_of(BOUNDARY);
        region
    }

    /// The bytes placed so far.
    pub(crate) fn bytes(&self) -> usize {
        self.at
    }
}

/// Lends the regions of one layout, in the order in which they were placed.
pub(crate) struct Carver<'w> {
    workspace: RawWorkspace,
    at: usize,
    life: PhantomData<&'w mut [u8]>,
}

impl<'w> Carver<'w> {
    /// # Safety
    /// The workspace's memory is initialised, valid for reads and writes during `'w`, aligned to a region's
    /// boundary, and nothing else touches it.
    pub(crate) unsafe fn new(workspace: RawWorkspace) -> Carver<'w> {
        Carver { workspace, at: 0, life: PhantomData }
    }

    /// Lends a region. Regions that were skipped can not be lent later.
    pub(crate) fn lend<T: Plain>(&mut self, region: Region<T>) -> &'w mut [T] {
        let end = region.offset + region.len * size_of::<T>();
        if region.len == 0 {
            return &mut [];
        }
        let room = self.workspace.end(region.offset as u64) as usize;
        assert!(region.offset >= self.at && end <= room, "a region of the plan's own layout");
        self.at = end;
        let base = self.workspace.at(region.offset as u64);
        // SAFETY: the region lies inside one part of the workspace (just checked) and behind every region lent before;
        // its offset is a multiple of the boundary, so that it is aligned; the memory is initialised and
        // every bit pattern is a `T`.
        unsafe { std::slice::from_raw_parts_mut(base.cast(), region.len) }
    }
}
