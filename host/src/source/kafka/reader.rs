//! The reader thread: takes records from the queue, makes batches of them and hands each to the worker of its partition.
//!
//! Invariant: within one partition batches are dispatched in the order of the log, without a gap since the last rewind: a record is
//! either dispatched, or dropped while the partition takes nothing (and then read again or owned by another).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use parking_lot::Mutex;
use rdkafka::consumer::ConsumerContext;
use rdkafka::types::RDKafkaErrorCode;

use super::fence::Fence;
use super::queue::{Item, MESSAGES_MAX, Origin, Queue, Record};
use crate::ack::budget::{Budget, Room};
use crate::ack::{Acks, Slot, TopicPartition};
use crate::batch::{Batch, Entries, Handles, Headers};
use crate::observe::RouteMetrics;
use crate::source::work::{BatchBounds, Work, WorkerMessage, worker_of};

/// Before anything was assigned.
pub const FIRST_EPOCH: u64 = 1;

/// Where reading ends with `--until-end`, and which partitions got there.
#[derive(Debug, Default)]
pub struct Ends {
    /// Offset behind the last record to read, by partition, as seen at start.
    pub at: HashMap<TopicPartition, i64>,
    /// Partitions of which nothing more is to be read.
    pub reached: Mutex<std::collections::HashSet<TopicPartition>>,
}

/// What the reader tells the control thread.
#[derive(Debug)]
pub struct ReadError {
    /// The topic, empty where the error concerns none.
    pub topic: String,
    /// The partition; -1 where the error concerns none.
    pub partition: i32,
    /// Which error.
    pub code: RDKafkaErrorCode,
    /// Librdkafka's words.
    pub reason: String,
}

/// What the reader shares with the control thread.
#[derive(Debug)]
pub struct Shared {
    /// The acks of the route.
    pub acks: Acks,
    /// Its byte budget.
    pub budget: Budget,
    /// See [`Fence`].
    pub fence: Fence,
    /// Goes up whenever partitions come, leave or rewind.
    pub epoch: AtomicU64,
    /// The reader shall end.
    pub ending: AtomicBool,
    /// `--until-end`.
    pub ends: Option<Ends>,
    /// Bounds of batches.
    pub bounds: BatchBounds,
    /// Counters of the route.
    pub metrics: RouteMetrics,
}

/// Bytes that one call may take out of librdkafka beyond the budget, when records are as large as the last ones were.
const CALL_BYTES_MAX: usize = 8 << 20;
/// Fewer would cost more calls than they save memory.
const CALL_BYTES_MIN: usize = 64 << 10;

/// Where messages come from; `None`: a partition that is not ours any more.
type Places = HashMap<Origin, Option<Place>>;

/// What is known of the partition that a message comes from.
#[derive(Debug, Clone)]
struct Place {
    slot: Slot,
    name: TopicPartition,
    /// Behind the last offset to read; the greatest number where reading does not end.
    end: i64,
}

struct Building {
    place: Place,
    batch: Batch,
    bytes: usize,
}

/// The reader of one route.
pub struct Reader<C: ConsumerContext + 'static> {
    /// Where records arrive.
    pub queue: Arc<Queue<C>>,
    /// One inbox per worker.
    pub workers: Vec<mpsc::Sender<WorkerMessage>>,
    /// Errors for the control thread.
    pub errors: mpsc::Sender<ReadError>,
    /// See [`Shared`].
    pub shared: Arc<Shared>,
}

impl<C: ConsumerContext + 'static> Reader<C> {
    /// Reads until [`Shared::ending`].
    pub fn run(self) {
        let mut places: Places = HashMap::new();
        let mut epoch = 0;
        let mut record_bytes = 512;
        let call_bytes = (self.shared.budget.bytes_max() / 4).clamp(CALL_BYTES_MIN, CALL_BYTES_MAX);
        while !self.shared.ending.load(Ordering::Acquire) {
            self.shared.fence.pass();
            if self.shared.budget.wait() == Room::Interrupted {
                continue;
            }
            let now = self.shared.epoch.load(Ordering::Acquire);
            if now != epoch {
                places.clear();
                epoch = now;
            }
            let (count, bytes) = self.read(&mut places, call_bytes / record_bytes);
            if let Some(average) = bytes.checked_div(count) {
                record_bytes = average.clamp(64, CALL_BYTES_MAX);
            }
        }
        self.shared.fence.end();
    }

    fn read(&self, places: &mut Places, messages_max: usize) -> (usize, usize) {
        let mut open: Vec<(Origin, Building)> = Vec::new();
        let mut last = 0;
        let mut total = 0;
        let bounds = self.shared.bounds;
        let count = self.queue.read(messages_max.min(MESSAGES_MAX), bounds.linger, |origin, item| match item {
            Item::Record(record) => {
                // Records of one partition come in runs, so the batch of the last record is most often the right one.
                let found = match open.get(last) {
                    Some((found, _)) if *found == origin => Some(last),
                    _ => open.iter().position(|(found, _)| *found == origin),
                };
                let index = match found {
                    Some(index) => index,
                    None => {
                        let Some(place) = self.place(places, origin, record.topic()) else { return };
                        if record.offset() >= place.end {
                            return self.reach_end(&place);
                        }
                        open.push((origin, Building::new(place)));
                        open.len() - 1
                    }
                };
                last = index;
                let building = &mut open[index].1;
                if record.offset() >= building.place.end {
                    let (_, building) = open.swap_remove(index);
                    let place = building.place.clone();
                    self.dispatch(building);
                    return self.reach_end(&place);
                }
                total += building.push(&record);
                if building.batch.len() >= bounds.records_max || building.bytes >= bounds.bytes_max {
                    let fresh = Building::new(building.place.clone());
                    let full = std::mem::replace(building, fresh);
                    self.dispatch(full);
                }
            }
            Item::End { topic, position } => {
                let Some(place) = self.place(places, origin, topic) else { return };
                if let Some(index) = open.iter().position(|(found, _)| *found == origin) {
                    self.dispatch(open.swap_remove(index).1);
                }
                self.shared.acks.reached(place.slot, position);
                if let Some(ends) = &self.shared.ends {
                    ends.reached.lock().insert(place.name);
                }
            }
            Item::Error { topic, code, reason } => {
                let _ = self.errors.send(ReadError { topic: topic.to_owned(), partition: origin.partition, code, reason });
            }
        });
        for (_, building) in open {
            self.dispatch(building);
        }
        (count, total)
    }

    fn place(&self, places: &mut Places, origin: Origin, topic: &str) -> Option<Place> {
        let find = || {
            let slot = self.shared.acks.slot_of(topic, origin.partition)?;
            let name = TopicPartition { topic: topic.into(), partition: origin.partition };
            // With `--until-end` a partition that was made since the start has nothing to read.
            let end = self.shared.ends.as_ref().map_or(i64::MAX, |ends| ends.at.get(&name).copied().unwrap_or(0));
            Some(Place { slot, name, end })
        };
        places.entry(origin).or_insert_with(find).clone()
    }

    fn reach_end(&self, place: &Place) {
        if let Some(ends) = &self.shared.ends {
            self.shared.acks.reached(place.slot, place.end);
            ends.reached.lock().insert(place.name.clone());
        }
    }

    fn dispatch(&self, building: Building) {
        let Building { place, mut batch, bytes } = building;
        let (Some(first), Some(last)) = (batch.offsets.first().copied(), batch.offsets.last().copied()) else { return };
        let Some(token) = self.shared.acks.dispatch(place.slot, first, last + 1, batch.len() as u64) else { return };
        batch.permit = Some(self.shared.budget.take(place.slot, batch.bytes()));
        self.shared.metrics.read.inc_by(batch.len() as u64);
        self.shared.metrics.read_bytes.inc_by(bytes as u64);
        let worker = worker_of(&place.name, self.workers.len());
        // A worker that is gone drops the token: the route is ending.
        let _ = self.workers[worker].send(WorkerMessage::Work(Work { slot: place.slot, batch, token, letters: Vec::new() }));
    }
}

impl Building {
    fn new(place: Place) -> Self {
        let batch = Batch {
            topic: place.name.topic.clone(),
            partition: place.name.partition,
            offsets: Vec::new(),
            timestamps: Vec::new(),
            keys: Entries::default(),
            values: Entries::default(),
            headers: Headers::default(),
            key_schemas: Handles::All(0),
            value_schemas: Handles::All(0),
            permit: None,
        };
        Building { place, batch, bytes: 0 }
    }

    /// Copies a record out of librdkafka's memory: a batch that pinned fetch buffers would hold far more than its own bytes.
    fn push(&mut self, record: &Record<'_>) -> usize {
        let batch = &mut self.batch;
        let (key, value) = (record.key(), record.value());
        let mut bytes = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        batch.offsets.push(record.offset());
        batch.timestamps.push(record.timestamp());
        batch.keys.push(key);
        batch.values.push(value);
        let headers = &mut batch.headers;
        let count = record.headers(|name, value| {
            headers.names.push(Some(name));
            headers.values.push(value);
            bytes += name.len() + value.map_or(0, <[u8]>::len);
        });
        if count > 0 || !headers.ends.is_empty() {
            // The first record with headers gives those before it an empty range.
            headers.ends.resize(batch.offsets.len() - 1, headers.ends.last().copied().unwrap_or(0));
            headers.ends.push(headers.names.len() as u32);
        }
        self.bytes += bytes;
        bytes
    }
}
