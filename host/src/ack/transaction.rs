//! Offsets that a sink commits together with its records, in a transaction.
//!
//! Invariant: from [`Acks::prepare`] to its end, a partition of the transaction is not read again: a rewind would begin below what
//! the transaction is about to commit, and its records would come twice. Tokens of the transaction settle when it has landed, in one
//! step for all.

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;

use super::{Acks, Committable, Slot, Token};

/// What a transaction commits, by partition.
pub type Due = Vec<(Slot, Committable)>;

/// Whether a transaction can be committed.
#[derive(Debug, PartialEq, Eq)]
pub enum Readiness {
    /// With these offsets. End it with [`Acks::landed`] or [`Acks::not_landed`].
    Ready(Due),
    /// Others still owe something of records that it holds: dead letters, or the routing of their batch.
    Waiting,
    /// A partition left or is read again: what the transaction holds of it must not be committed.
    Gone,
}

impl Acks {
    /// From now on a sink commits the offsets: a partition is drained only when they are committed, too.
    pub fn commit_by_sink(&self) {
        self.shared.0.lock().by_sink = true;
    }

    /// Whether a sink commits the offsets.
    pub fn is_committed_by_sink(&self) -> bool {
        self.shared.0.lock().by_sink
    }

    /// Prepares to commit what stands in a transaction: the pieces of `tokens`, and with them the offsets up to which nothing else is owed,
    /// of all partitions. A transaction whose records are not all below these offsets has to wait: they would be read again.
    pub fn prepare(&self, tokens: &[Token]) -> Readiness {
        let mut state = self.shared.0.lock();
        let mut held: HashMap<Slot, BTreeMap<i64, u32>> = HashMap::new();
        for token in tokens {
            if state.partition(token.slot).is_none_or(|partition| partition.rewind_wanted.is_some()) {
                return Readiness::Gone;
            }
            *held.entry(token.slot).or_default().entry(token.first).or_default() += 1;
        }
        let nothing = BTreeMap::new();
        let mut due = Due::new();
        for (index, partition) in state.slots.iter().enumerate() {
            let Some(partition) = partition.as_ref().filter(|partition| partition.rewind_wanted.is_none()) else { continue };
            let slot = Slot { index: index as u32, generation: partition.generation };
            let pieces = held.get(&slot).unwrap_or(&nothing);
            let Some(offset) = partition.tracker.committable_with(pieces) else { continue };
            if pieces.last_key_value().is_some_and(|(first, _)| *first >= offset) {
                return Readiness::Waiting;
            }
            if partition.committed.is_none_or(|committed| offset > committed) {
                due.push((
                    slot,
                    Committable {
                        name: partition.name.clone(),
                        offset,
                        holds: partition.holds.clone(),
                        dead_keys: partition.dead_keys.clone(),
                    },
                ));
            }
        }
        for (slot, _) in &due {
            if let Some(partition) = state.partition(*slot) {
                partition.committing = true;
            }
        }
        Readiness::Ready(due)
    }

    /// The transaction is committed: its pieces are settled, its offsets committed.
    pub fn landed(&self, due: &Due, tokens: Vec<Token>) {
        let mut state = self.shared.0.lock();
        for (slot, due) in due {
            if let Some(partition) = state.partition(*slot) {
                partition.committing = false;
                partition.committed = Some(due.offset);
            }
        }
        for mut token in tokens {
            token.live = false;
            match state.partition(token.slot) {
                Some(partition) => _ = partition.tracker.settle(token.first),
                None => state.settled_late += 1,
            }
        }
        state.resolved = Some(Instant::now());
        drop(state);
        self.shared.1.notify_all();
    }

    /// The transaction is not committed, and never will be.
    pub fn not_landed(&self, due: &Due) {
        let mut state = self.shared.0.lock();
        for (slot, _) in due {
            if let Some(partition) = state.partition(*slot) {
                partition.committing = false;
            }
        }
        drop(state);
        self.shared.1.notify_all();
    }

    /// Whether the slot is the life of its partition that is read now.
    pub fn is_assigned(&self, slot: Slot) -> bool {
        self.shared.0.lock().partition(slot).is_some()
    }
}
