//! Reading records to try: partitions are assigned directly, nothing is subscribed to and nothing committed.
//!
//! Invariant: the consumer is never a member of its group, and at most twice the wanted number of records is held.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::from::From;
use crate::ack::TopicPartition;
use crate::batch::{Batch, Entries, Handles, Headers};
use crate::cli::Failure;
use crate::config::Topics;
use crate::dead::Letter;
use crate::source::kafka::client::Login;
use crate::source::kafka::queue::{Item, MESSAGES_MAX, Queue, Record};
use crate::source::kafka::start::{CONNECT_DEADLINE, Probe, find, reach};
use crate::stop::{Stop, StopReason};

/// How long a broker may keep silent although it said that records are there.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// Offsets of deleted records, control records and aborted records hold nothing: so often the newest records are looked for further
/// back, each time by [`WIDER`].
const ROUNDS_MAX: usize = 4;
const WIDER: i64 = 8;

/// What the reader says.
#[derive(Debug)]
pub enum Heard {
    /// Something that the user should know while it happens.
    Note(String),
    /// A record: a batch of one, and why the source gives it up.
    Record(Box<Batch>, Vec<Letter>),
}

/// All that reading takes.
pub struct Reading {
    /// Name of the route.
    pub route: String,
    /// Properties of the consumer.
    pub client: ClientConfig,
    /// What is read.
    pub topics: Topics,
    /// Where it begins.
    pub from: From,
    /// How many records.
    pub records: usize,
    /// The connection's words.
    pub login: Login,
    /// Ends it.
    pub stop: Stop,
}

/// A partition, and which of its records are read: from `start`, those in front of `end`.
#[derive(Debug, Clone)]
struct Span {
    place: TopicPartition,
    start: i64,
    end: i64,
}

/// Time first; within a partition never less than before, so that the newest records are always its last.
type Key = (i64, Arc<str>, i32, i64);

impl Reading {
    /// Reads until there are enough records or it is to end; blocks the calling thread.
    ///
    /// # Errors
    /// Where no broker answers, a topic is not there, or records do not come.
    pub fn run(&self, out: &mpsc::Sender<Heard>) -> Result<(), Failure> {
        let consumer = self.consumer()?;
        let Some(metadata) = reach(&consumer, &self.login, &self.stop, CONNECT_DEADLINE).map_err(failure)? else { return Ok(()) };
        let places = self.places(&metadata)?;
        let first = self.offsets(&consumer, &places, Offset::Beginning)?;
        let end = self.offsets(&consumer, &places, Offset::End)?;
        let starts = match &self.from {
            From::Newest | From::Earliest => first.clone(),
            From::Latest => end.clone(),
            From::Time(time) => self.offsets(&consumer, &places, Offset::Offset(*time))?,
            From::Offsets(offsets) => offsets.iter().map(|(_, offset)| *offset).collect(),
        };
        drop(consumer);
        let spans: Vec<Span> =
            places.iter().enumerate().map(|(at, place)| Span { place: place.clone(), start: starts[at], end: end[at] }).collect();
        for (span, first) in spans.iter().zip(&first).filter(|(span, first)| span.start < **first && span.end > **first) {
            let TopicPartition { topic, partition } = &span.place;
            say(out, format!("offset {} of {topic}/{partition} is gone; its oldest record is at {first}", span.start));
        }
        let found = match self.from {
            From::Newest => self.newest(&spans)?,
            _ => self.gather(&spans, false)?,
        };
        if !found.is_empty() || self.stop.is_stopped() {
            for batch in found {
                let _ = out.blocking_send(Heard::Record(Box::new(batch), Vec::new()));
            }
            return Ok(());
        }
        let why = match self.from {
            From::Latest => "",
            From::Newest | From::Earliest => "no record is there yet: ",
            From::Time(_) | From::Offsets(_) => "no record is there from then on: ",
        };
        say(out, format!("{why}waiting for new ones in {}; Ctrl-C ends", topic_names(&places)));
        let live: Vec<Span> = spans.into_iter().map(|span| Span { start: span.start.max(span.end), ..span }).collect();
        self.live(&live, out)
    }

    fn consumer(&self) -> Result<Arc<BaseConsumer<Probe>>, Failure> {
        let made = BaseConsumer::from_config_and_context(&self.client, Probe(self.login.clone()));
        made.map(Arc::new).map_err(|error| Failure::Configuration(format!("route {:?}: {error}", self.route)))
    }

    fn environment(&self, text: String) -> Failure {
        Failure::Environment(format!("route {:?}: {text}", self.route))
    }

    /// The partitions that are read.
    fn places(&self, metadata: &Metadata) -> Result<Vec<TopicPartition>, Failure> {
        find(metadata, &self.topics).map_err(|text| self.environment(text))?;
        let mut places = Vec::new();
        for topic in metadata.topics().iter().filter(|topic| self.topics.contains(topic.name())) {
            let partitions = topic.partitions().iter().map(|partition| partition.id());
            places.extend(partitions.map(|partition| TopicPartition { topic: topic.name().into(), partition }));
        }
        if places.is_empty() {
            let pattern = match &self.topics {
                Topics::Regex(pattern) => pattern.to_string(),
                Topics::List(list) => list.join(", "),
            };
            return Err(
                self.environment(format!("no topic matches {pattern}: create one, correct `topics`, or give the user the right to see it"))
            );
        }
        let From::Offsets(offsets) = &self.from else { return Ok(places) };
        for (place, _) in offsets {
            if !places.contains(place) {
                let TopicPartition { topic, partition } = place;
                return Err(Failure::Configuration(format!("--from: {topic}/{partition} is none of the route's partitions")));
            }
        }
        Ok(offsets.iter().map(|(place, _)| place.clone()).collect())
    }

    /// The offset of each partition at its beginning, its end, or a time (then as an offset of milliseconds); behind all records: its end.
    fn offsets(&self, consumer: &BaseConsumer<Probe>, places: &[TopicPartition], at: Offset) -> Result<Vec<i64>, Failure> {
        let list = |places: &[TopicPartition], at| -> Result<TopicPartitionList, rdkafka::error::KafkaError> {
            let mut list = TopicPartitionList::with_capacity(places.len());
            for place in places {
                list.add_partition_offset(&place.topic, place.partition, at)?;
            }
            Ok(list)
        };
        let refused = |error: rdkafka::error::KafkaError| {
            let cause = self.login.trouble().map_or_else(|| error.to_string(), |trouble| trouble.text);
            self.environment(format!("first and last offsets: {cause}"))
        };
        let found = list(places, at).and_then(|list| consumer.offsets_for_times(list, LOOKUP_TIMEOUT)).map_err(refused)?;
        let mut offsets: HashMap<TopicPartition, i64> = HashMap::new();
        for element in found.elements() {
            let place = TopicPartition { topic: element.topic().into(), partition: element.partition() };
            element.error().map_err(|error| self.environment(format!("{}/{}: {error}", place.topic, place.partition)))?;
            if let Offset::Offset(offset) = element.offset() {
                offsets.insert(place, offset);
            }
        }
        let missing: Vec<TopicPartition> = places.iter().filter(|place| !offsets.contains_key(*place)).cloned().collect();
        if !missing.is_empty() && at != Offset::End {
            let ends = self.offsets(consumer, &missing, Offset::End)?;
            offsets.extend(missing.into_iter().zip(ends));
        }
        Ok(places.iter().map(|place| offsets.get(place).copied().unwrap_or(0)).collect())
    }

    fn newest(&self, spans: &[Span]) -> Result<Vec<Batch>, Failure> {
        let mut back = self.records as i64;
        let mut round = 1;
        loop {
            let near: Vec<Span> =
                spans.iter().map(|span| Span { start: span.start.max(span.end.saturating_sub(back)), ..span.clone() }).collect();
            let found = self.gather(&near, true)?;
            let is_all = near.iter().zip(spans).all(|(near, all)| near.start == all.start);
            if found.len() >= self.records || is_all || round == ROUNDS_MAX || self.stop.is_stopped() {
                return Ok(found);
            }
            back = back.saturating_mul(WIDER);
            round += 1;
        }
    }

    /// The newest or the oldest records of these, in the order of time.
    fn gather(&self, spans: &[Span], newest: bool) -> Result<Vec<Batch>, Failure> {
        let mut open: HashMap<TopicPartition, (i64, usize, i64)> =
            spans.iter().filter(|span| span.start < span.end).map(|span| (span.place.clone(), (span.end, 0, i64::MIN))).collect();
        if open.is_empty() {
            return Ok(Vec::new());
        }
        let spans: Vec<Span> = spans.iter().filter(|span| span.start < span.end).cloned().collect();
        let (consumer, queue) = self.assign(&spans)?;
        let mut kept: Vec<(Key, Batch)> = Vec::new();
        let mut heard = Instant::now();
        while !open.is_empty() && !self.stop.is_stopped() {
            let count = self.take(&consumer, &queue, |place, read| {
                let Some((end, count, time)) = open.get_mut(&place) else { return };
                let Some(record) = read else {
                    open.remove(&place);
                    return;
                };
                let offset = record.offset();
                if offset < *end {
                    *time = record.timestamp().max(*time);
                    *count += 1;
                    kept.push(((*time, place.topic.clone(), place.partition, offset), copy(record)));
                }
                if offset + 1 >= *end || (!newest && *count >= self.records) {
                    open.remove(&place);
                }
            })?;
            if kept.len() > 2 * self.records + MESSAGES_MAX {
                self.keep(&mut kept, newest);
            }
            if count > 0 {
                heard = Instant::now();
            } else if heard.elapsed() >= PATIENCE {
                let cause = self.login.trouble().map_or_else(String::new, |trouble| format!(": {}", trouble.text));
                return Err(self.environment(format!("records are there and do not come, for {} s{cause}", PATIENCE.as_secs())));
            }
        }
        self.keep(&mut kept, newest);
        Ok(kept.into_iter().map(|(_, batch)| batch).collect())
    }

    fn keep(&self, kept: &mut Vec<(Key, Batch)>, newest: bool) {
        kept.sort_by(|(one, _), (other, _)| one.cmp(other));
        if newest {
            kept.drain(..kept.len().saturating_sub(self.records));
        } else {
            kept.truncate(self.records);
        }
    }

    /// Hands over what comes until it is enough.
    fn live(&self, spans: &[Span], out: &mpsc::Sender<Heard>) -> Result<(), Failure> {
        let (consumer, queue) = self.assign(spans)?;
        let mut left = self.records;
        while left > 0 && !self.stop.is_stopped() && !out.is_closed() {
            self.take(&consumer, &queue, |_, record| {
                if let Some(record) = record.filter(|_| left > 0) {
                    left -= 1;
                    let _ = out.blocking_send(Heard::Record(Box::new(copy(record)), Vec::new()));
                }
            })?;
        }
        Ok(())
    }

    fn assign(&self, spans: &[Span]) -> Result<(Arc<BaseConsumer<Probe>>, Queue<Probe>), Failure> {
        let consumer = self.consumer()?;
        let queue = Queue::new(consumer.clone());
        let mut list = TopicPartitionList::with_capacity(spans.len());
        for Span { place, start, .. } in spans {
            let added = list.add_partition_offset(&place.topic, place.partition, Offset::Offset(*start));
            added.map_err(|error| self.environment(format!("{}/{} offset {start}: {error}", place.topic, place.partition)))?;
            queue.forward(&place.topic, place.partition);
        }
        consumer.assign(&list).map_err(|error| self.environment(format!("no partition to read: {error}")))?;
        Ok((consumer, queue))
    }

    /// Hands over what is there: a record, or that a partition's end is reached. Returns how much that was.
    fn take(
        &self,
        consumer: &BaseConsumer<Probe>,
        queue: &Queue<Probe>,
        mut each: impl FnMut(TopicPartition, Option<&Record<'_>>),
    ) -> Result<usize, Failure> {
        // Serves what librdkafka says of the connection.
        while let Some(Err(error)) = consumer.poll(Duration::ZERO) {
            self.login.error(&error, "");
        }
        let mut refused = None;
        let mut count = 0;
        queue.read(MESSAGES_MAX, POLL, |origin, item| match item {
            Item::Record(record) => {
                count += 1;
                each(TopicPartition { topic: record.topic().into(), partition: origin.partition }, Some(&record));
            }
            Item::End { topic, .. } => {
                count += 1;
                each(TopicPartition { topic: topic.into(), partition: origin.partition }, None);
            }
            Item::Error { topic, code, reason } => {
                if matches!(code, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::UnknownTopicOrPartition) {
                    refused = Some(format!("{topic}/{}: {reason}: let the user READ it", origin.partition));
                }
                self.login.error(&rdkafka::error::KafkaError::MessageConsumption(code), &reason);
            }
        });
        let lasting = self.login.trouble().filter(|trouble| trouble.lasting).map(|trouble| trouble.text);
        match refused.or(lasting) {
            Some(text) => Err(self.environment(text)),
            None => Ok(count),
        }
    }
}

fn say(out: &mpsc::Sender<Heard>, text: String) {
    let _ = out.blocking_send(Heard::Note(text));
}

/// A route's reason to stop, as this command's.
pub fn failure(reason: StopReason) -> Failure {
    match reason {
        StopReason::Configuration(text) => Failure::Configuration(text),
        StopReason::Environment(text) => Failure::Environment(text),
        other => Failure::Broken(other.to_string()),
    }
}

fn topic_names(places: &[TopicPartition]) -> String {
    let mut names: Vec<&str> = places.iter().map(|place| &*place.topic).collect();
    names.sort_unstable();
    names.dedup();
    match names.len() {
        0..=3 => names.join(", "),
        more => format!("{} and {} more topics", names[..2].join(", "), more - 2),
    }
}

/// A batch of this record alone.
fn copy(record: &Record<'_>) -> Batch {
    let (mut keys, mut values, mut headers) = (Entries::default(), Entries::default(), Headers::default());
    keys.push(record.key());
    values.push(record.value());
    let count = record.headers(|name, value| {
        headers.names.push(Some(name));
        headers.values.push(value);
    });
    if count > 0 {
        headers.ends.push(count as u32);
    }
    Batch {
        topic: record.topic().into(),
        partition: record.partition(),
        offsets: vec![record.offset()],
        timestamps: vec![record.timestamp()],
        keys,
        values,
        headers,
        key_schemas: Handles::All(0),
        value_schemas: Handles::All(0),
        permit: None,
    }
}
