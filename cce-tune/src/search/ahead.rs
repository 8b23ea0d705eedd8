//! Compilation ahead of the measurement: while the device times one batch, the next ones compile.
//!
//! Invariants: candidates are compiled in the order in which they will be measured, each once; dropping the
//! handle ends the threads after what they have at hand, which [`Compile::cancel`] may cut short.

use super::Failure;
use crate::stop::Stop;
use cce_codegen::schedule::Schedule;
use cce_tuning_db::Resources;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// What compiles a schedule before, and apart from, everything that touches the device.
pub trait Compile: Send + Sync {
    /// Compiles into a cache, from which a build takes it, and returns what the kernels use, where known.
    ///
    /// # Errors
    /// Why the schedule cannot be used: it does not compile, or what the compiler made of it spills.
    fn compile(&self, schedule: &Schedule) -> Result<Option<Resources>, Failure>;

    /// How many compile at once.
    fn threads(&self) -> usize;

    /// Cuts short what compiles now: nobody waits for it any more.
    fn cancel(&self) {}
}

type Outcome = Result<Option<Resources>, Failure>;

/// What is compiled, and what is to be.
struct Queue {
    compile: Arc<dyn Compile>,
    schedules: Vec<(usize, Schedule)>,
    next: AtomicUsize,
    ended: AtomicBool,
    done: Mutex<HashMap<usize, Outcome>>,
    ready: Condvar,
}

/// The compilation of a list of candidates, under way.
pub(super) struct Ahead {
    queue: Arc<Queue>,
}

impl Ahead {
    /// Starts to compile candidates (index and schedule) in their order.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        compile: Arc<dyn Compile>,
        schedules: Vec<(usize, Schedule)>,
    ) -> Ahead {
        let threads = compile.threads().clamp(1, schedules.len().max(1));
        let queue = Arc::new(Queue {
            compile,
            schedules,
            next: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            done: Mutex::default(),
            ready: Condvar::new(),
        });
        for _ in 0..threads {
            let queue = queue.clone();
            scope.spawn(move || queue.work());
        }
        Ahead { queue }
    }

    /// What became of a candidate; waits for it. `None` when asked to stop, or when the time is over.
    pub(super) fn wait(&self, index: usize, stop: &Stop, until: Option<Instant>) -> Option<Outcome> {
        let mut done = self.queue.done.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = done.remove(&index) {
                return Some(outcome);
            }
            if stop.requested() || until.is_some_and(|until| Instant::now() >= until) {
                return None;
            }
            let pause = Duration::from_millis(20);
            done = self.queue.ready.wait_timeout(done, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.queue.ended.store(true, Ordering::SeqCst);
        self.queue.compile.cancel();
    }
}

impl Queue {
    fn work(&self) {
        while !self.ended.load(Ordering::SeqCst) {
            let at = self.next.fetch_add(1, Ordering::SeqCst);
            let Some((index, schedule)) = self.schedules.get(at) else { return };
            let outcome = self.compile.compile(schedule);
            self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(*index, outcome);
            self.ready.notify_all();
        }
    }
}
