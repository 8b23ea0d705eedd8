//! The scratch memory of a plan, and the tie between a forward and its backward.
//!
//! A workspace belongs to one call at a time (the borrow checker sees to that on the host; on a GPU, calls
//! that share one must be ordered by their streams). Its first `held` bytes carry what a backward needs;
//! every forward moves the workspace to a new generation, and a [`Saved`] names the generation that it reads.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::views::Place;
use std::alloc::Layout;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much workspace a plan needs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkspaceSize {
    /// While a call runs.
    pub peak: u64,
    /// From a forward to its backward, at the start of the workspace; the rest is free for other use
    /// meanwhile.
    pub held: u64,
}

/// Alignment of a workspace's base, in bytes: a cache line on the host, more than any device access needs.
pub const WORKSPACE_ALIGN: usize = 256;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Scratch memory for one call at a time.
#[derive(Debug)]
pub struct Workspace<'a> {
    base: *mut u8,
    bytes: u64,
    place: Place,
    owner: Owner,
    id: u64,
    generation: u64,
    life: PhantomData<&'a mut [u8]>,
}

// SAFETY: the memory belongs to this workspace alone (or was lent to it exclusively), and is touched through
// `&mut` only.
unsafe impl Send for Workspace<'_> {}
// SAFETY: `&Workspace` gives no access to the memory.
unsafe impl Sync for Workspace<'_> {}

/// What gives the memory back.
enum Owner {
    /// Nobody: it was lent.
    Lent,
    /// The host's allocator.
    Host(Layout),
    /// Whatever this is, when it is dropped: a device allocation.
    Device { _memory: Box<dyn Send + Sync> },
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Owner::Lent => "Lent",
            Owner::Host(_) => "Host",
            Owner::Device { .. } => "Device",
        })
    }
}

impl<'a> Workspace<'a> {
    fn new(base: *mut u8, bytes: u64, place: Place, owner: Owner) -> Workspace<'a> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Workspace { base, bytes, place, owner, id, generation: 0, life: PhantomData }
    }

    /// Host memory of this size, aligned to [`WORKSPACE_ALIGN`], zeroed.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`].
    pub fn allocate_host(bytes: u64) -> Result<Workspace<'static>> {
        let failed = || Error::OutOfHostMemory { what: "the workspace".to_owned(), asked: bytes };
        let size = usize::try_from(bytes.max(1)).map_err(|_| failed())?;
        let layout = Layout::from_size_align(size, WORKSPACE_ALIGN).map_err(|_| failed())?;
        // SAFETY: the layout's size is not zero.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        if base.is_null() {
            return Err(failed());
        }
        Ok(Workspace::new(base, bytes, Place::Host, Owner::Host(layout)))
    }

    /// Host memory lent by the caller. Up to [`WORKSPACE_ALIGN`] - 1 bytes at its start are skipped for
    /// alignment.
    pub fn from_host(memory: &'a mut [u8]) -> Workspace<'a> {
        let skip = memory.as_ptr().align_offset(WORKSPACE_ALIGN).min(memory.len());
        let memory = &mut memory[skip..];
        Workspace::new(memory.as_mut_ptr(), memory.len() as u64, Place::Host, Owner::Lent)
    }

    /// Device memory lent by the caller.
    ///
    /// # Errors
    /// [`Error::Alignment`] if `address` is not a multiple of [`WORKSPACE_ALIGN`]; [`Error::DeviceMismatch`]
    /// if `device` is not a CUDA device.
    ///
    /// # Safety
    /// `address` is valid for reads and writes of `bytes` bytes on `device` during `'a` and until all work of
    /// calls given this workspace has finished, and nothing else touches it meanwhile.
    pub unsafe fn from_device(address: u64, bytes: u64, device: &Device) -> Result<Workspace<'a>> {
        let place = device.place();
        if place == Place::Host {
            return Err(Error::DeviceMismatch {
                what: "the workspace's device pointer".to_owned(),
                expected: "a CUDA device".to_owned(),
                found: place.to_string(),
            });
        }
        if !address.is_multiple_of(WORKSPACE_ALIGN as u64) {
            let required = WORKSPACE_ALIGN as u64;
            return Err(Error::Alignment { what: "the workspace".to_owned(), address, required });
        }
        let base = std::ptr::without_provenance_mut(address as usize);
        Ok(Workspace::new(base, bytes, place, Owner::Lent))
    }

    /// Device memory that `memory` frees when it is dropped.
    pub(crate) fn from_owned_device(
        address: u64,
        bytes: u64,
        place: Place,
        memory: Box<dyn Send + Sync>,
    ) -> Workspace<'static> {
        let base = std::ptr::without_provenance_mut(address as usize);
        Workspace::new(base, bytes, place, Owner::Device { _memory: memory })
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it lives.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Starts a new generation: whatever was saved here is overwritten.
    pub(crate) fn advance(&mut self) -> (u64, u64) {
        self.generation += 1;
        (self.id, self.generation)
    }

    pub(crate) fn stamp(&self) -> (u64, u64) {
        (self.id, self.generation)
    }

    pub(crate) fn raw(&mut self) -> RawWorkspace {
        RawWorkspace { base: self.base, bytes: self.bytes }
    }
}

impl Drop for Workspace<'_> {
    fn drop(&mut self) {
        if let Owner::Host(layout) = self.owner {
            // SAFETY: `base` came from `alloc_zeroed` with this layout and is freed once.
            unsafe { std::alloc::dealloc(self.base, layout) }
        }
    }
}

/// A workspace's memory as an executor sees it: valid and unaliased during the call, at least as large as the
/// executor asked for, its base aligned to [`WORKSPACE_ALIGN`]. The held part stands at its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawWorkspace {
    pub(crate) base: *mut u8,
    pub(crate) bytes: u64,
}

// SAFETY: an address with a length; dereferencing it is unsafe and up to its user.
unsafe impl Send for RawWorkspace {}
// SAFETY: as above.
unsafe impl Sync for RawWorkspace {}

/// What a forward left in its workspace for a backward.
///
/// It is an error to use it with another plan, with another workspace, or after a later call has overwritten
/// the workspace. It may be cloned to run a backward twice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a backward needs what the forward saved"]
pub struct Saved {
    pub(crate) plan: u64,
    pub(crate) stamp: (u64, u64),
}

/// A number that no other plan of this process has.
pub(crate) fn next_plan_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}
