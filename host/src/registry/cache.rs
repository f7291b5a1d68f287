//! Schemas by id, bounded: the one that was not asked for longest leaves first.
//!
//! Invariant: never more than `max` schemas are kept. Looking one up takes a read lock only, so workers never wait for each other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use super::Registered;

/// A bounded cache of schemas; share it by reference.
#[derive(Debug)]
pub struct Cache {
    max: usize,
    /// Counts look-ups: a schema's last one tells how long it was not asked for.
    clock: AtomicU64,
    kept: RwLock<HashMap<u32, Slot>>,
}

#[derive(Debug)]
struct Slot {
    schema: Arc<Registered>,
    used: AtomicU64,
}

impl Cache {
    /// An empty cache for at most `max` schemas, at least one.
    pub fn new(max: usize) -> Self {
        Cache { max: max.max(1), clock: AtomicU64::new(0), kept: RwLock::default() }
    }

    /// The schema of `id`, if it is kept.
    pub fn get(&self, id: u32) -> Option<Arc<Registered>> {
        let kept = self.kept.read();
        let slot = kept.get(&id)?;
        slot.used.store(self.now(), Ordering::Relaxed);
        Some(slot.schema.clone())
    }

    /// Keeps a schema under its id.
    pub fn insert(&self, schema: Arc<Registered>) {
        let mut kept = self.kept.write();
        let used = AtomicU64::new(self.now());
        kept.insert(schema.id, Slot { schema, used });
        if kept.len() > self.max {
            // Walking all of them costs microseconds, the request that brought this schema milliseconds.
            let oldest = kept.iter().min_by_key(|(_, slot)| slot.used.load(Ordering::Relaxed)).map(|(id, _)| *id);
            oldest.and_then(|id| kept.remove(&id));
        }
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept.read().len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cache_never_exceeds_its_bound_and_keeps_what_was_used_last(
            max in 1usize..8,
            steps in prop::collection::vec((any::<bool>(), 0u32..16), 1..200),
        ) {
            let cache = Cache::new(max);
            // The model: ids in the order of their last use.
            let mut model: Vec<u32> = Vec::new();
            for (is_insert, id) in steps {
                let known = model.iter().position(|known| *known == id);
                if is_insert {
                    cache.insert(Arc::new(Registered::of_text(id, "\"string\"")));
                } else {
                    prop_assert_eq!(cache.get(id).map(|schema| schema.id), known.map(|_| id));
                }
                if let Some(at) = known {
                    model.remove(at);
                }
                if is_insert || known.is_some() {
                    model.push(id);
                }
                if model.len() > max {
                    model.remove(0);
                }
                prop_assert!(cache.len() <= max);
                prop_assert_eq!(cache.len(), model.len());
            }
        }
    }
}
