//! Stopped on request: everything that was read is delivered and committed, and nothing comes twice afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use anabranch_tests::receiver::{Answer, Receiver};
use anabranch_tests::router::Place;
use anabranch_tests::table;

use crate::setup::{Orders, assert_none_missing, assert_none_twice, times};

const RECORDS: i64 = 20_000;

fn sinks(receiver: &Receiver) -> String {
    format!(
        "[sink.lake.delta]
uri = \"table\"
batch = {{ age_max = \"60 s\" }}
[sink.live.http]
url = \"{}\"
batch = {{ form = \"lines\", records_max = 20 }}
in_flight_max = 8
",
        receiver.url("/")
    )
}

fn received(receiver: &Receiver) -> BTreeMap<i64, usize> {
    times(receiver.requests().iter().flat_map(|request| request.lines()).map(|line| line["id"].as_i64().unwrap()))
}

#[test]
fn a_router_asked_to_stop_delivers_and_commits_all_that_it_read() {
    let orders = Orders::new("stopped", 3);
    // Slow, and with little memory: much is in flight when the signal comes, and much is not read yet.
    let receiver = Receiver::answering(|_| Answer::status(200).after(Duration::from_millis(30)));
    let place = Place::new(
        &orders.config(&sinks(&receiver), "to = [\"lake\", \"live\"]\nin_flight_max = \"64 KiB\"\nbatch = { bytes_max = \"16 KiB\" }"),
    );
    orders.send(0..RECORDS);

    let mut router = place.run();
    router.until("the first requests", Duration::from_secs(30), || (receiver.count() > 20).then_some(()));
    let ended = router.stop();
    assert!(ended.stderr.contains("a second signal stops at once"), "{}", ended.stderr);
    let first = received(&receiver);
    assert!((first.len() as i64) < RECORDS, "everything was done before the signal came");
    // The table's age limit is far away: the stop itself wrote what was there.
    let committed: i64 = orders.topic.committed(&orders.topic.name).values().sum();
    assert_eq!(first.len() as i64, committed);
    assert_eq!(times(table::longs(&place.path("table"), "id")), first);

    receiver.answer(|_| Answer::status(200));
    place.run_until_end();
    let (all, rows) = (received(&receiver), times(table::longs(&place.path("table"), "id")));
    for (name, found) in [("HTTP", &all), ("the table", &rows)] {
        assert_none_missing(name, found, RECORDS);
        assert_none_twice(name, found);
    }
    orders.topic.wait_committed(&orders.topic.name, Duration::ZERO);
}

#[test]
fn until_end_stops_at_the_ends_that_were_there_at_the_start() {
    let orders = Orders::new("until-end", 3);
    let receiver = Receiver::start();
    let place = Place::new(&orders.config(&sinks(&receiver), "to = [\"lake\", \"live\"]"));
    // A topic without records has its end at once.
    place.run_until_end();
    assert_eq!(receiver.count(), 0);

    orders.send(0..1_000);
    place.run_until_end();
    assert_eq!(received(&receiver).len(), 1_000);
    assert_eq!(table::count(&place.path("table")), 1_000);
    orders.topic.wait_committed(&orders.topic.name, Duration::ZERO);

    // With everything committed there is nothing to do.
    place.run_until_end();
    assert_none_twice("HTTP", &received(&receiver));
}

#[test]
fn until_end_waits_for_partitions_that_another_member_holds() {
    let orders = Orders::new("until-end-together", 4);
    orders.send(0..1_000);
    let route = |receiver: &Receiver| {
        let sink = format!("[sink.live.http]\nurl = \"{}\"\nbatch = {{ form = \"lines\", records_max = 20 }}\n", receiver.url("/"));
        orders.config(&sink, "to = [\"live\"]\nrevoke_deadline = \"1 s\"")
    };
    let refusing = Receiver::answering(|_| Answer::status(503));
    let other = Place::new(&route(&refusing));
    let mut holding = other.run();
    holding.until("a request", Duration::from_secs(30), || (refusing.count() > 0).then_some(()));

    let receiver = Receiver::start();
    let place = Place::new(&route(&receiver));
    let mut ending = place.start("run", &["--until-end"]);
    // Its own share is read; the other's is not, and that one dies.
    ending.wait_log("waiting for partitions of other members", Duration::from_secs(60));
    holding.kill();
    let ended = ending.end(Duration::from_secs(60));
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert_none_missing("HTTP", &received(&receiver), 1_000);
    orders.topic.wait_committed(&orders.topic.name, Duration::ZERO);
}

#[test]
fn a_second_signal_stops_at_once() {
    let orders = Orders::new("second-signal", 1);
    let receiver = Receiver::answering(|_| Answer::status(503));
    let place = Place::new(&orders.config(&sinks(&receiver), "to = [\"lake\", \"live\"]"));
    orders.send(0..100);
    let mut router = place.run();
    router.until("a request", Duration::from_secs(30), || (receiver.count() > 0).then_some(()));
    router.signal("INT");
    router.wait_log("a second signal stops at once", Duration::from_secs(5));
    router.signal("INT");
    let ended = router.end(Duration::from_secs(5));
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    // Nothing arrived, so nothing is committed.
    assert!(orders.topic.committed(&orders.topic.name).values().all(|offset| *offset == 0));
}
