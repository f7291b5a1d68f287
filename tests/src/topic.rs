//! Topics: what a test writes to them, reads from them, and asks of consumer groups.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::block_on;
use crate::wait::{poll, until};

/// How long the broker may take for one answer, or for all that was sent.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A record: to be sent, or as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value; none: a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Partition; when sent, none means the one of the key.
    pub partition: Option<i32>,
    /// Offset, as read.
    pub offset: i64,
    /// Milliseconds since 1970; when sent, none means now.
    pub timestamp: Option<i64>,
}

impl Record {
    /// A record without a key.
    pub fn value(value: impl Into<Vec<u8>>) -> Record {
        Record { value: Some(value.into()), ..Record::default() }
    }

    /// A record with a key.
    pub fn keyed(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Record {
        Record { key: Some(key.into()), ..Record::value(value) }
    }

    /// The text of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(found, _)| found == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }
}

/// A topic of one test.
#[derive(Debug)]
pub struct Topic {
    client: ClientConfig,
    /// Its name.
    pub name: String,
    partitions: i32,
}

impl Topic {
    pub(crate) fn create(client: ClientConfig, name: &str, partitions: i32) -> Topic {
        let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
        let new = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX)).request_timeout(Some(ANSWER_MAX));
        for result in block_on(admin.create_topics([&new], &options)).unwrap() {
            result.unwrap_or_else(|(topic, code)| panic!("topic {topic}: {code}"));
        }
        Topic { client, name: name.to_owned(), partitions }
    }

    /// Sends records, in order, and returns when the broker has all of them.
    pub fn send(&self, records: impl IntoIterator<Item = Record>) {
        let mut client = self.client.clone();
        let producer: BaseProducer = client.set("enable.idempotence", "true").set("linger.ms", "5").create().unwrap();
        for record in records {
            self.send_one(&producer, &record);
        }
        producer.flush(ANSWER_MAX).unwrap();
        assert_eq!(producer.in_flight_count(), 0);
    }

    fn send_one(&self, producer: &BaseProducer, record: &Record) {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let started = Instant::now();
        let mut sent: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&self.name).headers(headers);
        sent.key = record.key.as_deref();
        sent.payload = record.value.as_deref();
        sent.partition = record.partition;
        sent.timestamp = record.timestamp;
        loop {
            match producer.send(sent) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if started.elapsed() < ANSWER_MAX => {
                    producer.poll(Duration::from_millis(10));
                    sent = back;
                }
                Err((error, _)) => panic!("topic {}: {error}", self.name),
            }
        }
    }

    /// The offset behind the last record of each partition.
    pub fn ends(&self) -> BTreeMap<i32, i64> {
        let consumer = self.consumer("none");
        let ends = (0..self.partitions).map(|partition| {
            let (_, end) = consumer.fetch_watermarks(&self.name, partition, ANSWER_MAX).unwrap();
            (partition, end)
        });
        ends.collect()
    }

    /// The committed offset of each partition that has one.
    pub fn committed(&self, group: &str) -> BTreeMap<i32, i64> {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.name, 0, self.partitions - 1);
        let committed = self.consumer(group).committed_offsets(list, ANSWER_MAX).unwrap();
        let elements = committed.elements();
        elements.iter().filter_map(|element| Some((element.partition(), element.offset().to_raw().filter(|raw| *raw >= 0)?))).collect()
    }

    /// Waits until `group` has committed the end of every partition that has records.
    pub fn wait_committed(&self, group: &str, within: Duration) {
        let mut ends = self.ends();
        ends.retain(|_, end| *end > 0);
        let mut last = BTreeMap::new();
        let committed = poll(within, || {
            last = self.committed(group);
            last.retain(|partition, _| ends.contains_key(partition));
            (last == ends).then_some(())
        });
        assert!(committed.is_some(), "waited {within:?} for group {group} to commit {ends:?}, it has {last:?}");
    }

    fn consumer(&self, group: &str) -> BaseConsumer {
        let mut client = self.client.clone();
        client.set("group.id", group).set("enable.auto.commit", "false").set("isolation.level", "read_committed").create().unwrap()
    }

    /// All records that are there now, partition by partition.
    pub fn records(&self) -> Vec<Record> {
        let ends = self.ends();
        let consumer = self.consumer("none");
        let mut list = TopicPartitionList::new();
        for (partition, _) in ends.iter().filter(|(_, end)| **end > 0) {
            list.add_partition_offset(&self.name, *partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut open: BTreeMap<i32, i64> = ends.into_iter().filter(|(_, end)| *end > 0).collect();
        let mut records = Vec::new();
        let started = Instant::now();
        while !open.is_empty() {
            assert!(started.elapsed() < ANSWER_MAX, "topic {}: {open:?} are not read to their end", self.name);
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.unwrap();
            if open.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                open.remove(&message.partition());
            }
            records.push(record(&message));
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    /// Waits until there are `count` records, and gives all that are there then.
    pub fn wait_records(&self, count: i64, within: Duration) -> Vec<Record> {
        let what = format!("{count} records in topic {}", self.name);
        until(&what, within, || (self.ends().values().sum::<i64>() >= count).then_some(()));
        self.records()
    }
}

fn record(message: &impl Message) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
        partition: Some(message.partition()),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
    }
}
