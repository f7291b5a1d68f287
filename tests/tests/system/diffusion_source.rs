//! From a Diffusion server to Kafka: typed values, topics by pattern, lost connections, kills.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anabranch::diffusion::service::TopicType;
use anabranch_tests::diffusion::{Diffusion, USER};
use anabranch_tests::kafka::Broker;
use anabranch_tests::registry::{Registry, framed};
use anabranch_tests::router::{Place, Router};
use anabranch_tests::security::Security;
use anabranch_tests::table;
use anabranch_tests::topic::Topic;
use anabranch_tests::wait::until;
use apache_avro::types::Value as Avro;
use serde_json::{Value as Json, json};

use crate::setup::{assert_none_missing, times};

const PATIENCE: Duration = Duration::from_secs(180);

fn start(place: &Place) -> Router {
    place.start_with("run", &[], &[("DIFFUSION_PASSWORD", USER.1)])
}

/// A source with further keys, sinks, and a route with further keys.
fn config(server: &Diffusion, source: &str, sinks: &str, route: &str) -> String {
    format!(
        "[source.live.diffusion]\n{}retry = {{ delay_min = \"10 ms\", delay_max = \"500 ms\" }}\n{source}\n{sinks}\n[route.prices]\n{route}\n",
        server.login()
    )
}

fn sink(name: &str, topic: &Topic) -> String {
    format!("[sink.{name}.kafka]\nbrokers = [\"{}\"]\ntopic = \"{}\"\n", Broker::shared().plaintext(), topic.name)
}

/// The last value of each key; none: a tombstone.
fn last(topic: &Topic) -> BTreeMap<String, Option<Json>> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let records = topic.records().into_iter();
    records.map(|record| (text(record.key.unwrap()), record.value.map(|value| serde_json::from_slice(&value).unwrap()))).collect()
}

fn wait_last(router: &mut Router, topic: &Topic, what: &str, expected: &BTreeMap<String, Option<Json>>) {
    let mut found = BTreeMap::new();
    router.until(what, PATIENCE, || {
        found = last(topic);
        (found == *expected).then_some(())
    });
}

const ROUTE: &str = "topics = [\"?prices//\"]\nvalue = \"json\"\nto = [\"all\"]";

#[test]
fn values_of_every_type_changes_and_removals_become_records() {
    let server = Diffusion::start();
    let topic = Broker::shared().topic("from-diffusion", 3);
    let place = Place::new(&config(&server, "removed = \"tombstone\"", &sink("all", &topic), ROUTE));
    server.set("prices/a", &json!({"bid": 1.5, "name": "long enough for a delta"}));
    server.set("elsewhere", &json!(1));
    let mut router = start(&place);
    let mut expected = BTreeMap::from([("prices/a".to_owned(), Some(json!({"bid": 1.5, "name": "long enough for a delta"})))]);
    wait_last(&mut router, &topic, "the first value", &expected);
    for bid in 2..=20 {
        server.set("prices/a", &json!({"bid": bid, "name": "long enough for a delta"}));
    }
    expected.insert("prices/a".into(), Some(json!({"bid": 20, "name": "long enough for a delta"})));
    let kinds: [(&str, TopicType, &[u8], Json); 5] = [
        ("prices/text", TopicType::STRING, b"\x65K\xc3\xb6ln", json!("Köln")),
        ("prices/int", TopicType::INT64, b"\x1b\x7f\xff\xff\xff\xff\xff\xff\xff", json!(i64::MAX)),
        ("prices/double", TopicType::DOUBLE, b"\xfb\x3f\xb9\x99\x99\x99\x99\x99\x9a", json!(0.1)),
        ("prices/binary", TopicType::BINARY, b"\x00\xff", json!("AP8=")),
        ("prices/null", TopicType::JSON, b"\xf6", Json::Null),
    ];
    for (path, kind, bytes, value) in kinds {
        server.set_of(path, kind, bytes);
        expected.insert(path.into(), Some(value));
    }
    wait_last(&mut router, &topic, "every type", &expected);
    let bids: Vec<Json> = topic
        .records()
        .iter()
        .filter(|record| record.key.as_deref() == Some(b"prices/a"))
        .map(|record| serde_json::from_slice::<Json>(record.value.as_ref().unwrap()).unwrap()["bid"].clone())
        .collect();
    assert_eq!(bids.len(), 20, "every change, in order: {bids:?}");
    assert_eq!(bids[1..], (2..=20).map(|bid| json!(bid)).collect::<Vec<_>>());
    server.server().remove(">prices/a").unwrap();
    expected.insert("prices/a".into(), None);
    wait_last(&mut router, &topic, "the removal", &expected);
    router.stop();
}

#[test]
fn both_directions_go_over_tls_with_a_certificate_of_the_client_and_come_back_after_a_cut() {
    let (server, security) = (Diffusion::start(), Security::new());
    let keys = server.encrypt(&security) + "retry = { delay_min = \"10 ms\", delay_max = \"500 ms\" }\n";
    let (topic, broker) = (Broker::shared().topic("over-tls", 1), Broker::shared().plaintext());
    let place = Place::new(&format!(
        "[source.live.diffusion]\n{keys}\n[source.log.kafka]\nbrokers = [\"{broker}\"]\n{}\n\
         [sink.copy.diffusion]\n{keys}path = \"copy/${{key}}\"\n\n\
         [route.out]\nfrom = \"live\"\n{ROUTE}\n\n\
         [route.back]\nfrom = \"log\"\ntopics = [\"{name}\"]\ngroup = \"{name}\"\nkey = \"string\"\nvalue = \"json\"\nto = [\"copy\"]\n",
        sink("all", &topic),
        name = topic.name
    ));
    server.set("prices/a", &json!({"bid": 1}));
    let mut router = start(&place);
    router.until("the first copy", PATIENCE, || (server.json("copy/prices/a") == Some(json!({"bid": 1}))).then_some(()));
    let sessions = server.server().sessions();
    server.server().cut();
    server.set("prices/a", &json!({"bid": 2}));
    router.until("the second copy", PATIENCE, || (server.json("copy/prices/a") == Some(json!({"bid": 2}))).then_some(()));
    assert!(server.server().sessions() >= sessions + 2, "both came back");
    router.stop();
}

#[test]
fn typed_values_become_registered_avro() {
    let (server, registry) = (Diffusion::start(), Registry::shared());
    let topic = Broker::shared().topic("avro-from-diffusion", 1);
    let sinks =
        format!("[registry.main]\nurl = \"{}\"\n{}value = \"avro\"\nschema = \"price.avsc\"\n", registry.url(), sink("all", &topic));
    let place = Place::new(&config(&server, "", &sinks, ROUTE));
    let schema = r#"["double", {"type":"record","name":"Price","fields":[{"name":"bid","type":"double"},{"name":"size","type":"long"}]}]"#;
    std::fs::write(place.path("price.avsc"), schema).unwrap();
    server.set("prices/a", &json!({"bid": 1.5, "size": 9_007_199_254_740_993_i64}));
    server.set_of("prices/b", TopicType::DOUBLE, b"\xfb\x3f\xb9\x99\x99\x99\x99\x99\x9a");
    let mut router = start(&place);
    router.until("both records", PATIENCE, || (topic.records().len() == 2).then_some(()));
    let values = topic.records().into_iter().map(|record| (record.key.unwrap(), record.value.unwrap())).collect::<BTreeMap<_, _>>();
    let (id, text) = registry.latest(&format!("{}-value", topic.name)).expect("it is registered");
    let schema = apache_avro::Schema::parse_str(&text).unwrap();
    let read = |path: &str| {
        let bytes = &values[path.as_bytes()];
        assert_eq!(bytes[..5], framed(id, &[])[..]);
        apache_avro::from_avro_datum(&schema, &mut &bytes[5..], None).unwrap()
    };
    let price = vec![("bid".to_owned(), Avro::Double(1.5)), ("size".to_owned(), Avro::Long(9_007_199_254_740_993))];
    assert_eq!(read("prices/a"), Avro::Union(1, Avro::Record(price).into()));
    assert_eq!(read("prices/b"), Avro::Union(0, Avro::Double(0.1).into()));
    router.stop();
}

#[test]
fn paths_choose_topics_and_what_is_no_name_is_a_dead_letter() {
    let server = Diffusion::start();
    let dead = Broker::shared().topic("slashes-dead", 1);
    let eur = Broker::shared().topic("prices_eur", 1);
    let eur_path = eur.name.replacen("prices_eur", "prices/eur", 1);
    let sinks =
        format!("[sink.each.kafka]\nbrokers = [\"{}\"]\nreplace = \"slashes\"\n{}", Broker::shared().plaintext(), sink("dead", &dead));
    let route = "topics = [\"?prices//\"]\nvalue = \"json\"\nto = [\"each\"]\ndead_letters = \"dead\"\n\
        through = [{ plugin = \"destination-pattern\", config = { pattern = \"${key}\", escape = \"keep\" } }]";
    let place = Place::new(&config(&server, "", &sinks, route));
    server.set(&eur_path, &json!({"bid": 1}));
    server.set("prices/ä", &json!({"bid": 2}));
    let mut router = start(&place);
    router.until("the record", PATIENCE, || (eur.records().len() == 1).then_some(()));
    assert_eq!(eur.records()[0].key.as_deref(), Some(eur_path.as_bytes()));
    let letter = router.until("the dead letter", PATIENCE, || dead.records().into_iter().next());
    assert_eq!(letter.header("anabranch.class"), Some("destination-invalid"));
    assert_eq!((letter.key.as_deref(), letter.header("anabranch.topic")), (Some("prices/ä".as_bytes()), Some("live")));
    router.stop();
}

#[test]
fn after_restarts_of_the_server_and_kills_of_the_router_every_last_value_is_there() {
    let mut server = Diffusion::start();
    let topic = Broker::shared().topic("unlucky", 2);
    let place = Place::new(&config(&server, "", &sink("all", &topic), ROUTE));
    let mut expected = BTreeMap::new();
    let mut set = |server: &Diffusion, round: i64| {
        for number in 0..500 {
            let value = json!({"n": number, "round": round});
            server.set(&format!("prices/{number}"), &value);
            expected.insert(format!("prices/{number}"), Some(value));
        }
        expected.clone()
    };
    set(&server, 0);
    let mut router = start(&place);
    router.until("some records", PATIENCE, || (topic.ends().values().sum::<i64>() > 100).then_some(()));
    server.restart(Duration::from_millis(300), true);
    let now = set(&server, 1);
    wait_last(&mut router, &topic, "the values after the restart", &now);
    set(&server, 2);
    router.kill();
    set(&server, 3);
    let mut router = start(&place);
    router.until("a session", PATIENCE, || (server.server().connections() == 1).then_some(()));
    server.server().cut();
    let now = set(&server, 4);
    wait_last(&mut router, &topic, "the values after the kill", &now);
    router.stop();
}

#[test]
fn a_hundred_thousand_paths_reach_kafka() {
    let server = Diffusion::start();
    let topic = Broker::shared().topic("many-paths", 4);
    let place = Place::new(&config(&server, "", &sink("all", &topic), ROUTE));
    let count = 100_000;
    for number in 0..count {
        server.set(&format!("prices/{number}"), &json!({"n": number}));
    }
    let began = Instant::now();
    let mut router = start(&place);
    router.until("as many records as paths", PATIENCE, || (topic.ends().values().sum::<i64>() >= count).then_some(()));
    eprintln!("{count} paths took {:?}", began.elapsed());
    let found = last(&topic);
    assert_eq!(found.len() as i64, count);
    for number in 0..count {
        assert_eq!(found[&format!("prices/{number}")], Some(json!({"n": number})));
    }
    router.stop();
}

#[test]
fn a_broker_that_is_away_holds_the_server_back_and_loses_nothing() {
    let mut broker = Broker::start();
    let topic = broker.topic("away", 1);
    let server = Diffusion::start();
    let sinks = format!("[sink.all.kafka]\nbrokers = [\"{}\"]\ntopic = \"{}\"\n", broker.plaintext(), topic.name);
    let place = Place::new(&config(&server, "", &sinks, &format!("{ROUTE}\nin_flight_max = \"1 MiB\"")));
    server.set("prices/first", &json!(1));
    let mut router = start(&place);
    router.until("the first record", PATIENCE, || (topic.records().len() == 1).then_some(()));
    broker.kill();
    let (count, text) = (3_000, "x".repeat(5_000));
    for number in 0..count {
        server.set(&format!("prices/{number}"), &json!({"n": number, "text": text}));
    }
    let memory = |router: &Router| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", router.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    router.wait_log("unavailable, waiting", PATIENCE);
    let before = memory(&router);
    for _ in 0..3 {
        for number in 0..count {
            server.set(&format!("prices/{number}"), &json!({"n": number + 1, "text": text}));
            server.set(&format!("prices/{number}"), &json!({"n": number, "text": text}));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let grown = memory(&router).saturating_sub(before);
    assert!(grown < 60_000, "{grown} KB more while nothing is taken");
    broker.restart();
    until("every value", PATIENCE, || (topic.ends()[&0] > count).then_some(()));
    router.until("the last values", PATIENCE, || {
        let found = last(&topic);
        let is_last = |number: i64| found.get(&format!("prices/{number}")).is_some_and(|value| value.as_ref().unwrap()["n"] == number);
        (0..count).all(is_last).then_some(())
    });
    router.stop();
}

#[test]
fn what_cannot_work_ends_at_once_and_says_why() {
    let server = Diffusion::start();
    let topic = Broker::shared().topic("refused-source", 1);
    let text = config(&server, "", &sink("all", &topic), ROUTE);
    let place = Place::new(&text);
    let variables = |password: &'static str| [("DIFFUSION_PASSWORD", password)];
    let says = |command: &str, options: &[&str], password: &'static str, code: i32, what: &str| {
        let ended = place.start_with(command, options, &variables(password)).end(PATIENCE);
        assert_eq!(ended.code(), Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(what), "{}", ended.stderr);
        assert!(!ended.stderr.contains(password), "{}", ended.stderr);
    };
    says("run", &[], "wr0ng-0ne", 3, "check the user name and the password");
    says("check", &["--connect"], "wr0ng-0ne", 3, "check the user name and the password");
    says("run", &["--until-end"], USER.1, 2, "run it without --until-end");
    says("try", &["--from", "earliest"], USER.1, 2, "have no past");
    says("try", &[], "wr0ng-0ne", 3, "check the user name and the password");
    server.set("prices/a", &json!({"bid": 1.5}));
    server.set("prices/b", &Json::Null);
    let tried = place.start_with("try", &["--records", "2"], &variables(USER.1)).end(PATIENCE);
    assert_eq!(tried.code(), Some(0), "{}", tried.stderr);
    for what in ["key      prices/a", "value    {\"bid\":1.5}", "key      prices/b", "value    null", "2 records tried: 2 to all"] {
        assert!(tried.stdout.contains(what), "{what}:\n{}", tried.stdout);
    }
    assert_eq!(topic.ends()[&0], 0, "nothing was written");
    let checked = place.start_with("check", &["--connect"], &variables(USER.1)).end(PATIENCE);
    assert_eq!(checked.code(), Some(0), "{}", checked.stderr);
    place.configure(&text.replace("?prices//", "?prices("));
    says("run", &[], USER.1, 2, "correct `topics`");
    says("check", &["--connect"], USER.1, 3, "\"?prices(\"");
}

#[test]
fn a_table_has_every_last_value_at_least_once_and_waits_for_no_age_when_the_budget_is_spent() {
    let server = Diffusion::start();
    let sinks = "[sink.lake.delta]\nuri = \"table\"\nbatch = { age_max = \"1 h\" }\n\
        columns = [{ name = \"n\", type = \"long\" }, { name = \"text\", type = \"string\" }]\n";
    let route = "topics = [\"?prices//\"]\nvalue = \"json\"\nto = [\"lake\"]\nin_flight_max = \"1 MiB\"";
    let place = Place::new(&config(&server, "", sinks, route));
    let (count, text) = (1_000, "x".repeat(2_000));
    for number in 0..count {
        server.set(&format!("prices/{number}"), &json!({"n": number, "text": text}));
    }
    let mut router = start(&place);
    let rows = || {
        if place.path("table").join("_delta_log/00000000000000000000.json").exists() {
            table::longs(&place.path("table"), "n")
        } else {
            Vec::new()
        }
    };
    router.until("some rows", PATIENCE, || (!rows().is_empty()).then_some(()));
    router.kill();
    place.configure(&std::fs::read_to_string(place.config()).unwrap().replace("\"1 h\"", "\"200 ms\""));
    let mut router = start(&place);
    router.until("all rows", PATIENCE, || (times(rows()).len() as i64 == count).then_some(()));
    router.stop();
    let times = times(rows());
    assert_none_missing("the table", &times, count);
    assert!(times.values().any(|times| *times > 1), "the second start brought the first values again");
}
