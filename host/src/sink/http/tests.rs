//! The sink against a real server: order, retries, refusals, keys.

mod server;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use self::server::{Server, answer};
use super::{Config, Http};
use crate::batch::{Entries, Headers};
use crate::output::{Cell, Output, SinkSet, Text};
use crate::sink::fixture::Route;
use crate::value::Format;

fn config(server: &Server, path: &str, more: &str) -> Config {
    let (more, retry) = more.split_once("[retry]").unwrap_or((more, ""));
    toml::from_str(&format!("url = {:?}\n{more}\n[retry]\ndelay_min = \"1 ms\"\ndelay_max = \"20 ms\"\n{retry}", server.url(path))).unwrap()
}

fn start(route: &mut Route, config: &Config) {
    let sink = Http::new(config, route.surroundings.clone()).unwrap();
    // The task ends with the route's inbox; tests that care for its end close it.
    drop(route.start(sink));
}

fn record(key: &str, number: usize) -> String {
    format!("{{\"key\":\"{key}\",\"n\":{number}}}")
}

/// Numbers of the records in a body, which is one record or an array.
fn numbers(seen: &server::Seen) -> Vec<u64> {
    let json = seen.json();
    let list = json.as_array().cloned().unwrap_or_else(|| vec![json]);
    list.iter().map(|record| record["n"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_keeps_its_order_under_64_in_flight_with_random_delays() {
    let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let most = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let server = Server::start({
        let (running, most) = (running.clone(), most.clone());
        move |number, _| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                use std::sync::atomic::Ordering::SeqCst;
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                tokio::time::sleep(Duration::from_millis(fastrand::u64(0..8))).await;
                running.fetch_sub(1, SeqCst);
                // Retries must not reorder either.
                answer(if number % 17 == 3 { 503 } else { 200 }, "")
            }
        }
    });
    for more in ["", "batch = { form = \"array\", records_max = 7, linger = \"1 ms\" }"] {
        let mut route = Route::new(Format::Json);
        start(&mut route, &config(&server, "/in", more));
        let before = server.count();
        let mut sent: BTreeMap<String, usize> = BTreeMap::new();
        for partition in 0..2 {
            for _ in 0..20 {
                let records: Vec<(String, String)> = (0..50)
                    .map(|_| {
                        let key = format!("{partition}-{}", fastrand::u8(0..60));
                        let number = sent.entry(key.clone()).or_default();
                        *number += 1;
                        (key.clone(), record(&key, *number))
                    })
                    .collect();
                let records: Vec<_> = records.iter().map(|(key, value)| (Some(&**key), Some(&**value))).collect();
                route.send(partition, &records);
            }
        }
        route.settled().await;
        let mut arrived: BTreeMap<String, usize> = BTreeMap::new();
        for seen in &server.seen()[before..] {
            let json = seen.json();
            for record in json.as_array().cloned().unwrap_or_else(|| vec![json]) {
                let key = record["key"].as_str().unwrap().to_owned();
                let number = record["n"].as_u64().unwrap() as usize;
                let last = arrived.entry(key).or_default();
                assert!(number <= *last + 1, "{record} overtook {last}");
                *last = number.max(*last);
            }
        }
        assert_eq!(arrived, sent);
    }
    let most = most.load(std::sync::atomic::Ordering::SeqCst);
    assert!(most > 16 && most <= 64, "{most} at once");
    // Two sinks made about 2,000 requests; a few more connections than requests in flight come from races with idle ones.
    assert!(server.connections() <= 2 * 2 * 64, "{} connections", server.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_slow_key_does_not_stop_the_others_and_holds_the_commit() {
    let gate = Arc::new(Semaphore::new(0));
    let server = Server::start({
        let gate = gate.clone();
        move |_, seen| {
            let gate = gate.clone();
            async move {
                if seen.body.contains("slow") {
                    let _ = gate.acquire().await;
                }
                answer(200, "")
            }
        }
    });
    let mut route = Route::new(Format::Json);
    start(&mut route, &config(&server, "/in", ""));
    let fast: Vec<String> = (0..200).map(|number| record("fast", number)).collect();
    route.send(0, &[(Some("slow"), Some(&record("slow", 0))), (Some("slow"), Some(&record("slow", 1)))]);
    for value in &fast {
        route.send(0, &[(Some(value), Some(value))]);
    }
    route.until("all fast records arrived", || server.count() == 201).await;
    assert_eq!(route.committable(0), None, "the first offset is still owed");
    gate.add_permits(2);
    route.settled().await;
    assert_eq!(route.committable(0), Some(202));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_names_a_time_is_left_alone_until_then() {
    let server = Server::start(|number, _| async move {
        let mut response = answer(if number < 8 { 429 } else { 200 }, "slow down");
        response.headers_mut().insert("retry-after", "1".parse().unwrap());
        response
    });
    let mut route = Route::new(Format::Json);
    start(&mut route, &config(&server, "/in", "in_flight_max = 8\norder = \"none\""));
    let values: Vec<String> = (0..300).map(|number| record("k", number)).collect();
    let records: Vec<_> = values.iter().map(|value| (None, Some(&**value))).collect();
    route.send(0, &records);
    route.settled().await;
    let seen = server.seen();
    assert_eq!(seen.len(), 308, "every record once more for each refusal, and none beyond");
    let quiet = seen[8].at - seen[7].at;
    assert!(quiet >= Duration::from_millis(990), "asked again after {quiet:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missing_after_cut_connections_and_a_host_that_was_away() {
    let mut server = Server::start(|_, _| async { answer(200, "") });
    server.cut_next(20);
    let mut route = Route::new(Format::Json);
    start(&mut route, &config(&server, "/in", "in_flight_max = 8"));
    let send = |route: &mut Route, range: std::ops::Range<usize>| {
        for number in range {
            let key = format!("k{}", number % 40);
            route.send(0, &[(Some(&key), Some(&record(&key, number)))]);
        }
    };
    send(&mut route, 0..300);
    route.settled().await;
    assert_eq!(server.cuts_left(), 0);
    server.kill();
    send(&mut route, 300..600);
    route.until("the sink says that it waits", || !route.metrics.all().not_ready().is_empty()).await;
    assert!(!route.acks.is_idle());
    server.restart();
    route.settled().await;
    assert!(route.metrics.all().not_ready().is_empty(), "up again");
    assert_eq!(route.committable(0), Some(600));
    let arrived: HashSet<u64> = server.seen().iter().flat_map(numbers).collect();
    assert_eq!(arrived.len(), 600);
    assert!(route.surroundings.metrics.retries.get() > 0);
    assert_eq!(route.surroundings.metrics.outputs.get(), 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_split_and_a_record_that_is_too_large_is_given_up() {
    let server = Server::start(|_, seen| async move { answer(if seen.body.len() > 100 { 413 } else { 200 }, "") });
    let mut route = Route::new(Format::Json);
    start(&mut route, &config(&server, "/in", "batch = { form = \"array\", records_max = 32, linger = \"1 ms\" }"));
    let large = format!("{{\"n\":99,\"text\":\"{}\"}}", "x".repeat(200));
    let values: Vec<String> = (0..31).map(|number| record("k", number)).chain([large.clone()]).collect();
    let records: Vec<_> = values.iter().map(|value| (Some("k"), Some(&**value))).collect();
    route.send(0, &records);
    let (value, headers) = route.dead_letter().await;
    assert_eq!(value, Some(large), "the original bytes");
    assert_eq!((&*headers["anabranch.class"], &*headers["anabranch.by"]), ("oversize", "out"));
    route.settled().await;
    let taken = server.seen().into_iter().filter(|seen| seen.body.len() <= 100);
    assert_eq!(taken.flat_map(|seen| numbers(&seen)).collect::<Vec<_>>(), (0..31).collect::<Vec<_>>(), "once each, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_costs_only_the_record_that_is_at_fault() {
    let server = Server::start(|_, seen| async move {
        if seen.body.contains("\"n\":13}") { answer(422, "n must not be 13\n\u{1b}[31m") } else { answer(200, "") }
    });
    let mut route = Route::new(Format::Json);
    start(&mut route, &config(&server, "/in", "batch = { form = \"lines\", records_max = 50, linger = \"1 ms\" }"));
    let values: Vec<String> = (0..50).map(|number| record("k", number)).collect();
    let records: Vec<_> = values.iter().map(|value| (None, Some(&**value))).collect();
    route.send(0, &records);
    route.until("the other records were taken", || route.surroundings.metrics.outputs.get() == 49).await;
    assert_eq!(route.committable(0), None, "the dead letter is owed");
    let (value, headers) = route.dead_letter().await;
    assert_eq!(value.as_deref(), Some("{\"key\":\"k\",\"n\":13}"));
    assert_eq!((&*headers["anabranch.class"], &*headers["anabranch.code"]), ("sink-permanent", "422"));
    let message = &headers["anabranch.message"];
    assert_eq!(message, "the host answered 422 Unprocessable Entity: n must not be 13  [31m");
    route.settled().await;
    assert_eq!(route.committable(0), Some(50));
    let requests = server.count();
    assert!(requests <= 2 * 6 + 1, "{requests} requests to find one of 50");
    assert_eq!(server.seen()[0].header("content-type"), "application/x-ndjson");
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_one_record_have_keys_of_their_own_which_stay_when_they_are_tried_again() {
    let server = Server::start(|number, _| async move { answer(if number < 2 { 500 } else { 200 }, "") });
    let mut route = Route::new(Format::Json);
    start(&mut route, &config(&server, "/in", ""));
    let batch = route.batch(3, &[(Some("k"), Some("1")), (Some("k"), Some("2"))]);
    let mut outputs = route.outputs(batch);
    outputs.list.insert(1, Output::unchanged(0, SinkSet::first(1)));
    route.send_outputs(outputs);
    route.settled().await;
    let keys: Vec<String> = server.seen().iter().map(|seen| seen.header("idempotency-key").to_owned()).collect();
    assert_eq!(keys, ["g-out-t-3-0-0", "g-out-t-3-0-0", "g-out-t-3-0-0", "g-out-t-3-0-1", "g-out-t-3-1-0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_of_a_batch_carry_their_keys_in_a_header_or_a_field() {
    let server = Server::start(|number, _| async move { answer(if number == 0 { 503 } else { 200 }, "") });
    for (keys, header, body) in [
        ("{ header = \"Record-Keys\" }", "g-out-t-0-0-0,g-out-t-0-1-0", "[{\"a\":1},{ }]"),
        ("{ field = \"_key\" }", "", "[{\"_key\":\"g-out-t-0-0-0\",\"a\":1},{\"_key\":\"g-out-t-0-1-0\" }]"),
    ] {
        let before = server.count();
        let mut route = Route::new(Format::Json);
        start(&mut route, &config(&server, "/in", &format!("batch = {{ form = \"array\", records_max = 2, record_keys = {keys} }}")));
        route.send(0, &[(Some("k"), Some("{\"a\":1}")), (Some("k"), Some("{ }"))]);
        route.settled().await;
        let seen = server.seen().split_off(before);
        assert_eq!((seen[0].header("record-keys"), &*seen[0].body), (header, body));
        assert!(seen.iter().all(|again| again.header("idempotency-key") == seen[0].header("idempotency-key")));
        assert!(seen[0].header("idempotency-key").starts_with("g-out-batch-"));
    }
    assert_eq!(server.count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_refused_unless_they_are_wanted_and_then_keep_method_and_body() {
    let server = Server::start(|_, seen| async move {
        let mut response = answer(if seen.uri == "/old" { 307 } else { 200 }, "");
        response.headers_mut().insert("location", "/new".parse().unwrap());
        response
    });
    let mut route = Route::new(Format::Json);
    start(&mut route, &config(&server, "/old", ""));
    route.send(0, &[(None, Some("1"))]);
    let (_, headers) = route.dead_letter().await;
    assert!(headers["anabranch.message"].contains("307 Temporary Redirect: redirects are not followed"), "{headers:?}");
    assert_eq!(server.count(), 1);
    let mut route = Route::new(Format::Json);
    start(&mut route, &config(&server, "/old", "redirects = true\nmethod = \"PUT\""));
    route.send(0, &[(None, Some("2"))]);
    route.settled().await;
    let last = server.seen().pop().unwrap();
    assert_eq!((last.uri.as_str(), last.method.as_str(), last.body.as_str()), ("/new", "PUT", "2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_are_left_out_or_null_or_dead_letters() {
    let server = Server::start(|_, _| async { answer(204, "") });
    for (tombstone, bodies) in [("skip", vec!["1"]), ("null", vec!["1", "null"]), ("reject", vec!["1"])] {
        let before = server.count();
        let mut route = Route::new(Format::Json);
        start(&mut route, &config(&server, "/in", &format!("tombstone = {tombstone:?}")));
        route.send(0, &[(Some("k"), Some("1")), (Some("k"), None)]);
        if tombstone == "reject" {
            let (value, headers) = route.dead_letter().await;
            assert_eq!((value, &*headers["anabranch.code"]), (None, "tombstone"));
        }
        route.settled().await;
        assert_eq!(route.committable(0), Some(2));
        let seen: Vec<_> = server.seen().split_off(before).into_iter().map(|seen| seen.body).collect();
        assert_eq!(seen, bodies);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_come_from_the_configuration_and_by_name_from_the_record() {
    let server = Server::start(|_, _| async { answer(200, "") });
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "s3cret\n").unwrap();
    let mut route = Route::new(Format::Raw);
    let more = format!(
        "body = \"raw\"\nforward_headers = [\"Trace-Id\", \"host\"]\nidempotency_header = \"X-Key\"\n\
         headers = {{ X-Team = \"shop\", Content-Type = \"text/plain\", X-Secret = {{ file = {path:?} }} }}\n\
         auth = {{ basic = {{ username = \"me\", password = {{ file = {path:?} }} }} }}",
        path = secret.path()
    );
    start(&mut route, &config(&server, "/${destination}", &more));
    let mut batch = route.batch(0, &[(Some("k"), Some("v\u{e4}lue"))]);
    let (mut names, mut values) = (Entries::default(), Entries::default());
    for (name, value) in [("trace-id", "ä 1"), ("host", "evil"), ("other", "x")] {
        names.push(Some(name.as_bytes()));
        values.push(Some(value.as_bytes()));
    }
    batch.headers = Headers { ends: vec![3], names, values };
    let mut outputs = route.outputs(batch);
    outputs.buffers.push("eu/orders 1".into());
    outputs.list[0].destination = Some(Text { buffer: 0, start: 0, end: 11 });
    route.send_outputs(outputs);
    route.settled().await;
    let seen = server.seen().remove(0);
    assert_eq!((seen.uri.as_str(), seen.body.as_str()), ("/eu/orders%201", "v\u{e4}lue"));
    let expected = [
        ("trace-id", "%C3%A4 1"),
        ("x-team", "shop"),
        ("x-secret", "s3cret"),
        ("content-type", "text/plain"),
        ("x-key", "g-out-t-0-0-0"),
        ("other", ""),
        ("authorization", "Basic bWU6czNjcmV0"),
    ];
    for (name, value) in expected {
        assert_eq!(seen.header(name), value, "{name}");
    }
    assert_ne!(seen.header("host"), "evil");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_makes_no_url_is_a_dead_letter_and_its_neighbours_go_on() {
    let server = Server::start(|_, _| async { answer(200, "") });
    let mut route = Route::new(Format::Json);
    start(&mut route, &config(&server, "/${destination}", "batch = { form = \"array\", records_max = 10, linger = \"1 ms\" }"));
    let batch = route.batch(0, &[(Some("a"), Some("1")), (Some("b"), Some("2")), (Some("c"), Some("3"))]);
    let mut outputs = route.outputs(batch);
    outputs.buffers.push("../x|x".into());
    outputs.list[0].destination = Some(Text { buffer: 0, start: 0, end: 4 });
    outputs.list[1].destination = Some(Text { buffer: 0, start: 5, end: 6 });
    outputs.list[2].destination = Some(Text { buffer: 0, start: 5, end: 6 });
    outputs.list[2].value = Cell::Null;
    route.send_outputs(outputs);
    let (value, headers) = route.dead_letter().await;
    assert_eq!((value.as_deref(), &*headers["anabranch.class"]), (Some("1"), "destination-invalid"));
    route.settled().await;
    let seen: Vec<_> = server.seen().into_iter().map(|seen| (seen.uri, seen.body)).collect();
    assert_eq!(seen, [("/x".to_owned(), "[2]".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_abandoned_is_not_tried_again_and_its_repetition_waits_for_what_is_in_flight() {
    let gate = Arc::new(Semaphore::new(0));
    let server = Server::start({
        let gate = gate.clone();
        move |number, _| {
            let gate = gate.clone();
            async move {
                if number == 0 {
                    let _ = gate.acquire().await;
                    return answer(503, "");
                }
                answer(200, "")
            }
        }
    });
    let mut route = Route::new(Format::Json);
    start(&mut route, &config(&server, "/in", ""));
    route.send(0, &[(Some("k"), Some("1")), (Some("k"), Some("2"))]);
    route.until("the first request is in flight", || server.count() == 1).await;
    assert_eq!(route.rewind(0), 0);
    route.send(0, &[(Some("k"), Some("1")), (Some("k"), Some("2"))]);
    route.send(0, &[(Some("other"), Some("3"))]);
    route.until("the other key passed", || server.count() == 2).await;
    gate.add_permits(1);
    route.settled().await;
    let bodies: Vec<_> = server.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, ["1", "3", "1", "2"]);
    assert_eq!(route.committable(0), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_waits_goes_at_once_when_it_is_urgent_and_at_the_end() {
    let server = Server::start(|_, _| async { answer(200, "") });
    let mut route = Route::new(Format::Json);
    let config = config(&server, "/in", "batch = { form = \"array\", linger = \"1 h\" }");
    let sink = Http::new(&config, route.surroundings.clone()).unwrap();
    let task = route.start(sink);
    route.send(0, &[(Some("k"), Some("1"))]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(server.count(), 0);
    route.urgency.raise();
    route.settled().await;
    route.urgency.lower();
    route.send(0, &[(Some("k"), Some("2"))]);
    route.close();
    task.await.unwrap().unwrap();
    assert!(route.acks.is_idle());
    assert_eq!(server.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn bounded_retries_end_in_a_dead_letter() {
    let server = Server::start(|_, _| async { answer(503, "busy") });
    let mut route = Route::new(Format::Json);
    start(&mut route, &config(&server, "/in", "[retry]\nattempts_max = 3"));
    route.send(0, &[(Some("k"), Some("1"))]);
    let (_, headers) = route.dead_letter().await;
    assert_eq!(headers["anabranch.class"], "sink-retry-exhausted");
    assert_eq!(headers["anabranch.message"], "tried 3 times, the last time: the host answered 503 Service Unavailable: busy");
    assert_eq!(server.count(), 3);
}

#[test]
fn what_makes_no_sense_is_a_fault_with_its_remedy() {
    let parse = |more: &str| toml::from_str::<Config>(&format!("url = \"http://h/\"\n{more}"));
    for (more, key) in [
        ("forward_headers = [\"*\"]\nbatch = { form = \"array\" }", "forward_headers"),
        ("body = \"raw\"\nbatch = { form = \"array\" }", "batch.form"),
        ("body = \"raw\"\nbatch = { form = \"lines\", record_keys = { field = \"k\" } }", "batch.record_keys"),
        ("batch = { record_keys = { field = \"k\" } }", "batch.record_keys"),
        ("retry = { delay_min = \"1 m\" }", "retry.delay_min"),
        ("idempotency_header = \"a b\"", "idempotency_header"),
        ("headers = { X = \"a\\nb\" }", "headers.X"),
    ] {
        let faults = parse(more).unwrap().check();
        assert_eq!(faults.iter().map(|fault| fault.path.join(".")).collect::<Vec<_>>(), [key], "{more}");
    }
    assert!(parse("").unwrap().check().is_empty());
    for more in ["colour = 1", "in_flight_max = 0", "timeout = 3", "auth = { bearer = \"plain\" }", "method = \"GET\""] {
        assert!(parse(more).is_err(), "{more}");
    }
}

/// Requests a second with one record a request and with batches, beside a bare loop of the same client at the same server; run it
/// with `--nocapture` to see the numbers. What it holds: the sink costs at most so much more than the loop.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_costs_little_more_than_one_of_a_bare_client() {
    const REQUESTS: usize = 20_000;
    let server = Server::start(|_, _| async { answer(200, "") });
    let body = record("key", 1_000_000) + &" ".repeat(150);
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(64).build().unwrap();
    let url: reqwest::Url = server.url("/in").parse().unwrap();
    let bare = || async {
        let start = Instant::now();
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let (client, url, body) = (client.clone(), url.clone(), bytes::Bytes::from(body.clone()));
            running.spawn(async move {
                for _ in 0..REQUESTS / 64 {
                    let response = client.post(url.clone()).body(body.clone()).send().await.unwrap();
                    response.bytes().await.unwrap();
                }
            });
        }
        running.join_all().await;
        REQUESTS as f64 / start.elapsed().as_secs_f64()
    };
    let sink = |more: &'static str, records: usize| {
        let (server, body) = (&server, &body);
        async move {
            let mut route = Route::new(Format::Json);
            start(&mut route, &config(server, "/in", more));
            let keys: Vec<String> = (0..records).map(|number| format!("key-{number}")).collect();
            let start = Instant::now();
            for keys in keys.chunks(1000) {
                let records: Vec<_> = keys.iter().map(|key| (Some(&**key), Some(&**body))).collect();
                route.send(0, &records);
            }
            route.settled().await;
            records as f64 / start.elapsed().as_secs_f64()
        }
    };
    bare().await;
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let (bare, single) = (bare().await, sink("", REQUESTS).await);
        println!("bare client {bare:.0} requests/s, sink {single:.0} requests/s");
        ratios.push(single / bare);
    }
    let batches = sink("batch = { form = \"array\", records_max = 500 }", 30 * REQUESTS).await;
    println!("batches of 500: {batches:.0} records/s");
    assert!(ratios.iter().any(|ratio| *ratio > 0.5), "{ratios:?}");
    assert!(server.connections() <= 5 * 2 * 64, "{} connections", server.connections());
}
