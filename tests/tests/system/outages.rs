//! Brokers that die and come back, and routers that die between two places: nothing is lost, the table has every record once, and
//! each change of state is told once.

use std::collections::BTreeSet;
use std::time::Duration;

use anabranch_tests::health::Health;
use anabranch_tests::kafka::Broker;
use anabranch_tests::receiver::{Answer, Receiver};
use anabranch_tests::router::{END_MAX, Place};
use anabranch_tests::table;
use anabranch_tests::topic::{Record, Topic};

use crate::setup::{Orders, assert_none_missing, assert_none_twice, config, config_at, plain, received, times};

const MOMENT: Duration = Duration::from_secs(60);
/// Enough for a mistake to show: several commit intervals, and several tries of a sink.
const A_WHILE: Duration = Duration::from_secs(2);

/// A table of orders without a schema, written often.
const LAKE: &str = "[sink.lake.delta]
uri = \"table\"
columns = [{ name = \"id\", type = \"long\" }]
batch = { age_max = \"100 ms\" }
";

#[test]
fn a_broker_that_dies_in_mid_stream_is_waited_for_with_one_line_for_each_change() {
    const RECORDS: i64 = 20_000;
    let mut broker = Broker::start();
    let (topic, dead) = (broker.topic("restarted", 3), broker.topic("restarted-dead", 1));
    // Slow, and with little memory: most is not read yet when the broker dies.
    let receiver = Receiver::answering(|_| Answer::status(200).after(Duration::from_millis(20)));
    let health = Health::new();
    let tables = format!(
        "{LAKE}[sink.live.http]\nurl = \"{}\"\nbatch = {{ form = \"lines\", records_max = 50 }}\nin_flight_max = 4\n\
         [sink.dead.kafka]\ntopic = \"{}\"\n",
        receiver.url("/"),
        dead.name
    );
    let route = "value = \"json\"\nto = [\"lake\", \"live\"]\ndead_letters = \"dead\"\nin_flight_max = \"64 KiB\"\nbatch = { bytes_max = \"16 KiB\" }";
    let config = config_at(&broker.plaintext(), &topic, &tables, route);
    // The outage is shorter than the session.
    let place = Place::new(&(health.line() + &config.replace("session_timeout = \"6 s\"", "session_timeout = \"60 s\"")));
    // The first record is none, so that the sink of the dead letters is connected too.
    topic.send([Record::keyed("bad", "not JSON")]);
    topic.send((0..RECORDS).map(plain));

    let mut router = place.run();
    router.until("dead letters", MOMENT, || (dead.ends()[&0] == 2).then_some(()));
    router.until("requests", MOMENT, || (receiver.count() > 20).then_some(()));
    broker.kill();
    let source = "source \"shop\" of route \"orders\"";
    let reason = router.until("readiness to name the source", MOMENT, || health.waits_for(source));
    assert!(reason.contains(&broker.plaintext()), "{reason}");
    assert!((times(received(&receiver)).len() as i64) < RECORDS, "everything was read before the broker died");
    // Clients try again many times meanwhile, and have nothing new to say.
    std::thread::sleep(Duration::from_secs(5));
    broker.restart();
    router.until("readiness", MOMENT, || health.is_ready().then_some(()));
    topic.wait_committed(&topic.name, MOMENT);

    for part in [source, "sink \"dead\" of route \"orders\""] {
        let told = ["unavailable, waiting", "up again"].map(|what| router.lines_with(&[part, what]).len());
        assert_eq!(told, [1, 1], "{part}: {}", router.log());
    }
    let ended = router.stop();
    assert!(!ended.stderr.contains("rewind "), "{}", ended.stderr);
    let refused = ended.stderr.lines().filter(|line| line.contains("commit refused")).count();
    assert!(refused < 3, "{refused} times told that commits are refused: {}", ended.stderr);
    for (place, ids) in [("the table", table::longs(&place.path("table"), "id")), ("HTTP", received(&receiver))] {
        let times = times(ids);
        assert_none_missing(place, &times, RECORDS);
        assert_none_twice(place, &times);
    }
    // One of each sink that could not take it.
    let letters = dead.records();
    let by: BTreeSet<_> = letters.iter().map(|letter| letter.header("anabranch.by").unwrap()).collect();
    assert_eq!((letters.len(), by), (2, BTreeSet::from(["lake", "live"])));
}

/// A route from `topic` to `receiver` whose dead letters go to another broker.
fn letters_elsewhere(topic: &Topic, dead: &Topic, elsewhere: &Broker, receiver: &Receiver, health: &Health) -> Place {
    let tables = format!(
        "[sink.live.http]\nurl = \"{}\"\n[sink.dead.kafka]\nbrokers = [\"{}\"]\ntopic = \"{}\"\n",
        receiver.url("/"),
        elsewhere.plaintext(),
        dead.name
    );
    let route = "value = \"json\"\nto = [\"live\"]\ndead_letters = \"dead\"";
    Place::new(&(health.line() + &config(topic, &tables, route)))
}

#[test]
fn an_offset_waits_for_a_dead_letter_whose_broker_is_down() {
    let mut elsewhere = Broker::start();
    let (topic, dead) = (Broker::shared().topic("dead-down", 1), elsewhere.topic("dead-down-dead", 1));
    let receiver = Receiver::start();
    let health = Health::new();
    let place = letters_elsewhere(&topic, &dead, &elsewhere, &receiver, &health);
    let mut router = place.run();
    topic.send([plain(0), Record::value("first"), plain(1)]);
    topic.wait_committed(&topic.name, MOMENT);

    elsewhere.kill();
    topic.send([plain(2), Record::value("second"), plain(3)]);
    router.until("the good records", MOMENT, || (receiver.count() == 4).then_some(()));
    router.until("readiness to name the sink", MOMENT, || health.waits_for("sink \"dead\" of route \"orders\""));
    topic.send([plain(4)]);
    router.until("a record behind them", MOMENT, || (receiver.count() == 5).then_some(()));
    let began = std::time::Instant::now();
    while began.elapsed() < A_WHILE {
        // The bad one is at offset 4.
        assert!(topic.committed(&topic.name)[&0] <= 4, "a dead letter that nobody has was committed");
    }
    elsewhere.restart();
    topic.wait_committed(&topic.name, MOMENT);
    router.until("readiness", MOMENT, || health.is_ready().then_some(()));
    router.stop();
    let letters: Vec<_> = dead.records().into_iter().map(|letter| letter.value.unwrap()).collect();
    assert_eq!(letters, [b"first".to_vec(), b"second".to_vec()]);
    let times = times(received(&receiver));
    assert_none_missing("HTTP", &times, 5);
    assert_none_twice("HTTP", &times);
}

#[test]
fn a_sink_that_nobody_needs_while_its_broker_is_down_is_ready_again_by_itself() {
    let mut elsewhere = Broker::start();
    let (topic, dead) = (Broker::shared().topic("idle-sink", 1), elsewhere.topic("idle-sink-dead", 1));
    let receiver = Receiver::start();
    let health = Health::new();
    let place = letters_elsewhere(&topic, &dead, &elsewhere, &receiver, &health);
    let mut router = place.run();
    topic.send([Record::value("no JSON")]);
    topic.wait_committed(&topic.name, MOMENT);
    elsewhere.kill();
    router.until("readiness to name the sink", MOMENT, || health.waits_for("sink \"dead\" of route \"orders\""));
    elsewhere.restart();
    // No record becomes a dead letter meanwhile.
    router.until("readiness", MOMENT, || health.is_ready().then_some(()));
    router.stop();
}

#[test]
fn a_table_never_covers_a_record_whose_dead_letter_was_pending_when_the_router_died() {
    let topic = Broker::shared().topic("pending-letter", 1);
    let letters = Receiver::answering(|_| Answer::status(503));
    let health = Health::new();
    // The table itself gives the record up.
    let tables = format!(
        "{LAKE}on_tombstone = \"reject\"\n[sink.dead.http]\nurl = \"{}\"\nretry = {{ delay_max = \"200 ms\" }}\n",
        letters.url("/")
    );
    let route = "value = \"json\"\nto = [\"lake\"]\ndead_letters = \"dead\"";
    let place = Place::new(&(health.line() + &config(&topic, &tables, route)));
    let tombstone = Record { key: Some(b"gone".to_vec()), ..Record::default() };
    topic.send((0..10).map(plain).chain([tombstone]).chain((10..20).map(plain)));
    let mut router = place.run();
    router.until("readiness to name the sink", MOMENT, || health.waits_for("sink \"dead\" of route \"orders\""));
    std::thread::sleep(A_WHILE);
    // What came before the tombstone may be there, nothing that came later.
    let ids = table::longs(&place.path("table"), "id");
    assert!(ids.iter().all(|id| *id < 10), "{ids:?}");
    router.kill();

    letters.answer(|_| Answer::status(200));
    place.run_until_end();
    let requests = letters.requests();
    let accepted: Vec<_> = requests.iter().filter(|request| request.status == 200).map(|request| request.json()).collect();
    assert_eq!(accepted.len(), 1, "{accepted:?}");
    assert_eq!((&accepted[0]["offset"], &accepted[0]["by"]), (&10.into(), &"lake".into()));
    let rows = times(table::longs(&place.path("table"), "id"));
    assert_none_missing("the table", &rows, 20);
    assert_none_twice("the table", &rows);
}

#[test]
fn after_a_crash_a_changed_plugin_stops_and_asks_and_the_former_one_leaves_no_gap() {
    let orders = Orders::new("changed", 2);
    let config = |status: &str, on_other: &str| {
        let lake = format!("[sink.lake.delta]\nuri = \"table\"\nbatch = {{ age_max = \"100 ms\" }}\n{on_other}\n");
        let through = format!("through = [{{ plugin = \"filter\", config = {{ where = \"status == '{status}'\" }} }}]");
        let config = orders.config(&lake, &format!("to = [\"lake\"]\n{through}"));
        // The table gets ahead of the group, as a crash leaves it.
        config.replace("commit_interval = \"200 ms\"", "commit_interval = \"10 m\"")
    };
    let place = Place::new(&config("PAID", ""));
    let folder = place.path("table");
    orders.send(0..1_000);
    let mut router = place.run();
    router.until("the rows", MOMENT, || (table::count(&folder) == 500).then_some(()));
    router.kill();
    let committed: i64 = orders.topic.committed(&orders.topic.name).values().sum();
    assert_eq!(committed, 0, "the group knows of what the table has");

    place.configure(&config("OPEN", ""));
    let ended = place.run().end(END_MAX);
    assert_eq!(ended.code(), Some(3), "{}", ended.stderr);
    let errors: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", ended.stderr);
    for part in ["sink \"lake\"", &orders.topic.name, "on_other_decision = \"accept\"", "run the former version"] {
        assert!(errors[0].contains(part), "{part:?} is not in {}", errors[0]);
    }
    assert_eq!(table::count(&folder), 500);

    // The first way out that it names: nothing is missing, nothing twice.
    place.configure(&config("PAID", ""));
    place.run_until_end();
    assert_eq!(paid(&folder), (0..500).collect::<Vec<_>>());
    // Stopped in good order, a plugin may change: no question.
    place.configure(&config("OPEN", ""));
    orders.send(1_000..1_010);
    place.run_until_end();
    assert_eq!(table::count(&folder), 505);

    // The second one: rows stay as they are, and what comes goes on.
    orders.send(1_010..1_020);
    let mut router = place.run();
    router.until("the rows", MOMENT, || (table::count(&folder) == 510).then_some(()));
    router.kill();
    place.configure(&config("PAID", "on_other_decision = \"accept\""));
    orders.send(1_020..1_030);
    place.run_until_end();
    assert_eq!(table::count(&folder), 515);
}

/// The rows of a filter for what is paid, halved: without gaps, and each once.
fn paid(folder: &std::path::Path) -> Vec<i64> {
    let mut ids = table::longs(folder, "id");
    ids.sort_unstable();
    assert!(ids.iter().all(|id| id % 2 == 0), "an order that is not paid");
    ids.into_iter().map(|id| id / 2).collect()
}
