//! What is known of plans, by what they are made from: at most so much.
//!
//! Invariants: an entry that somebody uses, or whose plan lives, is never dropped; of the others those go that were not
//! asked for longest, when there are more than [`MOST`]. A text is there once, and goes when no entry has it any more.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// Entries of plans that nobody keeps, at most: some hundred bytes each, and the text of a program where they are its last.
pub(crate) const MOST: usize = 4096;

/// A lock that a panic elsewhere does not close.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Entries behind shared pointers, by key.
pub(crate) struct Known<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Counts what is asked for.
    clock: u64,
}

struct Entry<V> {
    value: Arc<V>,
    asked: u64,
}

impl<K, V> Default for Known<K, V> {
    fn default() -> Self {
        Known { entries: HashMap::new(), clock: 0 }
    }
}

impl<K: Clone + Eq + Hash, V: Default> Known<K, V> {
    /// The entry of this key, asked for just now. `is_alive` says of an entry that nobody uses whether it has to stay.
    pub(crate) fn get(&mut self, key: &K, is_alive: impl Fn(&V) -> bool) -> Arc<V> {
        self.clock += 1;
        let asked = self.clock;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.asked = asked;
            return Arc::clone(&entry.value);
        }
        if self.entries.len() >= MOST {
            self.forget(is_alive);
        }
        let entry = Entry { value: Arc::default(), asked };
        Arc::clone(&self.entries.entry(key.clone()).or_insert(entry).value)
    }

    /// Drops a quarter of [`MOST`] at a time, so that the search for them is a small part of what they took to make.
    fn forget(&mut self, is_alive: impl Fn(&V) -> bool) {
        // Whoever uses an entry holds its pointer, and gets it under the lock that this is done under.
        let may_go = |entry: &Entry<V>| Arc::strong_count(&entry.value) == 1 && !is_alive(&entry.value);
        let mut asked: Vec<u64> =
            self.entries.values().filter(|entry| may_go(entry)).map(|entry| entry.asked).collect();
        let Some(most) = asked.len().checked_sub(MOST / 4 * 3).filter(|most| *most > 0) else { return };
        let (_, &mut last, _) = asked.select_nth_unstable(most - 1);
        self.entries.retain(|_, entry| entry.asked > last || !may_go(entry));
    }

    /// Drops this entry, if it is still this key's.
    pub(crate) fn remove(&mut self, key: &K, value: &Arc<V>) {
        if self.entries.get(key).is_some_and(|entry| Arc::ptr_eq(&entry.value, value)) {
            self.entries.remove(key);
        }
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.entries.values().map(|entry| &entry.value)
    }
}

/// Texts that entries share.
#[derive(Default)]
struct Texts {
    all: HashSet<Arc<str>>,
    /// How many there were when those that nobody has were last looked for.
    swept: usize,
}

static TEXTS: LazyLock<Mutex<Texts>> = LazyLock::new(Mutex::default);

/// One copy of a text.
pub(crate) fn shared(text: &str) -> Arc<str> {
    let mut texts = locked(&TEXTS);
    if let Some(known) = texts.all.get(text) {
        return Arc::clone(known);
    }
    if texts.all.len() >= 2 * texts.swept + 64 {
        sweep(&mut texts);
    }
    let new: Arc<str> = text.into();
    texts.all.insert(Arc::clone(&new));
    new
}

/// Drops the texts that only the set has: nobody gets another pointer to one without its lock.
fn sweep(texts: &mut Texts) {
    texts.all.retain(|text| Arc::strong_count(text) > 1);
    texts.swept = texts.all.len();
}

/// How many texts there are that somebody has.
pub(crate) fn texts() -> usize {
    let mut texts = locked(&TEXTS);
    sweep(&mut texts);
    texts.all.len()
}
