//! `anabranch try` and `anabranch check --connect` as a user meets them: the real binary against librdkafka's mock cluster and a schema
//! registry, both in the test's process.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anabranch::demo::registry;
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::{Value as Json, json};

const SCHEMA: &str = r#"{"type":"record","name":"Order","fields":[
{"name":"id","type":"string"},{"name":"country","type":"string"},{"name":"total","type":"double"}]}"#;
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster with the topic `orders` of two partitions, a registry with its schema, and a folder for everything that a route writes.
struct Place {
    cluster: MockCluster<'static, DefaultProducerContext>,
    _runtime: tokio::runtime::Runtime,
    registry: String,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 2, 1).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let registry = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            tokio::spawn(async move { axum::serve(listener, registry::service(registry::Schemas::default())).await });
            let body = json!({ "schema": SCHEMA }).to_string();
            let request = reqwest::Client::new().post(format!("{url}/subjects/orders-value/versions")).body(body);
            let answer = request.send().await.unwrap().error_for_status().unwrap();
            assert_eq!(answer.json::<Json>().await.unwrap()["id"], 1);
            url
        });
        Place { cluster, _runtime: runtime, registry, folder: tempfile::tempdir().unwrap() }
    }

    /// An order in Confluent Avro, at this time.
    fn order(&self, partition: i32, id: &str, country: &str, total: f64, time: i64) {
        let mut value = vec![0, 0, 0, 0, 1];
        for text in [id, country] {
            value.push(text.len() as u8 * 2);
            value.extend_from_slice(text.as_bytes());
        }
        value.extend_from_slice(&total.to_le_bytes());
        self.send(partition, id, &value, time);
    }

    fn send(&self, partition: i32, key: &str, value: &[u8], time: i64) {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", self.cluster.bootstrap_servers()).create().unwrap();
        let record = BaseRecord::to("orders").partition(partition).key(key).payload(value).timestamp(time);
        producer.send(record).unwrap();
        producer.flush(PATIENCE).unwrap();
    }

    /// Three orders and one record that nobody can read.
    fn fill(&self) {
        self.order(0, "o-1", "DE", 10.0, 1_764_000_000_000);
        self.order(1, "o-2", "FR", 20.5, 1_764_000_001_000);
        self.send(0, "o-3", b"no avro", 1_764_000_002_000);
        self.order(1, "o-4", "DE", 40.0, 1_764_000_003_000);
    }

    fn config(&self, route: &str) -> PathBuf {
        let (brokers, registry) = (self.cluster.bootstrap_servers(), &self.registry);
        let text = format!(
            r#"[source.shop.kafka]
brokers = ["{brokers}"]

[registry.main]
url = "{registry}"

[sink.lake.delta]
uri = "lake/orders"
partition_by = ["country"]
metadata = {{ offset = "at" }}

[sink.live.http]
url = "http://127.0.0.1:9/orders"
auth = {{ bearer = {{ token = {{ env = "TOKEN" }} }} }}

[sink.copy.kafka]
topic = "copies"

[sink.dead.file]
path = "dead/letters.jsonl"

[route.orders]
topics = ["orders"]
key = "string"
value = "avro"
start = "earliest"
{route}
"#
        );
        let path = self.folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    fn consumer(&self, group: &str) -> BaseConsumer {
        let brokers = self.cluster.bootstrap_servers();
        ClientConfig::new().set("bootstrap.servers", brokers).set("group.id", group).set("enable.auto.commit", "false").create().unwrap()
    }

    /// What the folder holds, the configuration left out.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).filter(|name| name != "config.toml").collect()
    }
}

fn command(arguments: &[&str], config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
    command.arg(arguments[0]).arg(config).args(&arguments[1..]);
    command.env("TOKEN", "very-secret").env_remove("NO_COLOR").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str], config: &Path) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(arguments, config).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn reports(arguments: &[&str], config: &Path) -> Vec<Json> {
    let (code, out, said) = run(arguments, config);
    assert_eq!(code, Some(0), "{said}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn positions(reports: &[Json]) -> Vec<(i64, i64)> {
    reports.iter().map(|report| (report["partition"].as_i64().unwrap(), report["offset"].as_i64().unwrap())).collect()
}

const ALL: &str = "to = [\"lake\", \"live\", \"copy\"]\ndead_letters = \"dead\"";

#[test]
fn trying_shows_what_every_sink_would_get_and_leaves_no_trace() {
    let place = Place::new();
    place.fill();
    let config = place.config(ALL);
    // Whoever joins the group or commits first meets these, and takes them away.
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    place.cluster.request_errors(RDKafkaApiKey::JoinGroup, &[denied]);
    place.cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[denied]);

    let (code, out, said) = run(&["try", "--records", "2", "--full"], &config);
    assert_eq!(code, Some(0), "{said}");
    let folder = place.folder.path().to_str().unwrap();
    let mut shown = out.replace(folder, "FOLDER");
    // The moment in which the letter was made, and the digest of what decided.
    for (name, instead) in [("\"seen\":", "NOW"), ("\"decision\":", "\"DIGEST\"")] {
        let start = shown.find(name).unwrap() + name.len();
        let end = start + shown[start..].find(',').unwrap();
        shown.replace_range(start..end, instead);
    }
    let expected = r#"orders/0 offset 1  2025-11-24 16:00:02.000Z  dead letter
  key      o-3
  value    no avro
           avro, 7 bytes
  dead letter  by decode: decode (framing): value: starts with byte 0x6e, not with the 0x00 of a value with a schema id
  -> dead  line of FOLDER/dead/letters.jsonl
           {"route":"orders","topic":"orders","partition":0,"offset":1,"timestamp":"2025-11-24T16:00:02Z","class":"decode","code":"framing","message":"value: starts with byte 0x6e, not with the 0x00 of a value with a schema id","by":"decode","digest":null,"attempts":1,"decision":"DIGEST","seen":NOW,"key":"by0z","value":"bm8gYXZybw==","headers":[]}

orders/1 offset 1  2025-11-24 16:00:03.000Z  delivered
  key      o-4
  value    {"id":"o-4","country":"DE","total":40.0}
           avro, schema 1, 20 bytes
  -> lake  row of table FOLDER/lake/orders (new), partition country="DE"
           {"id":"o-4","country":"DE","total":40.0,"at":1}
  -> live  POST http://127.0.0.1:9/orders
           content-type: application/json
           idempotency-key: anabranch-orders-live-orders-1-1-0
           authorization: (secret)
           {"id":"o-4","country":"DE","total":40.0}
  -> copy  record of topic copies
           key o-4
           value {"id":"o-4","country":"DE","total":40.0}  (avro, schema 1, 20 bytes)

2 records tried: 1 to copy, 1 to lake, 1 to live, 1 dead letter; nothing was written, nothing committed
"#;
    assert_eq!(shown, expected);
    assert!(!out.contains("very-secret") && !said.contains("very-secret"));

    assert_eq!(place.files(), [] as [&str; 0]);
    let consumer = place.consumer("anabranch-orders");
    let metadata = consumer.fetch_metadata(None, PATIENCE).unwrap();
    assert_eq!(metadata.topics().iter().map(|topic| topic.name()).collect::<Vec<_>>(), ["orders"]);
    let mut list = TopicPartitionList::new();
    list.add_partition_range("orders", 0, 1);
    let committed = consumer.committed_offsets(list.clone(), PATIENCE).unwrap();
    assert!(committed.elements().iter().all(|element| element.offset() == rdkafka::Offset::Invalid), "{committed:?}");
    // Both errors are still there: nobody joined, nobody committed.
    list.set_all_offsets(rdkafka::Offset::Offset(1)).unwrap();
    let refused = consumer.commit(&list, CommitMode::Sync);
    assert_eq!(refused, Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::GroupAuthorizationFailed)));
    consumer.subscribe(&["orders"]).unwrap();
    let began = Instant::now();
    let met = std::iter::repeat_with(|| consumer.poll(Duration::from_millis(100)))
        .take_while(|_| began.elapsed() < PATIENCE)
        .find_map(|polled| polled.and_then(Result::err));
    assert_eq!(met.and_then(|error| error.rdkafka_error_code()), Some(RDKafkaErrorCode::GroupAuthorizationFailed));
}

#[test]
fn which_records_are_tried_can_be_chosen_and_each_is_an_object_of_json() {
    let place = Place::new();
    place.fill();
    let config = place.config(ALL);
    let newest = reports(&["try", "--json", "--records", "3"], &config);
    assert_eq!(positions(&newest), [(1, 0), (0, 1), (1, 1)]);
    let outcomes: Vec<&Json> = newest.iter().map(|report| &report["outcome"]).collect();
    assert_eq!(outcomes, ["delivered", "dead_letter", "delivered"]);
    let order = &newest[0];
    assert_eq!((&order["key"]["text"], &order["value"]["json"]["total"]), (&json!("o-2"), &json!(20.5)), "{order}");
    assert_eq!(order["value"]["schema"]["id"], 1, "{order}");
    assert_eq!(order["sinks"][0]["sink"], "lake", "{order}");
    assert_eq!(order["sinks"][0]["row"]["row"]["json"], json!({"id": "o-2", "country": "FR", "total": 20.5, "at": 0}), "{order}");
    assert_eq!(order["sinks"][1]["request"]["method"], "POST", "{order}");
    assert_eq!(order["sinks"][2]["record"]["topic"], "copies", "{order}");
    let letter = &newest[1]["dead_letters"][0];
    assert_eq!((&letter["class"], &letter["action"], &letter["to"]["sink"]), (&json!("decode"), &json!("dead_letter"), &json!("dead")));

    let chosen = |from: &str| positions(&reports(&["try", "--json", "--records", "2", "--from", from], &config));
    assert_eq!(chosen("earliest"), [(0, 0), (1, 0)]);
    assert_eq!(chosen("orders/1:1"), [(1, 1)]);
    let (code, _, said) = run(&["try", "--from", "orders/7:0"], &config);
    assert_eq!((code, said.trim()), (Some(2), "error: --from: orders/7 is none of the route's partitions"));
}

#[test]
fn a_route_that_would_stop_says_at_which_record_and_why() {
    let place = Place::new();
    place.fill();
    let config = place.config("to = [\"lake\"]");
    let (code, out, said) = run(&["try", "--from", "orders/0:1", "--records", "1"], &config);
    assert_eq!(code, Some(0), "{said}");
    assert!(out.contains("16:00:02.000Z  stops the route\n"), "{out}");
    assert!(out.contains("name a sink in `dead_letters` of the route"), "{out}");
}

#[test]
fn plugins_are_shown_with_what_they_decided() {
    if !anabranch::plugin::bundled().iter().any(|(name, _)| *name == "filter") {
        // A plain build has no plugins inside; `make test` builds them first.
        return;
    }
    let place = Place::new();
    place.fill();
    let through = "through = [{ plugin = \"filter\", config = { where = \"country == 'FR'\" } }]";
    let config = place.config(&format!("{ALL}\n{through}"));
    let reports = reports(&["try", "--json", "--from", "orders/1:0", "--records", "2"], &config);
    assert_eq!(reports[0]["plugins"], json!([{ "plugin": "filter", "outputs": [{}] }]));
    assert_eq!(reports[0]["outcome"], "delivered");
    assert_eq!(reports[1]["plugins"], json!([{ "plugin": "filter", "filtered": null }]));
    assert_eq!((&reports[1]["outcome"], &reports[1]["sinks"]), (&json!("filtered"), &json!([])));
}

#[test]
fn an_empty_topic_is_waited_for_with_a_word_and_ctrl_c_ends_in_order() {
    let place = Place::new();
    let config = place.config(ALL);
    let mut running: Child = command(&["try", "--records", "5"], &config).spawn().unwrap();
    let mut said = BufReader::new(running.stderr.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "no record is there yet: waiting for new ones in orders; Ctrl-C ends");
    place.order(1, "o-9", "DE", 1.0, 1_764_000_000_000);
    let mut out = BufReader::new(running.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "orders/1 offset 0  2025-11-24 16:00:00.000Z  delivered\n");
    assert!(Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("1 record tried: 1 to copy, 1 to lake, 1 to live; nothing was written, nothing committed\n"), "{rest}");
    assert_eq!(running.wait().unwrap().code(), Some(0));
}

/// A port at which nobody listens.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_check_that_connects_names_everything_that_does_not_answer_within_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let text = format!(
        r#"[source.shop.kafka]
brokers = ["127.0.0.1:{port}"]
[registry.main]
url = "http://127.0.0.1:{port}"
[sink.live.http]
url = "http://127.0.0.1:{port}/orders"
[sink.copy.kafka]
topic = "copies"
[sink.lake.delta]
uri = "file/lake"
[sink.dead.file]
path = "file/dead.jsonl"
[route.orders]
topics = ["orders"]
value = "avro"
to = ["live", "copy", "lake"]
dead_letters = "dead"
"#
    );
    let config = folder.path().join("config.toml");
    std::fs::write(&config, text).unwrap();
    let began = Instant::now();
    let (code, out, said) = run(&["check", "--connect"], &config);
    assert_eq!((code, &*out), (Some(3), ""), "{said}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let place = format!("127.0.0.1:{port}");
    for (part, cause) in [
        ("source \"shop\"", format!("no answer from {place}")),
        ("registry \"main\"", place.clone()),
        ("sink \"live\"", format!("nobody answers at {place}")),
        ("sink \"copy\"", format!("no answer from {place}")),
        ("sink \"lake\"", "is a file".to_owned()),
        ("sink \"dead\"", "takes no files".to_owned()),
    ] {
        let line = said.lines().find(|line| line.starts_with(&format!("error: {part}: ")));
        assert!(line.is_some_and(|line| line.contains(&cause)), "{part}: {cause:?} in {said}");
    }
    assert_eq!(said.lines().count(), 6, "nothing but the problems, no word of librdkafka's own: {said}");
}

#[test]
fn a_check_that_connects_looks_for_topics_and_for_ledgers_of_other_names() {
    let place = Place::new();
    place.fill();
    let config = place.config("to = [\"lake\"]\ndead_letters = \"dead\"\ngroup = \"old\"");
    let (code, _, said) = run(&["run", "--until-end"], &config);
    assert_eq!(code, Some(0), "{said}");

    let moved = "to = [\"lake\"]\ndead_letters = \"dead\"\n[route.typo]\ntopics = [\"ordrs\"]\nvalue = \"raw\"\nto = [\"copy\"]\n\
                 [route.later]\ntopics = { regex = \"^shop\\\\.\" }\nvalue = \"raw\"\nto = [\"copy\"]";
    let config = place.config(moved);
    let (code, _, said) = run(&["check", "--connect"], &config);
    assert_eq!(code, Some(3), "{said}");
    for line in [
        "warning: route \"later\": no topic matches ^shop\\. yet: the route waits until one is created",
        "error: route \"typo\": topic \"ordrs\" is not there (there is \"orders\"): create it, correct `topics`, or give the user the right to see it",
        "if the sink or its group was renamed, set ledger = \"old/lake\"",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    // Asking for a topic does not create it, however often.
    for _ in 0..2 {
        let (code, _, said) = run(&["check", "--connect"], &place.config(&format!("{ALL}\ngroup = \"old\"")));
        assert_eq!(
            (
                code,
                said.contains("error: sink \"copy\": there is no topic \"copies\": create it, or add create_topics = { } to the sink\n")
            ),
            (Some(3), true),
            "{said}"
        );
        assert!(!said.contains("warning"), "{said}");
    }
}
