//! A pass that is called again and again with the same addresses becomes a CUDA graph: one launch for all of its kernels,
//! which costs the host a fraction of theirs one by one.
//!
//! A training step that repeats gets the same addresses from its allocator most of the time. What a pass launches follows
//! from its plan and from the numbers of its key (addresses and scalars) alone, so a graph that was captured under a key
//! does what a call with that key asks for, bit for bit.
//!
//! Invariants: a call never waits for another thread's; a call on a stream that is being captured launches its kernels one
//! by one, and so does one for whose graph the device has no memory left; at most [`KEYS`] keys of a pass are remembered and
//! [`MOST_GRAPHS`] graphs live in the process, for a graph takes memory of the device besides a plan's workspace.

use crate::driver::{Context, Graph, RelaxedCapture, Stream};
use crate::error::{Error, Result};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keys that a pass remembers, the most recent ones.
const KEYS: usize = 8;

/// Calls with a key that launch kernels one by one before a graph is captured, which takes as long as some of them.
const CALLS_BEFORE: u32 = 3;

/// Graphs in the process, of all plans.
const MOST_GRAPHS: usize = 256;

static GRAPHS: AtomicUsize = AtomicUsize::new(0);

/// What a pass remembers of its calls.
#[derive(Default)]
pub(super) struct Replay {
    /// The most recent key is the last one.
    seen: Mutex<Vec<Seen>>,
}

struct Seen {
    key: Vec<u64>,
    calls: u32,
    graph: Option<Counted>,
    /// The device had no memory for a graph: kernels are launched one by one, which takes none.
    no_room: bool,
}

/// A graph that is one of at most [`MOST_GRAPHS`].
struct Counted(Graph);

impl Drop for Counted {
    fn drop(&mut self) {
        GRAPHS.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counted {
    /// Captures `launch`; `None` where there are too many graphs already.
    fn capture(context: &Context, launch: impl Fn(&Stream) -> Result<()>) -> Result<Option<Counted>> {
        let room = |live: usize| (live < MOST_GRAPHS).then_some(live + 1);
        if GRAPHS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            return Ok(None);
        }
        let captured = Self::capture_now(context, launch);
        if captured.is_err() {
            GRAPHS.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(Some(Counted(captured?)))
    }

    fn capture_now(context: &Context, launch: impl Fn(&Stream) -> Result<()>) -> Result<Graph> {
        // Captures of other threads have nothing to do with this one.
        let _relaxed = RelaxedCapture::begin()?;
        context.new_stream()?.capture(launch)
    }
}

impl Replay {
    /// Puts the pass of this key on the stream: as a graph, or by `launch`, which puts its kernels there one by one.
    ///
    /// # Safety
    /// `launch` does the same for the same key on whatever stream, and everything that it reads and writes stays until the
    /// stream's work is done.
    pub(super) unsafe fn run(
        &self,
        context: &Context,
        stream: &Stream,
        key: Vec<u64>,
        launch: impl Fn(&Stream) -> Result<()>,
    ) -> Result<()> {
        let Ok(mut seen) = self.seen.try_lock() else { return launch(stream) };
        // Of a stream that cannot tell, a launch says what is wrong.
        if !note(&mut seen, key) || stream.is_capturing().unwrap_or(true) {
            drop(seen);
            return launch(stream);
        }
        let Some(latest) = seen.last_mut() else { return launch(stream) };
        if latest.graph.is_none() && !latest.no_room {
            match Counted::capture(context, &launch) {
                Ok(graph) => latest.graph = graph,
                Err(Error::Driver(error)) if error.is_out_of_memory() => latest.no_room = true,
                Err(error) => return Err(error),
            }
        }
        match &latest.graph {
            // SAFETY: the caller's promise.
            Some(Counted(graph)) => unsafe { graph.launch(stream) },
            None => launch(stream),
        }
    }
}

/// Makes the key the latest one; whether it was called often enough for a graph.
fn note(seen: &mut Vec<Seen>, key: Vec<u64>) -> bool {
    match seen.iter().rposition(|known| known.key == key) {
        Some(at) => {
            seen[at..].rotate_left(1);
        }
        None => {
            if seen.len() == KEYS {
                seen.remove(0);
            }
            seen.push(Seen { key, calls: 0, graph: None, no_room: false });
        }
    }
    let Some(latest) = seen.last_mut() else { return false };
    latest.calls = latest.calls.saturating_add(1);
    latest.calls > CALLS_BEFORE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_worth_a_graph_after_some_calls_however_they_alternate() {
        let mut seen = Vec::new();
        let worth: Vec<bool> = (0..10).map(|call| note(&mut seen, vec![7, call % 2])).collect();
        let calls = 2 * CALLS_BEFORE as usize;
        assert!(worth[..calls].iter().all(|worth| !worth) && worth[calls..].iter().all(|worth| *worth));
    }

    #[test]
    fn the_keys_seen_last_are_remembered_and_no_more() {
        let mut seen = Vec::new();
        for key in 0..20 {
            note(&mut seen, vec![0]);
            note(&mut seen, vec![key]);
        }
        let keys: Vec<u64> = seen.iter().map(|known| known.key[0]).collect();
        assert_eq!(keys, [13, 14, 15, 16, 17, 18, 0, 19]);
        // One that comes and goes begins anew.
        assert!(!note(&mut seen, vec![1]) && note(&mut seen, vec![0]));
    }
}
