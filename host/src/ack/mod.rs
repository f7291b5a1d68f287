//! Acks: who still owes which offsets, for all partitions of a route.
//!
//! Invariant: a [`Token`] is settled once or its partition rewinds; settling after the partition left, or rewound, does nothing.
//! One lock covers settling, reading committable offsets and marking partitions revoked, so that no settlement falls between
//! a commit and a revoke.

pub mod budget;
pub mod keys;
pub mod token;
pub mod tracker;
pub mod transaction;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use keys::{DEAD_KEYS_MAX, DeadKeys};
pub use token::Token;
use tracker::{Counts, Tracker};

/// What ledgers hold of one partition: the last offset, by the name of the sink (and of its table, where it has many).
pub type Holds = BTreeMap<Arc<str>, i64>;

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
    holds: Holds,
    dead_keys: DeadKeys,
    /// Since when the head of the tracker is the same, and when it is to be told of next.
    head: Option<Head>,
    rewind_wanted: Option<&'static str>,
    /// A transaction is about to commit its offset.
    committing: bool,
    /// Rewinds to the same offset in a row, and that offset. What is settled behind it is no progress: it comes again.
    rewinds: u32,
    rewound_to: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    first: i64,
    since: Instant,
    told: Duration,
}

#[derive(Debug, Default)]
struct State {
    slots: Vec<Option<Partition>>,
    generations: u64,
    /// A sink commits the offsets, see `transaction`.
    by_sink: bool,
    settled_late: u64,
    counts: Counts,
    /// The first batch, and the last time that one was resolved.
    began: Option<Instant>,
    resolved: Option<Instant>,
}

/// The acks of one route; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Acks {
    shared: Arc<(Mutex<State>, Condvar)>,
}

/// Where a partition begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beginning {
    /// The first offset to read, if known.
    pub start: Option<i64>,
    /// Whether the group's committed offset is where reading begins; if not, it is due to be committed, so that a crash before the
    /// first settled record does not make the next start choose anew.
    pub committed: bool,
    /// What ledgers held when the group's offset was committed.
    pub holds: Holds,
    /// Keys of dead letters that were known then.
    pub dead_keys: DeadKeys,
}

/// An offset that is due to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committable {
    /// Of which partition.
    pub name: TopicPartition,
    /// Where a restart would begin.
    pub offset: i64,
    /// What ledgers hold by then.
    pub holds: Holds,
    /// Keys of dead letters that are known by then.
    pub dead_keys: DeadKeys,
}

/// A partition that has to be read again from its committable offset.
#[derive(Debug, Clone)]
pub struct Rewind {
    /// The partition in the generation that ended.
    pub old: Slot,
    /// The partition in the generation that begins with [`Acks::rewound`].
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

    /// A partition comes. `start`: the group's committed offset, where reading begins, if known.
    pub fn assign(&self, name: TopicPartition, start: Option<i64>) -> Slot {
        self.begin(name, Beginning { start, committed: true, ..Beginning::default() })
    }

    /// A partition comes.
    pub fn begin(&self, name: TopicPartition, beginning: Beginning) -> Slot {
        let Beginning { start, committed, holds, dead_keys } = beginning;
        let mut state = self.shared.0.lock();
        state.generations += 1;
        let generation = state.generations;
        let partition = Partition {
            name,
            generation,
            phase: Phase::Active,
            tracker: Tracker::new(start),
            committed: start.filter(|_| committed),
            holds,
            dead_keys,
            head: None,
            rewind_wanted: None,
            committing: false,
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
        state.began.get_or_insert_with(Instant::now);
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

    /// Waits until nothing of these partitions is owed, or `deadline`. Returns those that still owe something. Where a sink commits
    /// the offsets, they are owed as well.
    pub fn drained(&self, slots: &[Slot], deadline: std::time::Instant) -> Vec<Slot> {
        let (state, changed) = &*self.shared;
        let mut state = state.lock();
        let by_sink = state.by_sink;
        loop {
            // A partition that wants to be read again will not be settled by waiting.
            let owes = |partition: &mut Partition| {
                let owing = partition.tracker.owed() > 0 || (by_sink && partition.due().is_some());
                partition.committing || (owing && partition.rewind_wanted.is_none())
            };
            let owing: Vec<Slot> = slots.iter().copied().filter(|slot| state.partition(*slot).is_some_and(owes)).collect();
            if owing.is_empty() || changed.wait_until(&mut state, deadline).timed_out() {
                return owing;
            }
        }
    }

    /// Committable offsets that moved since they were last taken, of all partitions or of `only`.
    pub fn take_committable(&self, only: Option<&[Slot]>) -> Vec<Committable> {
        let mut state = self.shared.0.lock();
        let mut moved = Vec::new();
        for (index, partition) in state.slots.iter_mut().enumerate() {
            let Some(partition) = partition else { continue };
            let slot = Slot { index: index as u32, generation: partition.generation };
            if only.is_some_and(|only| !only.contains(&slot)) {
                continue;
            }
            moved.extend(partition.take_due());
        }
        moved
    }

    /// The broker took a commit of these offsets. Those of which a later one was sent meanwhile are due again: librdkafka sends a commit a
    /// second time after an outage, and where that overtakes the later one the group's offset goes back.
    pub fn commit_landed(&self, offsets: &HashMap<TopicPartition, i64>) {
        let mut state = self.shared.0.lock();
        for partition in state.slots.iter_mut().flatten() {
            if offsets.get(&partition.name).is_some_and(|landed| partition.committed.is_some_and(|sent| *landed < sent)) {
                partition.committed = None;
            }
        }
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

    /// Partitions leave: whatever settles from now on is counted and discarded. `commit` is called with their committable offsets when
    /// the lock is free again: the broker may take its time, and the sinks of other partitions must not wait for it.
    pub fn revoke(&self, slots: &[Slot], commit: impl FnOnce(Vec<Committable>)) {
        let (state, changed) = &*self.shared;
        let mut state = state.lock();
        let mut due = Vec::new();
        for slot in slots {
            if state.partition(*slot).is_some()
                && let Some(mut gone) = state.slots[slot.index as usize].take()
            {
                due.extend(gone.take_due());
                state.counts.merge(gone.tracker.take_resolved());
            }
        }
        drop(state);
        changed.notify_all();
        if !due.is_empty() {
            commit(due);
        }
    }

    /// A table commit of the ledger `place` landed: it holds the partition up to `last`.
    pub fn hold(&self, slot: Slot, place: &Arc<str>, last: i64) {
        let mut state = self.shared.0.lock();
        if let Some(partition) = state.partition(slot) {
            let held = partition.holds.entry(place.clone()).or_insert(last);
            *held = last.max(*held);
        }
    }

    /// What the ledger `place` held of the partition when offsets were last committed, or since; `None`: it is not known.
    pub fn held(&self, slot: Slot, place: &str) -> Option<i64> {
        self.shared.0.lock().partition(slot).and_then(|partition| partition.holds.get(place).copied())
    }

    /// The ledger `place` holds less than was known, and that is accepted.
    pub fn forget_held(&self, slot: Slot, place: &str) {
        if let Some(partition) = self.shared.0.lock().partition(slot) {
            partition.holds.remove(place);
        }
    }

    /// The keys of dead letters of a partition.
    pub fn dead_keys(&self, slot: Slot) -> DeadKeys {
        self.shared.0.lock().partition(slot).map(|partition| partition.dead_keys.clone()).unwrap_or_default()
    }

    /// The record at `offset`, with this key's digest, is a dead letter. `false`: there is no room for one more key.
    pub fn key_died(&self, slot: Slot, digest: u64, offset: i64) -> bool {
        let mut state = self.shared.0.lock();
        let Some(partition) = state.partition(slot) else { return true };
        if partition.dead_keys.len() >= DEAD_KEYS_MAX && !partition.dead_keys.contains_key(&digest) {
            return false;
        }
        let first = partition.dead_keys.entry(digest).or_insert(offset);
        *first = offset.min(*first);
        true
    }

    /// Wants a partition to be read again from its committable offset.
    pub fn want_rewind(&self, slot: Slot, reason: &'static str) {
        self.shared.0.lock().want_rewind(slot, reason);
        // Whoever waits for a drain need not wait for this partition.
        self.shared.1.notify_all();
    }

    /// The partitions that want to be read again. From now on nothing of them is dispatched, and no token of theirs settles,
    /// until [`Acks::rewound`].
    pub fn take_rewinds(&self) -> Vec<Rewind> {
        let mut state = self.shared.0.lock();
        let mut generations = state.generations;
        let mut rewinds = Vec::new();
        for (index, partition) in state.slots.iter_mut().enumerate() {
            let Some(partition) = partition.as_mut().filter(|partition| !partition.committing) else { continue };
            let Some(reason) = partition.rewind_wanted.take() else { continue };
            let from = partition.tracker.committable();
            partition.rewinds = if partition.rewound_to == from { partition.rewinds + 1 } else { 1 };
            partition.rewound_to = from;
            let old = Slot { index: index as u32, generation: partition.generation };
            generations += 1;
            partition.generation = generations;
            partition.phase = Phase::Draining;
            let resolved = partition.tracker.take_resolved();
            let mut fresh = Tracker::new(from);
            fresh.add_resolved(resolved);
            partition.tracker = fresh;
            partition.head = None;
            rewinds.push(Rewind {
                old,
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

    /// Nothing of the partition is owed, and it is read from `start` now: the log does not hold what comes before.
    pub fn jump(&self, slot: Slot, start: i64) {
        let mut state = self.shared.0.lock();
        if let Some(partition) = state.partition(slot) {
            let resolved = partition.tracker.take_resolved();
            partition.tracker = Tracker::new(Some(start));
            partition.tracker.add_resolved(resolved);
            partition.committed = None;
            partition.head = None;
        }
    }

    /// Whether nothing of the partition is owed.
    pub fn is_settled(&self, slot: Slot) -> bool {
        self.shared.0.lock().partition(slot).is_none_or(|partition| partition.tracker.owed() == 0)
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

    /// All partitions, with the offset at which a restart would begin.
    pub fn committables(&self) -> Vec<(Slot, TopicPartition, Option<i64>)> {
        let state = self.shared.0.lock();
        let kept = state.slots.iter().enumerate();
        kept.filter_map(|(index, kept)| {
            let kept = kept.as_ref()?;
            Some((Slot { index: index as u32, generation: kept.generation }, kept.name.clone(), kept.tracker.committable()))
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

    /// From the first batch that was read to the last that was resolved.
    pub fn took(&self) -> Duration {
        let state = self.shared.0.lock();
        state.began.zip(state.resolved).map_or(Duration::ZERO, |(began, resolved)| resolved - began)
    }

    /// Settlements that came after their partition had left or rewound.
    pub fn settled_late(&self) -> u64 {
        self.shared.0.lock().settled_late
    }

    /// Heads that have not moved for longer than `limit`, each told of again only when it is twice as old; call it every few
    /// seconds. The other answer is the age of the oldest head.
    pub fn stuck(&self, limit: Duration) -> (Vec<Stuck>, Duration) {
        let now = Instant::now();
        let mut state = self.shared.0.lock();
        let mut stuck = Vec::new();
        let mut oldest = Duration::ZERO;
        for partition in state.slots.iter_mut().flatten() {
            let first = partition.tracker.head().map(|(first, _)| first);
            match (first, &mut partition.head) {
                (None, _) => partition.head = None,
                (Some(first), Some(head)) if head.first == first => {
                    let since = now - head.since;
                    oldest = oldest.max(since);
                    if since > limit && since > head.told {
                        head.told = since * 2;
                        stuck.push(Stuck { name: partition.name.clone(), first, since });
                    }
                }
                (Some(first), _) => partition.head = Some(Head { first, since: now, told: Duration::ZERO }),
            }
        }
        (stuck, oldest)
    }
}

impl Partition {
    /// The committable offset, if it is due.
    fn due(&self) -> Option<i64> {
        self.tracker.committable().filter(|offset| self.committed.is_none_or(|committed| *offset > committed))
    }

    /// The same; it counts as committed from now on.
    fn take_due(&mut self) -> Option<Committable> {
        let offset = self.due()?;
        self.committed = Some(offset);
        Some(Committable { name: self.name.clone(), offset, holds: self.holds.clone(), dead_keys: self.dead_keys.clone() })
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

#[cfg(test)]
mod tests;
