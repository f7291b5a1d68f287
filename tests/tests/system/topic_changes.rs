//! Topics that change under a route: made anew, cut by retention, and with thousands of partitions.

use std::time::{Duration, Instant};

use anabranch_tests::health::Health;
use anabranch_tests::kafka::Broker;
use anabranch_tests::receiver::{Answer, Receiver};
use anabranch_tests::router::{END_MAX, Ended, Place};
use anabranch_tests::table;
use anabranch_tests::topic::{Record, Topic};

use crate::setup::{assert_none_missing, assert_none_twice, config, config_at, plain, received, times};

const MOMENT: Duration = Duration::from_secs(60);

fn http(receiver: &Receiver) -> String {
    format!("[sink.live.http]\nurl = \"{}\"\nretry = {{ delay_max = \"200 ms\" }}\n", receiver.url("/"))
}

fn lake(further: &str) -> String {
    format!(
        "[sink.lake.delta]\nuri = \"table\"\ncolumns = [{{ name = \"id\", type = \"long\" }}]\nbatch = {{ age_max = \"100 ms\" }}\n{further}\n"
    )
}

/// A route that ended because of what it found, with one message that has all of `parts`.
fn assert_explained(ended: &Ended, parts: &[&str]) {
    assert_eq!(ended.code(), Some(3), "{}", ended.stderr);
    let errors: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{}", ended.stderr);
    for part in parts {
        assert!(errors[0].contains(part), "{part:?} is not in {}", errors[0]);
    }
}

/// The topic is deleted and made anew, with records.
fn make_anew(topic: &Topic, ids: std::ops::Range<i64>) {
    topic.delete();
    topic.create_again(&[]);
    topic.send(ids.map(plain));
}

#[test]
fn a_topic_made_anew_while_a_route_is_stopped_is_read_from_its_beginning() {
    let topic = Broker::shared().topic("anew", 1);
    let receiver = Receiver::start();
    let place = Place::new(&config(&topic, &http(&receiver), "value = \"json\"\nto = [\"live\"]"));
    topic.send((0..100).map(plain));
    place.run_until_end();
    // More records than there were: no offset gives it away.
    make_anew(&topic, 100..300);
    place.run_until_end();
    let times = times(received(&receiver));
    assert_none_missing("HTTP", &times, 300);
    assert_none_twice("HTTP", &times);
}

#[test]
fn a_table_that_holds_an_earlier_topic_of_the_same_name_stops_with_a_choice() {
    let topic = Broker::shared().topic("anew-table", 1);
    let place = Place::new("");
    let configured = |further: &str| config(&topic, &lake(further), "value = \"json\"\nto = [\"lake\"]");
    place.configure(&configured(""));
    topic.send((0..100).map(plain));
    place.run_until_end();
    for ids in [100..300, 100..110] {
        make_anew(&topic, ids);
        let ended = place.run().end(END_MAX);
        assert_explained(&ended, &["sink \"lake\"", &topic.name, "up to offset 99", "made anew", "ledger = "]);
        assert_eq!(table::count(&place.path("table")), 100);
    }
    place.configure(&configured("ledger = \"anew\""));
    place.run_until_end();
    let rows = times(table::longs(&place.path("table"), "id"));
    assert_none_missing("the table", &rows, 110);
    assert_none_twice("the table", &rows);
}

#[test]
fn a_topic_made_anew_under_a_running_route_is_not_taken_for_the_old_one() {
    let topic = Broker::shared().topic("anew-running", 1);
    let receiver = Receiver::start();
    let configured = |further: &str| config(&topic, &http(&receiver), &format!("value = \"json\"\nto = [\"live\"]\n{further}"));
    let place = Place::new(&configured(""));
    topic.send((0..100).map(plain));
    let router = place.run();
    topic.wait_committed(&topic.name, MOMENT);
    // More records than there were, all of them before the client looks again: it goes on in the middle of the new topic.
    router.signal("STOP");
    make_anew(&topic, 100..300);
    router.signal("CONT");
    let choice = ["made anew", "out_of_range = \"earliest\"", "[route.orders]"];
    assert_explained(&router.end(END_MAX), &choice);
    // What was read of the new topic by then may be committed: it is known to which topic that belonged.
    let committed = topic.committed(&topic.name);
    eprintln!("{} requests, committed {committed:?}", receiver.count());
    if !committed.is_empty() {
        assert_explained(&place.run().end(END_MAX), &choice);
    }
    place.configure(&configured("out_of_range = \"earliest\""));
    place.run_until_end();
    assert_none_missing("HTTP", &times(received(&receiver)), 300);
    // Now the offset is one of the new topic.
    place.configure(&configured(""));
    topic.send((300..310).map(plain));
    place.run_until_end();
    assert_none_missing("HTTP", &times(received(&receiver)), 310);
}

#[test]
fn a_topic_that_is_deleted_for_good_ends_the_route_that_names_it() {
    let topic = Broker::shared().topic("deleted", 1);
    let receiver = Receiver::start();
    let place = Place::new(&config(&topic, &http(&receiver), "value = \"json\"\nto = [\"live\"]"));
    topic.send((0..10).map(plain));
    let router = place.run();
    topic.wait_committed(&topic.name, MOMENT);
    topic.delete();
    assert_explained(&router.end(END_MAX), &[&topic.name, "was deleted while it was read", "start the route again"]);
    assert_eq!(receiver.count(), 10);
}

#[test]
fn retention_beyond_the_committed_offset_stops_with_what_is_missing_and_a_choice() {
    let topic = Broker::shared().topic("retention", 1);
    let receiver = Receiver::start();
    let configured = |further: &str| config(&topic, &http(&receiver), &format!("value = \"json\"\nto = [\"live\"]\n{further}"));
    let place = Place::new(&configured(""));
    topic.send((0..100).map(plain));
    place.run_until_end();
    topic.send((100..200).map(plain));
    topic.delete_before(0, 150);
    let ended = place.run().end(END_MAX);
    assert_explained(
        &ended,
        &[&topic.name, "is 100", "150 to 200", "50 records were deleted", "out_of_range = \"earliest\"", "[route.orders]"],
    );
    assert_eq!((receiver.count(), topic.committed(&topic.name)[&0]), (100, 100));
    place.configure(&configured("out_of_range = \"earliest\""));
    place.run_until_end();
    let ids: Vec<i64> = times(received(&receiver)).into_keys().collect();
    assert_eq!(ids, (0..100).chain(150..200).collect::<Vec<_>>());
    // The committed offset where the log begins is no gap.
    place.configure(&configured(""));
    topic.delete_before(0, 200);
    topic.send((200..210).map(plain));
    place.run_until_end();
    assert_eq!(times(received(&receiver)).len(), 160);
}

/// A route whose receiver is down while retention takes records that it has not read yet.
fn overtaken_by_retention(name: &str, further: &str) -> (Topic, Receiver, Place, anabranch_tests::router::Router) {
    let topic = Broker::shared().topic(name, 1);
    let receiver = Receiver::answering(|_| Answer::status(503));
    // As many as fit into its memory are read, and no more.
    let route = format!("value = \"raw\"\nto = [\"live\"]\nin_flight_max = \"64 KiB\"\nbatch = {{ bytes_max = \"16 KiB\" }}\n{further}");
    let sinks = http(&receiver) + "body = \"raw\"\norder = \"partition\"\n";
    let config = config(&topic, &sinks, &route);
    let health = Health::new();
    let place = Place::new(&(health.line() + &config));
    // More than the client fetches ahead.
    topic.send((0..500).map(|id| Record::value("0".repeat(100_000) + &format!("{id}"))));
    let mut router = place.run();
    router.until("readiness to name the sink", MOMENT, || health.waits_for("sink \"live\""));
    topic.delete_before(0, 490);
    receiver.answer(|_| Answer::status(200));
    (topic, receiver, place, router)
}

fn numbers(receiver: &Receiver) -> Vec<i64> {
    let accepted = receiver.requests().into_iter().filter(|request| request.status == 200);
    accepted.map(|request| String::from_utf8(request.body).unwrap().parse().unwrap()).collect()
}

#[test]
fn retention_that_overtakes_a_running_route_stops_it_behind_the_last_record_that_it_had() {
    let (topic, receiver, _place, router) = overtaken_by_retention("overtaken", "");
    let ended = router.end(END_MAX);
    assert_explained(&ended, &[&topic.name, "490 to 500", "were deleted before they were read", "out_of_range"]);
    let had = numbers(&receiver);
    assert_eq!(had, (0..had.len() as i64).collect::<Vec<_>>(), "in order, without a gap");
    assert!(had.len() < 490, "everything was read before retention came");
    assert_eq!(topic.committed(&topic.name)[&0], had.len() as i64);
}

#[test]
fn retention_that_overtakes_a_running_route_is_jumped_over_where_that_was_chosen() {
    let (topic, receiver, _place, mut router) = overtaken_by_retention("jumped", "out_of_range = \"earliest\"");
    topic.wait_committed(&topic.name, MOMENT);
    router.wait_log("the log does not hold what comes next, going on", MOMENT);
    router.stop();
    let had = numbers(&receiver);
    let (before, behind) = had.split_at(had.len() - 10);
    assert_eq!(before, (0..before.len() as i64).collect::<Vec<_>>());
    assert_eq!(behind, (490..500).collect::<Vec<_>>());
}

#[test]
fn two_thousand_partitions_cost_little_memory_and_each_of_their_records_arrives() {
    const PARTITIONS: i32 = 2_000;
    // In flight, the client's queue, and what a partition takes in the client, the tracker and the listener.
    const MEMORY_MAX: u64 = ((16 + 16 + 16) << 20) + PARTITIONS as u64 * (24 << 10);
    // A broker of its own: the others need not care for so many.
    let broker = Broker::start();
    let started = Instant::now();
    let (few, many) = (broker.topic("few", 1), broker.topic("many", PARTITIONS));
    eprintln!("{PARTITIONS} partitions were made in {:?}", started.elapsed());
    let receiver = Receiver::start();
    let health = Health::new();
    let tables = format!("[sink.live.http]\nurl = \"{}\"\nbatch = {{ form = \"lines\", linger = \"50 ms\" }}\n", receiver.url("/"));
    let route = "value = \"json\"\nto = [\"live\"]\nin_flight_max = \"16 MiB\"";
    let run = |topic: &Topic| {
        let place = Place::new(&(health.line() + &config_at(&broker.plaintext(), topic, &tables, route)));
        let mut router = place.run();
        router.wait_log("assigned", MOMENT);
        router
    };
    let baseline = run(&few);
    let idle = baseline.memory();
    baseline.stop();

    let mut router = run(&many);
    eprintln!("assigned after {:?}", started.elapsed());
    let of = |round: i32| {
        (0..PARTITIONS).map(move |partition| Record { partition: Some(partition), ..plain((round * PARTITIONS + partition).into()) })
    };
    for round in 0..2 {
        many.send(of(round));
        let wanted = ((round + 1) * PARTITIONS) as usize;
        router.until("all records", MOMENT, || (received(&receiver).len() >= wanted).then_some(()));
    }
    many.wait_committed(&many.name, MOMENT);
    let memory = router.memory();
    eprintln!("memory: {} MiB with 1 partition, {} MiB with {PARTITIONS}", idle >> 20, memory >> 20);
    assert!(memory < idle + MEMORY_MAX, "{} MiB", memory >> 20);
    assert!(health.is_ready());
    let stopped = Instant::now();
    router.stop();
    eprintln!("stopped in {:?}, all in {:?}", stopped.elapsed(), started.elapsed());
    let times = times(received(&receiver));
    assert_none_missing("HTTP", &times, i64::from(2 * PARTITIONS));
    assert_none_twice("HTTP", &times);
}
