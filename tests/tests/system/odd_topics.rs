//! Topics that are odd: with holes, with transactions, with empty and with hot partitions, and with odd records.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_tests::health::Health;
use anabranch_tests::kafka::Broker;
use anabranch_tests::receiver::Receiver;
use anabranch_tests::router::{END_MAX, Place};
use anabranch_tests::table;
use anabranch_tests::topic::{Record, Topic};
use anabranch_tests::wait::until;

use crate::setup::{assert_none_missing, assert_none_twice, config, plain, received, times};

const MOMENT: Duration = Duration::from_secs(60);

fn tables(receiver: &Receiver) -> String {
    format!(
        "[sink.lake.delta]\nuri = \"table\"\ncolumns = [{{ name = \"id\", type = \"long\" }}]\nbatch = {{ age_max = \"100 ms\" }}\n\
         [sink.live.http]\nurl = \"{}\"\norder = \"partition\"\n",
        receiver.url("/")
    )
}

const ROUTE: &str = "value = \"json\"\nto = [\"lake\", \"live\"]";

/// The ids in the table, in their order.
fn in_table(place: &Place) -> Vec<i64> {
    let mut ids = table::longs(&place.path("table"), "id");
    ids.sort_unstable();
    ids
}

#[test]
fn a_compacted_topic_is_read_over_its_holes_until_nothing_is_left() {
    let settings =
        [("cleanup.policy", "compact"), ("segment.ms", "50"), ("min.cleanable.dirty.ratio", "0.01"), ("delete.retention.ms", "600000")];
    let topic = Broker::shared().topic_with("compacted", 1, &settings);
    let of_key = |key: i64, id: i64| Record::keyed(key.to_string(), format!("{{\"id\":{id}}}"));
    // Segments that can be cleaned: all but the last.
    for part in 0..10 {
        // Most are replaced, one in ninety stays.
        topic.send((part * 100..part * 100 + 100).map(|id| of_key(if id % 90 == 0 { 100 + id } else { id % 7 }, id)));
        std::thread::sleep(Duration::from_millis(100));
    }
    topic.send([Record { key: Some(b"3".to_vec()), ..Record::default() }, of_key(8, 1_000)]);
    let left = until("the log to be compacted", MOMENT, || Some(topic.records()).filter(|records| records.len() < 300));
    let end = topic.ends()[&0];
    assert_eq!(end, 1_002, "offsets stay");
    let has_holes = left.windows(2).any(|pair| pair[1].offset > pair[0].offset + 1);
    assert!(has_holes, "no holes: {left:?}");

    let receiver = Receiver::start();
    let place = Place::new(&config(&topic, &tables(&receiver), ROUTE));
    let router = place.run();
    topic.wait_committed(&topic.name, MOMENT);
    router.stop();
    // The log may have been compacted further before it was read: the latest of each key is there in any case.
    let ids = received(&receiver);
    let latest: Vec<i64> = left.iter().rev().take(8).filter_map(id_of).collect();
    assert!(latest.iter().all(|id| ids.contains(id)), "{latest:?} in {ids:?}");
    assert!(ids.is_sorted(), "the order of the log: {ids:?}");
    assert_none_twice("HTTP", &times(ids.clone()));
    assert_eq!(in_table(&place), ids);

    // Holes at the start of what is read, and between what was committed and what comes.
    topic.send([of_key(9, 1_001)]);
    place.run_until_end();
    assert_eq!(received(&receiver), [ids, vec![1_001]].concat());
}

fn id_of(record: &Record) -> Option<i64> {
    serde_json::from_slice::<serde_json::Value>(record.value.as_ref()?).unwrap()["id"].as_i64()
}

#[test]
fn aborted_records_are_none_and_the_lag_behind_them_becomes_zero() {
    let topic = Broker::shared().topic("transactions", 1);
    let receiver = Receiver::start();
    let place = Place::new(&config(&topic, &tables(&receiver), ROUTE));
    let send = |ids: std::ops::Range<i64>, is_committed: bool| {
        let transaction = topic.begin_transaction(ids.map(plain));
        if is_committed { transaction.commit() } else { transaction.abort() }
    };
    send(1_000..1_010, false);
    send(0..10, true);
    send(1_010..1_020, false);
    topic.send((10..20).map(plain));
    send(20..30, true);
    // The end: records of nobody, and a marker.
    send(1_020..1_030, false);
    let router = place.run();
    topic.wait_committed(&topic.name, MOMENT);
    assert_eq!(received(&receiver), (0..30).collect::<Vec<_>>());

    // What is open is not read, and what comes behind it has to wait.
    let open = topic.begin_transaction((30..40).map(plain));
    topic.send((40..50).map(plain));
    let stable = topic.committed(&topic.name)[&0];
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!((receiver.count(), topic.committed(&topic.name)[&0]), (30, stable), "read behind an open transaction");
    open.commit();
    topic.wait_committed(&topic.name, MOMENT);
    assert!(topic.committed(&topic.name)[&0] > stable + 20, "the marker is behind the records");
    router.stop();
    // Only aborted records are left: nothing to deliver, and an end.
    send(1_030..1_040, false);
    let router = place.run();
    topic.wait_committed(&topic.name, MOMENT);
    router.stop();
    assert_eq!(received(&receiver), (0..50).collect::<Vec<_>>());
    assert_eq!(in_table(&place), (0..50).collect::<Vec<_>>());
}

#[test]
fn without_read_committed_aborted_records_are_read_too() {
    let topic = Broker::shared().topic("uncommitted", 1);
    let receiver = Receiver::start();
    let config = config(&topic, &tables(&receiver), ROUTE);
    let place = Place::new(&config.replace("session_timeout", "isolation = \"read_uncommitted\"\nsession_timeout"));
    topic.begin_transaction((0..10).map(plain)).abort();
    let open = topic.begin_transaction((10..20).map(plain));
    let router = place.run();
    receiver.wait(20, MOMENT);
    open.abort();
    topic.wait_committed(&topic.name, MOMENT);
    router.stop();
    assert_eq!(received(&receiver), (0..20).collect::<Vec<_>>());
}

#[test]
fn one_hot_partition_among_empty_ones_is_read_in_order_and_holds_no_other_back() {
    const RECORDS: i64 = 20_000;
    let topic = Broker::shared().topic("hot", 24);
    let receiver = Receiver::start();
    let tables = format!("[sink.live.http]\nurl = \"{}\"\norder = \"partition\"\nbatch = {{ form = \"lines\" }}\n", receiver.url("/"));
    let health = Health::new();
    let place = Place::new(
        &(health.line()
            + &config(
                &topic,
                &tables,
                "value = \"json\"\nto = [\"live\"]\nin_flight_max = \"256 KiB\"\nbatch = { bytes_max = \"64 KiB\" }",
            )),
    );
    let to = |partition: i32, id: i64| Record { partition: Some(partition), ..plain(id) };
    let mut router = place.run();
    router.wait_log("assigned", MOMENT);
    topic.send((0..RECORDS).map(|id| to(7, id)));
    // To one that was empty, while the hot one is busy.
    topic.send([to(3, -1)]);
    router.until("the lone record", MOMENT, || received(&receiver).contains(&-1).then_some(()));
    topic.wait_committed(&topic.name, MOMENT);
    assert!(health.is_ready());
    router.stop();
    let ids = received(&receiver);
    let hot: Vec<i64> = ids.into_iter().filter(|id| *id >= 0).collect();
    assert!(hot.is_sorted(), "the order of the partition");
    let times = times(hot);
    assert_none_missing("HTTP", &times, RECORDS);
    assert_none_twice("HTTP", &times);
    // Nothing was read of the others, and where they begin is known.
    let committed = topic.committed(&topic.name);
    assert_eq!(committed.len(), 24, "{committed:?}");
    assert!(committed.iter().all(|(partition, offset)| *offset == topic.ends()[partition]), "{committed:?}");
}

/// Key, value and headers: what has to arrive as it was.
type Essence = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Option<Vec<u8>>)>);

fn essence(record: &Record) -> Essence {
    (record.key.clone(), record.value.clone(), record.headers.clone())
}

fn essences(topic: &Topic) -> Vec<Essence> {
    topic.records().iter().map(essence).collect()
}

#[test]
fn odd_records_arrive_as_they_are() {
    let broker = Broker::shared();
    let (topic, copy) = (broker.topic("odd", 1), broker.topic("odd-copy", 1));
    let receiver = Receiver::start();
    let tables = format!(
        "[sink.copy.kafka]\ntopic = \"{}\"\n[sink.live.http]\nurl = \"{}\"\nbody = \"raw\"\norder = \"partition\"\nforward_headers = [\"trace\"]\n\
         [sink.out.file]\npath = \"out.jsonl\"\nenvelope = true\n",
        copy.name,
        receiver.url("/")
    );
    let place = Place::new(&config(&topic, &tables, "value = \"raw\"\nto = [\"copy\", \"live\", \"out\"]"));
    let many = |value: &[u8]| (0..1_000).map(|at| (format!("h{}", at % 10), (at % 3 > 0).then(|| value.to_vec()))).collect::<Vec<_>>();
    let odd = [
        Record::keyed("no bytes", ""),
        Record::keyed("", "an empty key"),
        Record::value("no key"),
        Record { key: Some(b"tombstone".to_vec()), ..Record::default() },
        Record::default(),
        Record { headers: many(b""), ..Record::value("a thousand headers") },
        Record {
            headers: vec![("trace".into(), Some(vec![b'x'; 4_000])), ("".into(), Some(vec![0, 255]))],
            ..Record::value("a long header")
        },
        Record::keyed(vec![0, 255, 10], vec![255; 3]),
        Record::keyed("a megabyte", vec![b'm'; 1_000_000]),
        Record { timestamp: Some(-1), ..Record::value("no time") },
        Record { timestamp: Some(1), ..Record::value("an early time") },
        Record::value("the last"),
    ];
    topic.send(odd.clone());
    assert_eq!(essences(&topic), odd.iter().map(essence).collect::<Vec<_>>(), "as they were sent");
    place.run_until_end();

    assert_eq!(essences(&copy), essences(&topic));
    let times: Vec<Option<i64>> = copy.records().iter().map(|record| record.timestamp).collect();
    let sent: Vec<Option<i64>> = topic.records().iter().map(|record| record.timestamp).collect();
    for (index, (copied, sent)) in times.iter().zip(&sent).enumerate() {
        assert!(copied == sent || sent.is_none(), "record {index}: {copied:?}, sent {sent:?}");
    }
    // Tombstones are no bodies.
    let bodies: Vec<Vec<u8>> = receiver.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, odd.iter().filter_map(|record| record.value.clone()).collect::<Vec<_>>());
    let lines = std::fs::read_to_string(place.path("out.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), odd.len());
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["topic"] == topic.name.as_str()));
}

#[test]
fn headers_count_among_the_bytes_of_a_batch() {
    const RECORDS: usize = 50;
    let topic = Broker::shared().topic("headers", 1);
    let (receiver, health) = (Receiver::start(), Health::new());
    let tables = format!("[sink.live.http]\nurl = \"{}\"\n", receiver.url("/"));
    // Each record is longer than a batch may be, by its headers alone.
    let route = "value = \"json\"\nto = [\"live\"]\nbatch = { bytes_max = \"16 KiB\" }\n\
                 through = [{ plugin = \"destination-pattern\", config = { pattern = \"all/${topic}\" } }]";
    let headers: Vec<_> = (0..1_000).map(|at| (format!("h{at}"), Some(vec![b'x'; 20]))).collect();
    topic.send((0..RECORDS as i64).map(|id| Record { headers: headers.clone(), ..plain(id) }));
    let place = Place::new(&(health.line() + &config(&topic, &tables, route)));
    let mut router = place.run();
    topic.wait_committed(&topic.name, MOMENT);
    // One call of the plugin for each batch.
    let calls = "anabranch_plugin_call_seconds_count{route=\"orders\",plugin=\"destination-pattern\"}";
    let calls = router.until("the plugin's calls", MOMENT, || health.metric(calls));
    assert_eq!(calls as usize, RECORDS);
    router.stop();
    assert_none_missing("HTTP", &times(received(&receiver)), RECORDS as i64);
}

#[test]
fn a_record_beyond_a_sinks_limit_costs_itself_only() {
    let broker = Broker::shared();
    let wide = [("max.message.bytes", "20000000")];
    let (topic, copy, dead) =
        (broker.topic_with("beyond", 1, &wide), broker.topic("beyond-copy", 1), broker.topic_with("beyond-dead", 1, &wide));
    let receiver = Receiver::start();
    let tables = format!(
        "[sink.copy.kafka]\ntopic = \"{}\"\n[sink.live.http]\nurl = \"{}\"\nbody = \"raw\"\norder = \"partition\"\n\
         [sink.dead.kafka]\ntopic = \"{}\"\n",
        copy.name,
        receiver.url("/"),
        dead.name
    );
    // The record alone is far beyond the route's budget, too.
    let route = "value = \"raw\"\nto = [\"copy\", \"live\"]\ndead_letters = \"dead\"\nin_flight_max = \"64 KiB\"\nbatch = { bytes_max = \"16 KiB\" }";
    let place = Place::new(&config(&topic, &tables, route));
    // Random, so that compression does not help.
    let mut random = fastrand::Rng::with_seed(1);
    let large = Record::keyed("large", (0..5_000_000).map(|_| random.u8(..)).collect::<Vec<_>>());
    let sent = [Record::keyed("before", "b"), large.clone(), Record::keyed("after", "a")];
    topic.send(sent.clone());
    place.run_until_end();
    let keys: Vec<_> = copy.records().into_iter().map(|record| record.key.unwrap()).collect();
    assert_eq!(keys, [b"before".to_vec(), b"after".to_vec()]);
    let bodies: BTreeMap<usize, usize> = BTreeMap::from_iter(receiver.requests().iter().map(|request| request.body.len()).enumerate());
    assert_eq!(bodies.into_values().collect::<Vec<_>>(), [1, 5_000_000, 1], "HTTP has no limit");
    let letters = dead.records();
    assert_eq!(letters.len(), 1);
    assert_eq!((&letters[0].key, &letters[0].value), (&large.key, &large.value));
    assert_eq!([letters[0].header("anabranch.class"), letters[0].header("anabranch.by")], [Some("oversize"), Some("copy")]);
    assert!(letters[0].header("anabranch.message").unwrap().contains(&copy.name), "{:?}", letters[0].header("anabranch.message"));
}

#[test]
fn a_dead_letter_that_its_own_topic_does_not_take_stops_the_route_and_is_owed() {
    let broker = Broker::shared();
    let wide = [("max.message.bytes", "20000000")];
    let (topic, copy, dead) = (broker.topic_with("wide", 1, &wide), broker.topic("wide-copy", 1), broker.topic("narrow-dead", 1));
    let tables = format!("[sink.copy.kafka]\ntopic = \"{}\"\n[sink.dead.kafka]\ntopic = \"{}\"\n", copy.name, dead.name);
    let place = Place::new(&config(&topic, &tables, "value = \"raw\"\nto = [\"copy\"]\ndead_letters = \"dead\""));
    let mut random = fastrand::Rng::with_seed(2);
    topic.send([Record::value("before"), Record::value((0..2_000_000).map(|_| random.u8(..)).collect::<Vec<_>>()), Record::value("after")]);
    let ended = place.run().end(END_MAX);
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    let error = ended.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    for part in [&format!("record {}/0 offset 1", topic.name), "by \"dead\"", &dead.name, "max.message.bytes"] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    assert!(topic.committed(&topic.name).values().all(|offset| *offset <= 1), "a record that nobody has was committed");
}
