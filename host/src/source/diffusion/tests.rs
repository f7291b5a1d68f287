//! The source against a server over real sockets: the test stands where workers and sinks are.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::*;
use crate::ack::budget::{Budget, Permit};
use crate::ack::{Acks, Token};
use crate::config;
use crate::diffusion::server::{Options, Server};
use crate::diffusion::service::{Specification, TopicType};
use crate::observe::{Metrics, RouteMetrics};
use crate::sink::Urgency;
use crate::source::kafka::heartbeat::Heartbeat;
use crate::source::logs::Logs;
use crate::source::work::{Work, WorkerMessage};

const PATIENCE: Duration = Duration::from_secs(30);
const WORKERS: usize = 2;

/// A record as a worker sees it: key, value, why it is given up.
type Record = (String, Option<String>, Option<String>);

struct Route {
    acks: Acks,
    stop: Stop,
    metrics: RouteMetrics,
    works: mpsc::Receiver<WorkerMessage>,
    running: JoinHandle<Result<(), StopReason>>,
    /// Batches that no sink has settled.
    owed: Vec<(Token, Option<Permit>)>,
    /// The last value of each path, and how many records there were.
    last: BTreeMap<String, Option<String>>,
    read: usize,
}

fn start(server: &Server, topics: &str, source: &str, route: &str) -> Route {
    start_with(server, topics, source, route, |_| ())
}

/// The same with a source that `change` has changed.
fn start_with(server: &Server, topics: &str, source: &str, route: &str, change: impl FnOnce(&mut Reading)) -> Route {
    let text = format!(
        "[source.prices.diffusion]\nurl = {:?}\nretry = {{ delay_min = \"1 ms\", delay_max = \"20 ms\" }}\n{source}\n\
         [sink.out.null]\n[route.r]\ntopics = {topics}\nto = [\"out\"]\n{route}\n{}",
        server.url(),
        if route.contains("value") { "" } else { "value = \"json\"" },
    );
    let path = std::path::Path::new("test.toml");
    let loaded = config::parse(&text, path, std::path::Path::new(".")).unwrap_or_else(|report| panic!("{}", report.render(false)));
    let config = Arc::new(loaded.config);
    let route = config.routes.values().next().unwrap().clone();
    let (acks, stop) = (Acks::new(), Stop::new());
    let metrics = Metrics::new().route(&"r".into());
    let (worker, works) = mpsc::channel();
    let feed = Feed {
        config,
        route,
        until_end: false,
        acks: acks.clone(),
        sinks: Vec::new(),
        urgency: Arc::new(Urgency::new()),
        workers: vec![worker; WORKERS],
        stop: stop.clone(),
        metrics: metrics.clone(),
        logs: Logs::default(),
        heartbeat: Heartbeat::new(),
        per_partition: 0,
        member: Default::default(),
    };
    let config = feed.config.clone();
    let config::Source::Diffusion(source) = config.sources.values().next().unwrap() else { panic!("another source") };
    let mut reading = Reading::of(source, feed).unwrap();
    change(&mut reading);
    let running = tokio::spawn(reading.run());
    Route { acks, stop, metrics, works, running, owed: Vec::new(), last: BTreeMap::new(), read: 0 }
}

impl Route {
    /// The next batch, with what is owed for it; `None`: there is none within `within`.
    async fn batch(&mut self, within: Duration) -> Option<(Vec<Record>, Token, Option<Permit>)> {
        let began = std::time::Instant::now();
        loop {
            match self.works.try_recv() {
                Ok(WorkerMessage::Work(Work { batch, letters, token, .. })) => {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    assert_eq!(&*batch.topic, "prices");
                    let records = (0..batch.len()).map(|record| {
                        let letter = letters.iter().find(|letter| letter.record == record as u32);
                        (text(batch.key(record).unwrap()), batch.value(record).map(text), letter.map(|letter| letter.message.clone()))
                    });
                    let records: Vec<Record> = records.collect();
                    self.read += records.len();
                    self.last.extend(records.iter().map(|(key, value, _)| (key.clone(), value.clone())));
                    return Some((records, token, batch.permit));
                }
                Ok(_) => (),
                Err(_) if began.elapsed() > within => return None,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }

    /// Settles what comes until it `holds`.
    async fn until(&mut self, what: &str, mut holds: impl FnMut(&Route) -> bool) {
        let began = std::time::Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "waited in vain until {what}; {} paths, {} records", self.last.len(), self.read);
            if let Some((_, token, _)) = self.batch(Duration::from_millis(20)).await {
                token.settle();
            }
        }
    }

    async fn until_last(&mut self, path: &str, value: Option<&str>) {
        let value = value.map(str::to_owned);
        self.until(&format!("{path} is {value:?}"), |route| route.last.get(path) == Some(&value)).await;
    }

    async fn end(self) -> Result<(), StopReason> {
        self.stop.stop(StopReason::Asked);
        drop((self.owed, self.works));
        tokio::time::timeout(PATIENCE, self.running).await.unwrap().unwrap()
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn json() -> Specification {
    Specification::new(TopicType::JSON)
}

/// CBOR of `{"n": number, "text": ..}`.
fn value(number: u32, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    minicbor::Encoder::new(&mut out).map(2).unwrap().str("n").unwrap().u32(number).unwrap().str("text").unwrap().str(text).unwrap();
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn values_deltas_types_and_removals_arrive_in_the_order_of_each_path() {
    let server = Server::start(Options::default()).await.unwrap();
    server.set("shop/a", &json(), &value(1, "long enough for a delta")).unwrap();
    server.set("elsewhere", &json(), &value(1, "")).unwrap();
    let mut route = start(&server, "[\"?shop//\", \">exact\"]", "removed = \"tombstone\"", "");
    route.until_last("shop/a", Some(r#"{"n":1,"text":"long enough for a delta"}"#)).await;
    for number in 2..=50 {
        server.set("shop/a", &json(), &value(number, "long enough for a delta")).unwrap();
    }
    let kinds = [
        ("shop/text", TopicType::STRING, &b"\x65hello"[..], "\"hello\""),
        ("shop/int", TopicType::INT64, b"\x18\x2a", "42"),
        ("shop/double", TopicType::DOUBLE, b"\xfb\x3f\xb9\x99\x99\x99\x99\x99\x9a", "0.1"),
        ("shop/binary", TopicType::BINARY, b"\x00\xff", "\"AP8=\""),
        ("exact", TopicType::JSON, b"\xf6", "null"),
    ];
    for (path, kind, bytes, _) in &kinds {
        server.set(path, &Specification::new(*kind), bytes).unwrap();
    }
    for (path, _, _, text) in &kinds {
        route.until_last(path, Some(text)).await;
    }
    route.until_last("shop/a", Some(r#"{"n":50,"text":"long enough for a delta"}"#)).await;
    server.remove(">shop/a").unwrap();
    route.until_last("shop/a", None).await;
    server.set("shop/a", &json(), &value(7, "again")).unwrap();
    route.until_last("shop/a", Some(r#"{"n":7,"text":"again"}"#)).await;
    assert!(!route.last.contains_key("elsewhere"));
    assert_eq!(route.metrics.read.get(), route.read as u64);
    route.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_cannot_be_read_is_given_up_with_its_bytes() {
    let server = Server::start(Options::default()).await.unwrap();
    server.set("bad", &json(), b"\xa1\x01\x02").unwrap();
    server.set("series", &Specification::new(TopicType(16)), b"raw").unwrap();
    let mut route = start(&server, "[\"?.*//\"]", "", "");
    let mut records = Vec::new();
    while records.len() < 2 {
        let (more, token, _) = route.batch(PATIENCE).await.unwrap();
        records.extend(more);
        token.settle();
    }
    let reason = |path: &str| records.iter().find(|(key, ..)| key == path).and_then(|(_, _, reason)| reason.clone()).unwrap();
    assert!(reason("bad").contains("a map's name is no text"), "{records:?}");
    assert!(reason("series").contains("time series"), "{records:?}");
    assert_eq!(route.last["series"].as_deref(), Some("raw"));
    route.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_connection_every_last_value_comes_and_topics_that_are_gone_are_missed() {
    let server = Server::start(Options::default()).await.unwrap();
    for number in 0..100 {
        server.set(&format!("p/{number}"), &json(), &value(0, "")).unwrap();
    }
    let patience = Duration::from_secs(1);
    let mut route = start_with(&server, "[\"?p//\"]", "removed = \"tombstone\"", "", |reading| {
        reading.absent = Absent::with_patience(patience);
    });
    route.until("all are there", |route| route.last.len() == 100).await;
    let server = server.restart(Duration::from_millis(20), true).await.unwrap();
    for number in 0..100 {
        server.set(&format!("p/{number}"), &json(), &value(1, "")).unwrap();
    }
    let changed = Some(r#"{"n":1,"text":""}"#.to_owned());
    route.until("all are changed", |route| route.last.values().all(|value| *value == changed)).await;
    for _ in 0..3 {
        let sessions = server.sessions();
        server.cut();
        until("it is there again", || server.sessions() > sessions).await;
    }
    server.set("p/7", &json(), &value(2, "")).unwrap();
    route.until_last("p/7", Some(r#"{"n":2,"text":""}"#)).await;
    // Topics that are gone after the server was away.
    let server = server.restart(Duration::from_millis(20), false).await.unwrap();
    server.set("p/7", &json(), &value(3, "")).unwrap();
    route.until("99 are missed", |route| route.last.values().filter(|value| value.is_none()).count() == 99).await;
    assert_eq!(route.last["p/7"].as_deref(), Some(r#"{"n":3,"text":""}"#));
    route.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_sink_takes_anything_little_is_held_and_afterwards_nothing_is_missing() {
    let server = Server::start(Options { behind_max: 1 << 20, ..Options::default() }).await.unwrap();
    let text = "x".repeat(10_000);
    let paths = 3_000;
    for number in 0..paths {
        server.set(&format!("p/{number}"), &json(), &value(number, &text)).unwrap();
    }
    let budget = 1 << 20;
    let mut route = start(&server, "[\"?p//\"]", "", "in_flight_max = \"1 MiB\"\nbatch = { bytes_max = \"64 KiB\" }");
    // Whatever comes is held, as a sink does that waits for its place.
    while let Some((_, token, permit)) = route.batch(Duration::from_millis(500)).await {
        route.owed.push((token, permit));
    }
    let held = route.read * 10_000;
    // One copy is owed, one is held here: together the budget, and one batch of each lane more.
    assert!((budget / 4..budget).contains(&held), "{held} bytes of 30 MB");
    let sessions = server.sessions();
    for number in 0..paths {
        server.set(&format!("p/{number}"), &json(), &value(number + 1, &text)).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(route.works.try_recv().is_err(), "nothing more is read");
    for (token, _) in std::mem::take(&mut route.owed) {
        token.settle();
    }
    let expected = |number: u32| Some(format!("{{\"n\":{},\"text\":\"{text}\"}}", number + 1));
    let is_last = |route: &Route| (0..paths).all(|number| route.last.get(&format!("p/{number}")) == Some(&expected(number)));
    route.until("every last value is there", |route| route.read >= 2 * paths as usize && is_last(route)).await;
    assert_eq!(server.sessions(), sessions, "the server waited");
    route.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_the_server_gives_up_while_nothing_is_read_is_made_anew() {
    let ping_period = Some(Duration::from_millis(100));
    let server = Server::start(Options { ping_period, ..Options::default() }).await.unwrap();
    for number in 0..100 {
        server.set(&format!("p/{number}"), &json(), &value(1, &"x".repeat(5_000))).unwrap();
    }
    let mut route = start(&server, "[\"?p//\"]", "", "in_flight_max = \"128 KiB\"\nbatch = { bytes_max = \"16 KiB\" }");
    while let Some((_, token, permit)) = route.batch(Duration::from_millis(300)).await {
        route.owed.push((token, permit));
    }
    assert!(route.read < 100);
    until("the server waits no longer", || server.connections() == 0).await;
    for (token, _) in std::mem::take(&mut route.owed) {
        token.settle();
    }
    route.until("all are there", |route| route.last.len() == 100).await;
    assert!(server.sessions() > 1);
    route.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sink_drops_comes_again_from_memory_with_the_same_offsets_and_in_order() {
    let server = Server::start(Options::default()).await.unwrap();
    let keeps_nothing = Specification { properties: [("DONT_RETAIN_VALUE".to_owned(), "true".to_owned())].into(), ..json() };
    server.add("p", &keeps_nothing).unwrap();
    let mut route = start(&server, "[\"p\"]", "", "batch = { records_max = 2, linger = \"1 m\" }");
    until("it is subscribed to", || route.metrics.source(String::new()).sessions.get() == 1 && server.requests() == 1).await;
    for number in 1..=6 {
        server.set("p", &keeps_nothing, &value(number, "")).unwrap();
    }
    let mut first = Vec::new();
    while first.len() < 3 {
        first.push(route.batch(PATIENCE).await.unwrap());
    }
    let slots: Vec<_> = first.iter().map(|(_, token, _)| token.slot()).collect();
    let records: Vec<Vec<Record>> = first.iter().map(|(records, ..)| records.clone()).collect();
    let mut tokens = first.into_iter().map(|(_, token, _)| token);
    tokens.next().unwrap().settle();
    drop(tokens.next());
    // The third is delivered, but not before the second.
    tokens.next().unwrap().settle();
    for expected in &records[1..] {
        let (again, token, _) = route.batch(PATIENCE).await.unwrap();
        assert_eq!(again, *expected);
        assert_ne!(token.slot(), slots[0], "another life");
        token.settle();
    }
    assert!(route.batch(Duration::from_millis(100)).await.is_none(), "nothing else comes");
    assert_eq!(server.sessions(), 1, "nobody asked the server");
    assert_eq!(route.metrics.rewinds.get(), 1);
    until("all is settled", || route.acks.is_idle()).await;
    route.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_dropped_again_and_again_stops_the_route() {
    let server = Server::start(Options::default()).await.unwrap();
    server.set("p", &json(), &value(1, "")).unwrap();
    let mut route = start(&server, "[\"p\"]", "", "rewinds_max = 2");
    while let Some((_, token, _)) = route.batch(Duration::from_secs(5)).await {
        token.rewind("the test wants it so");
    }
    let ended = tokio::time::timeout(PATIENCE, route.running).await.unwrap().unwrap();
    let Err(StopReason::Broken(reason)) = ended else { panic!("{ended:?}") };
    assert!(reason.contains("dispatched again 2 times") && reason.contains("the test wants it so"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_server_stop_the_route_with_the_remedy_or_are_tried_again() {
    let users = [("admin".to_owned(), "another".to_owned())].into();
    let server = Server::start(Options { users, ..Options::default() }).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, start(&server, "[\"p\"]", "", "").running).await.unwrap().unwrap();
    let Err(StopReason::Environment(reason)) = ended else { panic!("{ended:?}") };
    assert!(reason.contains("check the user name and the password"), "{reason}");

    let server = Server::start(Options::default()).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, start(&server, "[\"?p(\"]", "", "").running).await.unwrap().unwrap();
    let Err(StopReason::Configuration(reason)) = ended else { panic!("{ended:?}") };
    assert!(reason.contains("\"?p(\"") && reason.contains("correct `topics`"), "{reason}");

    server.set("p", &json(), &value(1, &"x".repeat(2000))).unwrap();
    let ended = tokio::time::timeout(PATIENCE, start(&server, "[\"p\"]", "values_max = \"1 KiB\"", "").running).await.unwrap().unwrap();
    let Err(StopReason::Environment(reason)) = ended else { panic!("{ended:?}") };
    assert!(reason.contains("`values_max`"), "{reason}");

    server.refuse_connections(Some(119));
    let mut route = start(&server, "[\"p\"]", "", "");
    assert!(route.batch(Duration::from_millis(200)).await.is_none());
    assert!(!route.running.is_finished(), "a server that is starting is waited for");
    let not_ready = route.metrics.all().not_ready();
    assert!(not_ready.len() == 1 && not_ready[0].1.contains("still starting"), "{not_ready:?}");
    server.refuse_connections(None);
    route.until("the value is there", |route| route.last.contains_key("p")).await;
    until("it is ready", || route.metrics.all().not_ready().is_empty()).await;
    route.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_the_server_gave_up_for_a_slow_reader_is_subscribed_to_again() {
    let server = Server::start(Options::default()).await.unwrap();
    server.set("p", &json(), &value(1, "")).unwrap();
    let mut route = start(&server, "[\"p\"]", "", "");
    route.until_last("p", Some(r#"{"n":1,"text":""}"#)).await;
    server.unsubscribe("p", 5);
    server.set("p", &json(), &value(2, "")).unwrap();
    route.until_last("p", Some(r#"{"n":2,"text":""}"#)).await;
    assert_eq!(server.sessions(), 1);
    route.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_as_they_are_and_tombstones_for_nulls_are_options() {
    let server = Server::start(Options::default()).await.unwrap();
    server.set("p", &json(), b"\x18\x2a").unwrap();
    server.set("q", &json(), b"\xf6").unwrap();
    let mut route = start(&server, "[\"p\", \"q\"]", "null = \"tombstone\"", "value = \"raw\"");
    route.until_last("p", Some("\u{18}*")).await;
    route.until_last("q", None).await;
    route.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_are_tried_without_running() {
    let server = Server::start(Options::default()).await.unwrap();
    let source: DiffusionSource = toml::from_str(&format!("url = {:?}", server.url())).unwrap();
    assert_eq!(probe(&source, vec!["?p//", "a/b"], PATIENCE).await, Ok(()));
    let problems = probe(&source, vec!["?p//", "?p("], PATIENCE).await.unwrap_err();
    assert!(problems.len() == 1 && problems[0].contains("\"?p(\""), "{problems:?}");
    drop(server);
    assert_eq!(probe(&source, vec!["a"], PATIENCE).await.unwrap_err().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_that_wait_for_more_are_asked_not_to_when_no_more_can_come() {
    let server = Server::start(Options::default()).await.unwrap();
    for number in 0..100 {
        server.set(&format!("p/{number}"), &json(), &value(number, &"x".repeat(5_000))).unwrap();
    }
    let urgency = Arc::new(Urgency::new());
    let (_, inbox) = urgency.inbox();
    let mut route = start_with(&server, "[\"?p//\"]", "", "in_flight_max = \"128 KiB\"\nbatch = { bytes_max = \"16 KiB\" }", |reading| {
        reading.keeper.urgency = urgency.clone();
    });
    while !inbox.is_urgent() {
        if let Some((_, token, permit)) = route.batch(Duration::from_millis(20)).await {
            route.owed.push((token, permit));
        }
    }
    for (token, _) in std::mem::take(&mut route.owed) {
        token.settle();
    }
    route.until("all are there", |route| route.last.len() == 100).await;
    until("nothing is urgent", || !inbox.is_urgent()).await;
    route.end().await.unwrap();
}

#[test]
fn no_offset_of_an_earlier_start_comes_again() {
    let (worker, works) = mpsc::channel();
    let offsets = |now: i64| {
        let bounds = crate::source::work::BatchBounds { records_max: 10, bytes_max: 1 << 20, linger: Duration::ZERO };
        let metrics = Metrics::new().route(&"r".into());
        let (acks, budget, workers) = (Acks::new(), Budget::new(1 << 20), vec![worker.clone()]);
        let mut lanes = Lanes::new(lanes::Surroundings { source: "s".into(), bounds, acks, budget, workers, metrics }, now);
        for _ in 0..1_000 {
            lanes.push(Entry { path: "p", value: None, timestamp: now, unfit: None });
        }
        let read = works.try_iter().flat_map(|message| match message {
            WorkerMessage::Work(work) => work.batch.offsets,
            _ => Vec::new(),
        });
        read.collect::<Vec<i64>>()
    };
    let (first, second) = (offsets(1_800_000_000_000), offsets(1_800_000_000_001));
    assert_eq!((first.len(), second.len()), (1_000, 1_000));
    assert!(first.is_sorted() && second.is_sorted() && first.last() < second.first());
}
