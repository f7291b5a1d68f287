//! Membership of the consumer group: partitions come and go, offsets are committed.
//!
//! Invariant: a partition is read from its committed group offset, and that offset moves only over resolved ranges. Whatever changes
//! which records may be dispatched (assign, revoke, rewind) happens on the control thread, with a fence between it and the reader.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

use super::begin::{Decided, Known, Ledgers, Note, Start, decide, made_anew, note, read_note};
use super::client::Login;
use super::heartbeat::Heartbeat;
use super::native;
use super::queue::Queue;
use super::reader::Shared;
use crate::ack::keys::DeadKeys;
use crate::ack::{Beginning, Committable, Slot, TopicPartition};
use crate::config::{OutOfRange, Topics};
use crate::sink::{Message, Outbox, Urgency};
use crate::source::logs::Logs;
use crate::source::work::{WorkerMessage, worker_of};
use crate::stop::{Stop, StopReason};

/// Reads the ledgers of a route's sinks. It may block.
pub type ReadLedgers = dyn Fn() -> Result<Ledgers, String> + Send + Sync;

/// What the control thread keeps to.
pub struct Rules {
    /// Name of the route.
    pub route: Arc<str>,
    /// Where partitions without a group offset begin.
    pub start: Start,
    /// Reads what ledgers hold; asked where there is no group offset.
    pub ledgers: Box<ReadLedgers>,
    /// What is done where the log does not hold the offset at which reading would begin.
    pub out_of_range: OutOfRange,
    /// How long a revoke waits for sinks.
    pub revoke_deadline: Duration,
    /// How long the end waits for sinks.
    pub drain_deadline: Duration,
    /// Time between commits; `None`: a sink commits the offsets, together with its records.
    pub commit_interval: Option<Duration>,
    /// Rewinds of one partition without progress in between, after which the route stops.
    pub rewinds_max: u32,
    /// A first owed offset that stays the same for so long is reported.
    pub stuck_after: Duration,
    /// Whether keys of dead letters are remembered; where not, those that were are forgotten.
    pub keeps_dead_keys: bool,
}

/// How long one lookup at the broker may take.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a lookup that nothing depends on may take.
const QUICK_TIMEOUT: Duration = Duration::from_secs(3);
/// For how long lookups are repeated while partitions are being assigned: less than the five minutes after which librdkafka gives the
/// membership up (`max.poll.interval.ms`).
const PATIENCE: Duration = Duration::from_secs(240);
const ASK_AGAIN: Duration = Duration::from_millis(500);

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
    /// What sinks may know of the logs.
    pub logs: Logs,
    /// What the route reads.
    pub topics: Topics,
    /// Partitions that were there when the route started.
    pub at_start: HashSet<TopicPartition>,
    /// Sign of life of the control thread.
    pub heartbeat: Heartbeat,
    /// Offsets are due to be committed without waiting for the interval.
    pub commit_soon: AtomicBool,
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
            _ => self.revoke(consumer, partitions).map_err(|error| format!("rebalance: {error}")),
        };
        if let Err(text) = outcome {
            self.stop.stop(StopReason::Environment(format!("route {:?}: {text}", self.rules.route)));
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let elements = offsets.elements();
        match result {
            // Nothing had to be committed.
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => (),
            Err(error) => {
                if self.login.is_down() {
                    // Part of an outage that was told already.
                    tracing::debug!(route = %self.rules.route, %error, "commit refused, due again");
                } else {
                    tracing::warn!(route = %self.rules.route, %error, "commit refused, due again");
                }
                let names: Vec<_> = elements.iter().map(|element| named(element.topic(), element.partition())).collect();
                self.shared.acks.commit_failed(&names);
            }
            Ok(()) => {
                let landed =
                    elements.iter().filter_map(|element| Some((named(element.topic(), element.partition()), offset_of(element.offset())?)));
                let landed: HashMap<TopicPartition, i64> = landed.collect();
                self.shared.acks.commit_landed(&landed);
                for (name, offset) in landed {
                    self.shared.metrics.committed(&name.topic, name.partition, offset);
                }
            }
        }
    }
}

/// What one lookup said of a partition.
struct Committed {
    name: TopicPartition,
    offset: Option<i64>,
    note: Note,
}

impl Context {
    fn assign(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> Result<(), String> {
        let beginnings = self.beginnings(consumer, partitions)?;
        let refused = |error: KafkaError| format!("rebalance: {error}");
        let mut list = TopicPartitionList::new();
        let count = beginnings.len();
        for (name, start, beginning) in beginnings {
            list.add_partition_offset(&name.topic, name.partition, Offset::Offset(start)).map_err(refused)?;
            if !beginning.committed {
                self.commit_soon.store(true, Ordering::Relaxed);
            }
            if let Some(ends) = &self.shared.ends {
                // It may have been here before: another may have read on, or not as far as we had.
                ends.reached.lock().remove(&name);
            }
            if let Some(queue) = &*self.queue.lock() {
                queue.forward(&name.topic, name.partition);
            }
            self.shared.acks.begin(name, beginning);
        }
        self.shared.epoch.fetch_add(1, Ordering::AcqRel);
        tracing::info!(route = %self.rules.route, partitions = count, "assigned");
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&list),
            _ => consumer.assign(&list),
        }
        .map_err(refused)?;
        // A partition that left while a rewind held it back would stay paused for ever.
        if list.count() > 0 {
            consumer.resume(&list).map_err(refused)?;
        }
        Ok(())
    }

    fn revoke(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) -> KafkaResult<()> {
        // Only true before `unassign`, which resets it.
        let lost = consumer.assignment_lost();
        let all = partitions.elements().into_iter().map(|element| named(element.topic(), element.partition()));
        let ours: Vec<(Slot, TopicPartition)> =
            all.filter_map(|name| Some((self.shared.acks.slot_of(&name.topic, name.partition)?, name))).collect();
        let slots: Vec<Slot> = ours.iter().map(|(slot, _)| *slot).collect();
        self.shared.acks.stop_dispatch(&slots);
        self.shared.fence.cross(&self.shared.budget);
        if lost {
            tracing::warn!(route = %self.rules.route, partitions = slots.len(), "lost: what is in flight is another's now");
            self.shared.acks.revoke(&slots, |_| ());
        } else {
            if !slots.is_empty() {
                self.urgency.raise();
                let owing = self.shared.acks.drained(&slots, Instant::now() + self.rules.revoke_deadline);
                self.urgency.lower();
                if !owing.is_empty() {
                    let partitions = owing.len();
                    tracing::warn!(route = %self.rules.route, partitions, "revoked with records in flight: their next owner repeats them");
                }
            }
            self.shared.acks.revoke(&slots, |due| self.commit_now(consumer, &due));
            tracing::info!(route = %self.rules.route, partitions = slots.len(), "revoked");
        }
        self.shared.epoch.fetch_add(1, Ordering::AcqRel);
        for (slot, name) in &ours {
            self.forget(*slot, name);
            self.shared.metrics.partition_left(&name.topic, name.partition);
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
            _ => consumer.unassign(),
        }
    }

    /// Sinks and workers let go of a life of a partition.
    pub fn forget(&self, slot: Slot, name: &TopicPartition) {
        for sink in &self.sinks {
            sink.send(Message::Abandon(slot));
        }
        if !self.workers.is_empty() {
            let _ = self.workers[worker_of(name, self.workers.len())].send(WorkerMessage::Forget(slot, name.clone()));
        }
    }

    /// Commits and waits for the answer.
    pub fn commit_now(&self, consumer: &BaseConsumer<Self>, due: &[Committable]) {
        if self.rules.commit_interval.is_none() {
            // What the sink has not committed by now, the next owner reads again.
            return;
        }
        match consumer.commit(&to_list(due, &self.logs), CommitMode::Sync) {
            Ok(()) => {
                for due in due {
                    self.shared.metrics.committed(&due.name.topic, due.name.partition, due.offset);
                }
            }
            Err(error) => tracing::warn!(route = %self.rules.route, %error, "last commit refused: the next owner repeats records"),
        }
    }

    /// A topic that is read and has another id now: its positions are those of the former one.
    pub fn made_anew<'a>(&self, ids: &'a HashMap<String, String>) -> Option<&'a str> {
        let read: HashSet<Arc<str>> = self.shared.acks.slots().into_iter().map(|(_, name, _)| name.topic).collect();
        self.logs.changed(ids.iter().filter(|(topic, _)| read.contains(topic.as_str())))
    }

    /// Where each partition begins.
    fn beginnings(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &TopicPartitionList,
    ) -> Result<Vec<(TopicPartition, i64, Beginning)>, String> {
        if partitions.count() == 0 {
            return Ok(Vec::new());
        }
        let committed =
            self.patiently("committed offsets", || committed(consumer, partitions.clone()).map_err(|error| error.to_string()))?;
        let topics: HashSet<&str> = committed.iter().map(|committed| &*committed.name.topic).collect();
        let ids = native::topic_ids(consumer, &topics.into_iter().collect::<Vec<_>>(), QUICK_TIMEOUT);
        if let Some(topic) = self.made_anew(&ids) {
            return Err(made_anew(&self.rules.route, topic));
        }
        self.logs.set_topic_ids(ids);
        let logs = ranges(consumer, committed.iter().map(|committed| &committed.name)).unwrap_or_default();
        let ledgers = if committed.iter().all(|committed| committed.offset.is_some()) {
            Ledgers::new()
        } else {
            self.patiently("ledgers", &self.rules.ledgers)?
        };
        let mut beginnings = Vec::with_capacity(committed.len());
        for Committed { name, offset, note } in committed {
            let id = self.logs.topic_id(&name.topic);
            let mut known = Known {
                committed: offset,
                committed_in: note.topic_id.as_deref(),
                log: logs.get(&name).copied(),
                held: ledgers.get(&name),
                topic_id: id.as_deref(),
            };
            if (offset.is_none() || known.is_made_anew()) && known.log.is_none() {
                known.log = Some(self.range(consumer, &name)?);
            }
            // What ledgers held of an earlier topic says nothing of this one.
            let Note { holds, dead_keys, .. } = if known.is_made_anew() { Note::default() } else { note.clone() };
            let (start, committed) = match decide(&self.rules.route, &name, &known, self.rules.out_of_range)? {
                Decided::Group(offset) => (offset, true),
                Decided::Other(offset) => {
                    tracing::info!(route = %self.rules.route, partition = %name, offset, "begins without a usable offset of the group");
                    (offset, false)
                }
                Decided::Configured => (self.configured_start(consumer, &name, known.log)?, false),
            };
            // What is to be forgotten is committed at once, not when the next record comes.
            let forgets = !self.rules.keeps_dead_keys && !dead_keys.is_empty();
            let dead_keys = if forgets { DeadKeys::new() } else { dead_keys };
            beginnings.push((name, start, Beginning { start: Some(start), committed: committed && !forgets, holds, dead_keys }));
        }
        Ok(beginnings)
    }

    fn configured_start(&self, consumer: &BaseConsumer<Self>, name: &TopicPartition, log: Option<(i64, i64)>) -> Result<i64, String> {
        let (first, end) = match log {
            Some(log) => log,
            None => self.range(consumer, name)?,
        };
        match &self.rules.start {
            Start::Earliest => Ok(first),
            // What came to a partition before anybody of the group knew it belongs to the group all the same.
            Start::Latest if self.is_new(consumer, name)? => Ok(first),
            Start::Latest => Ok(end),
            Start::Offsets(offsets) => {
                let chosen = offsets.get(&*name.topic).and_then(|partitions| partitions.get(&name.partition)).copied();
                match chosen {
                    Some(chosen) if chosen < first || chosen > end => {
                        Err(format!("{name}: `start` says offset {chosen}, the log holds {first} to {end}: choose an offset in between"))
                    }
                    chosen => Ok(chosen.unwrap_or(first)),
                }
            }
            Start::Timestamp(timestamp) => {
                let mut times = TopicPartitionList::new();
                times
                    .add_partition_offset(&name.topic, name.partition, Offset::Offset(*timestamp))
                    .map_err(|error| format!("{name}: `start`: {error}"))?;
                let found = self.patiently("offset of a timestamp", || {
                    let found = consumer.offsets_for_times(times.clone(), LOOKUP_TIMEOUT).map_err(|error| error.to_string())?;
                    found.elements().iter().try_for_each(|element| element.error()).map_err(|error| error.to_string())?;
                    Ok(found)
                })?;
                let offset = found.elements().first().map(|element| element.offset());
                Ok(match offset {
                    Some(Offset::Offset(offset)) => offset,
                    _ => end,
                })
            }
        }
    }

    /// Whether a partition was added after the group began to read its topic, or after this route began.
    fn is_new(&self, consumer: &BaseConsumer<Self>, name: &TopicPartition) -> Result<bool, String> {
        if !self.at_start.contains(name) {
            return Ok(true);
        }
        let mut siblings = TopicPartitionList::new();
        for other in self.at_start.iter().filter(|other| other.topic == name.topic) {
            siblings.add_partition(&other.topic, other.partition);
        }
        let known = self.patiently("committed offsets", || committed(consumer, siblings.clone()).map_err(|error| error.to_string()))?;
        Ok(known.iter().any(|committed| committed.offset.is_some()))
    }

    /// First offset that the log holds, and the one behind its last.
    pub fn range(&self, consumer: &BaseConsumer<Self>, name: &TopicPartition) -> Result<(i64, i64), String> {
        self.patiently("first and last offset", || {
            consumer.fetch_watermarks(&name.topic, name.partition, LOOKUP_TIMEOUT).map_err(|error| error.to_string())
        })
    }

    fn patiently<T>(&self, what: &str, ask: impl Fn() -> Result<T, String>) -> Result<T, String> {
        let began = Instant::now();
        let mut told = false;
        loop {
            match ask() {
                Err(error) if began.elapsed() < PATIENCE && !self.stop.is_stopped() => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(route = %self.rules.route, what, error, "no answer, asking again");
                    }
                    self.heartbeat.beat();
                    std::thread::sleep(ASK_AGAIN);
                }
                answer => return answer.map_err(|error| format!("{what}: {error}")),
            }
        }
    }
}

fn named(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition }
}

/// What the group committed. An error of one partition is an error: taken for "no offset", it would make reading jump.
fn committed<C: ConsumerContext>(consumer: &BaseConsumer<C>, partitions: TopicPartitionList) -> KafkaResult<Vec<Committed>> {
    let list = consumer.committed_offsets(partitions, LOOKUP_TIMEOUT)?;
    let notes = native::metadata(&list);
    let elements = list.elements().into_iter().zip(notes).map(|(element, note)| {
        element.error()?;
        Ok(Committed { name: named(element.topic(), element.partition()), offset: offset_of(element.offset()), note: read_note(&note) })
    });
    elements.collect()
}

fn offset_of(offset: Offset) -> Option<i64> {
    match offset {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

/// First offset and end of partitions, by two requests to each leader; partitions whose leader has an error are left out.
fn ranges<'a, C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    names: impl Iterator<Item = &'a TopicPartition> + Clone,
) -> KafkaResult<HashMap<TopicPartition, (i64, i64)>> {
    let ask = |which: Offset| -> KafkaResult<HashMap<TopicPartition, i64>> {
        let mut list = TopicPartitionList::new();
        for name in names.clone() {
            list.add_partition_offset(&name.topic, name.partition, which)?;
        }
        let found = consumer.offsets_for_times(list, QUICK_TIMEOUT)?;
        let answered = found.elements().into_iter().filter(|element| element.error().is_ok());
        Ok(answered.filter_map(|element| Some((named(element.topic(), element.partition()), offset_of(element.offset())?))).collect())
    };
    let firsts = ask(Offset::Beginning)?;
    let ends = ask(Offset::End)?;
    Ok(firsts.into_iter().filter_map(|(name, first)| ends.get(&name).map(|end| (name.clone(), (first, *end)))).collect())
}

/// As librdkafka commits it.
pub fn to_list(due: &[Committable], logs: &Logs) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(due.len());
    for Committable { name, offset, holds, dead_keys } in due {
        // Fails only for offsets that no partition can have.
        let _ = list.add_partition_offset(&name.topic, name.partition, Offset::Offset(*offset));
        let note = note(holds, logs.topic_id(&name.topic).as_deref(), dead_keys);
        if !note.is_empty()
            && let Some(mut element) = list.find_partition(&name.topic, name.partition)
        {
            element.set_metadata(note);
        }
    }
    list
}
