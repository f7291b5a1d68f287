//! The real binary between a Diffusion server and a broker: killed, cut off, with everything logged.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anabranch::diffusion::server::{Options, Server};
use anabranch::diffusion::service::{Specification, TopicType};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::{Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(120);
const PASSWORD: &str = "s3same-0pen";
/// The password as it goes to the server.
const ENCODED: &str = "AQtzM3NhbWUtMHBlbg";

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn anabranch(config: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(config.with_extension("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch"));
    // The most that can be logged: nothing of it may be a secret.
    command.args(["--log", "trace,librdkafka=warn", "run"]).arg(config).stdout(Stdio::null()).stderr(log);
    command.spawn().unwrap()
}

/// Sets 200 topics to `round`.
fn set(server: &Server, round: u8) {
    for number in 0..200 {
        // A CBOR integer below 24 is one byte.
        server.set(&format!("p/{number}"), &Specification::new(TopicType::JSON), &[round]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_ends_with_every_last_value_though_the_router_is_killed_and_connections_are_cut() {
    let users = [("admin".to_owned(), PASSWORD.to_owned())].into();
    let server = Server::start(Options { users, ..Options::default() }).await.unwrap();
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("all", 3, 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
    let config = folder.path().join("config.toml");
    let text = format!(
        r#"[source.live.diffusion]
url = {:?}
username = "admin"
password = {{ file = "password" }}
retry = {{ delay_min = "5 ms", delay_max = "200 ms" }}

[sink.all.kafka]
brokers = [{:?}]
topic = "all"

[route.prices]
topics = ["?p//"]
value = "json"
to = ["all"]
"#,
        server.url(),
        cluster.bootstrap_servers()
    );
    std::fs::write(&config, text).unwrap();

    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "reader").create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..3 {
        list.add_partition_offset("all", partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    let mut read = || {
        while let Some(record) = consumer.poll(Duration::from_millis(5)) {
            let record = record.unwrap();
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
            last.insert(text(record.key()), text(record.payload()));
        }
        last.clone()
    };

    for round in 0..3_u8 {
        set(&server, round * 5);
        let sessions = server.sessions();
        let mut child = anabranch(&config);
        until("it reads", || server.sessions() > sessions && !read().is_empty());
        set(&server, round * 5 + 1);
        if round == 1 {
            server.cut();
        }
        set(&server, round * 5 + 2);
        child.kill().unwrap();
        child.wait().unwrap();
        set(&server, round * 5 + 3);
    }
    let mut child = anabranch(&config);
    until("every value is the last", || {
        let last = read();
        last.len() == 200 && last.values().all(|value| value == "13")
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let log = std::fs::read_to_string(config.with_extension("log")).unwrap();
    assert!(!log.contains(PASSWORD) && !log.contains(ENCODED), "the password is in the log");
    assert!(log.contains("connected"), "it logs at the lowest level");
}
