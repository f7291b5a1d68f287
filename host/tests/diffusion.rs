//! The real binary between a broker and a Diffusion server: killed, cut off, refused.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anabranch::diffusion::server::{Options, Server};
use anabranch::value::{Format, JsonOptions, Value, write_json};
use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

const PATIENCE: Duration = Duration::from_secs(120);
const TOPIC: &str = "orders";
const PASSWORD: &str = "s3same-0pen";
/// The password as it goes to the server.
const ENCODED: &str = "AQtzM3NhbWUtMHBlbg";

struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
    /// How many records each key has.
    sent: BTreeMap<String, u64>,
}

impl Broker {
    fn start() -> Broker {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 3, 1).unwrap();
        let producer = ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        Broker { cluster, producer, sent: BTreeMap::new() }
    }

    /// Records of 50 keys; the value of each is its number among those of its key.
    fn send(&mut self, records: usize) {
        for record in 0..records {
            let key = format!("k{}", (record * 31 + 7) % 50);
            let number = self.sent.entry(key.clone()).or_default();
            *number += 1;
            let value = format!("{{\"n\":{number},\"price\":0.1}}");
            self.send_one(&key, &value);
        }
        self.producer.flush(PATIENCE).unwrap();
    }

    fn send_one(&self, key: &str, value: &str) {
        while self.producer.send(BaseRecord::to(TOPIC).key(key).payload(value)).is_err() {
            self.producer.poll(Duration::from_millis(10));
        }
    }
}

fn config(folder: &Path, broker: &Broker, server: &Server, sink: &str) -> PathBuf {
    std::fs::write(folder.join("password"), PASSWORD).unwrap();
    let text = format!(
        r#"[source.shop.kafka]
brokers = [{:?}]
# A killed process is out of the group soon.
session_timeout = "6 s"

[sink.live.diffusion]
url = {:?}
username = "admin"
password = {{ file = "password" }}
path = "shop/${{topic}}/${{key}}"
{sink}
retry = {{ delay_min = "5 ms", delay_max = "200 ms" }}

[sink.dead.file]
path = "dead.jsonl"

[route.orders]
topics = [{TOPIC:?}]
value = "json"
to = ["live"]
dead_letters = "dead"
"#,
        broker.cluster.bootstrap_servers(),
        server.url(),
    );
    let path = folder.join("config.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn anabranch(config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
    let log = std::fs::OpenOptions::new().create(true).append(true).open(config.with_extension("log")).unwrap();
    // The most that can be logged: nothing of it may be a secret.
    command.args(["--log", "trace,librdkafka=warn", "run"]).arg(config).args(arguments).stdout(Stdio::null()).stderr(log);
    command
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs until all records that are there are delivered; the exit code.
fn run_until_end(config: &Path) -> i32 {
    let mut child = anabranch(config, &["--until-end"]).spawn().unwrap();
    let mut code = None;
    until("the router ends", || {
        code = child.try_wait().unwrap();
        code.is_some()
    });
    code.and_then(|status| status.code()).unwrap_or(-1)
}

fn number(bytes: &[u8]) -> u64 {
    let mut text = Vec::new();
    write_json(Value { format: Format::Cbor, schema: None, bytes }, &JsonOptions::default(), &mut text).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(value["price"].as_f64(), Some(0.1), "every digit of a double arrives: {value}");
    value["n"].as_u64().unwrap()
}

fn log(config: &Path) -> String {
    std::fs::read_to_string(config.with_extension("log")).unwrap()
}

/// The server has the last value of every path, and made every update at least once.
fn check_values(broker: &Broker, server: &Server) {
    let mut made: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (path, bytes) in server.journal() {
        made.entry(path).or_default().push(number(&bytes));
    }
    for (key, last) in &broker.sent {
        let path = format!("shop/{TOPIC}/{key}");
        assert_eq!(server.value(&path).map(|bytes| number(&bytes)), Some(*last), "{path}");
        assert_eq!(made[&path].last(), Some(last), "{path}");
        assert!((1..=*last).all(|number| made[&path].contains(&number)), "{path}: an update is missing");
    }
}

fn options() -> Options {
    let users = [("admin".to_owned(), PASSWORD.to_owned())].into();
    Options { users, journal_max: 1_000_000, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_topic_ends_with_its_last_value_though_the_router_is_killed_and_connections_are_cut() {
    let server = Server::start(options()).await.unwrap();
    // So that something is in flight whenever it is killed.
    server.delay(Some(Duration::from_millis(10)));
    let mut broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), &broker, &server, "sessions = 2\npath_in_flight_max = 4");
    for round in 0..3 {
        let before = server.journal().len();
        broker.send(4_000);
        let mut child = anabranch(&config, &[]).spawn().unwrap();
        until("some updates are made", || server.journal().len() > before + 1_000);
        if round == 1 {
            server.cut();
            until("more updates are made", || server.journal().len() > before + 2_000);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let server = server.restart(Duration::from_millis(10), true).await.unwrap();
    server.cut_in(500);
    assert_eq!(run_until_end(&config), 0, "{}", log(&config));
    check_values(&broker, &server);
    let log = log(&config);
    assert!(!log.contains(PASSWORD) && !log.contains(ENCODED), "the password is in the log");
    assert!(log.contains("connected"), "it logs at the lowest level");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_path_that_is_denied_costs_its_own_records_only() {
    let server = Server::start(options()).await.unwrap();
    server.refuse(&format!("shop/{TOPIC}/denied"), 103, u64::MAX).unwrap();
    let mut broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), &broker, &server, "");
    for _ in 0..5 {
        broker.send_one("denied", "{\"n\":1,\"price\":0.1}");
    }
    broker.send_one("a//b", "{\"n\":1,\"price\":0.1}");
    broker.send_one("long", &format!("\"{}\"", "x".repeat(300_000)));
    broker.send(1_000);
    assert_eq!(run_until_end(&config), 0, "{}", log(&config));
    check_values(&broker, &server);
    let dead = std::fs::read_to_string(folder.path().join("dead.jsonl")).unwrap();
    let classes = |class: &str| dead.lines().filter(|line| line.contains(&format!("\"class\":\"{class}\""))).count();
    assert_eq!((classes("sink-permanent"), classes("destination-invalid"), classes("oversize")), (5, 1, 1), "{dead}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_stops_the_router_and_says_what_to_check() {
    let users = [("admin".to_owned(), "another".to_owned())].into();
    let server = Server::start(Options { users, ..options() }).await.unwrap();
    let mut broker = Broker::start();
    broker.send(10);
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), &broker, &server, "");
    assert_eq!(run_until_end(&config), 3, "{}", log(&config));
    let log = log(&config);
    assert!(log.contains("check the user name and the password"), "{log}");
    assert!(!log.contains(PASSWORD) && !log.contains(ENCODED), "{log}");
}
