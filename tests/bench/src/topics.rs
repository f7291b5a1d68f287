//! The benchmark's topics: made once a run, filled as fast as the broker takes it.

use std::time::Duration;

use anabranch_tests::kafka::Broker;
use anabranch_tests::registry::Registry;
use anabranch_tests::topic::Topic;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;

use crate::orders::{Form, Orders};

/// A topic with its contents.
#[derive(Debug)]
pub struct Filled {
    /// The topic.
    pub topic: Topic,
    /// How its values are written.
    pub form: Form,
    /// How many records it holds.
    pub records: u64,
    /// Bytes of all keys and values.
    pub bytes: u64,
}

/// Makes a topic and fills it.
pub fn fill(broker: &Broker, registry: &Registry, form: Form, partitions: i32, records: u64) -> Filled {
    let topic = broker.topic(form.name(), partitions);
    let schema = form.schema().map_or(0, |schema| registry.register(&format!("{}-value", topic.name), &schema));
    eprintln!("bench: topic {}: {records} records over {partitions} partitions", topic.name);
    let mut client = broker.client();
    client.set("linger.ms", "50").set("batch.size", "1000000").set("queue.buffering.max.messages", "500000");
    client.set("queue.buffering.max.kbytes", "262144").set("sticky.partitioning.linger.ms", "0");
    let producer: BaseProducer = client.create().unwrap();
    let mut orders = Orders::new(form, schema, 7);
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for number in 0..records {
        orders.next(&mut key, &mut value);
        bytes += (key.len() + value.len()) as u64;
        let partition = (number % partitions as u64) as i32;
        let mut record = BaseRecord::to(&topic.name).key(key.as_slice()).payload(value.as_slice()).partition(partition);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    producer.poll(Duration::from_millis(20));
                    record = back;
                }
                Err((error, _)) => panic!("topic {}: {error}", topic.name),
            }
        }
        if number % 10_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(120)).unwrap();
    Filled { topic, form, records, bytes }
}
