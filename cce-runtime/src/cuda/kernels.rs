//! Kernels that are loaded on a GPU, once for all plans that run them.
//!
//! Invariants: one cubin is loaded once a GPU, however many plans run it, and so is its source kept; it is
//! unloaded when the last plan and the last [`Kernels`] that hold it are gone. What a launch may ask for in dynamic shared memory
//! only grows, whichever plan asks: plans share the driver's function.

use crate::driver::{self, Context, Function};
use crate::error::Result;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

/// A cubin on a GPU.
pub(super) struct Loaded {
    module: driver::Module,
    source: Arc<str>,
    /// Held while the attributes of a function are read and raised.
    attributes: Mutex<()>,
}

/// A GPU's ordinal, and what is loaded there.
type Key = (usize, blake3::Hash);

static LOADED: LazyLock<Mutex<HashMap<Key, Weak<Loaded>>>> = LazyLock::new(Mutex::default);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Loaded {
    /// The cubin, loaded if it is not yet. `source` is what it was compiled from.
    ///
    /// # Errors
    /// Those of [`Context::load_module`].
    pub(super) fn get(context: &Context, cubin: &[u8], source: &str) -> Result<Arc<Loaded>> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(source.len() as u64).to_le_bytes()).update(source.as_bytes()).update(cubin);
        let key = (context.info().index, hasher.finalize());
        let mut loaded = locked(&LOADED);
        if let Some(found) = loaded.get(&key).and_then(Weak::upgrade) {
            return Ok(found);
        }
        loaded.retain(|_, kernels| kernels.strong_count() > 0);
        let module = context.load_module(cubin)?;
        let new = Arc::new(Loaded { module, source: source.into(), attributes: Mutex::new(()) });
        loaded.insert(key, Arc::downgrade(&new));
        Ok(new)
    }

    /// One of its kernels, for launches with up to so many bytes of dynamic shared memory.
    ///
    /// # Errors
    /// Those of [`driver::Module::function`] and [`Function::allow_dynamic_shared`].
    pub(super) fn function(&self, entry: &str, shared_bytes: u32) -> Result<Function> {
        let _guard = locked(&self.attributes);
        let mut function = self.module.function(entry)?;
        if function.max_dynamic_shared() < shared_bytes {
            function.allow_dynamic_shared(shared_bytes)?;
        }
        Ok(function)
    }

    /// What it was compiled from.
    pub(super) fn source(&self) -> Arc<str> {
        Arc::clone(&self.source)
    }
}

/// Keeps kernels loaded. A CUDA graph that was captured from a plan's calls runs the plan's kernels, and nothing else of the
/// plan: whoever drops a plan and goes on replaying such a graph keeps these. Cheap to clone; of a plan on the CPU there are none.
#[derive(Clone, Default)]
pub struct Kernels(Vec<Arc<Loaded>>);

impl Kernels {
    pub(super) fn new(loaded: Vec<Arc<Loaded>>) -> Kernels {
        Kernels(loaded)
    }

    /// Keeps these too, none twice.
    pub fn add(&mut self, others: &Kernels) {
        for other in &others.0 {
            if !self.0.iter().any(|kept| Arc::ptr_eq(kept, other)) {
                self.0.push(Arc::clone(other));
            }
        }
    }

    /// How many cubins are kept.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernels({} cubins)", self.len())
    }
}
