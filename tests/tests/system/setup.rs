//! What most tests begin with: a topic of orders, and the beginning of a configuration that reads it.

use std::collections::BTreeMap;

use anabranch_tests::avro::Avro;
use anabranch_tests::kafka::Broker;
use anabranch_tests::receiver::Receiver;
use anabranch_tests::registry::Registry;
use anabranch_tests::topic::{Record, Topic};
use apache_avro::types::Value;
use serde_json::{Value as Json, json};

/// The schema of an order.
pub fn order_schema() -> Json {
    json!({"type": "record", "name": "Order", "fields": [
        {"name": "id", "type": "long"},
        {"name": "status", "type": "string"},
    ]})
}

/// A topic of orders in Avro.
pub struct Orders {
    /// The topic.
    pub topic: Topic,
    /// The schema.
    pub avro: Avro,
}

impl Orders {
    /// A new topic at the shared broker, its schema at the shared registry.
    pub fn new(name: &str, partitions: i32) -> Orders {
        let topic = Broker::shared().topic(name, partitions);
        let avro = Avro::register(Registry::shared(), &format!("{}-value", topic.name), &order_schema());
        Orders { topic, avro }
    }

    /// An order as a record; its key is its id, so that ids spread over the partitions.
    pub fn record(&self, id: i64) -> Record {
        order(&self.avro, id)
    }

    /// Sends the orders with these ids.
    pub fn send(&self, ids: impl IntoIterator<Item = i64>) {
        self.topic.send(ids.into_iter().map(|id| self.record(id)));
    }

    /// Source, registry, and a route `orders` from this topic with a group of the topic's name; `sinks` are whole tables, `route` are
    /// further keys of the route.
    pub fn config(&self, sinks: &str, route: &str) -> String {
        let registry = format!("[registry.main]\nurl = \"{}\"\ntimeout = \"1 s\"\n", Registry::shared().url());
        config(&self.topic, &format!("{registry}{sinks}"), &format!("value = \"avro\"\n{route}"))
    }
}

/// An order as a record.
pub fn order(avro: &Avro, id: i64) -> Record {
    let status = if id % 2 == 0 { "PAID" } else { "OPEN" };
    let value = Value::Record(vec![("id".into(), Value::Long(id)), ("status".into(), Value::String(status.into()))]);
    Record::keyed(id.to_string(), avro.encode(value))
}

/// A source, and a route `orders` from this topic with a group of the topic's name.
pub fn config(topic: &Topic, tables: &str, route: &str) -> String {
    config_at(&Broker::shared().plaintext(), topic, tables, route)
}

/// The same at another broker.
pub fn config_at(brokers: &str, topic: &Topic, tables: &str, route: &str) -> String {
    format!(
        "[source.shop.kafka]
brokers = [\"{brokers}\"]
session_timeout = \"6 s\"
{tables}
[route.orders]
topics = [\"{name}\"]
group = \"{name}\"
commit_interval = \"200 ms\"
{route}
",
        name = topic.name,
    )
}

/// An order as JSON text, which needs no registry.
pub fn plain(id: i64) -> Record {
    Record::keyed(id.to_string(), json!({ "id": id }).to_string())
}

/// The ids of all orders that came, by requests of one or of many.
pub fn received(receiver: &Receiver) -> Vec<i64> {
    let accepted = receiver.requests().into_iter().filter(|request| request.status == 200);
    accepted.flat_map(|request| request.lines()).map(|line| line["id"].as_i64().unwrap()).collect()
}

/// How often each id is there.
pub fn times(ids: impl IntoIterator<Item = i64>) -> BTreeMap<i64, usize> {
    let mut times = BTreeMap::new();
    for id in ids {
        *times.entry(id).or_default() += 1;
    }
    times
}

/// Asserts that ids 0 to `count` are there, and how those are wrong that are.
pub fn assert_none_missing(place: &str, times: &BTreeMap<i64, usize>, count: i64) {
    let missing: Vec<i64> = (0..count).filter(|id| !times.contains_key(id)).collect();
    assert!(missing.is_empty(), "{place}: {} of {count} are missing, such as {:?}", missing.len(), &missing[..missing.len().min(10)]);
    assert_eq!(times.len() as i64, count, "{place}: ids that nobody sent");
}

/// Asserts that no id is there twice.
pub fn assert_none_twice(place: &str, times: &BTreeMap<i64, usize>) {
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).take(10).collect();
    assert!(twice.is_empty(), "{place}: more than once: {twice:?}");
}
