//! Sources: where records come from.
//!
//! Invariant: a source hands batches to workers and hears of them through acks only; how it reads again what was not delivered is
//! its own matter.

pub mod diffusion;
pub mod kafka;
pub mod logs;
pub mod work;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::task::JoinHandle;

use self::kafka::heartbeat::Heartbeat;
use self::kafka::member::Member;
use self::logs::Logs;
use self::work::{BatchBounds, WorkerMessage};
use crate::ack::Acks;
use crate::ack::budget::Budget;
use crate::config::{Config, Route, Source};
use crate::observe::RouteMetrics;
use crate::sink::backoff::Backoff;
use crate::sink::{Outbox, Urgency};
use crate::stop::{Stop, StopReason};

/// A first owed offset that stays the same for so long is reported.
const STUCK_AFTER: Duration = Duration::from_secs(60);
/// How long the end of a route waits for its sinks.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// How often a source looks after what it has read.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// Waits before a partition is read again once more without having got further.
const REWIND_AGAIN: Backoff = Backoff { min: Duration::from_millis(200), max: Duration::from_secs(10) };

/// What a source is given by its route.
pub struct Feed {
    /// The whole configuration.
    pub config: Arc<Config>,
    /// The route.
    pub route: Route,
    /// Stop at the end offsets seen at start.
    pub until_end: bool,
    /// Acks of the route.
    pub acks: Acks,
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
    /// What sinks may know of the logs.
    pub logs: Logs,
    /// Sign of life.
    pub heartbeat: Heartbeat,
    /// How many plugins have an instance for each partition.
    pub per_partition: usize,
    /// The membership in the group, for a sink that commits the offsets.
    pub member: Member,
}

impl Feed {
    /// Bounds of batches.
    fn bounds(&self) -> BatchBounds {
        let batch = &self.route.batch;
        BatchBounds { records_max: batch.records_max as usize, bytes_max: batch.bytes_max.get() as usize, linger: batch.linger.get() }
    }

    /// Byte budget of the route.
    fn budget(&self) -> Budget {
        Budget::new(self.route.in_flight_max.get() as usize)
    }

    /// What the source is called in readiness.
    fn part(&self) -> String {
        format!("source {:?} of route {:?}", self.route.from.to_string(), self.route.name.to_string())
    }
}

/// Starts the source of a route; it ends when the route is to stop or nothing more is to be read, with nothing in flight.
pub fn start(feed: Feed) -> JoinHandle<Result<(), StopReason>> {
    let config = feed.config.clone();
    match &config.sources[&feed.route.from] {
        Source::Kafka(source) => {
            let reading = kafka::start::Reading::of(source, feed);
            tokio::task::spawn_blocking(move || reading.run())
        }
        Source::Diffusion(source) => {
            let reading = diffusion::Reading::of(source, feed);
            tokio::spawn(async move { reading?.run().await })
        }
    }
}

/// The wait before the rewind that is the `without_progress`th in a row without any progress.
pub fn rewind_wait(without_progress: u32) -> Duration {
    match without_progress {
        0 | 1 => Duration::ZERO,
        more => REWIND_AGAIN.delay(more),
    }
}

/// Shows what is in flight, and tells of what does not move; call it every [`WATCH_INTERVAL`].
pub fn watch(route: &str, acks: &Acks, budget: &Budget, metrics: &RouteMetrics, stuck_after: Duration) {
    metrics.held_bytes.set(budget.held() as i64);
    metrics.settled_late.set(acks.settled_late() as i64);
    let (stuck, oldest) = acks.stuck(stuck_after);
    metrics.oldest_head.set(oldest.as_secs() as i64);
    for stuck in stuck {
        tracing::warn!(
            route = %route, partition = %stuck.name, offset = stuck.first, seconds = stuck.since.as_secs(),
            "the first record in flight does not move: its sink waits, or something is stuck"
        );
    }
}
