//! What can be seen from outside: counters, and whether each part of a route is up.
//!
//! Invariant: a handle is made once per route, sink or plugin; counting on the hot path is one atomic addition per batch.

pub mod listen;
pub mod plugin;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::dead::Class;

/// Labels of a route's metrics.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RouteLabels {
    /// Name of the route.
    pub route: String,
}

/// Labels of a sink's metrics.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SinkLabels {
    /// Name of the route.
    pub route: String,
    /// Name of the sink.
    pub sink: String,
}

/// Labels of dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DeadLabels {
    /// Name of the route.
    pub route: String,
    /// Class of the reason.
    pub class: &'static str,
}

/// Labels of a partition's metrics.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabels {
    /// Name of the route.
    pub route: String,
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
}

/// All metrics of the process; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    families: Families,
    plugins: plugin::Plugins,
    parts: Arc<Mutex<BTreeMap<String, Option<String>>>>,
}

#[derive(Clone, Debug)]
struct Families {
    read: Family<RouteLabels, Counter>,
    read_bytes: Family<RouteLabels, Counter>,
    filtered: Family<RouteLabels, Counter>,
    rewinds: Family<RouteLabels, Counter>,
    settled_late: Family<RouteLabels, Gauge>,
    held_bytes: Family<RouteLabels, Gauge>,
    oldest_head: Family<RouteLabels, Gauge>,
    dead: Family<DeadLabels, Counter>,
    committed: Family<PartitionLabels, Gauge>,
    source_up: Family<RouteLabels, Gauge>,
    source_sessions: Family<RouteLabels, Counter>,
    source_topics: Family<RouteLabels, Gauge>,
    source_values: Family<RouteLabels, Gauge>,
    sink_outputs: Family<SinkLabels, Counter>,
    sink_bytes: Family<SinkLabels, Counter>,
    sink_given_up: Family<SinkLabels, Counter>,
    sink_retries: Family<SinkLabels, Counter>,
    sink_skipped: Family<SinkLabels, Counter>,
    sink_up: Family<SinkLabels, Gauge>,
    sink_flush: Family<SinkLabels, Histogram, fn() -> Histogram>,
}

/// Counters of one route; clones share them.
#[derive(Clone, Debug)]
pub struct RouteMetrics {
    route: Arc<str>,
    metrics: Metrics,
    /// Records read, repeats after a rewind included.
    pub read: Counter,
    /// Bytes of keys and values read.
    pub read_bytes: Counter,
    /// Records that the plugins left without an output.
    pub filtered: Counter,
    /// Partitions read again.
    pub rewinds: Counter,
    /// Bytes of batches held in memory.
    pub held_bytes: Gauge,
    /// Settlements after their partition had left.
    pub settled_late: Gauge,
    /// Seconds for which the record that is in flight for longest has been so.
    pub oldest_head: Gauge,
}

/// What is shown of a route's source that holds sessions with a server; clones share it.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    part: String,
    metrics: Metrics,
    /// Sessions begun.
    pub sessions: Counter,
    /// Topics subscribed to.
    pub topics: Gauge,
    /// Bytes of values that are kept for the changes that follow.
    pub values: Gauge,
    up: Gauge,
    /// The log says that it is down.
    is_told: Arc<AtomicBool>,
}

/// Counters of one sink of one route; clones share them.
#[derive(Clone, Debug)]
pub struct SinkMetrics {
    part: String,
    metrics: Metrics,
    /// Outputs that are durable.
    pub outputs: Counter,
    /// Bytes written.
    pub bytes: Counter,
    /// Outputs given up as dead letters.
    pub given_up: Counter,
    /// Attempts beyond the first.
    pub retries: Counter,
    /// Outputs dropped on purpose: tombstones that the sink skips, positions that its ledger covers.
    pub skipped: Counter,
    /// Seconds from a flush's start to durable.
    pub flush: Histogram,
    up: Gauge,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let families = Families {
            read: Family::default(),
            read_bytes: Family::default(),
            filtered: Family::default(),
            rewinds: Family::default(),
            settled_late: Family::default(),
            held_bytes: Family::default(),
            oldest_head: Family::default(),
            dead: Family::default(),
            committed: Family::default(),
            source_up: Family::default(),
            source_sessions: Family::default(),
            source_topics: Family::default(),
            source_values: Family::default(),
            sink_outputs: Family::default(),
            sink_bytes: Family::default(),
            sink_given_up: Family::default(),
            sink_retries: Family::default(),
            sink_skipped: Family::default(),
            sink_up: Family::default(),
            sink_flush: Family::new_with_constructor(seconds),
        };
        let mut registry = Registry::with_prefix("anabranch");
        let f = &families;
        registry.register("records_read", "records read from the source, repeats after a rewind included", f.read.clone());
        registry.register_with_unit("records_read", "bytes of keys and values read from the source", Unit::Bytes, f.read_bytes.clone());
        registry.register("records_filtered", "records that the plugins left without an output", f.filtered.clone());
        registry.register("rewinds", "partitions read again from their committable offset", f.rewinds.clone());
        registry.register("settled_late", "settlements after their partition had left", f.settled_late.clone());
        registry.register("held_bytes", "bytes of batches held in memory", f.held_bytes.clone());
        let help = "for how long the first record of any partition that is in flight has been so";
        registry.register_with_unit("oldest_in_flight", help, Unit::Seconds, f.oldest_head.clone());
        registry.register("dead_letters", "records given up, by class of the reason", f.dead.clone());
        registry.register("committed_offset", "offset committed to the consumer group", f.committed.clone());
        registry.register("source_up", "1: the server is there, 0: it is waited for", f.source_up.clone());
        registry.register("source_sessions", "sessions begun with the server", f.source_sessions.clone());
        registry.register("source_topics", "topics that are subscribed to", f.source_topics.clone());
        let help = "values of topics kept for the changes that follow";
        registry.register_with_unit("source_values", help, Unit::Bytes, f.source_values.clone());
        registry.register("sink_outputs", "outputs durable at the sink", f.sink_outputs.clone());
        registry.register_with_unit("sink_written", "bytes written to the sink", Unit::Bytes, f.sink_bytes.clone());
        registry.register("sink_given_up", "outputs given up by the sink", f.sink_given_up.clone());
        registry.register("sink_retries", "attempts beyond the first", f.sink_retries.clone());
        registry.register("sink_skipped", "outputs dropped on purpose by the sink", f.sink_skipped.clone());
        registry.register("sink_up", "1: the sink takes records, 0: it waits for its place", f.sink_up.clone());
        registry.register_with_unit("sink_flush", "from a flush's start to durable", Unit::Seconds, f.sink_flush.clone());
        let plugins = plugin::Plugins::new(&mut registry);
        Metrics { registry: Arc::new(Mutex::new(registry)), families, plugins, parts: Arc::default() }
    }

    /// All metrics in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        text
    }

    /// The counters of a route.
    pub fn route(&self, route: &Arc<str>) -> RouteMetrics {
        let labels = RouteLabels { route: route.to_string() };
        let f = &self.families;
        RouteMetrics {
            route: route.clone(),
            metrics: self.clone(),
            read: f.read.get_or_create_owned(&labels),
            read_bytes: f.read_bytes.get_or_create_owned(&labels),
            filtered: f.filtered.get_or_create_owned(&labels),
            rewinds: f.rewinds.get_or_create_owned(&labels),
            held_bytes: f.held_bytes.get_or_create_owned(&labels),
            settled_late: f.settled_late.get_or_create_owned(&labels),
            oldest_head: f.oldest_head.get_or_create_owned(&labels),
        }
    }

    /// Parts that are not ready, with the reason of each: brokers, registries, sinks.
    pub fn not_ready(&self) -> Vec<(String, String)> {
        let parts = self.parts.lock();
        parts.iter().filter_map(|(part, reason)| Some((part.clone(), reason.clone()?))).collect()
    }

    /// A part works. Returns whether it did not before.
    pub fn part_up(&self, part: &str) -> bool {
        let mut parts = self.parts.lock();
        matches!(parts.insert(part.to_owned(), None), Some(Some(_)))
    }

    /// A part does not work. Returns whether it did before, or is new.
    pub fn part_down(&self, part: &str, reason: &str) -> bool {
        let mut parts = self.parts.lock();
        !matches!(parts.insert(part.to_owned(), Some(reason.to_owned())), Some(Some(_)))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl RouteMetrics {
    /// The counters of one of the route's sinks.
    pub fn sink(&self, sink: &str) -> SinkMetrics {
        let labels = SinkLabels { route: self.route.to_string(), sink: sink.to_owned() };
        let f = &self.metrics.families;
        let metrics = SinkMetrics {
            part: format!("sink {sink:?} of route {:?}", self.route),
            metrics: self.metrics.clone(),
            outputs: f.sink_outputs.get_or_create_owned(&labels),
            bytes: f.sink_bytes.get_or_create_owned(&labels),
            given_up: f.sink_given_up.get_or_create_owned(&labels),
            retries: f.sink_retries.get_or_create_owned(&labels),
            skipped: f.sink_skipped.get_or_create_owned(&labels),
            flush: f.sink_flush.get_or_create_owned(&labels),
            up: f.sink_up.get_or_create_owned(&labels),
        };
        metrics.up.set(1);
        metrics
    }

    /// What is shown of the route's source, which is not ready yet; `part`: what it is called in readiness.
    pub fn source(&self, part: String) -> SourceMetrics {
        let labels = RouteLabels { route: self.route.to_string() };
        let f = &self.metrics.families;
        self.metrics.part_down(&part, "no session yet");
        SourceMetrics {
            part,
            metrics: self.metrics.clone(),
            sessions: f.source_sessions.get_or_create_owned(&labels),
            topics: f.source_topics.get_or_create_owned(&labels),
            values: f.source_values.get_or_create_owned(&labels),
            up: f.source_up.get_or_create_owned(&labels),
            is_told: Arc::default(),
        }
    }

    /// One record became a dead letter.
    pub fn dead_letter(&self, class: Class) {
        let labels = DeadLabels { route: self.route.to_string(), class: class.name() };
        self.metrics.families.dead.get_or_create(&labels).inc();
    }

    /// `offset` of a partition is committed.
    pub fn committed(&self, topic: &str, partition: i32, offset: i64) {
        self.metrics.families.committed.get_or_create(&self.partition(topic, partition)).set(offset);
    }

    /// A partition left: its series end.
    pub fn partition_left(&self, topic: &str, partition: i32) {
        self.metrics.families.committed.remove(&self.partition(topic, partition));
    }

    /// All metrics of the process.
    pub fn all(&self) -> &Metrics {
        &self.metrics
    }

    fn partition(&self, topic: &str, partition: i32) -> PartitionLabels {
        PartitionLabels { route: self.route.to_string(), topic: topic.to_owned(), partition }
    }
}

impl SourceMetrics {
    /// The server answers. Logs once per change.
    pub fn up(&self) {
        self.up.set(1);
        self.metrics.part_up(&self.part);
        if self.is_told.swap(false, Ordering::Relaxed) {
            tracing::info!(part = %self.part, "up again");
        }
    }

    /// The server does not answer: it is waited for. Logs once per change.
    pub fn down(&self, reason: &str) {
        self.up.set(0);
        self.metrics.part_down(&self.part, reason);
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(part = %self.part, reason, "unavailable, waiting");
        }
    }
}

impl SinkMetrics {
    /// The sink's place answers. Logs once per change.
    pub fn up(&self) {
        self.up.set(1);
        if self.metrics.part_up(&self.part) {
            tracing::info!(part = %self.part, "up again");
        }
    }

    /// The sink's place does not answer: it is waited for. Logs once per change.
    pub fn down(&self, reason: &str) {
        self.up.set(0);
        if self.metrics.part_down(&self.part, reason) {
            tracing::warn!(part = %self.part, reason, "unavailable, waiting");
        }
    }

    /// What the sink is called in readiness.
    pub fn part(&self) -> &str {
        &self.part
    }

    /// All metrics of the process.
    pub fn all(&self) -> &Metrics {
        &self.metrics
    }

    /// Counters that no registry shows: for tests and probes.
    pub fn detached() -> Self {
        Metrics::new().route(&"test".into()).sink("test")
    }
}
