//! The Kafka sink: Avro that readers of the other topic can look up, topics that it creates, partitions as Java's producer chooses them.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_tests::kafka::Broker;
use anabranch_tests::registry::{Registry, framed};
use anabranch_tests::router::{END_MAX, Place};
use anabranch_tests::topic::{Record, Topic};
use apache_avro::Schema;
use apache_avro::types::Value;
use serde_json::{Value as Json, json};

use crate::setup::{Orders, config, order_schema};

/// The registry's id, and what the bytes behind it say under the schema that this id has in a registry.
fn decoded(registry: &Registry, bytes: &[u8]) -> (u32, Value) {
    assert_eq!(bytes[0], 0, "the prefix");
    let id = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
    let schema = Schema::parse_str(&registry.schema(id)).unwrap();
    let mut rest = &bytes[5..];
    let value = apache_avro::from_avro_datum(&schema, &mut rest, None).unwrap();
    assert!(rest.is_empty());
    (id, value)
}

fn order(id: i64, status: &str) -> Value {
    Value::Record(vec![("id".into(), Value::Long(id)), ("status".into(), Value::String(status.into()))])
}

/// Values of a topic's records by their keys.
fn by_key(topic: &Topic) -> BTreeMap<String, Vec<u8>> {
    let records = topic.records().into_iter();
    records.map(|record| (String::from_utf8(record.key.unwrap()).unwrap(), record.value.unwrap())).collect()
}

fn names(json: &str) -> Json {
    let schema: Json = serde_json::from_str(json).unwrap();
    schema["fields"].as_array().unwrap().iter().map(|field| field["name"].clone()).collect()
}

#[test]
fn avro_is_registered_under_the_subject_that_readers_of_the_topic_expect() {
    let orders = Orders::new("subjects", 1);
    let (broker, registry) = (Broker::shared(), Registry::shared());
    let topics = ["topic", "record", "both"].map(|name| broker.topic(&format!("subjects-{name}"), 1));
    let [topic, record, both] = &topics;
    let sinks = format!(
        "[sink.topic.kafka]\ntopic = \"{}\"\nvalue = \"avro\"
[sink.record.kafka]\ntopic = \"{}\"\nvalue = \"avro\"\nsubject = \"record_name\"
[sink.both.kafka]\ntopic = \"{}\"\nvalue = \"avro\"\nsubject = \"topic_record_name\"
",
        topic.name, record.name, both.name
    );
    let place = Place::new(&orders.config(&sinks, "to = [\"topic\", \"record\", \"both\"]"));
    orders.send(0..50);
    orders.topic.send([Record { key: Some(b"gone".to_vec()), ..Record::default() }]);
    place.run_until_end();

    let sent = orders.topic.records();
    for (topic, subject) in [(topic, format!("{}-value", topic.name)), (record, "Order".to_owned()), (both, format!("{}-Order", both.name))]
    {
        let (id, text) = registry.latest(&subject).unwrap_or_else(|| panic!("no subject {subject}"));
        assert_eq!(names(&text), json!(["id", "status"]));
        let records = topic.records();
        assert_eq!(
            records.iter().map(|record| &record.value).collect::<Vec<_>>(),
            sent.iter().map(|record| &record.value).collect::<Vec<_>>()
        );
        assert_eq!(decoded(registry, records[7].value.as_ref().unwrap()), (id, order(7, "OPEN")));
        assert_eq!(records[50].value, None, "a tombstone stays one");
    }
}

#[test]
fn keys_and_what_plugins_make_are_avro_with_ids_of_their_own_subjects() {
    let (broker, registry) = (Broker::shared(), Registry::shared());
    let (topic, events) = (broker.topic("keyed", 1), broker.topic("keyed-events", 1));
    let key_id = registry.register(&format!("{}-key", topic.name), "\"long\"");
    let value_id = registry.register(&format!("{}-value", topic.name), &order_schema().to_string());
    let avro =
        |id: u32, schema: &str, value: Value| framed(id, &apache_avro::to_avro_datum(&Schema::parse_str(schema).unwrap(), value).unwrap());
    topic.send((0..20).map(|id| {
        let value = avro(value_id, &order_schema().to_string(), order(id, "PAID"));
        Record::keyed(avro(key_id, "\"long\"", Value::Long(id)), value)
    }));
    let tables = format!(
        "[registry.main]\nurl = \"{}\"\n[sink.events.kafka]\ntopic = \"{}\"\nkey = \"avro\"\nvalue = \"avro\"\n",
        registry.url(),
        events.name
    );
    let through =
        "through = [{ plugin = \"row-to-event\", config = { id = \"id\", payload = { all_except = [\"id\"] }, name = \"shop.Event\" } }]";
    Place::new(&config(&topic, &tables, &format!("key = \"avro\"\nvalue = \"avro\"\nto = [\"events\"]\n{through}"))).run_until_end();

    let records = events.records();
    assert_eq!(records.len(), 20);
    let (id, key) = decoded(registry, records[3].key.as_ref().unwrap());
    assert_eq!((id, key), (registry.latest(&format!("{}-key", events.name)).unwrap().0, Value::Long(3)));
    let (id, value) = decoded(registry, records[3].value.as_ref().unwrap());
    let (subject_id, text) = registry.latest(&format!("{}-value", events.name)).unwrap();
    assert_eq!((id, names(&text)), (subject_id, json!(["id", "payload"])));
    assert_ne!(id, value_id);
    let Value::Record(fields) = value else { panic!("{value:?}") };
    assert_eq!(fields[0], ("id".to_owned(), Value::Long(3)));
}

#[test]
fn values_without_a_schema_become_avro_by_the_one_of_the_sink() {
    let (broker, registry) = (Broker::shared(), Registry::shared());
    let [from, to, dead] = ["plain", "typed", "typed-dead"].map(|name| broker.topic(name, 1));
    let schema = json!({"type": "record", "name": "Sale", "fields": [
        {"name": "id", "type": "long"},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2}},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
        {"name": "channel", "type": "string", "default": "web"},
    ]});
    let text = format!(
        "[source.main.kafka]\nbrokers = [\"{}\"]\n[registry.main]\nurl = \"{}\"
[sink.typed.kafka]\ntopic = \"{}\"\nvalue = \"avro\"\nschema = \"sale.avsc\"\n[sink.dead.kafka]\ntopic = \"{}\"
[route.sales]\ntopics = [\"{}\"]\nvalue = \"json\"\nto = [\"typed\"]\ndead_letters = \"dead\"\n",
        broker.plaintext(),
        registry.url(),
        to.name,
        dead.name,
        from.name
    );
    let place = Place::new(&text);
    std::fs::write(place.path("sale.avsc"), schema.to_string()).unwrap();
    from.send([
        Record::value(r#"{"id":1,"price":"12.34","at":"2024-02-29T12:30:00.5Z","channel":"shop"}"#),
        Record::value(r#"{"price":7,"id":2}"#),
        Record::value(r#"{"id":3,"price":"0.001"}"#),
        Record { key: Some(b"gone".to_vec()), ..Record::default() },
    ]);
    place.run_until_end();

    let (id, _) = registry.latest(&format!("{}-value", to.name)).expect("it is registered");
    let records = to.records();
    assert_eq!(records.len(), 3);
    let sale = |id, cents: i16, at: Option<i64>, channel: &str| {
        let at = at.map_or(Value::Union(0, Value::Null.into()), |at| Value::Union(1, Value::TimestampMillis(at).into()));
        let price = Value::Decimal(cents.to_be_bytes().as_slice().into());
        let fields = [("id", Value::Long(id)), ("price", price), ("at", at), ("channel", Value::String(channel.into()))];
        Value::Record(fields.map(|(name, value)| (name.to_owned(), value)).to_vec())
    };
    let found = |index: usize| decoded(registry, records[index].value.as_ref().unwrap());
    assert_eq!(found(0), (id, sale(1, 1234, Some(1_709_209_800_500), "shop")));
    assert_eq!(found(1), (id, sale(2, 700, None, "web")));
    assert_eq!(records[2].value, None, "a tombstone stays one");
    let letters = dead.records();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].value.as_deref(), Some(br#"{"id":3,"price":"0.001"}"#.as_slice()));
    let message = letters[0].header("anabranch.message").unwrap();
    assert!(message.contains("field \"price\": 0.001 is no decimal(8,2)"), "{message}");
}

#[test]
fn a_sink_with_another_registry_gives_the_same_bytes_that_registrys_ids() {
    let orders = Orders::new("translated", 1);
    let copy = Broker::shared().topic("translated-copy", 1);
    let other = Registry::start();
    // So that the ids differ.
    (0..3).for_each(|number| _ = other.register("first", &json!({"type": "fixed", "name": format!("F{number}"), "size": 1}).to_string()));
    let sinks = format!(
        "[registry.other]\nurl = \"{}\"\n[sink.copy.kafka]\ntopic = \"{}\"\nvalue = \"avro\"\nregistry = \"other\"\n",
        other.url(),
        copy.name
    );
    let place = Place::new(&orders.config(&sinks, "registry = \"main\"\nto = [\"copy\"]"));
    orders.send(0..10);
    place.run_until_end();

    let (sent, copied) = (orders.topic.records(), copy.records());
    let id = other.latest(&format!("{}-value", copy.name)).unwrap().0;
    assert_ne!(id, orders.avro.id);
    for (sent, copied) in sent.iter().zip(&copied) {
        assert_eq!(copied.value.as_deref(), Some(&*framed(id, &sent.value.as_ref().unwrap()[5..])));
    }
    assert_eq!(decoded(&other, copied[9].value.as_ref().unwrap()), (id, order(9, "OPEN")));
}

#[test]
fn a_schema_that_is_not_compatible_is_refused_by_name() {
    let orders = Orders::new("incompatible", 1);
    let (broker, registry) = (Broker::shared(), Registry::shared());
    let (copy, dead) = (broker.topic("incompatible-copy", 1), broker.topic("incompatible-dead", 1));
    let subject = format!("{}-value", copy.name);
    let before = json!({"type": "record", "name": "Order", "fields": [{"name": "id", "type": {"type": "map", "values": "int"}}]});
    registry.register(&subject, &before.to_string());
    registry.compatibility(&subject, "BACKWARD");
    let sinks = format!("[sink.copy.kafka]\ntopic = \"{}\"\nvalue = \"avro\"\n[sink.dead.kafka]\ntopic = \"{}\"\n", copy.name, dead.name);
    orders.send(0..5);

    let stopped = Place::new(&orders.config(&sinks, "to = [\"copy\"]")).start("run", &["--until-end"]).end(END_MAX);
    assert_eq!(stopped.code(), Some(1), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("not compatible") && stopped.stderr.contains(&subject), "{}", stopped.stderr);

    Place::new(&orders.config(&sinks, "to = [\"copy\"]\ndead_letters = \"dead\"")).run_until_end();
    assert_eq!(copy.records().len(), 0);
    let letters = dead.records();
    assert_eq!(letters.len(), 5);
    assert_eq!(letters[0].value, orders.topic.records()[0].value, "bytes as they were");
    assert_eq!(letters[0].header("anabranch.class"), Some("schema"));
    let message = letters[0].header("anabranch.message").unwrap();
    assert!(message.contains("not compatible") && message.contains(&subject), "{message}");
}

#[test]
fn a_schema_that_must_not_be_registered_has_to_be_there() {
    let orders = Orders::new("looked-up", 1);
    let (broker, registry) = (Broker::shared(), Registry::shared());
    let (copy, dead) = (broker.topic("looked-up-copy", 1), broker.topic("looked-up-dead", 1));
    let subject = format!("{}-value", copy.name);
    let sinks = format!(
        "[sink.copy.kafka]\ntopic = \"{}\"\nvalue = \"avro\"\nregister = false\n[sink.dead.kafka]\ntopic = \"{}\"\n",
        copy.name, dead.name
    );
    let place = Place::new(&orders.config(&sinks, "to = [\"copy\"]\ndead_letters = \"dead\"\nunknown_schema_wait = \"1 s\""));
    orders.send(0..3);
    place.run_until_end();
    assert_eq!((copy.records().len(), registry.latest(&subject)), (0, None), "nothing is registered");
    let letters = dead.records();
    assert_eq!((letters.len(), letters[0].header("anabranch.class")), (3, Some("schema")));
    let message = letters[0].header("anabranch.message").unwrap();
    assert!(message.contains(&subject) && message.contains("register = true"), "{message}");

    let id = registry.register(&subject, &order_schema().to_string());
    orders.send(3..6);
    place.run_until_end();
    assert_eq!(decoded(registry, &by_key(&copy)["4"]), (id, order(4, "PAID")));
    assert_eq!((copy.records().len(), dead.records().len()), (3, 3));
}

#[test]
fn topics_are_created_as_configured_when_the_first_record_goes_there() {
    let orders = Orders::new("created", 1);
    let broker = Broker::shared();
    let topic = |end: &str| Topic::named(broker.client(), &format!("{}-{end}", orders.topic.name), 3);
    let through = "through = [{ plugin = \"destination-pattern\", config = { pattern = \"${topic}-${value.status}\" } }]";
    let sinks = |rule: &str| format!("[sink.copy.kafka]\ncreate_topics = {{ {rule} }}\n");
    let place = Place::new(&orders.config(
        &sinks("partitions = 3, replication = 1, config = { \"cleanup.policy\" = \"compact\", \"max.message.bytes\" = 5000 }"),
        &format!("to = [\"copy\"]\n{through}"),
    ));
    orders.send(0..100);
    place.run_until_end();
    for status in ["PAID", "OPEN"] {
        let topic = topic(status);
        assert_eq!(topic.described("cleanup.policy"), Some((3, "compact".into())));
        assert_eq!(topic.described("max.message.bytes").unwrap().1, "5000");
        assert_eq!(topic.records().len(), 50);
    }
}

#[test]
fn a_topic_that_cannot_be_created_is_told_before_and_stops_the_route() {
    let orders = Orders::new("uncreated", 1);
    let sinks = "[sink.copy.kafka]\ntopic = \"uncreated-copy\"\ncreate_topics = { replication = 3 }\n";
    let place = Place::new(&orders.config(sinks, "to = [\"copy\"]"));
    orders.send(0..1);
    for command in [["check", "--connect"], ["run", "--until-end"]] {
        let ended = place.start(command[0], &command[1..]).end(END_MAX);
        let said = ended.stdout.clone() + &ended.stderr;
        assert_eq!(ended.code(), Some(3), "{said}");
        assert!(said.contains("\"uncreated-copy\"") && said.contains("there are not 3 brokers"), "{said}");
    }
    place.configure(&orders.config("[sink.copy.kafka]\ntopic = \"uncreated-copy\"\n", "to = [\"copy\"]"));
    let ended = place.start("check", &["--connect"]).end(END_MAX);
    assert!((ended.stdout.clone() + &ended.stderr).contains("create_topics"), "{}", ended.stderr);
}

#[test]
fn a_key_has_the_partition_that_javas_producer_would_choose() {
    // The vectors of Kafka's own test (`UtilsTest.testMurmur2`).
    let vectors: [(&str, i32); 6] = [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ];
    let broker = Broker::shared();
    let (topic, java, crc) = (broker.topic("partitioned", 1), broker.topic("partitioned-java", 13), broker.topic("partitioned-crc", 13));
    topic.send(vectors.iter().map(|(key, _)| Record::keyed(*key, "1")).chain([Record::keyed("123456789", "1")]));
    let tables = format!(
        "[sink.java.kafka]\ntopic = \"{}\"\n[sink.crc.kafka]\ntopic = \"{}\"\npartitioner = \"consistent_random\"\n",
        java.name, crc.name
    );
    Place::new(&config(&topic, &tables, "value = \"raw\"\nto = [\"java\", \"crc\"]")).run_until_end();
    let partition = |topic: &Topic, key: &str| {
        let records = topic.records();
        records.iter().find(|record| record.key.as_deref() == Some(key.as_bytes())).unwrap().partition.unwrap()
    };
    for (key, hash) in vectors {
        assert_eq!(partition(&java, key), (hash & i32::MAX) % 13, "{key}");
    }
    // The check value of CRC-32.
    assert_eq!(partition(&crc, "123456789") as u32, 0xcbf4_3926 % 13);
    java.wait_records(7, Duration::ZERO);
}
