//! Lanes: topic paths spread over partitions that exist here only, so that each path keeps its order and all workers have work.
//!
//! Invariant: what was dispatched is kept until it is settled, and its bytes count in the route's budget for as long. So a rewind
//! needs no server: what is owed is dispatched again, as it was, in its order and with its offsets. A record's offset is its number in
//! its lane, counted from the moment of the start, so no later life of the route gives it to another record.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, mpsc};

use tokio::time::Instant;

use crate::ack::budget::Budget;
use crate::ack::{Acks, Beginning, Rewind, Slot, TopicPartition};
use crate::batch::{Batch, Entries, Handles, Headers};
use crate::dead::{Class, Letter};
use crate::observe::RouteMetrics;
use crate::source::rewind_wait;
use crate::source::work::{BatchBounds, Work, WorkerMessage, worker_of};

/// Offsets of one millisecond: more records than any machine reads in it.
const OFFSETS_PER_MS: i64 = 1 << 20;

/// What is known of one record.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its key: the topic path.
    pub path: &'a str,
    /// Its value; `None`: a tombstone.
    pub value: Option<&'a [u8]>,
    /// Milliseconds since 1970-01-01T00:00Z.
    pub timestamp: i64,
    /// Why it is to be a dead letter.
    pub unfit: Option<&'a str>,
}

/// What lanes belong to.
pub struct Surroundings {
    /// Name of the source: the topic of all its records.
    pub source: Arc<str>,
    /// Bounds of batches.
    pub bounds: BatchBounds,
    /// Acks of the route.
    pub acks: Acks,
    /// Byte budget of the route.
    pub budget: Budget,
    /// Inboxes of the workers.
    pub workers: Vec<mpsc::Sender<WorkerMessage>>,
    /// Counters of the route.
    pub metrics: RouteMetrics,
}

/// See the module.
pub struct Lanes {
    around: Surroundings,
    lanes: Vec<Lane>,
    /// When what was gathered is to be dispatched; `None`: nothing was.
    flush_at: Option<Instant>,
}

struct Lane {
    name: TopicPartition,
    slot: Slot,
    /// The next offset.
    next: i64,
    open: Gathered,
    kept: VecDeque<Kept>,
    /// When a rewind begins; until then nothing of the lane is dispatched.
    resumes: Option<Instant>,
}

/// Records on their way into a batch.
#[derive(Default)]
struct Gathered {
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    keys: Entries,
    values: Entries,
    letters: Vec<Letter>,
    bytes: usize,
}

/// A batch that is owed; its permit counts this copy of it.
struct Kept {
    next: i64,
    batch: Batch,
    letters: Vec<Letter>,
}

impl Lanes {
    /// As many lanes as workers; `now`: milliseconds since 1970-01-01T00:00Z.
    pub fn new(around: Surroundings, now: i64) -> Self {
        let first = now.saturating_mul(OFFSETS_PER_MS);
        let lane = |partition: usize| {
            let name = TopicPartition { topic: around.source.clone(), partition: partition as i32 };
            let slot = around.acks.begin(name.clone(), Beginning { start: Some(first), committed: true, ..Beginning::default() });
            Lane { name, slot, next: first, open: Gathered::default(), kept: VecDeque::new(), resumes: None }
        };
        let lanes = (0..around.workers.len().max(1)).map(lane).collect();
        Lanes { around, lanes, flush_at: None }
    }

    /// Whether more may be read.
    pub fn has_room(&self) -> bool {
        !self.around.budget.is_exhausted() && self.lanes.iter().all(|lane| lane.resumes.is_none())
    }

    /// Name of the source.
    pub fn source(&self) -> &str {
        &self.around.source
    }

    /// When [`Lanes::flush`] is due.
    pub fn flush_at(&self) -> Option<Instant> {
        self.flush_at
    }

    /// The slots of all lanes.
    pub fn slots(&self) -> Vec<Slot> {
        self.lanes.iter().map(|lane| lane.slot).collect()
    }

    /// Gathers a record; dispatches its lane's batch where that is full.
    pub fn push(&mut self, entry: Entry<'_>) {
        let bounds = self.around.bounds;
        let mut hasher = DefaultHasher::new();
        entry.path.hash(&mut hasher);
        let index = (hasher.finish() % self.lanes.len() as u64) as usize;
        let lane = &mut self.lanes[index];
        lane.open.push(lane.next, entry);
        lane.next += 1;
        if lane.open.offsets.len() >= bounds.records_max || lane.open.bytes >= bounds.bytes_max {
            lane.dispatch(&self.around);
        } else {
            self.flush_at.get_or_insert_with(|| Instant::now() + bounds.linger);
        }
    }

    /// Dispatches what was gathered.
    pub fn flush(&mut self) {
        self.flush_at = None;
        for lane in &mut self.lanes {
            lane.dispatch(&self.around);
        }
        if self.lanes.iter().any(|lane| !lane.open.offsets.is_empty()) {
            self.flush_at = Some(Instant::now() + self.around.bounds.linger);
        }
    }

    /// Lets go of what is settled.
    pub fn settle(&mut self) {
        if self.lanes.iter().all(|lane| lane.kept.is_empty()) {
            return;
        }
        let committables = self.around.acks.committables();
        for lane in &mut self.lanes {
            let Some((.., Some(committable))) = committables.iter().find(|(slot, ..)| *slot == lane.slot) else { continue };
            while lane.kept.front().is_some_and(|kept| kept.next <= *committable) {
                lane.kept.pop_front();
            }
        }
    }

    /// What is owed of a lane is to be dispatched again, after a while.
    pub fn rewind(&mut self, rewind: &Rewind) {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.slot == rewind.old) else { return };
        lane.slot = rewind.slot;
        lane.resumes = Some(Instant::now() + rewind_wait(rewind.without_progress));
        let worker = worker_of(&lane.name, self.around.workers.len());
        let _ = self.around.workers[worker].send(WorkerMessage::Forget(rewind.old, lane.name.clone()));
    }

    /// Dispatches again what is owed of lanes whose rewind is due.
    pub fn resume(&mut self) {
        let now = Instant::now();
        // What was settled before the rewind is not owed.
        self.settle();
        for lane in &mut self.lanes {
            if lane.resumes.is_some_and(|at| at <= now) {
                lane.resumes = None;
                self.around.acks.rewound(lane.slot);
                lane.kept.iter().for_each(|kept| lane_send(&self.around, &lane.name, lane.slot, kept));
            }
        }
    }
}

impl Lane {
    fn dispatch(&mut self, around: &Surroundings) {
        if self.open.offsets.is_empty() || self.resumes.is_some() {
            return;
        }
        let Gathered { offsets, timestamps, keys, values, letters, .. } = std::mem::take(&mut self.open);
        let mut batch = Batch {
            topic: self.name.topic.clone(),
            partition: self.name.partition,
            offsets,
            timestamps,
            keys,
            values,
            headers: Headers::default(),
            key_schemas: Handles::All(0),
            value_schemas: Handles::All(0),
            permit: None,
        };
        batch.permit = Some(around.budget.take(self.slot, batch.bytes()));
        let kept = Kept { next: self.next, batch, letters };
        lane_send(around, &self.name, self.slot, &kept);
        self.kept.push_back(kept);
    }
}

/// A copy of a batch to its worker.
fn lane_send(around: &Surroundings, name: &TopicPartition, slot: Slot, kept: &Kept) {
    let Kept { next, batch, letters } = kept;
    let Some(first) = batch.offsets.first() else { return };
    // Nothing is taken any more when the route ends: what comes then comes again with the next start.
    let Some(token) = around.acks.dispatch(slot, *first, *next, batch.len() as u64) else { return };
    let bytes = batch.keys.data.len() + batch.values.data.len();
    let batch = Batch {
        topic: batch.topic.clone(),
        partition: batch.partition,
        offsets: batch.offsets.clone(),
        timestamps: batch.timestamps.clone(),
        keys: batch.keys.clone(),
        values: batch.values.clone(),
        headers: Headers::default(),
        key_schemas: Handles::All(0),
        value_schemas: Handles::All(0),
        permit: Some(around.budget.take(slot, batch.bytes())),
    };
    around.metrics.read.inc_by(batch.len() as u64);
    around.metrics.read_bytes.inc_by(bytes as u64);
    // A worker that is gone drops the token: the route is ending.
    let _ = around.workers[worker_of(name, around.workers.len())].send(WorkerMessage::Work(Work {
        slot,
        batch,
        letters: letters.clone(),
        token,
    }));
}

impl Gathered {
    fn push(&mut self, offset: i64, entry: Entry<'_>) {
        let Entry { path, value, timestamp, unfit } = entry;
        if let Some(reason) = unfit {
            let record = self.offsets.len() as u32;
            let (code, by) = ("value".to_owned(), "decode".into());
            self.letters.push(Letter { record, class: Class::Decode, code, message: reason.to_owned(), by, digest: None, attempts: 1 });
        }
        self.offsets.push(offset);
        self.timestamps.push(timestamp);
        self.keys.push(Some(path.as_bytes()));
        self.values.push(value);
        self.bytes += path.len() + value.map_or(0, <[u8]>::len);
    }
}
