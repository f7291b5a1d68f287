//! Tokens: one for each piece that is owed.
//!
//! Invariant (I2): a token is settled, or its partition is read again; there is no third way to be rid of one.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::keys::DeadKeys;
use super::{Acks, Slot};

/// One piece that is owed: a sink's outputs of a batch, one dead letter, or a batch that is not routed yet.
///
/// Settle it when what it stands for is durable. A token that is dropped instead rewinds its partition.
#[derive(Debug)]
#[must_use = "a dropped token rewinds its partition"]
pub struct Token {
    pub(super) acks: Acks,
    pub(super) slot: Slot,
    pub(super) first: i64,
    pub(super) live: bool,
    pub(super) durable: Option<oneshot::Sender<()>>,
}

impl Token {
    /// The partition, in the generation that the token belongs to.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Whether settling still means something: not so once the partition left, rewound, or is about to be.
    pub fn is_current(&self) -> bool {
        self.acks.is_current(self.slot)
    }

    /// What the token stood for is durable (or nothing is left of it to deliver).
    pub fn settle(mut self) {
        self.live = false;
        let (state, changed) = &*self.acks.shared;
        let mut state = state.lock();
        let resolved = match state.partition(self.slot) {
            Some(partition) => partition.tracker.settle(self.first),
            None => {
                state.settled_late += 1;
                false
            }
        };
        if resolved {
            state.resolved = Some(Instant::now());
            changed.notify_all();
        }
        if let Some(durable) = self.durable.take() {
            // Whoever asked may be gone; then nobody waits.
            let _ = durable.send(());
        }
    }

    /// The same token, which also says when it is settled.
    pub fn notifying(mut self, durable: oneshot::Sender<()>) -> Token {
        self.durable = Some(durable);
        self
    }

    /// One more token for the same batch: for a further piece of it.
    pub fn another(&self) -> Token {
        let mut state = self.acks.shared.0.lock();
        if let Some(partition) = state.partition(self.slot) {
            partition.tracker.owe(self.first, 1);
        }
        Token { acks: self.acks.clone(), slot: self.slot, first: self.first, live: true, durable: None }
    }

    /// Of the token's batch, so many records have no output, and so many nothing but a dead letter.
    pub fn decided(&self, filtered: u64, dead_lettered: u64) {
        let mut state = self.acks.shared.0.lock();
        if let Some(partition) = state.partition(self.slot) {
            partition.tracker.decided(self.first, filtered, dead_lettered);
        }
    }

    /// A table commit of the ledger `place` landed, with all of this partition up to `last`.
    pub fn hold(&self, place: &Arc<str>, last: i64) {
        self.acks.hold(self.slot, place, last);
    }

    /// What the ledger `place` is known to hold of the partition.
    pub fn held(&self, place: &str) -> Option<i64> {
        self.acks.held(self.slot, place)
    }

    /// The ledger `place` holds less than was known, and that is accepted.
    pub fn forget_held(&self, place: &str) {
        self.acks.forget_held(self.slot, place);
    }

    /// The keys of dead letters of the partition.
    pub fn dead_keys(&self) -> DeadKeys {
        self.acks.dead_keys(self.slot)
    }

    /// The record at `offset`, with this key's digest, is a dead letter. `false`: there is no room for one more key.
    pub fn key_died(&self, digest: u64, offset: i64) -> bool {
        self.acks.key_died(self.slot, digest, offset)
    }

    /// A sink gives up one of the `owed` outputs (over all sinks) of the record at `offset`.
    pub fn give_up(&self, offset: i64, owed: u32) {
        let mut state = self.acks.shared.0.lock();
        if let Some(partition) = state.partition(self.slot) {
            partition.tracker.give_up(self.first, offset, owed);
        }
    }

    /// What the token stands for cannot be delivered now: the partition is to be read again.
    pub fn rewind(mut self, reason: &'static str) {
        self.live = false;
        self.acks.want_rewind(self.slot, reason);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if self.live {
            self.acks.want_rewind(self.slot, "a piece was dropped unsettled");
        }
    }
}
