//! The control thread of a route: group membership, rewinds, commits, the end.
//!
//! Invariant: a partition is read from its committed group offset, and that offset moves only over resolved ranges. Everything
//! that changes which records may be dispatched (assign, revoke, rewind) happens on this thread, with a fence between it and
//! the reader.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use super::client::Login;
use super::queue::Queue;
use super::reader::{ReadError, Shared, WorkerMessage, worker_of};
use crate::ack::{Slot, TopicPartition};
use crate::sink::{Message, Outbox, Urgency};
use crate::stop::{Stop, StopReason};

/// Where a partition without a group offset begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The oldest record.
    Earliest,
    /// What comes from now on.
    Latest,
    /// The first record at or after so many milliseconds since 1970-01-01T00:00Z.
    Timestamp(i64),
    /// The offset of each partition, by topic; partitions that are not named begin at the oldest record.
    Offsets(HashMap<String, BTreeMap<i32, i64>>),
}

/// What the control thread keeps to.
#[derive(Debug)]
pub struct Rules {
    /// Name of the route.
    pub route: Arc<str>,
    /// Where partitions without a group offset begin.
    pub start: Start,
    /// Positions that ledgers of sinks hold, as the next offset; used where there is no group offset.
    pub ledgers: HashMap<TopicPartition, i64>,
    /// How long a revoke waits for sinks.
    pub revoke_deadline: Duration,
    /// How long the end waits for sinks.
    pub drain_deadline: Duration,
    /// Time between commits.
    pub commit_interval: Duration,
    /// Rewinds of one partition without progress in between, after which the route stops.
    pub rewinds_max: u32,
    /// A first owed offset that stays the same for so long is reported.
    pub stuck_after: Duration,
}

/// How long a lookup at the broker may take, and how often it is tried while partitions are being assigned.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
const LOOKUPS_MAX: usize = 6;
const POLL: Duration = Duration::from_millis(20);
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// What librdkafka calls back into.
pub struct Context {
    /// What is shared with the reader.
    pub shared: Arc<Shared>,
    /// See [`Rules`].
    pub rules: Rules,
    /// The reader's queue; empty before the reader starts and after it ended.
    pub queue: Mutex<Option<Arc<Queue<Context>>>>,
    /// Inboxes of the sinks, dead letters included.
    pub sinks: Vec<Outbox>,
    /// Urgency of the sinks.
    pub urgency: Arc<Urgency>,
    /// Inboxes of the workers.
    pub workers: Vec<mpsc::Sender<WorkerMessage>>,
    /// Stops the route.
    pub stop: Stop,
    /// What the brokers said last, and how tokens are had.
    pub login: Login,
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, fac: &str, text: &str) {
        self.login.log(level, fac, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.login.error(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<rdkafka::client::OAuthToken, Box<dyn std::error::Error>> {
        self.login.token()
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let outcome = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, partitions),
            _ => self.revoke(consumer, partitions),
        };
        if let Err(error) = outcome {
            self.stop.stop(StopReason::Environment(format!("route {:?}: rebalance: {error}", self.rules.route)));
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let elements = offsets.elements();
        match result {
            // Nothing had to be committed.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => (),
            Err(error) => {
                tracing::warn!(route = %self.rules.route, %error, "commit refused, due again");
                let names: Vec<_> = elements
                    .iter()
                    .map(|element| TopicPartition { topic: element.topic().into(), partition: element.partition() })
                    .collect();
                self.shared.acks.commit_failed(&names);
            }
            Ok(()) => {
                for element in elements {
                    if let Offset::Offset(offset) = element.offset() {
                        self.shared.metrics.committed(element.topic(), element.partition(), offset);
                    }
                }
            }
        }
    }
}

impl Context {
    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> KafkaResult<()> {
        let starts = self.starts(consumer, partitions)?;
        let mut list = TopicPartitionList::new();
        for (name, start) in &starts {
            list.add_partition_offset(&name.topic, name.partition, Offset::Offset(*start))?;
            self.shared.acks.assign(name.clone(), Some(*start));
            if let Some(queue) = &*self.queue.lock() {
                queue.forward(&name.topic, name.partition);
            }
        }
        self.shared.epoch.fetch_add(1, Ordering::AcqRel);
        tracing::info!(route = %self.rules.route, partitions = starts.len(), "assigned");
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&list),
            _ => consumer.assign(&list),
        }
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> KafkaResult<()> {
        // Only true before `unassign`, which resets it.
        let lost = consumer.assignment_lost();
        let named = partitions.elements();
        let slots: Vec<Slot> = named.iter().filter_map(|element| self.shared.acks.slot_of(element.topic(), element.partition())).collect();
        self.shared.acks.stop_dispatch(&slots);
        self.shared.fence.cross(&self.shared.budget);
        if lost {
            tracing::warn!(route = %self.rules.route, partitions = slots.len(), "lost: what is in flight is another's now");
            self.shared.acks.revoke(&slots, |_| ());
        } else {
            self.urgency.raise();
            let owing = self.shared.acks.drained(&slots, Instant::now() + self.rules.revoke_deadline);
            self.urgency.lower();
            if !owing.is_empty() {
                tracing::warn!(route = %self.rules.route, partitions = owing.len(), "revoked with records in flight: their next owner repeats them");
            }
            self.shared.acks.revoke(&slots, |offsets| self.commit_now(consumer, &offsets));
            tracing::info!(route = %self.rules.route, partitions = slots.len(), "revoked");
        }
        self.shared.epoch.fetch_add(1, Ordering::AcqRel);
        for (slot, element) in slots.iter().zip(&named) {
            self.forget(*slot, &TopicPartition { topic: element.topic().into(), partition: element.partition() });
            self.shared.metrics.partition_left(element.topic(), element.partition());
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
            _ => consumer.unassign(),
        }
    }

    fn forget(&self, slot: Slot, name: &TopicPartition) {
        for sink in &self.sinks {
            sink.send(Message::Abandon(slot));
        }
        if !self.workers.is_empty() {
            let _ = self.workers[worker_of(name, self.workers.len())].send(WorkerMessage::Forget(slot, name.clone()));
        }
    }

    fn commit_now(&self, consumer: &BaseConsumer<Self>, offsets: &[(TopicPartition, i64)]) {
        match consumer.commit(&to_list(offsets), CommitMode::Sync) {
            Ok(()) => {
                for (name, offset) in offsets {
                    self.shared.metrics.committed(&name.topic, name.partition, *offset);
                }
            }
            Err(error) => tracing::warn!(route = %self.rules.route, %error, "last commit refused: the next owner repeats records"),
        }
    }

    /// The offset at which each partition begins: the group's, else what ledgers say, else the configured start.
    fn starts(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> KafkaResult<Vec<(TopicPartition, i64)>> {
        let committed = self.patiently("committed offsets", || consumer.committed_offsets(partitions.clone(), LOOKUP_TIMEOUT))?;
        let mut starts = Vec::new();
        for element in committed.elements() {
            let name = TopicPartition { topic: element.topic().into(), partition: element.partition() };
            let start = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => match self.rules.ledgers.get(&name) {
                    Some(next) => *next,
                    None => self.configured_start(consumer, &name)?,
                },
            };
            starts.push((name, start));
        }
        Ok(starts)
    }

    fn configured_start(&self, consumer: &BaseConsumer<Self>, name: &TopicPartition) -> KafkaResult<i64> {
        let (low, high) =
            self.patiently("first and last offset", || consumer.fetch_watermarks(&name.topic, name.partition, LOOKUP_TIMEOUT))?;
        match &self.rules.start {
            Start::Earliest => Ok(low),
            Start::Latest => Ok(high),
            Start::Offsets(offsets) => {
                Ok(offsets.get(&*name.topic).and_then(|partitions| partitions.get(&name.partition)).copied().unwrap_or(low))
            }
            Start::Timestamp(timestamp) => {
                let mut times = TopicPartitionList::new();
                times.add_partition_offset(&name.topic, name.partition, Offset::Offset(*timestamp))?;
                let found = self.patiently("offset of a timestamp", || consumer.offsets_for_times(times.clone(), LOOKUP_TIMEOUT))?;
                let offset = found.elements().first().map(|element| element.offset());
                Ok(match offset {
                    Some(Offset::Offset(offset)) => offset,
                    _ => high,
                })
            }
        }
    }

    fn patiently<T>(&self, what: &str, mut ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
        let mut asked = 1;
        loop {
            match ask() {
                Err(error) if asked < LOOKUPS_MAX && !self.stop.is_stopped() => {
                    tracing::warn!(route = %self.rules.route, what, %error, "the broker does not answer, asking again");
                    asked += 1;
                }
                answer => return answer,
            }
        }
    }
}

fn to_list(offsets: &[(TopicPartition, i64)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for (name, offset) in offsets {
        // Fails only for offsets that no partition can have.
        let _ = list.add_partition_offset(&name.topic, name.partition, Offset::Offset(*offset));
    }
    list
}

/// The control thread.
pub struct Control {
    /// The group's client.
    pub consumer: Arc<BaseConsumer<Context>>,
    /// Errors that the reader met.
    pub errors: mpsc::Receiver<ReadError>,
}

impl Control {
    /// Keeps the route reading until it is to stop or, with `--until-end`, everything is settled; then drains, commits and leaves
    /// the group.
    pub fn run(self) {
        let context = self.consumer.context().clone();
        let mut committed_at = Instant::now();
        let mut watched_at = Instant::now();
        while !context.stop.is_stopped() && !self.is_finished(&context) {
            self.poll(&context, POLL);
            self.read_errors(&context);
            self.rewind(&context);
            if committed_at.elapsed() >= context.rules.commit_interval {
                committed_at = Instant::now();
                self.commit(&context);
            }
            if watched_at.elapsed() >= WATCH_INTERVAL {
                watched_at = Instant::now();
                watch(&context);
            }
        }
        self.drain(&context);
    }

    fn poll(&self, context: &Context, timeout: Duration) {
        match self.consumer.poll(timeout) {
            None => (),
            // A record that did not come through our queue: the partition's forwarding was lost. Forward it again and read again.
            Some(Ok(message)) => {
                let Some(slot) = context.shared.acks.slot_of(message.topic(), message.partition()) else { return };
                if let Some(queue) = &*context.queue.lock() {
                    queue.forward(message.topic(), message.partition());
                }
                context.shared.acks.want_rewind(slot, "its records arrived at the wrong queue");
            }
            Some(Err(error)) => context.login.error(&error, ""),
        }
    }

    fn read_errors(&self, context: &Context) {
        while let Ok(error) = self.errors.try_recv() {
            let route = &context.rules.route;
            match error.code {
                RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                    context.stop.stop(StopReason::Environment(format!(
                        "route {route:?}: {}: the group's offset is outside of what the topic still holds ({}): records were deleted before \
                         they were read, or the topic was made anew; choose where to go on by moving the group's offset (kafka-consumer-groups \
                         --reset-offsets) or with another `group` and `start`",
                        error.place, error.reason
                    )));
                }
                RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed => {
                    context.stop.stop(StopReason::Environment(format!(
                        "route {route:?}: {}: {}: give the user the right to read topic and group",
                        error.place, error.reason
                    )));
                }
                _ => context.login.error(&KafkaError::MessageConsumption(error.code), &error.reason),
            }
        }
    }

    fn rewind(&self, context: &Context) {
        for rewind in context.shared.acks.take_rewinds() {
            context.shared.metrics.rewinds.inc();
            context.shared.epoch.fetch_add(1, Ordering::AcqRel);
            let name = &rewind.name;
            if rewind.without_progress > context.rules.rewinds_max {
                context.stop.stop(StopReason::Broken(format!(
                    "route {:?}: {name} was read again {} times from offset {:?} without getting further ({})",
                    context.rules.route,
                    rewind.without_progress - 1,
                    rewind.from,
                    rewind.reason
                )));
                return;
            }
            tracing::warn!(route = %context.rules.route, partition = %name, from = rewind.from, reason = rewind.reason, "rewind");
            context.forget(rewind.slot, name);
            let mut list = TopicPartitionList::new();
            let Some(from) = rewind.from else { continue };
            let _ = list.add_partition_offset(&name.topic, name.partition, Offset::Offset(from));
            // Pausing throws away what was fetched; behind the fence the reader holds nothing of before.
            let paused = self.consumer.pause(&list);
            context.shared.fence.cross(&context.shared.budget);
            if rewind.without_progress > 1 {
                std::thread::sleep(pause_before(rewind.without_progress));
            }
            if let Some(ends) = &context.shared.ends {
                ends.reached.lock().remove(name);
            }
            let sought = self.consumer.seek(&name.topic, name.partition, Offset::Offset(from), LOOKUP_TIMEOUT);
            match paused.and(sought) {
                Ok(()) => context.shared.acks.rewound(rewind.slot),
                Err(error) => {
                    tracing::warn!(partition = %name, %error, "seek refused, trying again");
                    context.shared.acks.want_rewind(rewind.slot, "the seek of a rewind was refused");
                }
            }
            if let Err(error) = self.consumer.resume(&list) {
                tracing::warn!(partition = %name, %error, "resume refused");
            }
        }
    }

    fn commit(&self, context: &Context) {
        let offsets = context.shared.acks.take_committable(None);
        if offsets.is_empty() {
            return;
        }
        if let Err(error) = self.consumer.commit(&to_list(&offsets), CommitMode::Async) {
            tracing::warn!(route = %context.rules.route, %error, "commit not sent, due again");
            let names: Vec<_> = offsets.into_iter().map(|(name, _)| name).collect();
            context.shared.acks.commit_failed(&names);
        }
    }

    fn is_finished(&self, context: &Context) -> bool {
        let Some(ends) = &context.shared.ends else { return false };
        let slots = context.shared.acks.slots();
        if slots.is_empty() {
            return ends.at.values().all(|end| *end == 0);
        }
        let reached = ends.reached.lock();
        let read = slots.iter().all(|(_, name, position)| {
            reached.contains(name) || position.is_some_and(|position| ends.at.get(name).is_none_or(|end| position >= *end))
        });
        // Not idle yet is fine: draining makes the sinks flush, and a rewind on the way makes this false again.
        read && (context.shared.acks.is_idle() || { self.hurry(context) })
    }

    /// Everything is read: the sinks need not wait for more.
    fn hurry(&self, context: &Context) -> bool {
        context.urgency.raise();
        let slots: Vec<Slot> = context.shared.acks.slots().into_iter().map(|(slot, ..)| slot).collect();
        context.shared.acks.drained(&slots, Instant::now() + Duration::from_millis(200));
        context.urgency.lower();
        context.shared.acks.is_idle()
    }

    fn drain(&self, context: &Context) {
        let slots: Vec<Slot> = context.shared.acks.slots().into_iter().map(|(slot, ..)| slot).collect();
        context.shared.acks.stop_dispatch(&slots);
        context.shared.fence.cross(&context.shared.budget);
        let stopped_by_need = !matches!(context.stop.reason(), None | Some(StopReason::Asked));
        context.urgency.raise();
        let deadline = Instant::now() + if stopped_by_need { Duration::from_secs(1) } else { context.rules.drain_deadline };
        let owing = loop {
            let owing = context.shared.acks.drained(&slots, Instant::now() + Duration::from_millis(100));
            if owing.is_empty() || Instant::now() >= deadline {
                break owing;
            }
            // Polling keeps the membership alive; a rebalance in it does its own draining.
            self.poll(context, Duration::ZERO);
        };
        if !owing.is_empty() {
            tracing::warn!(route = %context.rules.route, partitions = owing.len(), "ending with records in flight: the next start reads them again");
        }
        context.shared.acks.revoke(&slots, |offsets| context.commit_now(&self.consumer, &offsets));
        context.urgency.lower();
    }
}

/// Full jitter over a doubling bound, up to 10 s.
fn pause_before(attempt: u32) -> Duration {
    let bound_ms = 100_u64.saturating_mul(1 << attempt.min(7)).min(10_000);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    Duration::from_millis(bound_ms * u64::from(nanos % 1000) / 1000)
}

fn watch(context: &Context) {
    context.shared.metrics.held_bytes.set(context.shared.budget.held() as i64);
    context.shared.metrics.settled_late.set(context.shared.acks.settled_late() as i64);
    for stuck in context.shared.acks.stuck(context.rules.stuck_after) {
        tracing::warn!(
            route = %context.rules.route, partition = %stuck.name, offset = stuck.first, seconds = stuck.since.as_secs(),
            "the first record in flight does not move: its sink waits, or something is stuck"
        );
    }
}
