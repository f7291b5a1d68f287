//! The sink against librdkafka's in-process cluster, which speaks the real protocol.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::*;
use crate::batch::{Entries, Headers};
use crate::output::Text;
use crate::sink::fixture::{PATIENCE, Route};
use crate::value::Format;

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(topics: &[(&str, i32)]) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    for (topic, partitions) in topics {
        cluster.create_topic(topic, *partitions, 1).unwrap();
    }
    cluster
}

fn config(cluster: &Cluster, more: &str) -> Config {
    let text = format!("brokers = [{:?}]\n{more}", cluster.bootstrap_servers());
    let config: Config = toml::from_str(&text).unwrap();
    assert_eq!(config.check(), []);
    config
}

/// Partition, key, value, headers, timestamp of the first `count` records of a topic, each partition in its order.
type Read = (i32, Option<String>, Option<String>, Vec<(String, String)>, i64);

fn read(cluster: &Cluster, topic: &str, partitions: i32, count: usize) -> Vec<Read> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "reader").create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let start = std::time::Instant::now();
    let mut records = Vec::new();
    while records.len() < count {
        assert!(start.elapsed() < PATIENCE, "{} of {count} records in {topic}", records.len());
        let Some(record) = consumer.poll(Duration::from_millis(100)) else { continue };
        let record = record.unwrap();
        let headers = record.headers().map_or(Vec::new(), |headers| {
            headers.iter().map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default()))).collect()
        });
        let timestamp = record.timestamp().to_millis().unwrap();
        records.push((record.partition(), record.key().map(text), record.payload().map(text), headers, timestamp));
    }
    records
}

#[test]
fn a_destination_becomes_a_topic_as_far_as_it_is_asked_for() {
    let cases = [
        ("shop/orders", "shop/orders", "shop_orders", "shop_orders"),
        ("a//b/", "a//b/", "a__b_", "a__b_"),
        ("Köln/§ 1", "Köln/§ 1", "Köln_§ 1", "K_ln___1"),
        ("fine-1.x_y", "fine-1.x_y", "fine-1.x_y", "fine-1.x_y"),
        ("..", "..", "..", "__"),
    ];
    for (destination, none, slashes, all) in cases {
        let names = [Replace::None, Replace::Slashes, Replace::All].map(|replace| replace.name(destination));
        assert_eq!(names, [none, slashes, all]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_paths_as_destinations_reach_their_topics() {
    let cluster = cluster(&[("shop_orders", 1)]);
    let mut route = Route::new(Format::Json);
    let config = config(&cluster, "topic = \"shop_orders\"\nreplace = \"slashes\"");
    drop(route.start(Kafka::new(&config, route.surroundings.clone())));
    let batch = route.batch(0, &[(None, Some("1")), (None, Some("2"))]);
    let mut outputs = route.outputs(batch);
    outputs.buffers.push("shop/ordersshop/ä".into());
    outputs.list[0].destination = Some(Text { buffer: 0, start: 0, end: 11 });
    outputs.list[1].destination = Some(Text { buffer: 0, start: 11, end: 18 });
    route.send_outputs(outputs);
    let (value, headers) = route.dead_letter().await;
    assert_eq!((value.as_deref(), &*headers["anabranch.class"]), (Some("2"), "destination-invalid"));
    route.settled().await;
    let records = tokio::task::block_in_place(|| read(&cluster, "shop_orders", 1, 1));
    assert_eq!(records[0].2.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_values_headers_and_times_arrive_as_they_are_and_each_key_in_order() {
    let cluster = cluster(&[("out", 3)]);
    let mut route = Route::new(Format::Json);
    let task = route.start(Kafka::new(&config(&cluster, "topic = \"out\"\ncompression = \"zstd\""), route.surroundings.clone()));
    let mut batch = route.batch(1, &[(Some("k"), Some(" {\"a\" : 1}")), (Some("k"), None), (None, Some("2"))]);
    let (mut names, mut values) = (Entries::default(), Entries::default());
    names.push(Some(b"trace"));
    values.push(Some(b"t1"));
    batch.headers = Headers { ends: vec![1, 1, 1], names, values };
    let outputs = route.outputs(batch);
    route.send_outputs(outputs);
    for number in 0..500 {
        let key = format!("key-{}", number % 7);
        route.send(0, &[(Some(&key), Some(&number.to_string()))]);
    }
    route.settled().await;
    assert_eq!((route.committable(0), route.surroundings.metrics.outputs.get()), (Some(500), 503));
    route.close();
    task.await.unwrap().unwrap();

    let records = tokio::task::block_in_place(|| read(&cluster, "out", 3, 503));
    let of_k: Vec<_> = records.iter().filter(|record| record.1.as_deref() == Some("k")).collect();
    assert_eq!(of_k[0].2.as_deref(), Some(" {\"a\" : 1}"), "bytes as they are");
    assert_eq!((&of_k[0].3[..], of_k[0].4), (&[("trace".to_owned(), "t1".to_owned())][..], 1_700_000_000_000));
    assert_eq!((of_k[1].2.as_deref(), of_k[1].3.len()), (None, 0), "a tombstone stays one");
    for key in 0..7 {
        let key = format!("key-{key}");
        let of_key: Vec<_> = records.iter().filter(|record| record.1.as_ref() == Some(&key)).collect();
        let numbers: Vec<u32> = of_key.iter().map(|record| record.2.as_ref().unwrap().parse().unwrap()).collect();
        assert!(numbers.is_sorted() && numbers.len() > 70, "{key}: {numbers:?}");
        assert_eq!(of_key.iter().map(|record| record.0).collect::<HashSet<_>>().len(), 1, "one partition a key");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn destinations_choose_topics_and_json_and_the_same_partition_are_options() {
    let cluster = cluster(&[("out", 3), ("other", 3)]);
    let mut route = Route::new(Format::Raw);
    let more = "topic = \"out\"\nvalue = \"json\"\npartition = \"same\"";
    drop(route.start(Kafka::new(&config(&cluster, more), route.surroundings.clone())));
    let batch = route.batch(2, &[(None, Some("a")), (None, Some("b")), (None, Some("c"))]);
    let mut outputs = route.outputs(batch);
    outputs.buffers.push("otherbad/topic".into());
    outputs.list[1].destination = Some(Text { buffer: 0, start: 0, end: 5 });
    outputs.list[2].destination = Some(Text { buffer: 0, start: 5, end: 14 });
    route.send_outputs(outputs);
    let (value, headers) = route.dead_letter().await;
    assert_eq!((value.as_deref(), &*headers["anabranch.class"]), (Some("c"), "destination-invalid"));
    route.settled().await;
    let (out, other) = tokio::task::block_in_place(|| (read(&cluster, "out", 3, 1), read(&cluster, "other", 3, 1)));
    assert_eq!((out[0].0, out[0].2.as_deref()), (2, Some("\"a\"")));
    assert_eq!((other[0].0, other[0].2.as_deref()), (2, Some("\"b\"")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_the_partition_that_its_partitioner_gives_it() {
    let cluster = cluster(&[("java", 13), ("crc", 13)]);
    // Of Kafka's own `UtilsTest.testMurmur2`.
    let vectors = [("21", -973932308), ("foobar", -790332482), ("a-little-bit-longer-string", -1486304829), ("abc", 479470107)];
    for (topic, partitioner) in [("java", "murmur2_random"), ("crc", "consistent")] {
        let mut route = Route::new(Format::Json);
        let more = format!("topic = {topic:?}\npartitioner = {partitioner:?}");
        drop(route.start(Kafka::new(&config(&cluster, &more), route.surroundings.clone())));
        vectors.iter().for_each(|(key, _)| route.send(0, &[(Some(key), Some("1"))]));
        route.send(0, &[(Some("123456789"), Some("1"))]);
        route.settled().await;
    }
    let (java, crc) = tokio::task::block_in_place(|| (read(&cluster, "java", 13, 5), read(&cluster, "crc", 13, 5)));
    let partition = |records: &[Read], key: &str| records.iter().find(|record| record.1.as_deref() == Some(key)).unwrap().0;
    for (key, hash) in vectors {
        assert_eq!(partition(&java, key), (hash & i32::MAX) % 13, "{key}");
    }
    // The check value of CRC-32.
    assert_eq!(partition(&crc, "123456789") as u32, 0xcbf4_3926 % 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_for_and_nothing_is_settled_before_it_ends() {
    let cluster = cluster(&[("out", 1)]);
    let mut route = Route::new(Format::Json);
    drop(route.start(Kafka::new(&config(&cluster, "topic = \"out\""), route.surroundings.clone())));
    route.send(0, &[(None, Some("0"))]);
    route.settled().await;
    cluster.broker_down(1).unwrap();
    for number in 1..200 {
        route.send(0, &[(None, Some(&number.to_string()))]);
    }
    route.until("the sink says that it waits", || !route.metrics.all().not_ready().is_empty()).await;
    assert_eq!(route.committable(0), Some(1));
    cluster.broker_up(1).unwrap();
    route.settled().await;
    assert!(route.metrics.all().not_ready().is_empty());
    let records = tokio::task::block_in_place(|| read(&cluster, "out", 1, 200));
    let values: Vec<String> = records.into_iter().filter_map(|record| record.2).collect();
    assert_eq!(values, (0..200).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_given_up_alone() {
    let cluster = cluster(&[("out", 1)]);
    let mut route = Route::new(Format::Json);
    let more = "topic = \"out\"\nproperties = { \"message.max.bytes\" = 2000, \"batch.size\" = 1500 }";
    drop(route.start(Kafka::new(&config(&cluster, more), route.surroundings.clone())));
    let large = format!("\"{}\"", "x".repeat(5000));
    route.send(0, &[(None, Some("1")), (None, Some(&large)), (None, Some("2"))]);
    let (value, headers) = route.dead_letter().await;
    assert_eq!(value, Some(large));
    assert_eq!((&*headers["anabranch.class"], &*headers["anabranch.by"]), ("oversize", "out"));
    route.settled().await;
    let records = tokio::task::block_in_place(|| read(&cluster, "out", 1, 2));
    assert_eq!(records.into_iter().filter_map(|record| record.2).collect::<Vec<_>>(), ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_full_is_waited_for() {
    let cluster = cluster(&[("out", 1)]);
    let mut route = Route::new(Format::Json);
    let more = "topic = \"out\"\nproperties = { \"queue.buffering.max.messages\" = 10 }";
    drop(route.start(Kafka::new(&config(&cluster, more), route.surroundings.clone())));
    let values: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    let records: Vec<_> = values.iter().map(|value| (None, Some(&**value))).collect();
    route.send(0, &records);
    route.settled().await;
    let records = tokio::task::block_in_place(|| read(&cluster, "out", 1, 1000));
    assert_eq!(records.into_iter().filter_map(|record| record.2).collect::<Vec<_>>(), values);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_refuses_the_login_stops_the_route_with_the_remedy() {
    let cluster = cluster(&[("out", 1)]);
    cluster.topic_error("out", RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    let mut route = Route::new(Format::Json);
    let task = route.start(Kafka::new(&config(&cluster, "topic = \"out\""), route.surroundings.clone()));
    route.send(0, &[(None, Some("1"))]);
    let error = tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap().unwrap_err().to_string();
    assert!(error.contains("write to topic \"out\"") && error.contains("grant it WRITE"), "{error}");
    assert_eq!(route.committable(0), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unexpected_refusal_rewinds_the_partition() {
    let cluster = cluster(&[("out", 1)]);
    let mut route = Route::new(Format::Json);
    drop(route.start(Kafka::new(&config(&cluster, "topic = \"out\""), route.surroundings.clone())));
    route.send(0, &[(None, Some("1"))]);
    route.settled().await;
    cluster.request_errors(rdkafka::types::RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_POLICY_VIOLATION]);
    route.send(0, &[(None, Some("2"))]);
    let start = std::time::Instant::now();
    let rewinds = loop {
        let rewinds = route.acks.take_rewinds();
        if !rewinds.is_empty() {
            break rewinds;
        }
        assert!(start.elapsed() < PATIENCE, "no rewind");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(rewinds[0].from, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_names_a_missing_topic_and_a_missing_broker() {
    let cluster = cluster(&[("out", 1)]);
    assert_eq!(probe(&config(&cluster, "topic = \"out\"")).await, Ok(()));
    cluster.topic_error("gone", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    assert_eq!(
        probe(&config(&cluster, "topic = \"gone\"")).await.unwrap_err(),
        "there is no topic \"gone\": create it, or add create_topics = { } to the sink"
    );
    drop(cluster);
    let nobody: Config = toml::from_str("brokers = [\"127.0.0.1:1\"]\ntopic = \"out\"").unwrap();
    let error = probe(&nobody).await.unwrap_err();
    assert!(error.contains("127.0.0.1:1"), "{error}");
}
