//! Values of series, made once.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    ptr,
    sync::{PoisonError, RwLock},
};

use buttress::telemetry::{Instrument, Source};

/// The number of series at which the cache begins anew, for programs that never stop making names.
const MOST: usize = 10_000;

/// A value for each series of a layer.
///
/// The keys are hashed by hand, because a map of owned names could not be asked for borrowed ones.
pub(crate) struct Cache<T> {
    hasher: RandomState,
    entries: RwLock<HashMap<u64, Entry<T>>>,
}

struct Entry<T> {
    stack: Option<Box<str>>,
    layer: Box<str>,
    kind: &'static str,
    instrument: &'static Instrument,
    values: [&'static str; 2],
    made: T,
}

impl<T> Entry<T> {
    fn is_of(
        &self,
        source: &Source<'_>,
        instrument: &'static Instrument,
        values: [&'static str; 2],
    ) -> bool {
        ptr::eq(self.instrument, instrument)
            && self.values == values
            && self.kind == source.kind()
            && *self.layer == *source.layer()
            && self.stack.as_deref() == source.stack()
    }
}

impl<T> Cache<T> {
    /// Uses the value of a series, which is made if it is not there.
    pub(crate) fn with(
        &self,
        source: &Source<'_>,
        instrument: &'static Instrument,
        values: [&'static str; 2],
        make: impl FnOnce() -> T,
        use_it: impl FnOnce(&T),
    ) {
        let key = (source.stack(), source.layer(), source.kind(), instrument.name, values);
        let hash = self.hasher.hash_one(key);
        {
            let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
            let entry = entries.get(&hash);
            if let Some(entry) = entry.filter(|entry| entry.is_of(source, instrument, values)) {
                return use_it(&entry.made);
            }
        }
        let made = make();
        use_it(&made);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MOST {
            entries.clear();
        }
        let (stack, layer) = (source.stack().map(Box::from), source.layer().into());
        let kind = source.kind();
        // Of two series with one hash, the last one stays.
        entries.insert(hash, Entry { stack, layer, kind, instrument, values, made });
    }
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), entries: RwLock::default() }
    }
}
