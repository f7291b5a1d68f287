//! Topics: what a test writes to them, reads from them, and asks of consumer groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::block_on;
use crate::wait::{poll, until, until_true};

/// How long the broker may take for one answer, or for all that was sent.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Largest record that is sent, in bytes.
const RECORD_MAX: &str = "20000000";

/// How long a transaction is waited for that is being ended.
const TRANSACTION_MAX: Duration = Duration::from_secs(10);

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

/// A transaction that is open.
pub struct Transaction(BaseProducer);

impl Transaction {
    /// Its records are there from now on.
    pub fn commit(self) {
        self.0.commit_transaction(ANSWER_MAX).unwrap();
    }

    /// Its records were never there.
    pub fn abort(self) {
        self.0.abort_transaction(ANSWER_MAX).unwrap();
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
    /// A topic that somebody else creates.
    pub fn named(client: ClientConfig, name: &str, partitions: i32) -> Topic {
        Topic { client, name: name.to_owned(), partitions }
    }

    /// How many partitions it has, and its own setting `name`; `None`: it is not there.
    pub fn described(&self, name: &str) -> Option<(usize, String)> {
        let admin: AdminClient<DefaultClientContext> = self.client.create().unwrap();
        let metadata = admin.inner().fetch_metadata(None, ANSWER_MAX).unwrap();
        let partitions = metadata.topics().iter().find(|topic| topic.name() == self.name)?.partitions().len();
        let resource = ResourceSpecifier::Topic(&self.name);
        let described = block_on(admin.describe_configs([&resource], &AdminOptions::new())).unwrap().remove(0).unwrap();
        let value = described.get(name).and_then(|entry| entry.value.clone());
        Some((partitions, value.unwrap_or_default()))
    }

    pub(crate) fn create(client: ClientConfig, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Topic {
        let topic = Topic::named(client, name, partitions);
        topic.create_again(settings);
        topic
    }

    /// Creates it with these settings; as a new topic of the same name where it was deleted.
    pub fn create_again(&self, settings: &[(&str, &str)]) {
        let (admin, options) = self.admin();
        let mut new = NewTopic::new(&self.name, self.partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        for result in block_on(admin.create_topics([&new], &options)).unwrap() {
            result.unwrap_or_else(|(topic, code)| panic!("topic {topic}: {code}"));
        }
    }

    /// Deletes it, and waits until the broker does not know it any more.
    pub fn delete(&self) {
        let (admin, options) = self.admin();
        for result in block_on(admin.delete_topics(&[&self.name], &options)).unwrap() {
            result.unwrap_or_else(|(topic, code)| panic!("topic {topic}: {code}"));
        }
        until_true(&format!("topic {} to be gone", self.name), ANSWER_MAX, || {
            let metadata = admin.inner().fetch_metadata(None, ANSWER_MAX).unwrap();
            metadata.topics().iter().all(|topic| topic.name() != self.name)
        });
    }

    /// Deletes the records of a partition before an offset, as retention does.
    pub fn delete_before(&self, partition: i32, offset: i64) {
        let (admin, options) = self.admin();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(offset)).unwrap();
        let answer = block_on(admin.delete_records(&list, &options)).unwrap();
        for element in answer.elements() {
            element.error().unwrap_or_else(|error| panic!("topic {}: {error}", self.name));
        }
    }

    fn admin(&self) -> (AdminClient<DefaultClientContext>, AdminOptions) {
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX)).request_timeout(Some(ANSWER_MAX));
        (self.client.create().unwrap(), options)
    }

    /// Sends records, in order, and returns when the broker has all of them.
    pub fn send(&self, records: impl IntoIterator<Item = Record>) {
        self.writer().send(records, ANSWER_MAX);
    }

    /// Whoever writes to it for long.
    pub fn writer(&self) -> Writer<'_> {
        let mut client = self.client.clone();
        // What a topic takes is for the topic to say.
        client.set("enable.idempotence", "true").set("linger.ms", "5").set("message.max.bytes", RECORD_MAX);
        Writer { topic: &self.name, producer: client.create().unwrap() }
    }

    /// Begins a transaction with these records, which the broker has then.
    pub fn begin_transaction(&self, records: impl IntoIterator<Item = Record>) -> Transaction {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", self.name, COUNT.fetch_add(1, Ordering::Relaxed));
        let producer: BaseProducer = self.client.clone().set("transactional.id", id).create().unwrap();
        producer.init_transactions(ANSWER_MAX).unwrap();
        producer.begin_transaction().unwrap();
        let writer = Writer { topic: &self.name, producer };
        writer.send(records, ANSWER_MAX);
        Transaction(writer.producer)
    }

    /// The offset behind the last record of each partition; of a transaction that is not ended, the one of its first.
    pub fn ends(&self) -> BTreeMap<i32, i64> {
        self.ends_of("read_committed")
    }

    /// Whether there are records of a transaction that is not ended.
    pub fn has_open_transaction(&self) -> bool {
        self.ends() != self.ends_of("read_uncommitted")
    }

    fn ends_of(&self, isolation: &str) -> BTreeMap<i32, i64> {
        let consumer = self.consumer_of("none", isolation);
        let ends = (0..self.partitions).map(|partition| {
            let what = format!("the end of {}/{partition}", self.name);
            // A broker that has just started does not lead its partitions yet.
            let end = until(&what, ANSWER_MAX, || consumer.fetch_watermarks(&self.name, partition, ANSWER_MAX).ok());
            (partition, end.1)
        });
        ends.collect()
    }

    /// The committed offset of each partition that has one.
    pub fn committed(&self, group: &str) -> BTreeMap<i32, i64> {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.name, 0, self.partitions - 1);
        let consumer = self.consumer(group);
        // A broker that just started may not know yet who keeps the group.
        let answer = || consumer.committed_offsets(list.clone(), ANSWER_MAX).ok();
        let committed = until("committed offsets", ANSWER_MAX, answer);
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
        self.consumer_of(group, "read_committed")
    }

    fn consumer_of(&self, group: &str, isolation: &str) -> BaseConsumer {
        let mut client = self.client.clone();
        client.set("group.id", group).set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        client.set("isolation.level", isolation).create().unwrap()
    }

    /// All records that are there now, partition by partition; of transactions, those that are committed. Those that are being ended are waited
    /// for: a producer hears that a transaction is committed before its readers do.
    pub fn records(&self) -> Vec<Record> {
        poll(TRANSACTION_MAX, || (!self.has_open_transaction()).then_some(()));
        let mut records = Vec::new();
        self.each(|record| records.push(record));
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    /// The same with the records of transactions that were aborted, or are not ended.
    pub fn uncommitted_records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        self.read("read_uncommitted", |record| records.push(record));
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    /// Visits all records that are there now, those of each partition in order.
    pub fn each(&self, visit: impl FnMut(Record)) {
        self.read("read_committed", visit);
    }

    fn read(&self, isolation: &str, mut visit: impl FnMut(Record)) {
        let consumer = self.consumer_of("none", isolation);
        let mut list = TopicPartitionList::new();
        let mut open: BTreeSet<i32> = (0..self.partitions).collect();
        for partition in &open {
            list.add_partition_offset(&self.name, *partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut last = Instant::now();
        while !open.is_empty() {
            assert!(last.elapsed() < ANSWER_MAX, "topic {}: {open:?} are not read to their end", self.name);
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            last = Instant::now();
            match message {
                Err(KafkaError::PartitionEOF(partition)) => _ = open.remove(&partition),
                message => visit(record(&message.unwrap())),
            }
        }
    }

    /// Waits until there are `count` records, and gives all that are there then.
    pub fn wait_records(&self, count: i64, within: Duration) -> Vec<Record> {
        let what = format!("{count} records in topic {}", self.name);
        until(&what, within, || (self.ends().values().sum::<i64>() >= count).then_some(()));
        self.records()
    }
}

/// Writes to a topic.
pub struct Writer<'a> {
    topic: &'a str,
    producer: BaseProducer,
}

impl Writer<'_> {
    /// Sends records, in order, and returns when the broker has all of them.
    ///
    /// # Panics
    /// Where it has not `within` that time.
    pub fn send(&self, records: impl IntoIterator<Item = Record>, within: Duration) {
        records.into_iter().for_each(|record| self.send_one(&record));
        self.producer.flush(within).unwrap();
        assert_eq!(self.producer.in_flight_count(), 0);
    }

    fn send_one(&self, record: &Record) {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &record.headers {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let started = Instant::now();
        let mut sent: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(self.topic).headers(headers);
        sent.key = record.key.as_deref();
        sent.payload = record.value.as_deref();
        sent.partition = record.partition;
        sent.timestamp = record.timestamp;
        loop {
            match self.producer.send(sent) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if started.elapsed() < ANSWER_MAX => {
                    self.producer.poll(Duration::from_millis(10));
                    sent = back;
                }
                Err((error, _)) => panic!("topic {}: {error}", self.topic),
            }
        }
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
