//! A registry that is down or hangs: nothing is lost and nothing becomes a dead letter; only an id that it surely does not have does.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_tests::avro::Avro;
use anabranch_tests::block_on;
use anabranch_tests::health::Health;
use anabranch_tests::kafka::Broker;
use anabranch_tests::process::free_port;
use anabranch_tests::receiver::Receiver;
use anabranch_tests::registry::{Registry, framed, url_at};
use anabranch_tests::router::Place;
use anabranch_tests::table;
use anabranch_tests::topic::{Record, Topic};
use anabranch_tests::wait::until_true;
use apache_avro::types::Value;
use serde_json::{Value as Json, json};

use crate::setup::{config, order, order_schema};

const MOMENT: Duration = Duration::from_secs(30);

fn place(topic: &Topic, dead: &Topic, registry: &str, receiver: &Receiver, listen: u16) -> Place {
    let tables = format!(
        "[registry.main]
url = \"{registry}\"
timeout = \"1 s\"
[sink.live.http]
url = \"{}\"
[sink.dead.kafka]
topic = \"{}\"
",
        receiver.url("/"),
        dead.name
    );
    let route = "value = \"avro\"\nto = [\"live\"]\ndead_letters = \"dead\"\nunknown_schema_wait = \"2 s\"";
    Place::new(&format!("listen = \"127.0.0.1:{listen}\"\n{}", config(topic, &tables, route)))
}

/// The schema of orders, in a registry that is not there any more. One that starts anew gives its first schema the same id.
fn registered_and_gone(port: u16) -> Avro {
    let registry = Registry::start_at(port).unwrap();
    Avro::register(&registry, "orders-value", &order_schema())
}

fn ready(listen: u16) -> Option<(u16, String)> {
    block_on(async {
        let answer = reqwest::get(format!("http://127.0.0.1:{listen}/readyz")).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    })
}

/// What was received, by id: keys differ, so nothing promises an order.
fn received(receiver: &Receiver) -> BTreeMap<i64, Json> {
    receiver.requests().iter().map(|request| request.json()).map(|json| (json["id"].as_i64().unwrap(), json)).collect()
}

#[test]
fn records_wait_for_a_registry_that_is_down_at_the_start_and_then_hangs() {
    let broker = Broker::shared();
    let (topic, dead) = (broker.topic("registry-down", 1), broker.topic("registry-down-dead", 1));
    let (registry_port, listen) = (free_port(), free_port());
    let avro = registered_and_gone(registry_port);
    let receiver = Receiver::start();
    let place = place(&topic, &dead, &url_at(registry_port), &receiver, listen);
    topic.send((0..5).map(|id| order(&avro, id)));

    // Down at the start.
    let mut router = place.run();
    let reason = router.until("readiness to name the registry", MOMENT, || {
        ready(listen).filter(|(status, text)| *status == 503 && text.contains("registry \"main\"")).map(|(_, text)| text)
    });
    assert!(reason.contains(&registry_port.to_string()), "{reason}");
    assert_eq!((receiver.count(), dead.ends()[&0]), (0, 0));
    let registry = Registry::start_at(registry_port).unwrap();
    let again = Avro::register(&registry, "orders-value", &order_schema());
    assert_eq!(again.id, avro.id, "the registry's first id");
    receiver.wait(5, MOMENT);
    router.until("readiness", MOMENT, || ready(listen).filter(|(status, _)| *status == 200));

    // Hanging: schemas that are known go on, others wait.
    let wider = json!({"type": "record", "name": "Order", "fields": [
        {"name": "id", "type": "long"}, {"name": "status", "type": "string"}, {"name": "note", "type": "string"}]});
    let other = Avro::register(&registry, "orders-value", &wider);
    registry.process().signal("STOP");
    topic.send((5..10).map(|id| order(&avro, id)));
    receiver.wait(10, MOMENT);
    let noted = Value::Record(vec![
        ("id".into(), Value::Long(10)),
        ("status".into(), Value::String("PAID".into())),
        ("note".into(), Value::String("waited".into())),
    ]);
    topic.send([Record::value(other.encode(noted))]);
    router.until("readiness to name the registry again", MOMENT, || ready(listen).filter(|(status, _)| *status == 503));
    assert_eq!((receiver.count(), dead.ends()[&0]), (10, 0));
    registry.process().signal("CONT");
    receiver.wait(11, MOMENT);
    let received = received(&receiver);
    assert_eq!((received.len(), receiver.count()), (11, 11));
    assert_eq!(received[&10]["note"], "waited");
    topic.wait_committed(&topic.name, MOMENT);
    router.stop();
    assert_eq!(dead.ends()[&0], 0);
}

#[test]
fn a_router_that_stops_does_not_wait_for_a_registry_that_is_down() {
    let broker = Broker::shared();
    let (topic, dead) = (broker.topic("registry-stop", 1), broker.topic("registry-stop-dead", 1));
    let (registry_port, listen) = (free_port(), free_port());
    let avro = registered_and_gone(registry_port);
    let receiver = Receiver::start();
    let place = place(&topic, &dead, &url_at(registry_port), &receiver, listen);
    topic.send((0..5).map(|id| order(&avro, id)));
    let mut router = place.run();
    router.until("records to wait for the registry", MOMENT, || ready(listen).filter(|(status, _)| *status == 503));
    // Its partitions are another's to read as long as it waits: half a minute, where it waited for sinks.
    let began = std::time::Instant::now();
    router.stop();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let registry = Registry::start_at(registry_port).unwrap();
    Avro::register(&registry, "orders-value", &order_schema());
    place.run_until_end();
    assert_eq!(received(&receiver).into_keys().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(dead.ends()[&0], 0);
}

#[test]
fn an_id_that_the_registry_does_not_have_is_a_dead_letter_after_the_wait() {
    let broker = Broker::shared();
    let (topic, dead) = (broker.topic("unknown-id", 1), broker.topic("unknown-id-dead", 1));
    let registry = Registry::shared();
    let avro = Avro::register(registry, &format!("{}-value", topic.name), &order_schema());
    let receiver = Receiver::start();
    let listen = free_port();
    let place = place(&topic, &dead, &registry.url(), &receiver, listen);
    let unknown = 7_654_321;
    topic.send([order(&avro, 0), Record::value(framed(unknown, b"\x02")), order(&avro, 1)]);

    let started = std::time::Instant::now();
    let router = place.run();
    let letters = dead.wait_records(1, MOMENT);
    assert!(started.elapsed() >= Duration::from_secs(2), "given up before the wait was over");
    assert_eq!((letters[0].header("anabranch.class"), letters[0].header("anabranch.offset")), (Some("schema"), Some("1")));
    assert!(letters[0].header("anabranch.message").unwrap().contains(&unknown.to_string()));
    assert_eq!(letters[0].value.as_deref(), Some(framed(unknown, b"\x02").as_slice()));
    until_true("the others", MOMENT, || receiver.count() == 2);
    topic.wait_committed(&topic.name, MOMENT);
    router.stop();
    assert_eq!(received(&receiver).into_keys().collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_record_whose_dead_letter_is_not_durable_is_a_row_if_it_can_be_one_after_a_crash() {
    let registry = Registry::start();
    let avro = Avro::register(&registry, "orders-value", &order_schema());
    let topic = Broker::shared().topic("early-id", 1);
    let mut early = order(&avro, 1);
    // The id that the registry gives next.
    early.value.as_mut().unwrap()[1..5].copy_from_slice(&(avro.id + 1).to_be_bytes());
    topic.send([order(&avro, 0), early, order(&avro, 2)]);
    let sinks = format!(
        "[registry.main]\nurl = \"{}\"\n[sink.lake.delta]\nuri = \"lake\"\nbatch = {{ rows_max = 1 }}\n
[sink.dead.kafka]\nbrokers = [\"127.0.0.1:{}\"]\ntopic = \"dead\"\n",
        registry.url(),
        free_port()
    );
    let health = Health::new();
    let route = "value = \"avro\"\nto = [\"lake\"]\ndead_letters = \"dead\"\nunknown_schema_wait = \"1 s\"";
    let place = Place::new(&format!("{}{}", health.line(), config(&topic, &sinks, route)));

    let mut router = place.run();
    router.until("a dead letter that cannot be written", MOMENT, || {
        health.metric("anabranch_dead_letters_total{route=\"orders\",class=\"schema\"}").filter(|count| *count == 1.0)
    });
    // Many times as long as a table commit takes.
    std::thread::sleep(Duration::from_secs(2));
    router.kill();
    let mut schema = order_schema();
    schema["doc"] = json!("registered late");
    assert_eq!(Avro::register(&registry, "late-value", &schema).id, avro.id + 1);
    place.run_until_end();
    let mut ids = table::longs(&place.path("lake"), "id");
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2], "the first run must not have covered it");
}
