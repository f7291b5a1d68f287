//! Starting to read a route's topics: reach the brokers, find the topics, put the threads to work; and ending it again.
//!
//! Invariant: within the connect deadline either a broker answered or there is one message that names cause and remedy. The queue is
//! destroyed before its consumer, and the consumer when nobody reads any more.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode;

use super::client::Login;
use super::control::Control;
use super::fence::Fence;
use super::group::{Context, Rules};
use super::heartbeat::Heartbeat;
use super::member::Member;
use super::queue::Queue;
use super::reader::{Ends, FIRST_EPOCH, Reader, Shared};
use crate::ack::budget::Budget;
use crate::ack::{Acks, TopicPartition};
use crate::config::Topics;
use crate::observe::RouteMetrics;
use crate::plugin::Room;
use crate::sink::{Outbox, Urgency};
use crate::source::logs::Logs;
use crate::source::work::{BatchBounds, WorkerMessage};
use crate::stop::{Stop, StopReason};

/// How long the first answer of a broker may take.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const METADATA_TIMEOUT: Duration = Duration::from_secs(2);

/// All that reading a route's topics takes.
pub struct Reading {
    /// Properties of the consumer.
    pub client: ClientConfig,
    /// What is read.
    pub topics: Topics,
    /// Stop at the end offsets seen at start.
    pub until_end: bool,
    /// Bounds of batches.
    pub bounds: BatchBounds,
    /// What the control thread keeps to.
    pub rules: Rules,
    /// Acks of the route.
    pub acks: Acks,
    /// Byte budget of the route.
    pub budget: Budget,
    /// Inboxes of the sinks, dead letters included.
    pub sinks: Vec<Outbox>,
    /// Urgency of the sinks.
    pub urgency: Arc<Urgency>,
    /// Inboxes of the workers.
    pub workers: Vec<mpsc::Sender<WorkerMessage>>,
    /// Stops the route.
    pub stop: Stop,
    /// Counters of the route.
    pub metrics: RouteMetrics,
    /// The connection's words.
    pub login: Login,
    /// What sinks may know of the logs.
    pub logs: Logs,
    /// Sign of life of the control thread.
    pub heartbeat: Heartbeat,
    /// How many plugins have an instance for each partition.
    pub per_partition: usize,
    /// The membership, for a sink that commits the offsets.
    pub member: Member,
}

impl Reading {
    /// Reads until the route is to stop or, with `until_end`, everything is settled; blocks the calling thread.
    ///
    /// # Errors
    /// Where no broker answers, or a topic is not there.
    pub fn run(self) -> Result<(), StopReason> {
        let environment = |text: String| StopReason::Environment(text);
        let route = self.rules.route.clone();
        let probe: BaseConsumer<Probe> = BaseConsumer::from_config_and_context(&self.client, Probe(self.login.clone()))
            .map_err(|error| StopReason::Configuration(format!("route {route:?}: {error}")))?;
        let metadata = reach(&probe, &self.login, &self.stop, CONNECT_DEADLINE)?;
        let Some(metadata) = metadata else { return Ok(()) };
        let topics = find(&metadata, &self.topics).map_err(|text| environment(format!("route {route:?}: {text}")))?;
        let ends = if self.until_end { Some(self.ends(&probe, &metadata)?) } else { None };
        let at_start = partitions(&metadata, &self.topics);
        drop(probe);
        if at_start.len() * self.per_partition > Room::PER_PARTITION {
            tracing::warn!(
                %route, partitions = at_start.len(), room = Room::PER_PARTITION,
                "plugins have an instance for each partition, and one process has no room for all: run several"
            );
        }

        let shared = Arc::new(Shared {
            acks: self.acks,
            budget: self.budget,
            fence: Fence::default(),
            epoch: AtomicU64::new(FIRST_EPOCH),
            ending: AtomicBool::new(false),
            ends,
            bounds: self.bounds,
            metrics: self.metrics,
        });
        let context = Context {
            shared: shared.clone(),
            rules: self.rules,
            queue: Mutex::new(None),
            sinks: self.sinks,
            urgency: self.urgency,
            workers: self.workers.clone(),
            stop: self.stop,
            login: self.login,
            logs: self.logs.clone(),
            topics: self.topics,
            at_start,
            heartbeat: self.heartbeat,
            commit_soon: AtomicBool::new(false),
        };
        let consumer = BaseConsumer::from_config_and_context(&self.client, context)
            .map_err(|error| StopReason::Configuration(format!("route {route:?}: {error}")))?;
        let consumer = Arc::new(consumer);
        self.member.set(&consumer);
        // Weak: the client has to be let go of here, or the process would not leave the group.
        let asked = Arc::downgrade(&consumer);
        self.logs.ask(Some(Arc::new(move |topic, partition| {
            let consumer = asked.upgrade().ok_or("the route is ending")?;
            let (_, end) = consumer.fetch_watermarks(topic, partition, METADATA_TIMEOUT).map_err(|error| error.to_string())?;
            Ok(end)
        })));
        let queue = Arc::new(Queue::new(consumer.clone()));
        *consumer.context().queue.lock() = Some(queue.clone());
        let (errors, reader_errors) = mpsc::channel();
        let reader = Reader { queue, workers: self.workers, errors, shared: shared.clone() };
        let reading = std::thread::Builder::new().name(format!("read-{route}")).spawn(move || reader.run());
        let reading = reading.map_err(|error| environment(format!("route {route:?}: no thread for reading: {error}")))?;

        let subscribed = subscribe(&consumer, &topics);
        if subscribed.is_ok() {
            Control::new(consumer.clone(), reader_errors, topics).run();
        }
        shared.ending.store(true, Ordering::Release);
        shared.budget.interrupt();
        let joined = reading.join();
        *consumer.context().queue.lock() = None;
        self.logs.ask(None);
        // Leaves the group: the rebalance callback finds no partition of ours any more.
        drop(consumer);
        subscribed.map_err(|error| StopReason::Configuration(format!("route {route:?}: topics: {error}")))?;
        joined.map_err(|_| StopReason::Broken(format!("route {route:?}: the reader ended by a panic")))
    }

    /// The end offset of every partition now.
    fn ends(&self, probe: &BaseConsumer<Probe>, metadata: &Metadata) -> Result<Ends, StopReason> {
        let mut at = HashMap::new();
        for topic in metadata.topics().iter().filter(|topic| self.topics.contains(topic.name())) {
            for partition in topic.partitions() {
                let (low, high) = probe.fetch_watermarks(topic.name(), partition.id(), CONNECT_DEADLINE).map_err(|error| {
                    StopReason::Environment(format!("end of {}/{}: {error}: is the partition's leader up?", topic.name(), partition.id()))
                })?;
                let end = if low == high { 0 } else { high };
                at.insert(TopicPartition { topic: topic.name().into(), partition: partition.id() }, end);
            }
        }
        Ok(Ends { at, reached: Mutex::default() })
    }
}

/// A client that only asks.
pub struct Probe(pub Login);

impl rdkafka::client::ClientContext for Probe {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, fac: &str, text: &str) {
        self.0.log(level, fac, text);
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<rdkafka::client::OAuthToken, Box<dyn std::error::Error>> {
        self.0.token()
    }
}

impl rdkafka::consumer::ConsumerContext for Probe {}

/// Waits for the first answer, so long at most. `None`: it was stopped meanwhile.
///
/// # Errors
/// Where no broker answers, with cause and remedy.
pub fn reach(probe: &BaseConsumer<Probe>, login: &Login, stop: &Stop, patience: Duration) -> Result<Option<Metadata>, StopReason> {
    let began = Instant::now();
    loop {
        if stop.is_stopped() {
            return Ok(None);
        }
        // Serves what librdkafka says of the connection, and its wish for a token.
        while let Some(Err(error)) = probe.poll(Duration::from_millis(50)) {
            login.error(&error, "");
        }
        match probe.fetch_metadata(None, METADATA_TIMEOUT) {
            Ok(metadata) => {
                login.answered();
                return Ok(Some(metadata));
            }
            Err(error) => login.error(&error, ""),
        }
        while let Some(Err(error)) = probe.poll(Duration::from_millis(50)) {
            login.error(&error, "");
        }
        let trouble = login.trouble();
        if trouble.as_ref().is_some_and(|trouble| trouble.lasting) || began.elapsed() >= patience {
            return Err(StopReason::Environment(
                trouble.map_or_else(|| "no broker answers: check `brokers`".to_owned(), |trouble| trouble.text),
            ));
        }
    }
}

/// The partitions that are there.
fn partitions(metadata: &Metadata, topics: &Topics) -> HashSet<TopicPartition> {
    let ours = metadata.topics().iter().filter(|topic| topics.contains(topic.name()));
    let name = |topic: &str, partition: i32| TopicPartition { topic: topic.into(), partition };
    ours.flat_map(|topic| topic.partitions().iter().map(|partition| name(topic.name(), partition.id()))).collect()
}

/// Subscribes to topics by name; none at all is no error.
pub fn subscribe<C: rdkafka::consumer::ConsumerContext>(consumer: &BaseConsumer<C>, topics: &[String]) -> KafkaResult<()> {
    if topics.is_empty() {
        consumer.unsubscribe();
        return Ok(());
    }
    consumer.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The topics that match; never those of Kafka itself.
pub fn matching(metadata: &Metadata, topics: &Topics) -> Vec<String> {
    let names = metadata.topics().iter().filter(|topic| topic.error().is_none()).map(|topic| topic.name());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("__") && topics.contains(name)).map(str::to_owned).collect();
    names.sort();
    names
}

/// What to subscribe to: patterns are matched here, since librdkafka's own (POSIX) mean something else by the same text.
///
/// # Errors
/// Names a topic that is not there.
pub fn find(metadata: &Metadata, topics: &Topics) -> Result<Vec<String>, String> {
    match topics {
        Topics::Regex(pattern) => {
            let names = matching(metadata, topics);
            if names.is_empty() {
                tracing::warn!(%pattern, "no topic matches yet");
            }
            Ok(names)
        }
        Topics::List(list) => {
            for name in list {
                let found = metadata.topics().iter().find(|topic| topic.name() == name);
                let known: Vec<&str> = metadata.topics().iter().map(|topic| topic.name()).filter(|name| !name.starts_with("__")).collect();
                match found.map(|topic| topic.error()) {
                    None => return Err(missing(name, &known)),
                    Some(Some(error)) if RDKafkaErrorCode::from(error) == RDKafkaErrorCode::UnknownTopicOrPartition => {
                        return Err(missing(name, &known));
                    }
                    Some(Some(error)) => return Err(format!("topic {name:?}: {}", RDKafkaErrorCode::from(error))),
                    Some(None) => (),
                }
            }
            Ok(list.clone())
        }
    }
}

fn missing(name: &str, known: &[&str]) -> String {
    let near = known.iter().filter(|other| strsim::damerau_levenshtein(other, name) <= 2).copied().next();
    let hint = near.map_or_else(String::new, |near| format!(" (there is {near:?})"));
    format!("topic {name:?} is not there{hint}: create it, correct `topics`, or give the user the right to see it")
}
