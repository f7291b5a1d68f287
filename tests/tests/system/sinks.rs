//! The other sinks, and several at once.

use anabranch_tests::kafka::Broker;
use anabranch_tests::receiver::Receiver;
use anabranch_tests::router::Place;
use anabranch_tests::table;
use anabranch_tests::topic::Record;
use serde_json::{Value as Json, json};

use crate::setup::{Orders, assert_none_missing, assert_none_twice, times};

fn lines(text: &str) -> Vec<Json> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn a_kafka_sink_writes_bytes_as_they_are_or_json() {
    let orders = Orders::new("copied", 3);
    let broker = Broker::shared();
    let (bytes, text) = (broker.topic("copied-bytes", 3), broker.topic("copied-json", 1));
    let sinks = format!(
        "[sink.bytes.kafka]\ntopic = \"{}\"\npartition = \"same\"\n[sink.text.kafka]\ntopic = \"{}\"\nvalue = \"json\"\ncompression = \"zstd\"\n",
        bytes.name, text.name
    );
    let place = Place::new(&orders.config(&sinks, "to = [\"bytes\", \"text\"]"));
    let mut sent: Vec<Record> = (0..500).map(|id| orders.record(id)).collect();
    sent[0].headers = vec![("trace".into(), Some(vec![1, 2])), ("none".into(), None)];
    // A tombstone stays one.
    sent.push(Record { key: Some(b"gone".to_vec()), ..Record::default() });
    orders.topic.send(sent);
    place.run_until_end();

    let essence = |record: &Record| (record.partition, record.key.clone(), record.value.clone(), record.headers.clone());
    let (source, copied) = (orders.topic.records(), bytes.records());
    assert_eq!(copied.iter().map(essence).collect::<Vec<_>>(), source.iter().map(essence).collect::<Vec<_>>());
    let texts = text.records();
    assert_eq!(texts.len(), 501);
    let of_key = |key: &str| texts.iter().find(|record| record.key.as_deref() == Some(key.as_bytes())).unwrap();
    let order: Json = serde_json::from_slice(of_key("7").value.as_ref().unwrap()).unwrap();
    assert_eq!(order, json!({"id": 7, "status": "OPEN"}));
    assert_eq!(of_key("gone").value, None);
}

#[test]
fn stdout_has_one_line_for_each_record_and_the_log_is_elsewhere() {
    let orders = Orders::new("stdout", 1);
    let place = Place::new(&orders.config("[sink.out.stdout]\n", "to = [\"out\"]"));
    orders.send(0..100);
    let ended = place.run_until_end();
    let found: Vec<Json> = lines(&ended.stdout).iter().map(|line| line["id"].clone()).collect();
    assert_eq!(found, (0..100).map(Json::from).collect::<Vec<_>>());
}

#[test]
fn a_file_sink_rotates_and_goes_on_after_a_restart() {
    let orders = Orders::new("file", 1);
    let place =
        Place::new(&orders.config("[sink.out.file]\npath = \"out/orders.jsonl\"\nrotate = { bytes_max = \"4 KiB\" }\n", "to = [\"out\"]"));
    for part in [0..300, 300..400] {
        orders.send(part);
        place.run_until_end();
    }
    let files: Vec<_> = std::fs::read_dir(place.path("out")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 1, "{files:?}");
    let ids = files.iter().flat_map(|file| lines(&std::fs::read_to_string(file).unwrap())).map(|line| line["id"].as_i64().unwrap());
    let times = times(ids);
    assert_none_missing("the files", &times, 400);
    assert_none_twice("the files", &times);
}

#[test]
fn a_route_with_many_sinks_gives_each_of_them_every_record() {
    let orders = Orders::new("fan-out", 4);
    let copy = Broker::shared().topic("fan-out-copy", 2);
    let receiver = Receiver::start();
    let sinks = format!(
        "[sink.lake.delta]\nuri = \"table\"\nmetadata = {{ partition = \"of_partition\", offset = \"at_offset\" }}\n\
         [sink.live.http]\nurl = \"{}\"\nbatch = {{ form = \"lines\" }}\n\
         [sink.copy.kafka]\ntopic = \"{}\"\n[sink.out.file]\npath = \"out.jsonl\"\n[sink.none.null]\nrender = \"json\"\n",
        receiver.url("/"),
        copy.name
    );
    let through = "through = [{ plugin = \"filter\", config = { where = \"status == 'PAID'\" } }]";
    let place = Place::new(&orders.config(&sinks, &format!("to = [\"lake\", \"live\", \"copy\", \"out\", \"none\"]\n{through}")));
    // Even ids are paid: halved, they have no gaps.
    orders.send(0..10_000);
    let ended = place.run_until_end();

    let http: Vec<i64> = receiver.requests().iter().flat_map(|request| request.lines()).map(|line| line["id"].as_i64().unwrap()).collect();
    let file: Vec<i64> =
        lines(&std::fs::read_to_string(place.path("out.jsonl")).unwrap()).iter().map(|line| line["id"].as_i64().unwrap()).collect();
    let keys = copy.records().iter().map(|record| String::from_utf8(record.key.clone().unwrap()).unwrap().parse().unwrap()).collect();
    for (name, ids) in [("HTTP", http), ("the file", file), ("the topic", keys), ("the table", table::longs(&place.path("table"), "id"))] {
        assert!(ids.iter().all(|id| id % 2 == 0), "{name} has what the filter dropped");
        let times = times(ids.into_iter().map(|id| id / 2));
        assert_none_missing(name, &times, 5_000);
        assert_none_twice(name, &times);
    }
    assert!(ended.stderr.contains("read=10000") && ended.stderr.contains("filtered=5000"), "{}", ended.stderr);
    // The log is for people: what happens to each table commit is not in it.
    assert!(ended.stderr.lines().count() < 20, "{}", ended.stderr);
    // Positions in the table are those of the topic.
    let rows = table::rows(&place.path("table"));
    let source = orders.topic.records();
    for row in rows.iter().step_by(97) {
        let (table::Cell::Int(partition), table::Cell::Long(offset)) = (&row["of_partition"], &row["at_offset"]) else {
            panic!("{row:?}");
        };
        let record = source.iter().find(|record| record.partition == Some(*partition) && record.offset == *offset).unwrap();
        assert_eq!(row["id"], table::Cell::Long(String::from_utf8(record.key.clone().unwrap()).unwrap().parse().unwrap()));
    }
}
