//! What was read and is not settled, looked after whether there is a session or not.
//!
//! Invariant: what a sink dropped is dispatched again or the route stops; the end waits until nothing is owed, for a while.

use std::sync::Arc;
use std::time::Duration;

use super::lanes::Lanes;
use crate::ack::Acks;
use crate::ack::budget::Budget;
use crate::observe::RouteMetrics;
use crate::sink::{Message, Outbox, Urgency};
use crate::source::kafka::heartbeat::Heartbeat;
use crate::source::{DRAIN_DEADLINE, STUCK_AFTER, WATCH_INTERVAL, watch};
use crate::stop::{Stop, StopReason};

/// How often is looked after what was read.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// So long the budget has to be spent before sinks are asked not to wait for more.
const FULL_FOR: Duration = Duration::from_millis(200);

/// See the module.
pub struct Keeper {
    pub route: Arc<str>,
    pub lanes: Lanes,
    pub acks: Acks,
    pub budget: Budget,
    pub sinks: Vec<Outbox>,
    pub urgency: Arc<Urgency>,
    pub metrics: RouteMetrics,
    pub heartbeat: Heartbeat,
    pub stop: Stop,
    pub rewinds_max: u32,
    pub watched: tokio::time::Instant,
    pub full: Full,
}

/// Whether the budget is spent.
pub enum Full {
    No,
    Since(tokio::time::Instant),
    /// And the sinks know.
    Urgent,
}

impl Keeper {
    /// Lets go of what is settled and dispatches again what was dropped; call it every few milliseconds.
    pub fn look(&mut self) -> Result<(), StopReason> {
        self.heartbeat.beat();
        self.lanes.settle();
        self.hurry();
        for rewind in self.acks.take_rewinds() {
            self.metrics.rewinds.inc();
            let (name, reason) = (&rewind.name, rewind.reason);
            if rewind.without_progress > self.rewinds_max {
                let times = rewind.without_progress - 1;
                let text = format!("route {:?}: {name} was dispatched again {times} times without getting further ({reason})", self.route);
                return Err(StopReason::Broken(text));
            }
            tracing::warn!(route = %self.route, partition = %name, from = rewind.from, reason, "rewind");
            for sink in &self.sinks {
                sink.send(Message::Abandon(rewind.old));
            }
            self.lanes.rewind(&rewind);
        }
        self.lanes.resume();
        if self.watched.elapsed() >= WATCH_INTERVAL {
            self.watched = tokio::time::Instant::now();
            watch(&self.route, &self.acks, &self.budget, &self.metrics, STUCK_AFTER);
        }
        Ok(())
    }

    /// What is owed counts in the budget until it is settled: a sink that waits for more, such as a table, would wait in vain.
    fn hurry(&mut self) {
        let is_full = self.budget.is_exhausted();
        match self.full {
            Full::No if is_full => self.full = Full::Since(tokio::time::Instant::now()),
            Full::Since(since) if is_full && since.elapsed() > FULL_FOR => {
                self.urgency.raise();
                self.full = Full::Urgent;
            }
            Full::Since(_) if !is_full => self.full = Full::No,
            Full::Urgent if !is_full => {
                self.urgency.lower();
                self.full = Full::No;
            }
            _ => {}
        }
    }

    /// Waits until what was read is settled, for a while.
    pub async fn drain(&mut self) {
        if matches!(self.full, Full::Urgent) {
            self.urgency.lower();
        }
        self.lanes.flush();
        let slots = self.lanes.slots();
        self.acks.stop_dispatch(&slots);
        let stopped_by_need = !matches!(self.stop.reason(), None | Some(StopReason::Asked));
        self.urgency.raise();
        let deadline = tokio::time::Instant::now() + if stopped_by_need { Duration::from_secs(1) } else { DRAIN_DEADLINE };
        let owing = loop {
            self.heartbeat.beat();
            let owing = self.acks.drained(&slots, std::time::Instant::now());
            if owing.is_empty() || tokio::time::Instant::now() >= deadline {
                break owing;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        if !owing.is_empty() {
            tracing::warn!(route = %self.route, "ending with records in flight: their topics' values come again with the next start");
        }
        // There is nowhere to commit to.
        self.acks.revoke(&slots, |_| ());
        self.urgency.lower();
    }
}
