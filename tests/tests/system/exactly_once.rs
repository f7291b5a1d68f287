//! From topic to topic in transactions: whatever is killed, paused or moved, readers of committed records have every record once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use anabranch_tests::between::{Between, Kind};
use anabranch_tests::kafka::Broker;
use anabranch_tests::receiver::{Answer, Receiver};
use anabranch_tests::router::{Place, Router};
use anabranch_tests::seed;
use anabranch_tests::topic::{Record, Topic};

use crate::setup::{assert_none_missing, assert_none_twice, times};

const PARTITIONS: i32 = 4;
/// Several, since each takes its time to begin: records come nearly always.
const WRITERS: usize = 3;
const WRITE: i64 = 300;
const WRITE_EVERY: Duration = Duration::from_millis(20);
const BAD_EVERY: i64 = 100;
/// Keeps all records, and reads them: what is no JSON shows only then.
const READS: &str = "through = [{ plugin = \"filter\", config = { where = \"nothing == null\" } }]";
const SESSION: Duration = Duration::from_secs(4);
const ROUNDS_MAX: usize = 30;
const LOST: u64 = 4;
const FLOWS_MAX: Duration = Duration::from_secs(60);

/// Records come without end into one topic, and through however many routers into another.
struct Copying {
    brokers: String,
    source: Topic,
    copies: Topic,
    /// Where there are dead letters, one of [`BAD_EVERY`] records becomes one.
    dead: Option<Topic>,
    sent: AtomicI64,
    enough: AtomicBool,
}

fn ids(records: &[Record]) -> impl Iterator<Item = i64> {
    records.iter().map(|record| std::str::from_utf8(record.value.as_ref().unwrap()).unwrap().parse().unwrap())
}

/// Ids of each key in their order.
fn by_key(records: &[Record]) -> BTreeMap<Vec<u8>, Vec<i64>> {
    let mut keys: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for (record, id) in records.iter().zip(ids(records)) {
        keys.entry(record.key.clone().unwrap()).or_default().push(id);
    }
    keys
}

impl Copying {
    fn new(name: &str) -> Copying {
        Copying::at(Broker::shared(), name)
    }

    fn at(broker: &Broker, name: &str) -> Copying {
        let (source, copies) = (broker.topic(name, PARTITIONS), broker.topic(&format!("{name}-copies"), 3));
        Copying { brokers: broker.plaintext(), source, copies, dead: None, sent: AtomicI64::new(0), enough: AtomicBool::new(false) }
    }

    /// `member`: further keys of the source; `route`: of the route.
    fn config(&self, member: &str, route: &str) -> String {
        format!(
            "[source.shop.kafka]
brokers = [\"{}\"]
session_timeout = \"{} s\"
{member}
[sink.copies.kafka]
topic = \"{}\"
exactly_once = true
transaction = {{ age_max = \"400 ms\", records_max = 2000, timeout = \"2 s\" }}
[route.copy]
topics = [\"{name}\"]
group = \"{name}\"
value = \"raw\"
commit_interval = \"200 ms\"
to = [\"copies\"]
{route}
",
            self.brokers,
            SESSION.as_secs(),
            self.copies.name,
            name = self.source.name,
        )
    }

    fn place(&self, member: &str) -> Place {
        let Some(dead) = &self.dead else { return Place::new(&self.config(member, "")) };
        let config = self.config(member, "dead_letters = \"dead\"").replace("value = \"raw\"", "value = \"json\"");
        Place::new(&format!("{config}{READS}\n[sink.dead.kafka]\ntopic = \"{}\"\n", dead.name))
    }

    fn is_bad(&self, id: i64) -> bool {
        self.dead.is_some() && id % BAD_EVERY == BAD_EVERY - 1
    }

    fn write(&self) {
        while !self.enough.load(Ordering::Relaxed) {
            let first = self.sent.fetch_add(WRITE, Ordering::Relaxed);
            self.source.send((first..first + WRITE).map(|id| {
                let value = if self.is_bad(id) { format!("bad {id}") } else { id.to_string() };
                Record::keyed(format!("k{}", id % 50), value)
            }));
            std::thread::sleep(WRITE_EVERY);
        }
    }

    /// Waits until all that was sent until now is committed.
    fn flows(&self, router: &mut Router) {
        let ends = self.source.ends();
        router.until("records flow", FLOWS_MAX, || {
            let committed = self.source.committed(&self.source.name);
            ends.iter().all(|(partition, end)| committed.get(partition) >= Some(end)).then_some(())
        });
    }

    /// Does `moves` while records come; the routers that it gives back stop at the end. Then counts.
    fn run(&self, moves: impl FnOnce(&Copying) -> Vec<Router>) {
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(|| self.write())).collect();
            let ends = OnDrop(&self.enough);
            let mut routers = moves(self);
            drop(ends);
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            if let Some(router) = routers.first_mut() {
                self.flows(router);
            }
            routers.into_iter().for_each(|router| drop(router.stop()));
        });
        // Not until the end of the partitions that it gets at first: a killed member may still have the others.
        let mut last = self.place("instance_id = \"last\"").run();
        self.flows(&mut last);
        drop(last.stop());
        self.count();
    }

    /// Records of transactions that were aborted: they came again.
    fn aborted(&self) -> usize {
        let all = self.copies.uncommitted_records();
        all.len() - ids(&all).collect::<BTreeSet<_>>().len()
    }

    fn count(&self) {
        let count = self.sent.load(Ordering::Relaxed);
        let records = self.copies.records();
        let mut times = times(ids(&records));
        if let Some(dead) = &self.dead {
            let letters = dead.records();
            let found: BTreeSet<&[u8]> = letters.iter().map(|letter| letter.value.as_deref().unwrap()).collect();
            let bad: Vec<i64> = (0..count).filter(|id| self.is_bad(*id)).collect();
            assert_eq!(found.len(), bad.len(), "each bad record is a dead letter");
            // Ids without gaps: the bad ones count as there.
            bad.into_iter().for_each(|id| assert!(times.insert(id, 1).is_none(), "{id} was copied"));
        }
        assert_none_missing("the copies", &times, count);
        assert_none_twice("the copies", &times);
        eprintln!("{}: {count} records, each once; {} more were aborted", self.source.name, self.aborted());
        let good: Vec<Record> =
            self.source.records().into_iter().filter(|record| !record.value.as_ref().unwrap().starts_with(b"bad")).collect();
        assert!(by_key(&good) == by_key(&records), "each key in its order");
        self.source.wait_committed(&self.source.name, Duration::from_secs(5));
    }
}

struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills a router while records come, so often at least, and until a kill came in the middle of a transaction.
fn kill(copying: &Copying, member: &str, kills: usize) {
    let mut random = fastrand::Rng::with_seed(seed());
    copying.run(|copying| {
        let place = copying.place(member);
        for kill in 0.. {
            if kill >= kills && copying.aborted() > 0 {
                break;
            }
            assert!(kill < ROUNDS_MAX, "no kill came in the middle of a transaction");
            let mut router = place.run();
            // Every other one dies in the middle of a transaction, the others whenever that is, perhaps before they have read anything.
            if kill % 2 == 0 {
                router.until("an open transaction", FLOWS_MAX, || copying.copies.has_open_transaction().then_some(()));
            } else {
                std::thread::sleep(Duration::from_millis(random.u64(..2_000)));
            }
            router.kill();
        }
        Vec::new()
    });
}

#[test]
fn a_router_killed_at_random_moments_copies_every_record_once() {
    // It comes back as the member that it was, with the same transactional id: it ends at once what it left behind.
    kill(&Copying::new("once"), "instance_id = \"one\"", 8);
}

#[test]
fn a_router_that_is_killed_while_some_records_are_bad_copies_the_others_once() {
    let copying = Copying { dead: Some(Broker::shared().topic("once-letters-dead", 1)), ..Copying::new("once-letters") };
    kill(&copying, "instance_id = \"one\"", 6);
}

#[test]
fn a_router_killed_as_a_dynamic_member_copies_every_record_once() {
    // What it left behind ends by its time-out.
    kill(&Copying::new("once-dynamic"), "", 3);
}

#[test]
fn partitions_that_move_between_processes_are_copied_once() {
    Copying::new("once-moves").run(|copying| {
        let mut first = copying.place("").run();
        copying.flows(&mut first);
        for _ in 0..3 {
            let mut guest = copying.place("").run();
            guest.wait_log("assigned", Duration::from_secs(30));
            copying.flows(&mut first);
            drop(guest.stop());
        }
        let mut killed = copying.place("").run();
        killed.wait_log("assigned", Duration::from_secs(30));
        copying.flows(&mut first);
        killed.kill();
        copying.flows(&mut first);
        vec![first]
    });
}

#[test]
fn partitions_that_leave_in_the_middle_of_a_transaction_are_copied_once() {
    let copying = Copying::new("once-eager");
    copying.run(|copying| {
        // Nobody waits for what is in flight, and all partitions leave at every move.
        let config = copying.config("assignor = \"range\"", "revoke_deadline = \"1 ms\"");
        let mut first = Place::new(&config).run();
        copying.flows(&mut first);
        for round in 0.. {
            if round >= 3 && copying.aborted() > 0 {
                break;
            }
            assert!(round < ROUNDS_MAX, "no partition left in the middle of a transaction");
            let mut guest = Place::new(&config).run();
            guest.wait_log("assigned", Duration::from_secs(30));
            copying.flows(&mut first);
            drop(guest.stop());
        }
        copying.flows(&mut first);
        vec![first]
    });
}

#[test]
fn a_process_that_sleeps_in_a_transaction_wakes_as_a_zombie_and_copies_nothing_twice() {
    Copying::new("once-zombie").run(|copying| {
        let mut first = copying.place("").run();
        let mut zombie = copying.place("").run();
        zombie.wait_log("assigned", Duration::from_secs(30));
        copying.flows(&mut first);
        zombie.signal("STOP");
        std::thread::sleep(SESSION + Duration::from_secs(3));
        copying.flows(&mut first);
        zombie.signal("CONT");
        copying.flows(&mut first);
        copying.flows(&mut zombie);
        vec![first, zombie]
    });
}

#[test]
fn a_zombie_whose_name_another_process_took_stops_and_says_so() {
    Copying::new("once-fenced").run(|copying| {
        let place = copying.place("instance_id = \"one\"");
        let mut zombie = place.run();
        copying.flows(&mut zombie);
        zombie.signal("STOP");
        let mut heir = copying.place("instance_id = \"one\"").run();
        copying.flows(&mut heir);
        zombie.signal("CONT");
        let ended = zombie.end(Duration::from_secs(60));
        assert_eq!(ended.code(), Some(3), "{}", ended.stderr);
        assert!(ended.stderr.contains("instance_id"), "{}", ended.stderr);
        copying.flows(&mut heir);
        vec![heir]
    });
}

#[test]
fn brokers_that_are_away_for_longer_than_a_transaction_may_take_are_waited_for() {
    let mut broker = Broker::start();
    for member in ["", "instance_id = \"one\""] {
        away(&mut broker, member);
    }
}

fn away(broker: &mut Broker, member: &str) {
    let copying = Copying::at(broker, "once-outage");
    copying.run(|copying| {
        let mut router = copying.place(member).run();
        copying.flows(&mut router);
        router.until("an open transaction", FLOWS_MAX, || copying.copies.has_open_transaction().then_some(()));
        broker.kill();
        // Longer than the time-out of transactions.
        std::thread::sleep(Duration::from_secs(4));
        broker.restart();
        copying.flows(&mut router);
        vec![router]
    });
}

#[test]
fn a_commit_whose_answer_is_lost_is_asked_for_again_and_copies_nothing_twice() {
    let between = Between::start();
    let broker = Broker::start_behind(&between);
    let copying = Copying::at(&broker, "once-lost-answer");
    copying.run(|copying| {
        let mut router = copying.place("").run();
        for lost in 1..=LOST {
            copying.flows(&mut router);
            between.lose(Kind::EndTransaction);
            router.until("a lost answer", FLOWS_MAX, || (between.lost() == lost).then_some(()));
        }
        copying.flows(&mut router);
        vec![router]
    });
    assert_eq!(copying.aborted(), 0, "what is committed is not made again");
}

#[test]
fn dead_letters_that_cannot_be_written_are_waited_for_and_cost_one_repetition() {
    let copying = Copying::new("once-waits");
    let is_up = Arc::new(AtomicBool::new(false));
    let takes = is_up.clone();
    let receiver = Receiver::answering(move |_| Answer::status(if takes.load(Ordering::Relaxed) { 200 } else { 503 }));
    let route = "dead_letters = \"dead\"\nrewinds_max = 1";
    let config = copying.config("", route).replace("value = \"raw\"", "value = \"json\"");
    let place = Place::new(&format!("{config}{READS}\n[sink.dead.http]\nurl = \"{}\"\n", receiver.url("/")));
    copying.source.send([Record::keyed("bad", "bad")]);
    copying.source.send((0..1000).map(|id| Record::keyed(id.to_string(), id.to_string())));
    let mut router = place.run();
    router.wait_log("dead letters of its records are not durable", FLOWS_MAX);
    // Longer than several transactions may take.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(copying.copies.records().len(), 0);
    is_up.store(true, Ordering::Relaxed);
    copying.flows(&mut router);
    assert_eq!(router.log().matches("a transaction is aborted").count(), 1, "{}", router.log());
    drop(router.stop());
    let times = times(ids(&copying.copies.records()));
    assert_none_missing("the copies", &times, 1000);
    assert_none_twice("the copies", &times);
}

#[test]
fn a_bad_record_of_a_transaction_becomes_a_dead_letter_and_the_others_are_copied_once() {
    let copying = Copying::new("once-bad");
    let dead = Broker::shared().topic("once-bad-dead", 1);
    let small = format!("{}-small", copying.copies.name);
    let config = copying.config("", "dead_letters = \"dead\"");
    let config = config.replace(&copying.copies.name, &small).replace(
        "exactly_once = true",
        "exactly_once = true\ncreate_topics = { partitions = 1, config = { \"max.message.bytes\" = 2000 } }\n\
         compression = \"none\"\nproperties = { \"batch.size\" = 1000, \"batch.num.messages\" = 1 }",
    );
    let place = Place::new(&format!("{config}\n[sink.dead.kafka]\ntopic = \"{}\"\n", dead.name));
    // The brokers, not the router, find one of them too large.
    let value = |id: i64| if id == 120 { "1".repeat(3000) } else { id.to_string() };
    copying.source.send((0..300).map(|id| Record::keyed(id.to_string(), value(id))));
    place.run_until_end();

    let records = Topic::named(Broker::shared().client(), &small, 1).records();
    let times = times(ids(&records));
    assert_none_twice("the copies", &times);
    assert_eq!((times.len(), times.contains_key(&120)), (299, false));
    let letters = dead.records();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].key.as_deref(), letters[0].header("anabranch.class")), (Some(b"120".as_slice()), Some("oversize")));
    copying.source.wait_committed(&copying.source.name, Duration::from_secs(5));
}

#[test]
fn a_route_that_writes_nothing_commits_its_offsets_all_the_same() {
    let copying = Copying::new("once-nothing");
    let through = "through = [{ plugin = \"filter\", config = { where = \"id == 'none'\" } }]";
    let config = copying.config("", through).replace("value = \"raw\"", "value = \"json\"");
    copying.source.send((0..10).map(|id| Record::keyed(id.to_string(), id.to_string())));
    let mut router = Place::new(&config).run();
    copying.flows(&mut router);
    drop(router.stop());
    assert_eq!(copying.copies.records().len(), 0);
}
