//! The sink against a server over real sockets: order, refusals, lost connections.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::*;
use crate::diffusion::server::{Options, Server};
use crate::output::Text;
use crate::sink::fixture::{PATIENCE, Route};
use crate::value::Format;

async fn server() -> Server {
    Server::start(Options { journal_max: 100_000, ..Options::default() }).await.unwrap()
}

pub fn config(server: &Server, more: &str) -> Config {
    let (more, retry) = more.split_once("[retry]").unwrap_or((more, ""));
    let delays = "delay_min = \"1 ms\"\ndelay_max = \"20 ms\"";
    toml::from_str(&format!("url = {:?}\n{more}\n[retry]\n{delays}\n{retry}", server.url())).unwrap()
}

pub fn start(route: &mut Route, config: &Config) -> JoinHandle<Result<(), SinkError>> {
    assert_eq!(config.check(), []);
    let sink = Diffusion::new(config, route.surroundings.clone()).unwrap();
    route.start(sink)
}

/// A value on the server as JSON text.
pub fn json(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    let value = crate::value::Value { format: Format::Cbor, schema: None, bytes };
    crate::value::write_json(value, &Default::default(), &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn value(server: &Server, path: &str) -> Option<String> {
    server.value(path).map(|bytes| json(&bytes))
}

/// Sends records with these keys and values, all of one partition.
fn send(route: &mut Route, partition: i32, records: &[(&str, &str)]) {
    let records: Vec<_> = records.iter().map(|(key, value)| (Some(*key), Some(*value))).collect();
    route.send(partition, &records);
}

/// Numbers of each path's updates, in the order in which the server made them.
fn made(journal: Vec<(String, Bytes)>) -> BTreeMap<String, Vec<u64>> {
    let mut made: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (path, bytes) in journal {
        made.entry(path).or_default().push(json(&bytes).parse().unwrap());
    }
    made
}

/// Many records for 40 keys of two partitions, while `trouble` happens; returns how many there were of each path.
async fn send_many(route: &mut Route, batches: usize, mut trouble: impl AsyncFnMut(usize)) -> BTreeMap<String, u64> {
    let mut sent: BTreeMap<String, u64> = BTreeMap::new();
    for batch in 0..batches {
        let partition = (batch % 2) as i32;
        let records: Vec<(String, String)> = (0..50)
            .map(|_| {
                let key = format!("{partition}-{}", fastrand::u8(0..20));
                let number = sent.entry(format!("p/{key}")).or_default();
                *number += 1;
                (key, number.to_string())
            })
            .collect();
        let records: Vec<(&str, &str)> = records.iter().map(|(key, value)| (&**key, &**value)).collect();
        send(route, partition, &records);
        trouble(batch).await;
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_values_are_left_out_until_the_session_is_lost() {
    let server = server().await;
    let mut route = Route::new(Format::Json);
    drop(start(&mut route, &config(&server, "path = \"p/${key}\"\nunchanged = \"skip\"")));
    send(&mut route, 0, &[("a", "1"), ("a", "1"), ("b", "1"), ("a", "2"), ("a", "2"), ("a", "1")]);
    route.settled().await;
    assert_eq!(made(server.journal()), [("p/a".to_owned(), vec![1, 2, 1]), ("p/b".to_owned(), vec![1])].into());
    let metrics = &route.surroundings.metrics;
    assert_eq!((metrics.outputs.get(), metrics.skipped.get()), (4, 2));
    server.cut();
    // Only a new session makes this.
    send(&mut route, 0, &[("b", "2")]);
    route.settled().await;
    send(&mut route, 0, &[("a", "1")]);
    route.settled().await;
    assert_eq!(made(server.journal())["p/a"], [1, 2, 1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_path_keeps_its_order_whatever_answers_and_refusals_do() {
    for more in ["path_in_flight_max = 1", "path_in_flight_max = 8\nsessions = 3", "in_flight_max = 2"] {
        let server = server().await;
        server.delay(Some(Duration::from_millis(3)));
        let mut route = Route::new(Format::Json);
        drop(start(&mut route, &config(&server, &format!("path = \"p/${{key}}\"\n{more}"))));
        let sent = send_many(&mut route, 40, async |batch| {
            if batch % 4 == 0 {
                server.refuse("?p/.*", [102, 110, 112, 9011][batch / 4 % 4], 3).unwrap();
            }
        })
        .await;
        route.settled().await;
        let made = made(server.journal());
        for (path, numbers) in &made {
            let last = sent[path];
            if more.starts_with("path_in_flight_max = 8") {
                // An update that is sent again takes those behind it along: what counts is when each was made for the last time.
                let places = (1..=last).map(|number| numbers.iter().rposition(|made| *made == number).expect("it was made"));
                assert!(places.is_sorted(), "{path}: {numbers:?}");
                assert_eq!(numbers.last(), Some(&last), "{path}");
            } else {
                assert_eq!(*numbers, Vec::from_iter(1..=last), "{path}: one at a time is made once and in order");
            }
        }
        assert_eq!(made.len(), sent.len());
        assert!(route.surroundings.metrics.retries.get() >= 20);
        let records: u64 = sent.values().sum();
        assert_eq!(route.surroundings.metrics.outputs.get(), records);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missing_after_cut_connections_and_a_server_that_was_away() {
    for more in ["", "path_in_flight_max = 16\nsessions = 2"] {
        let mut server = Some(server().await);
        let mut route = Route::new(Format::Json);
        drop(start(&mut route, &config(server.as_ref().unwrap(), &format!("path = \"p/${{key}}\"\n{more}"))));
        let sent = send_many(&mut route, 60, async |batch| {
            let running = server.take().unwrap();
            server = Some(match batch % 6 {
                0 => {
                    running.cut_in(fastrand::u64(0..60));
                    running
                }
                2 => {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(0..5))).await;
                    running.cut();
                    running
                }
                // With its topics or without them: then they are created again.
                4 => {
                    while running.connections() == 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    running.restart(Duration::from_millis(fastrand::u64(0..10)), batch % 12 == 4).await.unwrap()
                }
                _ => running,
            });
        })
        .await;
        let server = server.unwrap();
        route.settled().await;
        assert!(server.sessions() >= 10, "{} sessions", server.sessions());
        let made = made(server.journal());
        for (path, last) in &sent {
            assert_eq!(made[path].last(), Some(last), "{path}");
            for number in 1..=*last {
                assert!(made[path].contains(&number), "{path}: {number} was never made");
            }
            // A server without its topics has those that were updated since.
            if let Some(found) = value(&server, path) {
                assert_eq!(found, last.to_string(), "{path}");
            }
        }
        assert!(route.committable(0).is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_with_the_properties_of_the_sink_and_others_are_set_as_they_are() {
    let server = server().await;
    let mut other = Specification::new(TopicType::JSON);
    other.properties.insert("PERSISTENT".into(), "false".into());
    server.add("p/there", &other).unwrap();
    server.add("p/text", &Specification::new(TopicType::STRING)).unwrap();
    let mut route = Route::new(Format::Json);
    let more = "path = \"p/${key}\"\ntopic_properties = { CONFLATION = \"off\" }";
    drop(start(&mut route, &config(&server, more)));
    send(&mut route, 0, &[("new", "{\"a\":1}"), ("there", "2"), ("text", "3")]);
    let (dead, headers) = route.dead_letter().await;
    route.settled().await;
    assert_eq!(value(&server, "p/new").as_deref(), Some("{\"a\":1}"));
    assert_eq!(server.specification("p/new").unwrap().properties["CONFLATION"], "off");
    assert_eq!(value(&server, "p/there").as_deref(), Some("2"));
    assert_eq!(server.specification("p/there").unwrap(), other);
    assert_eq!((dead.as_deref(), headers["anabranch.code"].as_str()), (Some("3"), "500"));
    assert!(headers["anabranch.message"].contains("p/text"), "{headers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_others_remove_in_between_is_created_again() {
    let server = server().await;
    let mut route = Route::new(Format::Json);
    drop(start(&mut route, &config(&server, "path = \"p/${key}\"\npath_in_flight_max = 4")));
    for number in 0..20 {
        let value = number.to_string();
        send(&mut route, 0, &[("a", &value), ("a", &value), ("b", &value)]);
        if number % 3 == 0 {
            server.remove("?p//").unwrap();
        }
    }
    route.settled().await;
    send(&mut route, 0, &[("a", "99")]);
    route.settled().await;
    assert_eq!(value(&server, "p/a").as_deref(), Some("99"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_is_null_or_removes_the_topic_or_is_skipped() {
    for (word, left, skipped) in [("null", Some("null"), 0), ("remove", None, 0), ("skip", Some("1"), 2)] {
        let server = server().await;
        let mut route = Route::new(Format::Json);
        drop(start(&mut route, &config(&server, &format!("path = \"p/${{key}}\"\ntombstone = {word:?}"))));
        // One whose topic is not there is no failure.
        route.send(0, &[(Some("a"), Some("1")), (Some("a"), None), (Some("b"), None), (Some("c"), Some("3"))]);
        route.settled().await;
        assert_eq!(value(&server, "p/a").as_deref(), left, "{word}");
        assert_eq!(value(&server, "p/c").as_deref(), Some("3"));
        assert_eq!(route.surroundings.metrics.skipped.get(), skipped);
        send(&mut route, 0, &[("a", "4")]);
        route.settled().await;
        assert_eq!(value(&server, "p/a").as_deref(), Some("4"), "{word}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_path_that_is_denied_makes_dead_letters_and_others_flow() {
    let server = server().await;
    let mut route = Route::new(Format::Json);
    drop(start(&mut route, &config(&server, "path = \"p/${key}\"")));
    server.refuse("p/secret", 103, u64::MAX).unwrap();
    send(&mut route, 0, &[("secret", "1"), ("open", "2"), ("secret", "3"), ("open", "4")]);
    for expected in ["1", "3"] {
        let (dead, headers) = route.dead_letter().await;
        assert_eq!(dead.as_deref(), Some(expected));
        assert_eq!((headers["anabranch.class"].as_str(), headers["anabranch.code"].as_str()), ("sink-permanent", "103"));
        assert!(headers["anabranch.message"].contains("\"p/secret\": access denied (code 103)"), "{headers:?}");
    }
    route.settled().await;
    assert_eq!(value(&server, "p/open").as_deref(), Some("4"));
    assert_eq!(route.committable(0), Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_tried_again_or_makes_a_dead_letter_or_stops_the_route() {
    let retried = [100, 101, 102, 110, 112, 9011];
    let dead = [103, 105, 106, 108, 111, 202, 500, 501, 9005, 9010, 9012, 777];
    let stopping = [104, 9006, 9007];
    for code in retried.into_iter().chain(dead).chain(stopping) {
        let server = server().await;
        let mut route = Route::new(Format::Json);
        server.refuse("p/a", code, if dead.contains(&code) { u64::MAX } else { 2 }).unwrap();
        let running = start(&mut route, &config(&server, "path = \"p/${key}\""));
        send(&mut route, 0, &[("a", "1"), ("b", "2")]);
        if stopping.contains(&code) {
            let stopped = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
            let reason = stopped.unwrap_err().to_string();
            assert!(reason.contains("\"p/a\"") && reason.contains(&format!("(code {code})")), "{reason}");
            assert_eq!(route.committable(0), None, "nothing is committed past it");
            continue;
        }
        if dead.contains(&code) {
            let (_, headers) = route.dead_letter().await;
            assert_eq!(headers["anabranch.code"], code.to_string());
            let class = if [202, 9005].contains(&code) { "destination-invalid" } else { "sink-permanent" };
            assert_eq!(headers["anabranch.class"], class, "{code}");
        }
        route.settled().await;
        assert_eq!(value(&server, "p/a").as_deref(), retried.contains(&code).then_some("1"), "{code}");
        assert_eq!(value(&server, "p/b").as_deref(), Some("2"), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_on_tries_makes_a_dead_letter() {
    let server = server().await;
    let mut route = Route::new(Format::Json);
    drop(start(&mut route, &config(&server, "path = \"p/${key}\"\n[retry]\nattempts_max = 3")));
    server.refuse("p/a", 110, u64::MAX).unwrap();
    server.refuse("p/b", 110, 2).unwrap();
    send(&mut route, 0, &[("a", "1"), ("b", "2"), ("b", "3")]);
    let (dead, headers) = route.dead_letter().await;
    assert_eq!((dead.as_deref(), headers["anabranch.class"].as_str()), (Some("1"), "sink-retry-exhausted"));
    assert_eq!(headers["anabranch.attempts"], "3");
    route.settled().await;
    assert_eq!(value(&server, "p/b").as_deref(), Some("3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_for_the_server_becomes_a_dead_letter_and_the_session_lives() {
    let server = Server::start(Options { message_bytes_max: 2000, ..Options::default() }).await.unwrap();
    let mut route = Route::new(Format::Json);
    drop(start(&mut route, &config(&server, "path = \"p/${key}\"")));
    let long = format!("\"{}\"", "x".repeat(3000));
    send(&mut route, 0, &[("a", "1"), ("a", &long), ("b", &long), ("c", "3")]);
    for _ in 0..2 {
        let (_, headers) = route.dead_letter().await;
        assert_eq!(headers["anabranch.class"], "oversize");
        assert!(headers["anabranch.message"].contains("at most 2000"), "{headers:?}");
    }
    route.settled().await;
    assert_eq!(value(&server, "p/a").as_deref(), Some("1"));
    assert_eq!(value(&server, "p/c").as_deref(), Some("3"));
    assert_eq!(server.sessions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_stops_the_route_and_shows_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "hunter2").unwrap();
    let users = HashMap::from([("admin".to_owned(), "right".to_owned())]);
    let server = Server::start(Options { users, ..Options::default() }).await.unwrap();
    let config = config(&server, &format!("path = \"p/${{key}}\"\nusername = \"admin\"\npassword = {{ file = {password:?} }}"));
    let mut route = Route::new(Format::Json);
    let running = start(&mut route, &config);
    let stopped = tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap_err();
    let probed = probe(&config).await.unwrap_err();
    for text in [stopped.to_string(), format!("{stopped:?}"), probed, format!("{config:?}")] {
        assert!(!text.contains("hunter2") && !text.contains("AQdodW50ZXIy"), "{text}");
    }
    assert!(stopped.to_string().contains("check the user name and the password"), "{stopped}");
    std::fs::write(&password, "right").unwrap();
    let good = toml::from_str(&format!("url = {:?}\nusername = \"admin\"\npassword = {{ file = {password:?} }}", server.url()));
    probe(&good.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_starting_or_away_is_waited_for() {
    let server = server().await;
    server.refuse_connections(Some(119));
    let mut route = Route::new(Format::Json);
    drop(start(&mut route, &config(&server, "path = \"p/${key}\"")));
    send(&mut route, 0, &[("a", "1")]);
    let not_ready = || route.metrics.all().not_ready();
    route.until("the sink is not ready", || !not_ready().is_empty()).await;
    assert!(not_ready()[0].1.contains("still starting"), "{:?}", not_ready());
    server.refuse_connections(None);
    route.settled().await;
    assert_eq!(not_ready(), []);
    assert_eq!(value(&server, "p/a").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_left_for_a_new_session() {
    let server = server().await;
    let mut route = Route::new(Format::Json);
    drop(start(&mut route, &config(&server, "path = \"p/${key}\"\ntimeout = \"100 ms\"")));
    server.ignore_requests(true);
    send(&mut route, 0, &[("a", "1")]);
    route.until("a second session", || server.sessions() >= 2).await;
    server.ignore_requests(false);
    route.settled().await;
    assert_eq!(value(&server, "p/a").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_too_many_becomes_a_dead_letter_and_known_paths_flow() {
    let server = server().await;
    let mut route = Route::new(Format::Json);
    drop(start(&mut route, &config(&server, "path = \"p/${key}\"\npaths_max = 2\nsessions = 2\ntombstone = \"remove\"")));
    for key in ["a", "b"] {
        send(&mut route, 0, &[(key, "1")]);
    }
    route.settled().await;
    send(&mut route, 0, &[("c", "1"), ("a", "2")]);
    let (_, headers) = route.dead_letter().await;
    assert_eq!((headers["anabranch.class"].as_str(), headers["anabranch.code"].as_str()), ("destination-invalid", "paths-max"));
    assert!(headers["anabranch.message"].contains("raise paths_max"), "{headers:?}");
    route.settled().await;
    assert_eq!(value(&server, "p/a").as_deref(), Some("2"));
    // A removed topic makes room.
    route.send(0, &[(Some("b"), None)]);
    route.settled().await;
    send(&mut route, 0, &[("c", "3")]);
    route.settled().await;
    assert_eq!(value(&server, "p/c").as_deref(), Some("3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_a_path_or_with_broken_bytes_becomes_a_dead_letter() {
    let server = server().await;
    let mut route = Route::new(Format::Json);
    drop(start(&mut route, &config(&server, "path = \"p/${key}\"")));
    route.send(0, &[(None, Some("1")), (Some("a//b"), Some("2")), (Some("c"), Some("{")), (Some("d"), Some("4"))]);
    let mut classes = Vec::new();
    for _ in 0..3 {
        classes.push(route.dead_letter().await.1["anabranch.class"].clone());
    }
    assert_eq!(classes, ["destination-invalid", "destination-invalid", "decode"]);
    route.settled().await;
    assert_eq!(value(&server, "p/d").as_deref(), Some("4"));
    assert_eq!(route.committable(0), Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn destinations_of_plugins_are_topic_paths() {
    let server = server().await;
    let mut route = Route::new(Format::Json);
    drop(start(&mut route, &config(&server, "")));
    let batch = route.batch(0, &[(None, Some("1")), (None, Some("2"))]);
    let mut outputs = route.outputs(batch);
    outputs.buffers.push(Bytes::from_static(b"shop/\xc3\xa4"));
    outputs.list[0].destination = Some(Text { buffer: 0, start: 0, end: 7 });
    route.send_outputs(outputs);
    let (_, headers) = route.dead_letter().await;
    assert!(headers["anabranch.message"].contains("no destination"), "{headers:?}");
    route.settled().await;
    assert_eq!(value(&server, "shop/ä").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_abandoned_is_not_sent_and_holds_no_room() {
    let server = server().await;
    let mut route = Route::new(Format::Json);
    server.refuse_connections(Some(119));
    let running = start(&mut route, &config(&server, "path = \"p/${key}\""));
    let batches = 2 * WINDOW / 50;
    for _ in 0..batches {
        send(&mut route, 0, &[("a", "1"); 50]);
    }
    assert_eq!(route.rewind(0), 0);
    send(&mut route, 0, &[("a", "2"), ("b", "3")]);
    server.refuse_connections(None);
    route.settled().await;
    assert_eq!(server.journal().len(), 2, "only what was sent after the rewind");
    assert_eq!(route.committable(0), Some(2));
    route.close();
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
    let start = Instant::now();
    while server.connections() > 0 {
        assert!(start.elapsed() < PATIENCE, "the session is closed");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_owes_nothing_ends_though_the_server_is_away() {
    let server = server().await;
    let mut route = Route::new(Format::Json);
    let mut config = config(&server, "path = \"p/${key}\"");
    (config.retry.delay_min, config.retry.delay_max) = ("1 h".parse().unwrap(), "1 h".parse().unwrap());
    drop(server);
    let running = start(&mut route, &config);
    route.close();
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_a_topic_would_get_is_shown_without_a_server() {
    let mut route = Route::new(Format::Json);
    let text = "url = \"ws://127.0.0.1:1\"\npath = \"p/${key}\"\ntombstone = \"remove\"";
    let sink = Diffusion::new(&toml::from_str(text).unwrap(), route.surroundings.clone()).unwrap();
    let batch = route.batch(0, &[(Some("a"), Some("{\"n\": 0.1}")), (Some("b"), None), (None, Some("1")), (Some("c"), Some("{"))]);
    let outputs = route.outputs(batch);
    let shown: Vec<String> = (0..4)
        .map(|index| match sink.preview(outputs.view(index)) {
            Preview::Topic { path, value: Some(value) } => format!("{path} {}", String::from_utf8(value).unwrap()),
            Preview::Topic { path, value: None } => format!("{path} removed"),
            Preview::GivenUp(letter) => format!("{} {}", letter.class.name(), letter.code),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(shown, ["p/a {\"n\":0.1}", "p/b removed", "destination-invalid path", "decode cbor"]);
}
