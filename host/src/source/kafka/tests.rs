//! The source against librdkafka's in-process cluster, which speaks the real protocol: starts, rewinds, commits, outages.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::begin::{Held, Ledgers, Start, note, read_note};
use super::client::{Login, consumer_config};
use super::group::{ReadLedgers, Rules};
use super::heartbeat::Heartbeat;
use super::member::Member;
use super::native;
use super::start::Reading;
use crate::ack::budget::Budget;
use crate::ack::keys::DeadKeys;
use crate::ack::{Acks, Holds, TopicPartition};
use crate::config::{KafkaSource, OutOfRange, Pattern, Topics};
use crate::observe::Metrics;
use crate::sink::Urgency;
use crate::source::logs::Logs;
use crate::source::work::{BatchBounds, Work, WorkerMessage};
use crate::stop::{Stop, StopReason};

/// Longer than any test should take: the mock cluster waits three seconds before a group's first assignment.
const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster(MockCluster<'static, DefaultProducerContext>);

impl Cluster {
    fn new(topics: &[(&str, i32)]) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        for (topic, partitions) in topics {
            cluster.create_topic(topic, *partitions, 1).unwrap();
        }
        Cluster(cluster)
    }

    fn produce(&self, topic: &str, partition: i32, count: usize) {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", self.0.bootstrap_servers()).create().unwrap();
        self.produce_values(&producer, topic, partition, count, "x");
    }

    fn produce_large(&self, topic: &str, partition: i32, count: usize) {
        let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", self.0.bootstrap_servers()).create().unwrap();
        self.produce_values(&producer, topic, partition, count, &"x".repeat(1024));
    }

    fn produce_values(&self, producer: &BaseProducer, topic: &str, partition: i32, count: usize, value: &str) {
        for _ in 0..count {
            producer.send(BaseRecord::<(), _>::to(topic).partition(partition).payload(value)).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    fn asker(&self) -> BaseConsumer {
        ClientConfig::new().set("bootstrap.servers", self.0.bootstrap_servers()).set("group.id", "g").create().unwrap()
    }

    fn commit(&self, partition: i32, offset: i64, holds: &Holds) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("orders", partition, Offset::Offset(offset)).unwrap();
        list.find_partition("orders", partition).unwrap().set_metadata(note(holds, None, &DeadKeys::new()));
        self.asker().commit(&list, CommitMode::Sync).unwrap();
    }

    /// What the group committed for a partition, and what stands beside it.
    fn committed(&self, partition: i32) -> (Option<i64>, Holds) {
        let mut list = TopicPartitionList::new();
        list.add_partition("orders", partition);
        let list = self.asker().committed_offsets(list, PATIENCE).unwrap();
        let holds = read_note(&native::metadata(&list)[0]).holds;
        match list.elements()[0].offset() {
            Offset::Offset(offset) => (Some(offset), holds),
            _ => (None, holds),
        }
    }
}

/// How a route is read, and the worker of it: the test.
struct Setup {
    start: Start,
    out_of_range: OutOfRange,
    ledgers: Ledgers,
    topics: Topics,
    until_end: bool,
    assignor: &'static str,
    bytes_max: usize,
    keeps_dead_keys: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            start: Start::Earliest,
            out_of_range: OutOfRange::Stop,
            ledgers: Ledgers::new(),
            topics: Topics::List(vec!["orders".into()]),
            until_end: false,
            assignor: "cooperative-sticky",
            bytes_max: 1 << 20,
            keeps_dead_keys: true,
        }
    }
}

struct Running {
    acks: Acks,
    stop: Stop,
    metrics: Metrics,
    inbox: mpsc::Receiver<WorkerMessage>,
    thread: std::thread::JoinHandle<Result<(), StopReason>>,
    _runtime: tokio::runtime::Runtime,
}

impl Running {
    fn start(cluster: &Cluster, setup: Setup) -> Running {
        let source = format!("brokers = [{:?}]\nassignor = {:?}\nsession_timeout = \"6 s\"", cluster.0.bootstrap_servers(), setup.assignor);
        let source: KafkaSource = toml::from_str(&source).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let metrics = Metrics::new();
        let login = runtime.block_on(async { Login::new(&source.brokers.join(","), "source", metrics.clone(), None) });
        let (acks, stop) = (Acks::new(), Stop::new());
        let (sender, inbox) = mpsc::channel();
        let ledgers = setup.ledgers;
        let read: Box<ReadLedgers> = Box::new(move || Ok(ledgers.clone()));
        let reading = Reading {
            client: consumer_config(&source, "r", "g"),
            topics: setup.topics,
            until_end: setup.until_end,
            bounds: BatchBounds { records_max: 5, bytes_max: 1 << 20, linger: Duration::from_millis(5) },
            rules: Rules {
                route: "r".into(),
                start: setup.start,
                ledgers: read,
                out_of_range: setup.out_of_range,
                revoke_deadline: Duration::from_secs(1),
                drain_deadline: Duration::from_secs(5),
                commit_interval: Some(Duration::from_millis(50)),
                rewinds_max: 3,
                stuck_after: Duration::from_secs(60),
                keeps_dead_keys: setup.keeps_dead_keys,
            },
            acks: acks.clone(),
            budget: Budget::new(setup.bytes_max),
            sinks: Vec::new(),
            urgency: Arc::new(Urgency::new()),
            workers: vec![sender],
            stop: stop.clone(),
            metrics: metrics.route(&"r".into()),
            login,
            logs: Logs::default(),
            heartbeat: Heartbeat::new(),
            per_partition: 0,
            member: Member::default(),
        };
        let thread = std::thread::spawn(move || reading.run());
        Running { acks, stop, metrics, inbox, thread, _runtime: runtime }
    }

    fn work(&self) -> Work {
        let began = Instant::now();
        loop {
            let left = PATIENCE.checked_sub(began.elapsed()).expect("a batch comes in time");
            if let WorkerMessage::Work(work) = self.inbox.recv_timeout(left).expect("a batch comes in time") {
                return work;
            }
        }
    }

    /// Reads so many records and settles each batch. Returns offsets by partition.
    fn settle(&self, count: usize) -> BTreeMap<i32, Vec<i64>> {
        let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        let mut read = 0;
        while read < count {
            let Work { batch, token, .. } = self.work();
            read += batch.len();
            offsets.entry(batch.partition).or_default().extend(&batch.offsets);
            token.settle();
        }
        assert_eq!(read, count);
        offsets
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < PATIENCE, "{what}");
            assert!(!self.thread.is_finished(), "{what}: the route ended: {:?}", self.stop.reason());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the route in order.
    fn end(self) {
        self.stop.stop(StopReason::Asked);
        self.ended().unwrap();
    }

    /// How the route ended, once it has.
    fn ended(self) -> Result<(), StopReason> {
        let began = Instant::now();
        while !self.thread.is_finished() {
            assert!(began.elapsed() < PATIENCE, "the route goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.thread.join().unwrap()
    }

    /// The text with which the route stops by itself.
    fn refusal(self) -> String {
        let stop = self.stop.clone();
        let ended = self.ended();
        stop.reason().or(ended.err()).expect("a reason").to_string()
    }
}

#[test]
fn a_start_that_the_group_does_not_know_is_committed_before_anything_is_settled() {
    let cluster = Cluster::new(&[("orders", 1)]);
    cluster.produce("orders", 0, 5);
    let first = Running::start(&cluster, Setup { start: Start::Latest, ..Setup::default() });
    first.until("the start is committed", || cluster.committed(0).0 == Some(5));
    cluster.produce("orders", 0, 3);
    // It ends with the three records in flight.
    drop(first.work());
    first.end();
    let second = Running::start(&cluster, Setup { start: Start::Latest, ..Setup::default() });
    assert_eq!(second.settle(3), BTreeMap::from([(0, vec![5, 6, 7])]), "\"latest\" is chosen once");
    second.end();
    assert_eq!(cluster.committed(0).0, Some(8));
}

#[test]
fn a_partition_that_was_added_begins_at_its_first_record_whatever_the_start() {
    let cluster = Cluster::new(&[("orders", 2)]);
    cluster.produce("orders", 0, 4);
    cluster.produce("orders", 1, 4);
    // The group has read the topic when it had one partition.
    cluster.commit(0, 4, &Holds::new());
    let route = Running::start(&cluster, Setup { start: Start::Latest, ..Setup::default() });
    assert_eq!(route.settle(4), BTreeMap::from([(1, vec![0, 1, 2, 3])]));
    route.end();
}

#[test]
fn ledgers_say_where_a_group_without_offsets_begins_and_are_not_asked_otherwise() {
    let name = TopicPartition { topic: "orders".into(), partition: 0 };
    let held = |next| Ledgers::from([(name.clone(), Held { sink: "lake".into(), next, topic_id: None })]);
    let cluster = Cluster::new(&[("orders", 1)]);
    cluster.produce("orders", 0, 5);
    let route = Running::start(&cluster, Setup { start: Start::Latest, ledgers: held(3), ..Setup::default() });
    assert_eq!(route.settle(2), BTreeMap::from([(0, vec![3, 4])]));
    route.end();
    // The group's offset moved on over records that went elsewhere.
    cluster.produce("orders", 0, 1);
    let route = Running::start(&cluster, Setup { ledgers: held(3), ..Setup::default() });
    assert_eq!(route.settle(1), BTreeMap::from([(0, vec![5])]));
    route.end();

    let cluster = Cluster::new(&[("orders", 1)]);
    cluster.produce("orders", 0, 2);
    let text = Running::start(&cluster, Setup { ledgers: held(3), ..Setup::default() }).refusal();
    assert!(text.contains("sink \"lake\"") && text.contains("ends at 2") && text.contains("ledger = "), "{text}");
}

#[test]
fn an_offset_outside_of_the_log_stops_the_route_until_the_configuration_says_where_to_go_on() {
    let cluster = Cluster::new(&[("orders", 1)]);
    cluster.produce("orders", 0, 3);
    cluster.commit(0, 100, &Holds::new());
    let text = Running::start(&cluster, Setup::default()).refusal();
    assert!(text.contains("the group's offset is 100") && text.contains("0 to 3") && text.contains("[route.r]"), "{text}");
    assert_eq!(cluster.committed(0).0, Some(100));
    let route = Running::start(&cluster, Setup { out_of_range: OutOfRange::Earliest, ..Setup::default() });
    assert_eq!(route.settle(3), BTreeMap::from([(0, vec![0, 1, 2])]));
    route.end();
    assert_eq!(cluster.committed(0).0, Some(3));
}

#[test]
fn a_fetch_that_is_refused_as_out_of_range_and_is_not_costs_no_record_and_repeats_none() {
    for (assignor, rule) in
        [("range", OutOfRange::Stop), ("cooperative-sticky", OutOfRange::Stop), ("cooperative-sticky", OutOfRange::Earliest)]
    {
        let cluster = Cluster::new(&[("orders", 2)]);
        cluster.produce("orders", 0, 3);
        cluster.produce("orders", 1, 3);
        let route = Running::start(&cluster, Setup { out_of_range: rule, assignor, ..Setup::default() });
        route.settle(6);
        cluster.0.request_errors(RDKafkaApiKey::Fetch, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE]);
        cluster.produce("orders", 0, 2);
        cluster.produce("orders", 1, 2);
        assert_eq!(route.settle(4), BTreeMap::from([(0, vec![3, 4]), (1, vec![3, 4])]), "{assignor}");
        route.end();
    }
}

#[test]
fn what_ledgers_hold_is_committed_beside_the_offset_and_known_at_the_next_start() {
    let cluster = Cluster::new(&[("orders", 1)]);
    cluster.produce("orders", 0, 2);
    let route = Running::start(&cluster, Setup::default());
    let Work { token, .. } = route.work();
    token.hold(&"lake#1".into(), 1);
    token.settle();
    let holds = Holds::from([("lake#1".into(), 1)]);
    route.until("the commit", || cluster.committed(0) == (Some(2), holds.clone()));
    route.end();
    let route = Running::start(&cluster, Setup::default());
    route.until("the assignment", || !route.acks.slots().is_empty());
    let (slot, ..) = route.acks.slots()[0].clone();
    assert_eq!(route.acks.held(slot, "lake#1"), Some(1));
    route.end();
}

#[test]
fn keys_of_dead_letters_are_known_at_the_next_start_until_a_route_goes_on_with_them() {
    let cluster = Cluster::new(&[("orders", 1)]);
    cluster.produce("orders", 0, 2);
    let route = Running::start(&cluster, Setup::default());
    let Work { token, .. } = route.work();
    assert!(token.key_died(7, 1));
    token.settle();
    route.until("the commit", || cluster.committed(0).0 == Some(2));
    route.end();
    let known = |keeps_dead_keys| {
        let route = Running::start(&cluster, Setup { keeps_dead_keys, ..Setup::default() });
        route.until("the assignment", || !route.acks.slots().is_empty());
        let known = route.acks.dead_keys(route.acks.slots()[0].0);
        route.end();
        known
    };
    assert_eq!(known(true), DeadKeys::from([(7, 1)]));
    assert_eq!(known(false), DeadKeys::new());
    assert_eq!(known(true), DeadKeys::new(), "forgotten without a record more");
}

#[test]
fn a_batch_that_is_dropped_comes_again_and_a_route_that_gets_no_further_stops() {
    let cluster = Cluster::new(&[("orders", 1)]);
    cluster.produce("orders", 0, 5);
    let route = Running::start(&cluster, Setup::default());
    let began = Instant::now();
    for turn in 0..4 {
        let Work { batch, token, .. } = route.work();
        assert_eq!(batch.offsets, [0, 1, 2, 3, 4], "turn {turn}");
        drop(token);
    }
    let text = route.refusal();
    assert!(text.contains("orders/0 was read again 3 times") && text.contains("dropped unsettled"), "{text}");
    assert!(began.elapsed() < PATIENCE);
}

#[test]
fn one_partition_that_waits_for_its_rewind_holds_no_other_back() {
    let cluster = Cluster::new(&[("orders", 2)]);
    cluster.produce("orders", 0, 1);
    let route = Running::start(&cluster, Setup::default());
    // The second and third rewind in a row wait; records of the other partition come meanwhile.
    drop(route.work().token);
    drop(route.work().token);
    cluster.produce("orders", 1, 5);
    let mut read: HashMap<i32, usize> = HashMap::new();
    while read.get(&1) != Some(&5) || !read.contains_key(&0) {
        let Work { batch, token, .. } = route.work();
        *read.entry(batch.partition).or_default() += batch.len();
        token.settle();
    }
    assert_eq!(read, HashMap::from([(0, 1), (1, 5)]));
    route.end();
}

#[test]
fn partitions_whose_sink_takes_nothing_hold_no_others_back() {
    let cluster = Cluster::new(&[("orders", 2)]);
    cluster.produce_large("orders", 0, 300);
    cluster.produce_large("orders", 1, 300);
    let route = Running::start(&cluster, Setup { bytes_max: 64 << 10, ..Setup::default() });
    let (mut stuck, mut read) = (Vec::new(), 0);
    while read < 300 {
        let work = route.work();
        if work.batch.partition == 0 {
            stuck.push(work);
        } else {
            read += work.batch.len();
            work.token.settle();
        }
    }
    let held: usize = stuck.iter().map(|work| work.batch.len()).sum();
    // 128 that the first call took, which knows no sizes yet; then less than the budget, and the 64 of one call more.
    assert!(held < 128 + 64 + 64, "what is held is bounded: {held} records of 1 KiB");
    let mut offsets = Vec::new();
    for Work { batch, token, .. } in stuck {
        offsets.extend(batch.offsets);
        token.settle();
    }
    offsets.extend(route.settle(300 - held).remove(&0).unwrap());
    assert_eq!(offsets, (0..300).collect::<Vec<i64>>(), "each record once, in order");
    assert_eq!(route.metrics.route(&"r".into()).rewinds.get(), 0);
    route.end();
}

#[test]
fn partitions_that_stay_pass_over_no_record_when_others_come_and_go() {
    let cluster = Cluster::new(&[("orders", 4)]);
    (0..4).for_each(|partition| cluster.produce("orders", partition, 3));
    let first = Running::start(&cluster, Setup::default());
    first.settle(12);
    // All stand at their ends now: that is told like a message, and is none.
    first.until("the commits", || (0..4).all(|partition| cluster.committed(partition).0 == Some(3)));
    let second = Running::start(&cluster, Setup::default());
    second.until("its partitions", || second.acks.slots().len() == 2);
    (0..4).for_each(|partition| cluster.produce("orders", partition, 5));
    let mut read = first.settle(10);
    read.extend(second.settle(10));
    let expected: Vec<i64> = (3..8).collect();
    assert_eq!(read, (0..4).map(|partition| (partition, expected.clone())).collect::<BTreeMap<_, _>>());
    second.end();
    first.end();
}

#[test]
fn an_outage_shows_in_readiness_and_ends_by_itself() {
    let cluster = Cluster::new(&[("orders", 1)]);
    cluster.produce("orders", 0, 1);
    let route = Running::start(&cluster, Setup::default());
    route.settle(1);
    assert_eq!(route.metrics.not_ready(), []);
    cluster.0.broker_down(1).unwrap();
    route.until("the outage shows", || route.metrics.not_ready().iter().any(|(_, reason)| reason.contains("no answer from")));
    cluster.0.broker_up(1).unwrap();
    route.until("it is over", || route.metrics.not_ready().is_empty());
    cluster.produce("orders", 0, 1);
    assert_eq!(route.settle(1), BTreeMap::from([(0, vec![1])]));
    route.end();
}

#[test]
fn a_group_that_the_user_may_not_join_stops_the_route_with_the_remedy() {
    let cluster = Cluster::new(&[("orders", 1)]);
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED; 20];
    cluster.0.request_errors(RDKafkaApiKey::JoinGroup, &refused);
    let text = Running::start(&cluster, Setup::default()).refusal();
    assert!(text.contains("right to read the topic and the group"), "{text}");
}

#[test]
fn a_pattern_means_what_it_means_everywhere_in_the_configuration() {
    let cluster = Cluster::new(&[("orders", 1), ("orders-1", 1), ("orders-x", 1)]);
    cluster.produce("orders-1", 0, 2);
    cluster.produce("orders-x", 0, 3);
    let pattern: Pattern = toml::from_str::<BTreeMap<String, Pattern>>("regex = '^orders-\\d$'").unwrap().remove("regex").unwrap();
    let route = Running::start(&cluster, Setup { topics: Topics::Regex(pattern), ..Setup::default() });
    let Work { batch, token, .. } = route.work();
    assert_eq!((&*batch.topic, batch.len()), ("orders-1", 2), "librdkafka knows no \\d");
    token.settle();
    // A topic that comes later is found, and begins at its first record.
    cluster.0.create_topic("orders-2", 1, 1).unwrap();
    cluster.produce("orders-2", 0, 1);
    let Work { batch, token, .. } = route.work();
    assert_eq!((&*batch.topic, &batch.offsets[..]), ("orders-2", &[0][..]));
    token.settle();
    route.end();
}

#[test]
fn until_end_ends_when_everything_that_was_there_is_settled() {
    let cluster = Cluster::new(&[("orders", 3)]);
    cluster.produce("orders", 0, 7);
    cluster.produce("orders", 2, 2);
    let route = Running::start(&cluster, Setup { until_end: true, ..Setup::default() });
    let read = route.settle(9);
    assert_eq!((read[&0].len(), read[&2].len()), (7, 2));
    route.ended().unwrap();
    assert_eq!((cluster.committed(0).0, cluster.committed(1).0, cluster.committed(2).0), (Some(7), Some(0), Some(2)));
}
