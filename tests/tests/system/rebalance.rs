//! Partitions move between processes while records come: the table has every record once, offsets never go back, and a partition is
//! never without an owner for long.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anabranch_tests::kafka::Broker;
use anabranch_tests::process::folder;
use anabranch_tests::receiver::{Answer, Receiver, Request};
use anabranch_tests::router::{Place, Router};
use anabranch_tests::table;
use anabranch_tests::topic::{Record, Topic};

const PARTITIONS: i32 = 4;
const WRITE: i64 = 100;
const WRITE_EVERY: Duration = Duration::from_millis(20);
const SESSION: Duration = Duration::from_secs(6);
/// Without an owner for at most so long where somebody joins or leaves in order.
const STALL_MAX: Duration = Duration::from_secs(3);

/// When records of each partition arrived last, and the longest time in between.
#[derive(Debug, Clone, Default)]
struct Gaps(Arc<Mutex<BTreeMap<i64, (Instant, Duration)>>>);

impl Gaps {
    fn arrived(&self, request: &Request) {
        let now = Instant::now();
        let mut gaps = self.0.lock().unwrap();
        for line in request.lines() {
            let (last, longest) = gaps.entry(line["p"].as_i64().unwrap()).or_insert((now, Duration::ZERO));
            *longest = (*longest).max(now - *last);
            *last = now;
        }
    }

    /// The longest gap of any partition since the last call.
    fn take(&self) -> Duration {
        let mut gaps = self.0.lock().unwrap();
        let longest = gaps.values().map(|(_, longest)| *longest).max().unwrap_or_default();
        gaps.values_mut().for_each(|(_, longest)| *longest = Duration::ZERO);
        longest
    }
}

/// Records come without end, into one table and to one receiver, through however many routers.
struct Group {
    topic: Topic,
    table: PathBuf,
    receiver: Receiver,
    gaps: Gaps,
    assignor: &'static str,
    sent: AtomicI64,
    enough: AtomicBool,
}

impl Group {
    fn new(name: &str, assignor: &'static str) -> Group {
        let gaps = Gaps::default();
        let arrived = gaps.clone();
        let receiver = Receiver::answering(move |request| {
            arrived.arrived(request);
            Answer::status(200)
        });
        Group {
            topic: Broker::shared().topic(name, PARTITIONS),
            table: folder("table").join("table"),
            receiver,
            gaps,
            assignor,
            sent: AtomicI64::new(0),
            enough: AtomicBool::new(false),
        }
    }

    /// A process of the group; `member`: further keys of its source.
    fn start(&self, member: &str) -> Router {
        let config = format!(
            "[source.shop.kafka]
brokers = [\"{}\"]
session_timeout = \"{} s\"
assignor = \"{}\"
{member}
[sink.lake.delta]
uri = {:?}
columns = [{{ name = \"id\", type = \"long\" }}, {{ name = \"p\", type = \"long\" }}]
batch = {{ rows_max = 2000, age_max = \"300 ms\" }}
checkpoint_interval = 20
[sink.live.http]
url = \"{}\"
order = \"partition\"
batch = {{ form = \"lines\", records_max = 200 }}
[route.orders]
topics = [\"{name}\"]
value = \"json\"
group = \"{name}\"
commit_interval = \"300 ms\"
to = [\"lake\", \"live\"]
",
            Broker::shared().plaintext(),
            SESSION.as_secs(),
            self.assignor,
            self.table.to_str().unwrap(),
            self.receiver.url("/"),
            name = self.topic.name,
        );
        Place::new(&config).run()
    }

    fn write(&self) {
        while !self.enough.load(Ordering::Relaxed) {
            let first = self.sent.load(Ordering::Relaxed);
            self.topic.send((first..first + WRITE).map(|id| {
                let partition = (id % i64::from(PARTITIONS)) as i32;
                Record { partition: Some(partition), ..Record::value(format!("{{\"id\":{id},\"p\":{partition}}}")) }
            }));
            self.sent.store(first + WRITE, Ordering::Relaxed);
            std::thread::sleep(WRITE_EVERY);
        }
    }

    /// Committed offsets may only grow.
    fn watch(&self) {
        let mut before = BTreeMap::new();
        while !self.enough.load(Ordering::Relaxed) {
            let now = self.topic.committed(&self.topic.name);
            for (partition, offset) in &before {
                assert!(now.get(partition) >= Some(offset), "partition {partition} went back from {offset} to {:?}", now.get(partition));
            }
            before = now;
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the whole group reads again: everything that was sent until now is committed.
    fn flows(&self, router: &mut Router) {
        let ends = self.topic.ends();
        router.until("records flow", Duration::from_secs(30), || {
            let committed = self.topic.committed(&self.topic.name);
            ends.iter().all(|(partition, end)| committed.get(partition) >= Some(end)).then_some(())
        });
    }

    /// Runs `moves` while records come; the routers that it gives back stop at the end. Then counts.
    fn run(&self, moves: impl FnOnce(&Group) -> Vec<Router>) {
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| self.write());
            let watcher = scope.spawn(|| self.watch());
            let ends = OnDrop(&self.enough);
            let routers = moves(self);
            drop(ends);
            // What is being sent is waited for too.
            writer.join().unwrap();
            watcher.join().unwrap();
            self.topic.wait_committed(&self.topic.name, Duration::from_secs(30));
            routers.into_iter().for_each(|router| drop(router.stop()));
        });
        let count = self.sent.load(Ordering::Relaxed);
        let mut ids = table::longs(&self.table, "id");
        assert_eq!(ids.len() as i64, count, "rows");
        ids.sort_unstable();
        assert!(ids.iter().copied().eq(0..count), "each record once");
        let mut received: Vec<i64> =
            self.receiver.requests().iter().flat_map(Request::lines).map(|line| line["id"].as_i64().unwrap()).collect();
        received.sort_unstable();
        received.dedup();
        assert_eq!(received.len() as i64, count, "requests");
        eprintln!("{}: {count} records, each once", self.topic.name);
    }
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn assert_short(what: &str, gap: Duration) {
    eprintln!("{what}: a partition was without records for at most {gap:?}");
    assert!(gap < STALL_MAX, "{what}: a partition was without records for {gap:?}");
}

/// One process, a second one joins and leaves in order.
fn one_two_one(name: &str, assignor: &'static str) {
    Group::new(name, assignor).run(|group| {
        let mut first = group.start("");
        group.flows(&mut first);
        group.gaps.take();
        let mut second = group.start("");
        second.wait_log("assigned", Duration::from_secs(20));
        group.flows(&mut first);
        assert_short("join", group.gaps.take());
        drop(second.stop());
        group.flows(&mut first);
        assert_short("leave", group.gaps.take());
        vec![first]
    });
}

#[test]
fn a_second_process_joins_and_leaves_cooperatively() {
    one_two_one("cooperative", "cooperative-sticky");
}

#[test]
fn a_second_process_joins_and_leaves_eagerly() {
    one_two_one("eager", "range");
}

#[test]
fn three_processes_join_and_leave_at_once() {
    Group::new("four", "cooperative-sticky").run(|group| {
        let mut first = group.start("");
        group.flows(&mut first);
        let others: Vec<Router> = (0..3).map(|_| group.start("")).collect();
        std::thread::sleep(Duration::from_secs(3));
        group.flows(&mut first);
        // All are asked before any is waited for.
        others.iter().for_each(|router| router.signal("TERM"));
        for router in others {
            let ended = router.end(Duration::from_secs(60));
            assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        }
        group.flows(&mut first);
        vec![first]
    });
}

#[test]
fn partitions_that_leave_and_return_at_once_keep_flowing() {
    Group::new("return", "cooperative-sticky").run(|group| {
        let mut first = group.start("");
        group.flows(&mut first);
        for _ in 0..4 {
            let mut guest = group.start("");
            guest.wait_log("assigned", Duration::from_secs(20));
            drop(guest.stop());
        }
        group.flows(&mut first);
        vec![first]
    });
}

#[test]
fn a_static_member_that_restarts_moves_no_partition() {
    Group::new("static", "cooperative-sticky").run(|group| {
        let mut first = group.start("instance_id = \"one\"");
        let mut second = group.start("instance_id = \"two\"");
        second.wait_log("assigned", Duration::from_secs(20));
        group.flows(&mut first);
        let before = first.log().matches("revoked").count();
        drop(second.stop());
        let mut second = group.start("instance_id = \"two\"");
        second.wait_log("assigned", Duration::from_secs(20));
        group.flows(&mut first);
        assert_eq!(first.log().matches("revoked").count(), before, "{}", first.log());
        vec![first, second]
    });
}

#[test]
fn a_killed_process_costs_its_session_and_nothing_else() {
    Group::new("killed", "cooperative-sticky").run(|group| {
        let mut first = group.start("");
        let mut second = group.start("");
        second.wait_log("assigned", Duration::from_secs(20));
        group.flows(&mut first);
        group.gaps.take();
        second.kill();
        group.flows(&mut first);
        let gap = group.gaps.take();
        eprintln!("kill: a partition was without records for at most {gap:?}");
        assert!(gap < SESSION + STALL_MAX, "{gap:?}");
        vec![first]
    });
}

#[test]
fn a_process_that_sleeps_past_its_session_wakes_as_a_zombie_and_harms_nobody() {
    Group::new("zombie", "cooperative-sticky").run(|group| {
        let mut first = group.start("");
        let mut zombie = group.start("");
        zombie.wait_log("assigned", Duration::from_secs(20));
        group.flows(&mut first);
        zombie.signal("STOP");
        std::thread::sleep(SESSION + Duration::from_secs(3));
        group.flows(&mut first);
        zombie.signal("CONT");
        std::thread::sleep(Duration::from_secs(3));
        group.flows(&mut first);
        vec![first, zombie]
    });
}
