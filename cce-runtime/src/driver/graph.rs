//! Captured work that is replayed as a whole.

use cudarc::driver::sys;

use super::context::Context;
use super::result::check;
use super::stream::Stream;
use crate::error::Result;

/// A captured graph, not yet ready to run; destroyed when dropped.
pub(super) struct RawGraph(sys::CUgraph);

impl RawGraph {
    pub(super) fn new(raw: sys::CUgraph) -> Self {
        Self(raw)
    }
}

impl Drop for RawGraph {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: created once, destroyed once; graphs belong to no context.
            _ = unsafe { sys::cuGraphDestroy(self.0) };
        }
    }
}

/// Work captured from a stream, ready to be launched any number of times. What it uses (buffers, modules)
/// has to stay.
pub struct Graph {
    context: Context,
    executable: sys::CUgraphExec,
    nodes: usize,
}

// SAFETY: a handle that may be used from any thread.
unsafe impl Send for Graph {}
// Not Sync: the driver asks that one executable graph is not launched by two threads at the same time.

impl Graph {
    pub(super) fn instantiate(context: &Context, graph: RawGraph) -> Result<Self> {
        let mut nodes = 0;
        // SAFETY: the graph is live; with a null list only the count is written.
        check("cuGraphGetNodes", unsafe {
            sys::cuGraphGetNodes(graph.0, std::ptr::null_mut(), &raw mut nodes)
        })?;
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph is live and the pointer is to a live handle.
        check("cuGraphInstantiate", unsafe {
            sys::cuGraphInstantiateWithFlags(&raw mut executable, graph.0, 0)
        })?;
        Ok(Self { context: context.clone(), executable, nodes })
    }

    /// How many kernels, copies and fills it holds.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Runs the whole graph once, in order on the stream. Does not wait.
    ///
    /// # Safety
    /// Everything that the captured work reads and writes must still be there until it is done.
    ///
    /// # Errors
    /// [`Error::DeviceMismatch`](crate::error::Error::DeviceMismatch) for a stream of another device; a
    /// [`DriverError`](super::DriverError).
    pub unsafe fn launch(&self, stream: &Stream) -> Result<()> {
        self.context.require_same(stream.context(), "the stream to launch on")?;
        let _bound = self.context.bind()?;
        // SAFETY: both handles are live; for what the work touches, the caller's promise.
        let result = unsafe { sys::cuGraphLaunch(self.executable, stream.raw().0) };
        Ok(check("cuGraphLaunch", result)?)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(_bound) = self.context.bind() {
            // SAFETY: created once, destroyed once; a launch under way is finished first.
            _ = unsafe { sys::cuGraphExecDestroy(self.executable) };
        }
    }
}
