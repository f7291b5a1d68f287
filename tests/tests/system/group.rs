//! Several routers in one group: they come, stop, die and fall asleep under load, and the counts stay exact.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anabranch_tests::receiver::Receiver;
use anabranch_tests::router::{Place, Router};
use anabranch_tests::table;

use crate::setup::{Orders, assert_none_missing, assert_none_twice, times};

const MOMENT: Duration = Duration::from_secs(30);
const WRITE: i64 = 200;
const WRITE_EVERY: Duration = Duration::from_millis(20);

/// Waits until a router reads partitions.
fn joined(router: &mut Router) {
    router.wait_log("assigned", MOMENT);
}

#[test]
fn members_that_come_stop_die_and_fall_asleep_leave_nothing_out_and_repeat_nothing_in_the_table() {
    let orders = Orders::new("group", 6);
    let receiver = Receiver::start();
    let sinks = format!(
        "[sink.lake.delta]
uri = \"table\"
batch = {{ rows_max = 3000, age_max = \"200 ms\" }}
[sink.live.http]
url = \"{}\"
batch = {{ form = \"lines\", records_max = 100 }}
",
        receiver.url("/")
    );
    let config = orders.config(&sinks, "to = [\"lake\", \"live\"]").replace("session_timeout = \"6 s\"", "session_timeout = \"2 s\"");
    let place = Place::new(&config);
    let (sent, enough) = (AtomicI64::new(0), AtomicBool::new(false));
    let arrived = |more: usize| {
        let wanted = receiver.count() + more;
        receiver.wait(wanted, MOMENT);
    };
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                let first = sent.load(Ordering::Relaxed);
                orders.send(first..first + WRITE);
                sent.store(first + WRITE, Ordering::Relaxed);
                std::thread::sleep(WRITE_EVERY);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut first = place.run();
            joined(&mut first);
            arrived(20);
            let (mut second, mut third) = (place.run(), place.run());
            joined(&mut second);
            joined(&mut third);
            arrived(20);
            // One leaves in good order, one dies: the first gets everything again.
            second.stop();
            third.kill();
            arrived(20);
            // It falls asleep for longer than its session; another takes over; it wakes up with records in its hands.
            first.signal("STOP");
            let mut fourth = place.run();
            joined(&mut fourth);
            arrived(20);
            first.signal("CONT");
            arrived(20);
            (first, fourth)
        }));
        enough.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        let (first, fourth) = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        orders.topic.wait_committed(&orders.topic.name, MOMENT);
        first.stop();
        fourth.stop();
    });
    let count = sent.load(Ordering::Relaxed);
    let rows = times(table::longs(&place.path("table"), "id"));
    assert_none_missing("the table", &rows, count);
    assert_none_twice("the table", &rows);
    let received =
        receiver.requests().iter().flat_map(|request| request.lines()).map(|line| line["id"].as_i64().unwrap()).collect::<Vec<_>>();
    assert_none_missing("HTTP", &times(received), count);
}

#[test]
fn a_partition_that_stays_in_a_rebalance_goes_on_with_the_very_next_record() {
    let orders = Orders::new("stays", 2);
    let receiver = Receiver::start();
    let sinks = format!("[sink.live.http]\nurl = \"{}\"\n", receiver.url("/"));
    let place = Place::new(&orders.config(&sinks, "to = [\"live\"]"));
    let mut first = place.run();
    joined(&mut first);
    // Both partitions are read to their ends, one of them leaves for the second member.
    orders.send(0..100);
    receiver.wait(100, MOMENT);
    orders.topic.wait_committed(&orders.topic.name, MOMENT);
    let mut second = place.run();
    second.wait_log("assigned route=orders partitions=1", MOMENT);
    orders.send(100..200);
    receiver.wait(200, MOMENT);
    orders.topic.wait_committed(&orders.topic.name, MOMENT);
    first.stop();
    second.stop();
    let received = receiver.requests().iter().map(|request| request.json()["id"].as_i64().unwrap()).collect::<Vec<_>>();
    assert_none_missing("HTTP", &times(received), 200);
}
