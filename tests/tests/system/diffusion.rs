//! From Kafka to a Diffusion server: patterns, refusals, lost connections.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anabranch_tests::diffusion::{Diffusion, USER};
use anabranch_tests::kafka::Broker;
use anabranch_tests::router::{Ended, Place, Router};
use anabranch_tests::topic::{Record, Topic};
use serde_json::json;

use crate::setup::{self, Orders};

const PATIENCE: Duration = Duration::from_secs(180);

fn start(place: &Place, options: &[&str]) -> Router {
    place.start_with("run", options, &[("DIFFUSION_PASSWORD", USER.1)])
}

fn run_until_end(place: &Place) -> Ended {
    let ended = start(place, &["--until-end"]).end(PATIENCE);
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    ended
}

/// The table of a sink `live`, with further keys.
fn sink(server: &Diffusion, more: &str) -> String {
    format!("[sink.live.diffusion]\n{}retry = {{ delay_min = \"10 ms\", delay_max = \"500 ms\" }}\n{more}\n", server.login())
}

/// Sends `count` records for `keys` keys, each with its number among those of its key; the last number of each.
fn send(topic: &Topic, count: i64, keys: i64) -> BTreeMap<String, i64> {
    let mut last = BTreeMap::new();
    let records: Vec<Record> = (0..count)
        .map(|number| {
            let key = format!("k{}", number % keys);
            let number = *last.entry(key.clone()).and_modify(|last| *last += 1).or_insert(1);
            Record::keyed(key, format!("{{\"n\":{number}}}"))
        })
        .collect();
    topic.send(records);
    last
}

/// Every path ends with its last value, and no update of it is missing.
fn check(server: &Diffusion, last: &BTreeMap<String, i64>) {
    let mut made: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (path, bytes) in server.server().journal() {
        made.entry(path).or_default().push(anabranch_tests::diffusion::json(&bytes)["n"].as_i64().unwrap());
    }
    for (key, last) in last {
        let path = format!("shop/{key}");
        assert_eq!(server.json(&path), Some(json!({"n": last})), "{path}");
        assert_eq!(made[&path].last(), Some(last), "{path}");
        let missing: Vec<i64> = (1..=*last).filter(|number| !made[&path].contains(number)).collect();
        assert!(missing.is_empty(), "{path}: {missing:?} were never made");
    }
}

const JSON_ROUTE: &str = "value = \"json\"\nkey = \"string\"\nto = [\"live\"]";

#[test]
fn every_token_of_a_destination_pattern_becomes_part_of_the_path() {
    let server = Diffusion::start();
    let orders = Orders::new("tokens", 2);
    let own =
        "${topic}/${partition}/${offset}/${timestamp}/${key}/${value.id}/${value.status:-none}/v${value.version}/${header.trace:-none}";
    let through = |pattern: &str, more: &str| {
        format!("through = [{{ plugin = \"destination-pattern\", config = {{ pattern = \"{pattern}\"{more} }} }}]\n")
    };
    let route = |name: &str, keys: &str| {
        format!("[route.{name}]\ntopics = [\"{0}\"]\ngroup = \"{0}-{name}\"\nto = [\"live\"]\n{keys}\n", orders.topic.name)
    };
    let connector = ", compatible_with = \"diffusion-connector\"";
    let tables = [
        sink(&server, "") + "[sink.dead.file]\npath = \"dead\"\n",
        route("connector", &("value = \"avro\"\n".to_owned() + &through("con/${topic}/${key}/${value.version}/${foo}", connector))),
        route("fields", &("value = \"avro\"\nkey = \"json\"\n".to_owned() + &through("f/${key:-no}/${value.path:levels:-a/b}", ""))),
    ];
    let place = Place::new(
        &orders.config(&tables.concat(), &format!("to = [\"live\"]\ndead_letters = \"dead\"\nkey = \"string\"\n{}", through(own, ""))),
    );
    // An old record would be deleted by Kafka while it is read.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let mut first = Record { partition: Some(1), timestamp: Some(now), ..orders.record(8) };
    first.headers = vec![("trace".into(), Some(b"t/1".to_vec()))];
    let without_key = Record { key: None, partition: Some(0), ..orders.record(9) };
    orders.topic.send([first, without_key]);
    run_until_end(&place);
    // The own pattern has no text for a record without a key.
    let dead = std::fs::read_to_string(place.path("dead")).unwrap();
    assert!(dead.lines().count() == 1 && dead.contains("missing-value"), "{dead}");
    let name = &orders.topic.name;
    let expected = [
        (format!("{name}/1/0/{now}/8/8/PAID/v1/t%2F1"), 8),
        (format!("con/{name}/8/1/${{foo}}"), 8),
        (format!("con/{name}/${{key}}/${{value.version}}/${{foo}}"), 9),
        ("f/8/a/b".to_owned(), 8),
        ("f/no/a/b".to_owned(), 9),
    ];
    let paths: Vec<String> = server.server().list("", 100).into_iter().map(|(path, _)| path).collect();
    for (path, id) in &expected {
        assert_eq!(server.json(path).map(|value| value["id"].clone()), Some(json!(id)), "{path} of {paths:?}");
    }
    assert_eq!(paths.len(), expected.len(), "{paths:?}");
}

#[test]
fn a_server_that_restarts_in_mid_stream_costs_nothing() {
    for keep in [true, false] {
        let mut server = Diffusion::start();
        server.server().delay(Some(Duration::from_millis(5)));
        let topic = Broker::shared().topic("restarts", 3);
        let place = Place::new(&setup::config(&topic, &sink(&server, "path = \"shop/${key}\""), JSON_ROUTE));
        let last = send(&topic, 6_000, 40);
        let mut router = start(&place, &[]);
        router.until("some updates", PATIENCE, || (server.server().updates() > 1_000).then_some(()));
        let before = server.server().sessions();
        server.restart(Duration::from_millis(700), keep);
        router.until("a session with the new server", PATIENCE, || (server.server().sessions() > before).then_some(()));
        topic.wait_committed(&topic.name, PATIENCE);
        check(&server, &last);
        router.stop();
    }
}

#[test]
fn a_slow_server_is_waited_for_and_no_offset_is_committed_before_its_answer() {
    let server = Diffusion::start();
    server.server().delay(Some(Duration::from_millis(300)));
    let topic = Broker::shared().topic("slow", 1);
    let place = Place::new(&setup::config(&topic, &sink(&server, "path = \"shop/${key}\"\nin_flight_max = 20"), JSON_ROUTE));
    let last = send(&topic, 400, 40);
    let router = start(&place, &[]);
    let began = Instant::now();
    let mut looks = 0;
    loop {
        // In this order: what is committed was made before.
        let committed = topic.committed(&topic.name).get(&0).copied().unwrap_or(0);
        let made = server.server().updates();
        assert!(committed as u64 <= made, "{committed} committed, {made} made");
        looks += usize::from((1..400).contains(&made));
        if committed == 400 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{committed} committed, {made} made");
    }
    assert!(looks > 0, "it was over before it was looked at");
    check(&server, &last);
    router.stop();
}

#[test]
fn updates_that_were_made_and_not_answered_are_made_again_in_order() {
    let server = Diffusion::start();
    let topic = Broker::shared().topic("cut", 2);
    let more = "path = \"shop/${key}\"\nsessions = 2\nin_flight_max = 20\npath_in_flight_max = 4";
    let place = Place::new(&setup::config(&topic, &sink(&server, more), JSON_ROUTE));
    let last = send(&topic, 5_000, 30);
    // Slow enough for all cuts to happen before it is over.
    server.server().delay(Some(Duration::from_millis(20)));
    server.server().cut_in(300);
    let mut router = start(&place, &[]);
    let mut sessions = 2;
    for _ in 0..5 {
        router.until("a new session", PATIENCE, || (server.server().sessions() > sessions).then_some(()));
        sessions = server.server().sessions();
        server.server().cut_in(300);
    }
    topic.wait_committed(&topic.name, PATIENCE);
    check(&server, &last);
    assert!(server.server().updates() > 5_000, "some were made twice");
    router.stop();
}

#[test]
fn a_router_that_is_killed_leaves_every_path_with_its_last_value() {
    let server = Diffusion::start();
    server.server().delay(Some(Duration::from_millis(10)));
    let topic = Broker::shared().topic("killed", 3);
    let place = Place::new(&setup::config(&topic, &sink(&server, "path = \"shop/${key}\""), JSON_ROUTE));
    let last = send(&topic, 9_000, 50);
    for round in 1..=2 {
        let mut router = start(&place, &[]);
        let wanted = server.server().updates() + 800 * round;
        router.until("some updates", PATIENCE, || (server.server().updates() > wanted).then_some(()));
        router.kill();
    }
    server.server().delay(None);
    run_until_end(&place);
    check(&server, &last);
}

#[test]
fn a_wrong_password_stops_the_router_and_commits_nothing() {
    let server = Diffusion::start();
    let topic = Broker::shared().topic("password", 1);
    let place = Place::new(&setup::config(&topic, &sink(&server, "path = \"shop/${key}\""), JSON_ROUTE));
    send(&topic, 10, 1);
    let ended = place.start_with("run", &[], &[("DIFFUSION_PASSWORD", "wr0ng-0ne")]).end(PATIENCE);
    assert_eq!(ended.code(), Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("check the user name and the password"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("wr0ng-0ne"), "{}", ended.stderr);
    assert_eq!(topic.committed(&topic.name).get(&0).copied().unwrap_or(0), 0);
    assert_eq!(server.server().topics(), 0);
}

#[test]
fn what_is_too_large_or_denied_is_a_dead_letter_and_others_flow() {
    let server = Diffusion::start();
    server.server().refuse("shop/denied", 103, u64::MAX).unwrap();
    let topic = Broker::shared().topic("denied", 1);
    let dead = Broker::shared().topic("denied-dead", 1);
    let tables = format!("{}[sink.dead.kafka]\ntopic = \"{}\"\n", sink(&server, "path = \"shop/${key}\""), dead.name);
    let place = Place::new(&setup::config(&topic, &tables, &format!("{JSON_ROUTE}\ndead_letters = \"dead\"")));
    let large = format!("{{\"n\":1,\"text\":\"{}\"}}", "x".repeat(300_000));
    topic.send([Record::keyed("denied", "{\"n\":1}"), Record::keyed("large", large.clone()), Record::keyed("denied", "{\"n\":2}")]);
    let last = send(&topic, 500, 10);
    run_until_end(&place);
    check(&server, &last);
    let letters: Vec<_> = dead.records();
    let of = |class: &str| letters.iter().filter(|letter| letter.header("anabranch.class") == Some(class)).collect::<Vec<_>>();
    let denied = of("sink-permanent");
    assert_eq!(denied.iter().map(|letter| letter.value.clone().unwrap()).collect::<Vec<_>>(), [b"{\"n\":1}", b"{\"n\":2}"]);
    assert!(denied[0].header("anabranch.message").unwrap().contains("access denied"), "{:?}", denied[0]);
    let too_large = of("oversize");
    assert_eq!((too_large.len(), letters.len()), (1, 3));
    assert_eq!(too_large[0].value.as_deref(), Some(large.as_bytes()));
    assert!(too_large[0].header("anabranch.message").unwrap().contains("the server takes at most 262144"), "{:?}", too_large[0].headers);
}

#[test]
fn a_hundred_thousand_paths_each_get_their_value() {
    let server = Diffusion::start();
    let topic = Broker::shared().topic("many", 4);
    let place = Place::new(&setup::config(&topic, &sink(&server, "path = \"shop/${key}\""), JSON_ROUTE));
    let count = 100_000;
    topic.send((0..count).map(|number| Record::keyed(format!("p{number}"), format!("{{\"n\":{number}}}"))));
    let began = Instant::now();
    run_until_end(&place);
    eprintln!("{count} paths took {:?}", began.elapsed());
    assert_eq!(server.server().topics(), count);
    for number in 0..count {
        assert_eq!(server.json(&format!("shop/p{number}")), Some(json!({"n": number})));
    }
}
