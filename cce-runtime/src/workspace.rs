//! The scratch memory of a plan, and the tie between a forward and its backward.
//!
//! A workspace belongs to one call at a time (the borrow checker sees to that on the host; on a GPU, calls
//! that share one must be ordered by their streams). Its first `held` bytes carry what a backward needs;
//! every forward moves the workspace to a new generation, and a [`Saved`] names the generation that it reads.
//! A caller who keeps many forwards waiting for their backwards lends the held part by itself
//! ([`Workspace::from_host_parts`], [`Workspace::from_device_parts`]) and takes the rest back in between.

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

/// Alignment of a host workspace's parts that are lent apart, in bytes: a cache line, to which a plan's layout
/// aligns what it places.
pub const HOST_PART_ALIGN: usize = 64;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Scratch memory for one call at a time.
#[derive(Debug)]
pub struct Workspace<'a> {
    base: *mut u8,
    bytes: u64,
    /// What follows the held part, where that was lent by itself: an address and a size.
    rest: Option<(*mut u8, u64)>,
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
        Workspace { base, bytes, rest: None, place, owner, id, generation: 0, life: PhantomData }
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
        let place = on_cuda(device)?;
        aligned("the workspace", address, WORKSPACE_ALIGN)?;
        let base = std::ptr::without_provenance_mut(address as usize);
        Ok(Workspace::new(base, bytes, place, Owner::Lent))
    }

    /// Host memory lent by the caller in two parts: `held` goes on from a forward to its backward
    /// ([`WorkspaceSize::held`] bytes), `rest` is for this call alone (`peak - held` bytes).
    ///
    /// # Errors
    /// [`Error::Alignment`] unless both begin at a multiple of [`HOST_PART_ALIGN`].
    ///
    /// # Safety
    /// Each part is an address and its size in bytes, valid for reads and writes during `'a`, initialised
    /// (what it holds is of no interest, but in a backward what a forward left in `held`), apart from the
    /// other, and nothing else touches either meanwhile.
    pub unsafe fn from_host_parts(held: (*mut u8, u64), rest: (*mut u8, u64)) -> Result<Workspace<'a>> {
        Workspace::from_parts(held, rest, Place::Host, HOST_PART_ALIGN)
    }

    /// Device memory lent by the caller in two parts: `held` goes on from a forward to its backward
    /// ([`WorkspaceSize::held`] bytes), `rest` is for this call alone (`peak - held` bytes).
    ///
    /// # Errors
    /// [`Error::Alignment`] unless both begin at a multiple of [`WORKSPACE_ALIGN`]; [`Error::DeviceMismatch`]
    /// if `device` is not a CUDA device.
    ///
    /// # Safety
    /// Each part is an address and its size in bytes, valid for reads and writes on `device` during `'a` and
    /// until all work of calls given this workspace has finished, apart from the other, and nothing else
    /// touches either meanwhile.
    pub unsafe fn from_device_parts(
        held: (u64, u64),
        rest: (u64, u64),
        device: &Device,
    ) -> Result<Workspace<'a>> {
        let place = on_cuda(device)?;
        let part = |(address, bytes): (u64, u64)| (std::ptr::without_provenance_mut(address as usize), bytes);
        Workspace::from_parts(part(held), part(rest), place, WORKSPACE_ALIGN)
    }

    fn from_parts(
        held: (*mut u8, u64),
        rest: (*mut u8, u64),
        place: Place,
        align: usize,
    ) -> Result<Workspace<'a>> {
        for (what, (base, bytes)) in [("the workspace's held part", held), ("the workspace", rest)] {
            if bytes > 0 {
                aligned(what, base.addr() as u64, align)?;
            }
        }
        let mut workspace = Workspace::new(held.0, held.1, place, Owner::Lent);
        workspace.rest = Some(rest);
        Ok(workspace)
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

    /// Its size in bytes, all parts together.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.rest.map_or(0, |(_, bytes)| bytes)
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

    /// The memory as a plan of this need sees it.
    ///
    /// # Errors
    /// [`Error::WorkspaceTooSmall`].
    pub(crate) fn raw(&mut self, needed: WorkspaceSize) -> Result<RawWorkspace> {
        let WorkspaceSize { peak, held } = needed;
        let too_small = |given, smallest| Error::WorkspaceTooSmall { given, smallest };
        let (rest, rest_bytes) = match self.rest {
            None if self.bytes < peak => return Err(too_small(self.bytes, peak)),
            None => (self.base.wrapping_add(held as usize), self.bytes - held),
            Some(_) if self.bytes < held => return Err(too_small(self.bytes, held)),
            Some((_, bytes)) if bytes < peak - held => return Err(too_small(bytes, peak - held)),
            Some(rest) => rest,
        };
        Ok(RawWorkspace { held: (self.base, held), rest: (rest, rest_bytes) })
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
/// executor asked for. What a plan places below `held` stands in one part, all that follows in another; both
/// begin at a multiple of [`HOST_PART_ALIGN`] on the host, of [`WORKSPACE_ALIGN`] on a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawWorkspace {
    held: (*mut u8, u64),
    rest: (*mut u8, u64),
}

impl RawWorkspace {
    /// Where both parts begin, which decides together with a plan's layout where everything stands.
    pub(crate) fn addresses(&self) -> [u64; 2] {
        [self.held.0.addr() as u64, self.rest.0.addr() as u64]
    }

    /// Where the byte at this offset of the plan's layout stands. Nothing that a layout places crosses the end
    /// of the held part.
    pub(crate) fn at(&self, offset: u64) -> *mut u8 {
        let ((held, bytes), (rest, _)) = (self.held, self.rest);
        match offset < bytes {
            true => held.wrapping_add(offset as usize),
            false => rest.wrapping_add((offset - bytes) as usize),
        }
    }

    /// Where the part ends, as an offset of the plan's layout, in which this offset stands.
    pub(crate) fn end(&self, offset: u64) -> u64 {
        let (held, rest) = (self.held.1, self.rest.1);
        if offset < held { held } else { held + rest }
    }
}

fn on_cuda(device: &Device) -> Result<Place> {
    match device.place() {
        Place::Host => Err(Error::DeviceMismatch {
            what: "the workspace's device pointer".to_owned(),
            expected: "a CUDA device".to_owned(),
            found: Place::Host.to_string(),
        }),
        place => Ok(place),
    }
}

fn aligned(what: &str, address: u64, align: usize) -> Result<()> {
    let required = align as u64;
    match address.is_multiple_of(required) {
        true => Ok(()),
        false => Err(Error::Alignment { what: what.to_owned(), address, required }),
    }
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
