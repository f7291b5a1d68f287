//! Killed at any moment: the table has every record once, HTTP and the dead letters have every record.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anabranch_tests::kafka::Broker;
use anabranch_tests::receiver::{Receiver, Request};
use anabranch_tests::router::Place;
use anabranch_tests::topic::Record;
use anabranch_tests::{seed, table};

use crate::setup::{Orders, assert_none_missing, assert_none_twice, times};

/// Of so many records one has no schema's bytes.
const BAD_EVERY: i64 = 500;
const KILLS: usize = 8;
/// Records of a write, and the time between writes: enough to keep the router busy for as long as it is killed.
const WRITE: i64 = 200;
const WRITE_EVERY: Duration = Duration::from_millis(20);

fn is_bad(id: i64) -> bool {
    id % BAD_EVERY == BAD_EVERY - 1
}

fn record(orders: &Orders, id: i64) -> Record {
    if is_bad(id) { Record::keyed(id.to_string(), format!("no Avro {id}")) } else { orders.record(id) }
}

fn received(requests: &[Request]) -> impl Iterator<Item = i64> {
    requests.iter().flat_map(|request| request.lines()).map(|line| line["id"].as_i64().unwrap())
}

/// Kills the router [`KILLS`] times while records come, lets it finish, and counts. `member`: further keys of the source.
fn kill_at_random_moments(name: &str, member: &str) {
    let mut random = fastrand::Rng::with_seed(seed());
    let orders = Orders::new(name, 4);
    let dead = Broker::shared().topic("dead", 1);
    let receiver = Receiver::start();
    let sinks = format!(
        "[sink.lake.delta]
uri = \"table\"
batch = {{ rows_max = 3000, age_max = \"200 ms\" }}
checkpoint_interval = 5
[sink.live.http]
url = \"{}\"
batch = {{ form = \"lines\", records_max = 100 }}
[sink.dead.kafka]
topic = \"{}\"
",
        receiver.url("/"),
        dead.name
    );
    let config = orders.config(&sinks, "to = [\"lake\", \"live\"]\ndead_letters = \"dead\"");
    let config = config.replace("session_timeout = \"6 s\"", member);
    let place = Place::new(&config);

    let (sent, enough) = (AtomicI64::new(0), AtomicBool::new(false));
    let mut moments = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                let first = sent.load(Ordering::Relaxed);
                orders.topic.send((first..first + WRITE).map(|id| record(&orders, id)));
                sent.store(first + WRITE, Ordering::Relaxed);
                std::thread::sleep(WRITE_EVERY);
            }
        });
        // Also where a kill's assertion fails, or the scope would wait for the writer for ever.
        let _ends = OnDrop(&enough);
        for _ in 0..KILLS {
            // Between commits of offsets the table is ahead of the group; without any commit, the ledger alone says where to begin.
            let interval = ["50 ms", "400 ms", "5 s"][random.usize(..3)];
            place.configure(&config.replace("commit_interval = \"200 ms\"", &format!("commit_interval = \"{interval}\"")));
            let mut router = place.run();
            // Some die before they have read anything, most in the middle of it.
            let after_records = random.usize(..4) > 0;
            if after_records {
                let before = receiver.count();
                router.until("requests", Duration::from_secs(30), || (receiver.count() > before).then_some(()));
            }
            std::thread::sleep(Duration::from_millis(random.u64(..1_500)));
            router.kill();
            moments.push((interval, after_records, receiver.count(), table::longs(&place.path("table"), "id").len()));
        }
    });
    place.run_until_end();

    let count = sent.load(Ordering::Relaxed);
    eprintln!("{count} records; after each kill (requests, rows): {moments:?}");
    let good = |times: std::collections::BTreeMap<i64, usize>| {
        // Ids without gaps: the bad ones count as there.
        let mut times = times;
        (0..count).filter(|id| is_bad(*id)).for_each(|id| _ = times.entry(id).or_insert(1));
        times
    };
    let in_table = good(times(table::longs(&place.path("table"), "id")));
    assert_none_missing("the table", &in_table, count);
    assert_none_twice("the table", &in_table);
    assert_none_missing("HTTP", &good(times(received(&receiver.requests()))), count);
    let letters = times(dead.records().iter().map(|record| String::from_utf8_lossy(record.key.as_ref().unwrap()).parse().unwrap()));
    let bad: Vec<i64> = (0..count).filter(|id| is_bad(*id)).collect();
    assert_eq!(letters.keys().copied().collect::<Vec<_>>(), bad, "the dead letters");
    orders.topic.wait_committed(&orders.topic.name, Duration::ZERO);
    let rows_at_last_kill = moments.last().unwrap().3 as i64;
    assert!(rows_at_last_kill < count, "the last kill came when everything was done");
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_router_killed_at_random_moments_loses_nothing_and_repeats_nothing_in_the_table() {
    // It comes back as the member that it was, and gets its partitions at once.
    kill_at_random_moments("killed", "instance_id = \"one\"");
}

#[test]
fn a_router_killed_as_a_dynamic_member_loses_nothing_and_repeats_nothing_in_the_table() {
    // The group finds out that the old member is gone while the new one waits.
    kill_at_random_moments("killed-dynamic", "session_timeout = \"1500 ms\"");
}
