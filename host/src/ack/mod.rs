//! Acks: who still owes which offsets, for all partitions of a route.
//!
//! Invariant: a [`Token`] is settled once or its partition rewinds; settling after the partition left, or rewound, does nothing.
//! One lock covers settling, reading committable offsets and marking partitions revoked, so that no settlement falls between
//! a commit and a revoke.

pub mod budget;
pub mod tracker;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::Instant;

use tracker::{Counts, Tracker};

/// A partition of a route in one generation: where it is kept, and which of its lives is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    index: u32,
    generation: u64,
}

impl Slot {
    /// Which life of the partition it is; later lives, of all partitions, have larger numbers.
    pub fn generation(self) -> u64 {
        self.generation
    }
}

/// Topic and partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition.
    pub partition: i32,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Records are read and dispatched.
    Active,
    /// Nothing is dispatched any more; what is in flight may still settle.
    Draining,
}

#[derive(Debug)]
struct Partition {
    name: TopicPartition,
    generation: u64,
    phase: Phase,
    tracker: Tracker,
    committed: Option<i64>,
    /// Since when the head of the tracker is the same.
    head: Option<(i64, Instant)>,
    rewind_wanted: Option<&'static str>,
    /// Rewinds without progress in between, and where they began.
    rewinds: u32,
    rewound_to: Option<i64>,
}

#[derive(Debug, Default)]
struct State {
    slots: Vec<Option<Partition>>,
    generations: u64,
    settled_late: u64,
    counts: Counts,
}

/// The acks of one route; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Acks {
    shared: Arc<(Mutex<State>, Condvar)>,
}

/// One piece that is owed: a sink's outputs of a batch, one dead letter, or a batch that is not routed yet.
///
/// Settle it when what it stands for is durable. A token that is dropped instead rewinds its partition.
#[derive(Debug)]
#[must_use = "a dropped token rewinds its partition"]
pub struct Token {
    acks: Acks,
    slot: Slot,
    first: i64,
    live: bool,
    durable: Option<oneshot::Sender<()>>,
}

/// A partition that has to be read again from its committable offset.
#[derive(Debug, Clone)]
pub struct Rewind {
    /// Which partition, in the generation that ends.
    pub slot: Slot,
    /// Its name.
    pub name: TopicPartition,
    /// Where to read again; `None`: where the generation began is not known, use the committed offset.
    pub from: Option<i64>,
    /// Why.
    pub reason: &'static str,
    /// How many rewinds there were in a row without any progress, this one included.
    pub without_progress: u32,
}

/// A head that has not moved for long.
#[derive(Debug, Clone)]
pub struct Stuck {
    /// Which partition.
    pub name: TopicPartition,
    /// First offset owed.
    pub first: i64,
    /// For how long.
    pub since: Duration,
}

impl Acks {
    /// No partition yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A partition comes. `start`: where reading begins, if known.
    pub fn assign(&self, name: TopicPartition, start: Option<i64>) -> Slot {
        let mut state = self.shared.0.lock();
        state.generations += 1;
        let generation = state.generations;
        let partition = Partition {
            name,
            generation,
            phase: Phase::Active,
            tracker: Tracker::new(start),
            committed: start,
            head: None,
            rewind_wanted: None,
            rewinds: 0,
            rewound_to: None,
        };
        let index = match state.slots.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                state.slots.push(None);
                state.slots.len() - 1
            }
        };
        state.slots[index] = Some(partition);
        Slot { index: index as u32, generation }
    }

    /// A batch is read: records with offsets in `first..next`. `None`: the partition takes nothing now, drop the batch.
    pub fn dispatch(&self, slot: Slot, first: i64, next: i64, records: u64) -> Option<Token> {
        let mut state = self.shared.0.lock();
        let partition = state.partition(slot)?;
        if partition.phase != Phase::Active {
            return None;
        }
        partition.tracker.read(first, next, records);
        Some(Token { acks: self.clone(), slot, first, live: true, durable: None })
    }

    /// The consumer's position of the partition is `next`, with no record before it that was not dispatched.
    pub fn reached(&self, slot: Slot, next: i64) {
        let mut state = self.shared.0.lock();
        if let Some(partition) = state.partition(slot)
            && partition.phase == Phase::Active
        {
            partition.tracker.reached(next);
        }
    }

    /// Nothing more of these partitions is dispatched; what is in flight may settle.
    pub fn stop_dispatch(&self, slots: &[Slot]) {
        let mut state = self.shared.0.lock();
        for slot in slots {
            if let Some(partition) = state.partition(*slot) {
                partition.phase = Phase::Draining;
            }
        }
    }

    /// Waits until nothing of these partitions is owed, or `deadline`. Returns those that still owe something.
    pub fn drained(&self, slots: &[Slot], deadline: std::time::Instant) -> Vec<Slot> {
        let (state, changed) = &*self.shared;
        let mut state = state.lock();
        loop {
            // A partition that wants to be read again will not be settled by waiting.
            let owes = |partition: &mut Partition| partition.tracker.owed() > 0 && partition.rewind_wanted.is_none();
            let owing: Vec<Slot> = slots.iter().copied().filter(|slot| state.partition(*slot).is_some_and(owes)).collect();
            if owing.is_empty() || changed.wait_until(&mut state, deadline).timed_out() {
                return owing;
            }
        }
    }

    /// Committable offsets that moved since they were last taken, of all partitions or of `only`.
    pub fn take_committable(&self, only: Option<&[Slot]>) -> Vec<(TopicPartition, i64)> {
        let mut state = self.shared.0.lock();
        let mut moved = Vec::new();
        for (index, partition) in state.slots.iter_mut().enumerate() {
            let Some(partition) = partition else { continue };
            let slot = Slot { index: index as u32, generation: partition.generation };
            if only.is_some_and(|only| !only.contains(&slot)) {
                continue;
            }
            if let Some(offset) = partition.tracker.committable()
                && partition.committed.is_none_or(|committed| offset > committed)
            {
                partition.committed = Some(offset);
                moved.push((partition.name.clone(), offset));
            }
        }
        moved
    }

    /// The commit of these offsets did not reach the broker: they are due again.
    pub fn commit_failed(&self, names: &[TopicPartition]) {
        let mut state = self.shared.0.lock();
        for partition in state.slots.iter_mut().flatten() {
            if names.contains(&partition.name) {
                partition.committed = None;
            }
        }
    }

    /// Partitions leave: `commit` is called under the lock with their committable offsets, then they are gone, and whatever
    /// settles later is counted and discarded.
    pub fn revoke(&self, slots: &[Slot], commit: impl FnOnce(Vec<(TopicPartition, i64)>)) {
        let (state, changed) = &*self.shared;
        let mut state = state.lock();
        let mut offsets = Vec::new();
        for slot in slots {
            if let Some(partition) = state.partition(*slot)
                && let Some(offset) = partition.tracker.committable()
                && partition.committed.is_none_or(|committed| offset > committed)
            {
                offsets.push((partition.name.clone(), offset));
            }
        }
        if !offsets.is_empty() {
            commit(offsets);
        }
        for slot in slots {
            if state.partition(*slot).is_some() {
                let gone = state.slots[slot.index as usize].take();
                if let Some(mut gone) = gone {
                    state.counts.merge(gone.tracker.take_resolved());
                }
            }
        }
        changed.notify_all();
    }

    /// Wants a partition to be read again from its committable offset.
    pub fn want_rewind(&self, slot: Slot, reason: &'static str) {
        let mut state = self.shared.0.lock();
        state.want_rewind(slot, reason);
    }

    /// The partitions that want to be read again. From now on nothing of them is dispatched, and no token of theirs settles,
    /// until [`Acks::rewound`].
    pub fn take_rewinds(&self) -> Vec<Rewind> {
        let mut state = self.shared.0.lock();
        let mut generations = state.generations;
        let mut rewinds = Vec::new();
        for (index, partition) in state.slots.iter_mut().enumerate() {
            let Some(partition) = partition else { continue };
            let Some(reason) = partition.rewind_wanted.take() else { continue };
            let from = partition.tracker.committable();
            partition.rewinds = if partition.rewound_to == from { partition.rewinds + 1 } else { 1 };
            partition.rewound_to = from;
            generations += 1;
            partition.generation = generations;
            partition.phase = Phase::Draining;
            let resolved = partition.tracker.take_resolved();
            let mut fresh = Tracker::new(from);
            fresh.add_resolved(resolved);
            partition.tracker = fresh;
            partition.head = None;
            rewinds.push(Rewind {
                slot: Slot { index: index as u32, generation: generations },
                name: partition.name.clone(),
                from,
                reason,
                without_progress: partition.rewinds,
            });
        }
        state.generations = generations;
        rewinds
    }

    /// Reading of the partition goes on, from where [`Acks::take_rewinds`] said.
    pub fn rewound(&self, slot: Slot) {
        let mut state = self.shared.0.lock();
        if let Some(partition) = state.partition(slot) {
            partition.phase = Phase::Active;
        }
    }

    /// The slot under which a partition is read now.
    pub fn slot_of(&self, topic: &str, partition: i32) -> Option<Slot> {
        let state = self.shared.0.lock();
        state.slots.iter().enumerate().find_map(|(index, kept)| {
            let kept = kept.as_ref()?;
            (kept.name.partition == partition && &*kept.name.topic == topic)
                .then_some(Slot { index: index as u32, generation: kept.generation })
        })
    }

    /// All partitions, with the position of each.
    pub fn slots(&self) -> Vec<(Slot, TopicPartition, Option<i64>)> {
        let state = self.shared.0.lock();
        let kept = state.slots.iter().enumerate();
        kept.filter_map(|(index, kept)| {
            let kept = kept.as_ref()?;
            Some((Slot { index: index as u32, generation: kept.generation }, kept.name.clone(), kept.tracker.position()))
        })
        .collect()
    }

    /// Whether the slot is still the current life of its partition, and nothing of it was dropped: behind a dropped batch comes a
    /// gap, and whoever keeps a ledger must not go on over it.
    pub fn is_current(&self, slot: Slot) -> bool {
        self.shared.0.lock().partition(slot).is_some_and(|partition| partition.rewind_wanted.is_none())
    }

    /// Whether nothing at all is owed.
    pub fn is_idle(&self) -> bool {
        self.shared.0.lock().slots.iter().flatten().all(|partition| partition.tracker.owed() == 0 && partition.rewind_wanted.is_none())
    }

    /// Counts of all records whose ranges are resolved.
    pub fn counts(&self) -> Counts {
        let mut state = self.shared.0.lock();
        let mut sum = Counts::default();
        for partition in state.slots.iter_mut().flatten() {
            sum.merge(partition.tracker.take_resolved());
        }
        state.counts.merge(sum);
        state.counts
    }

    /// Settlements that came after their partition had left or rewound.
    pub fn settled_late(&self) -> u64 {
        self.shared.0.lock().settled_late
    }

    /// Heads that have not moved for longer than `limit`; call it every few seconds.
    pub fn stuck(&self, limit: Duration) -> Vec<Stuck> {
        let now = Instant::now();
        let mut state = self.shared.0.lock();
        let mut stuck = Vec::new();
        for partition in state.slots.iter_mut().flatten() {
            let first = partition.tracker.head().map(|(first, _)| first);
            match (first, partition.head) {
                (None, _) => partition.head = None,
                (Some(first), Some((seen, since))) if seen == first => {
                    if now - since > limit {
                        stuck.push(Stuck { name: partition.name.clone(), first, since: now - since });
                    }
                }
                (Some(first), _) => partition.head = Some((first, now)),
            }
        }
        stuck
    }
}

impl State {
    fn partition(&mut self, slot: Slot) -> Option<&mut Partition> {
        self.slots.get_mut(slot.index as usize)?.as_mut().filter(|partition| partition.generation == slot.generation)
    }

    fn want_rewind(&mut self, slot: Slot, reason: &'static str) {
        if let Some(partition) = self.partition(slot) {
            partition.rewind_wanted.get_or_insert(reason);
        }
    }
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
            Some(partition) => {
                let resolved = partition.tracker.settle(self.first);
                if resolved {
                    partition.rewinds = 0;
                }
                resolved
            }
            None => {
                state.settled_late += 1;
                false
            }
        };
        if resolved {
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

#[cfg(test)]
mod tests;
