//! The demo's Kafka: librdkafka's mock cluster, and a producer of orders that keeps a bounded distance to its consumer.
//!
//! Invariant: no more than [`LAG_MAX`] records are made and not read. The mock cluster keeps only the last 5 MB or 100,000 records of
//! a partition and drops older ones silently, so a producer that runs ahead would lose records.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, DeliveryResult, Producer, ProducerContext};

use super::orders::{Made, Orders, now_ms};

/// Name of the topic.
pub const TOPIC: &str = "orders";
/// Partitions of the topic.
pub const PARTITIONS: i32 = 4;
/// Most records that are made and not read: of some 150 bytes each, a third of what a partition keeps even if most have one key.
pub const LAG_MAX: u64 = 20_000;

const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at the clock and at the consumer.
const ROUND: u64 = 200;
const PAUSE: Duration = Duration::from_millis(1);

/// A mock cluster with the topic.
pub struct Shop {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl Shop {
    /// Starts it; it listens on a free port of this machine.
    ///
    /// # Errors
    /// What librdkafka says.
    pub fn open() -> KafkaResult<Self> {
        let cluster = MockCluster::new(1)?;
        cluster.create_topic(TOPIC, PARTITIONS, 1)?;
        Ok(Shop { cluster })
    }

    /// Host and port.
    pub fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }
}

/// How many orders to make, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// So many; `None`: until [`Progress::end`].
    pub records: Option<u64>,
    /// At most so many a second; `None`: as fast as they are read.
    pub per_second: Option<u64>,
}

/// How far the orders are; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    made: AtomicU64,
    poisons: AtomicU64,
    ending: AtomicBool,
}

impl Progress {
    /// Records made, all kinds.
    pub fn made(&self) -> u64 {
        self.0.made.load(Ordering::Relaxed)
    }

    /// Of them those that nobody can read.
    pub fn poisons(&self) -> u64 {
        self.0.poisons.load(Ordering::Relaxed)
    }

    /// Makes no more.
    pub fn end(&self) {
        self.0.ending.store(true, Ordering::Relaxed);
    }

    /// Whether [`Progress::end`] was called.
    pub fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::Relaxed)
    }
}

/// Why orders do not reach the broker.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    /// Librdkafka refuses.
    #[error("the mock cluster does not take orders: {0}")]
    Kafka(#[from] KafkaError),
    /// Some were not confirmed.
    #[error("the mock cluster did not take {0} orders")]
    Lost(u64),
}

#[derive(Clone, Default)]
struct Confirmed(Arc<AtomicU64>);

impl ClientContext for Confirmed {}

impl ProducerContext for Confirmed {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_ok() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Produces orders on the calling thread until `pace` or [`Progress::end`] ends it. `read`: how many the consumer has read.
///
/// # Errors
/// See [`ShopError`].
pub fn sell(brokers: &str, mut orders: Orders, pace: Pace, progress: &Progress, read: impl Fn() -> u64) -> Result<(), ShopError> {
    let confirmed = Confirmed::default();
    let producer: BaseProducer<Confirmed> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        // Retries neither lose nor repeat: the numbers have to add up.
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("queue.buffering.max.messages", (2 * LAG_MAX).to_string())
        .create_with_context(confirmed.clone())?;
    let counts = &progress.0;
    let started = Instant::now();
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut made = 0;
    while !counts.ending.load(Ordering::Relaxed) && pace.records.is_none_or(|records| made < records) {
        let due = pace.per_second.map_or(u64::MAX, |rate| (started.elapsed().as_secs_f64() * rate as f64) as u64 + 1);
        let most = due.min(read() + LAG_MAX).min(pace.records.unwrap_or(u64::MAX)).min(made + ROUND);
        if made >= most {
            pause(&producer);
            continue;
        }
        let now = now_ms();
        while made < most {
            let kind = orders.next(now, &mut key, &mut value);
            send(&producer, BaseRecord::to(TOPIC).key(&key).payload(&value))?;
            made += 1;
            counts.poisons.fetch_add(u64::from(kind == Made::Poison), Ordering::Relaxed);
        }
        counts.made.store(made, Ordering::Relaxed);
        producer.poll(Duration::ZERO);
    }
    producer.flush(FLUSH_TIMEOUT)?;
    match made - confirmed.0.load(Ordering::Relaxed) {
        0 => Ok(()),
        lost => Err(ShopError::Lost(lost)),
    }
}

/// Waits a little, and hears what was delivered. To poll for a millisecond would be to spin: rdkafka counts whole ones.
fn pause(producer: &BaseProducer<Confirmed>) {
    std::thread::sleep(PAUSE);
    producer.poll(Duration::ZERO);
}

fn send(producer: &BaseProducer<Confirmed>, mut record: BaseRecord<'_, Vec<u8>, Vec<u8>>) -> KafkaResult<()> {
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                pause(producer);
                record = back;
            }
            Err((error, _)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::Message;
    use rdkafka::consumer::{BaseConsumer, Consumer};

    use super::*;

    #[test]
    fn the_producer_waits_for_its_consumer_and_nothing_is_lost() {
        let shop = Shop::open().unwrap();
        let brokers = shop.brokers();
        let records = 3 * LAG_MAX;
        let read = Arc::new(AtomicU64::new(0));
        let progress = Progress::default();
        let (seen, by_thread, to) = (read.clone(), progress.clone(), brokers.clone());
        let pace = Pace { records: Some(records), per_second: None };
        let selling = std::thread::spawn(move || sell(&to, Orders::new(1, 1), pace, &by_thread, || seen.load(Ordering::Relaxed)).unwrap());
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &brokers)
            .set("group.id", "test")
            .set("auto.offset.reset", "earliest")
            .set("fetch.queue.backoff.ms", "2")
            .create()
            .unwrap();
        let mut partitions = rdkafka::TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(TOPIC, partition, rdkafka::Offset::Beginning).unwrap();
        }
        consumer.assign(&partitions).unwrap();
        let mut bytes = 0;
        for count in 1..=records {
            let message = consumer.poll(Duration::from_secs(10)).expect("the producer goes on").unwrap();
            bytes += message.payload().unwrap().len();
            read.store(count, Ordering::Relaxed);
            assert!(progress.made() <= count + LAG_MAX);
        }
        selling.join().unwrap();
        assert_eq!(progress.made(), records);
        // What LAG_MAX rests on.
        assert!(bytes as u64 / records < 200, "{} bytes a record", bytes as u64 / records);
    }
}
