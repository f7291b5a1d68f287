//! Diffusion: the values of topics that selectors choose, over one session after another.
//!
//! Invariant: of every topic that keeps its value, the last one is delivered at least once: what was read is kept until it is settled,
//! and every session begins with the values that there are. Nothing more is read while the route's budget is spent, so the server
//! waits, and in the end gives the session up; the next one then begins with the values of that time.

mod absent;
mod keeper;
mod lanes;
mod probe;
mod record;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Interval, MissedTickBehavior};

use self::absent::Absent;
use self::keeper::{Full, Keeper, LOOK_INTERVAL};
use self::lanes::{Entry, Lanes};
pub use self::probe::probe;
use self::record::{Form, Written};
use super::Feed;
use crate::config::{DiffusionSource, Removed, Topics};
use crate::diffusion::code::{self, Consequence};
use crate::diffusion::connect::Settings;
use crate::diffusion::path;
use crate::diffusion::service::{Reason, Request};
use crate::diffusion::session::{Event, Refused, Session};
use crate::diffusion::subscriptions::{Subscriptions, Update};
use crate::observe::SourceMetrics;
use crate::sink::backoff::Backoff;
use crate::stop::{Stop, StopReason};

/// A session that lasted so long was no failure.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What a subscription is for.
#[derive(Debug)]
enum Asked {
    /// One of the route's selectors.
    Selector(usize),
    /// A topic that the server had given up for this session.
    Topic(Arc<str>),
}

/// How a session ended.
enum Served {
    Stopped,
    Lost(String),
}

/// Reads the topics of one route.
pub struct Reading {
    settings: Settings,
    selectors: Vec<String>,
    timeout: Duration,
    values_max: usize,
    backoff: Backoff,
    removed: Removed,
    form: Form,
    keeper: Keeper,
    absent: Absent,
    stop: Stop,
    health: SourceMetrics,
    ticks: Interval,
    /// Sessions lost or refused one soon after the other.
    failures: u32,
    /// Room for a value.
    value: Vec<u8>,
}

impl Reading {
    /// Reads `source` for the route of `feed`. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Where certificates cannot be read.
    pub fn of(source: &DiffusionSource, feed: Feed) -> Result<Self, StopReason> {
        let (bounds, budget, part) = (feed.bounds(), feed.budget(), feed.part());
        let Feed { route, acks, sinks, urgency, workers, stop, metrics, heartbeat, .. } = feed;
        let settings = source.settings().map_err(|reason| StopReason::Configuration(format!("{part}: {reason}")))?;
        let selectors = match &route.topics {
            Topics::List(list) => list.clone(),
            Topics::Regex(pattern) => return Err(StopReason::Configuration(format!("{part}: {pattern} is no topic selector"))),
        };
        let around = lanes::Surroundings {
            source: route.from.as_str().into(),
            bounds,
            acks: acks.clone(),
            budget: budget.clone(),
            workers,
            metrics: metrics.clone(),
        };
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Reading {
            settings,
            selectors,
            timeout: source.timeout.get(),
            values_max: source.values_max.get() as usize,
            backoff: Backoff { min: source.retry.delay_min.get(), max: source.retry.delay_max.get() },
            removed: source.removed,
            form: Form { value: route.value, null: source.null, json: source.json },
            absent: Absent::new(),
            health: metrics.source(part),
            keeper: Keeper {
                route: route.name.as_str().into(),
                lanes: Lanes::new(around, now()),
                acks,
                budget,
                sinks,
                urgency,
                metrics,
                heartbeat,
                stop: stop.clone(),
                rewinds_max: route.rewinds_max,
                watched: tokio::time::Instant::now(),
                full: Full::No,
            },
            stop,
            ticks,
            failures: 0,
            value: Vec::new(),
        })
    }

    /// Reads until the route is to stop.
    ///
    /// # Errors
    /// Where the server refuses what waiting cannot mend.
    pub async fn run(mut self) -> Result<(), StopReason> {
        let read = self.read().await;
        self.health.topics.set(0);
        self.health.values.set(0);
        if let Err(reason) = &read {
            self.stop.stop(reason.clone());
        }
        self.keeper.drain().await;
        read
    }

    async fn read(&mut self) -> Result<(), StopReason> {
        loop {
            let settings = self.settings.clone();
            let Some(connected) = self.meanwhile(Session::connect(&settings)).await? else { return Ok(()) };
            let reason = match connected {
                Err(error) if error.is_permanent() => return Err(self.refuse(&format!("{}: {error}", settings.url))),
                Err(error) => format!("{}: {error}", settings.url),
                Ok(session) => {
                    tracing::debug!(route = %self.keeper.route, server = ?session.server(), "connected");
                    self.health.sessions.inc();
                    let mut subscriptions = Subscriptions::default();
                    let began = tokio::time::Instant::now();
                    let served = self.serve(session, &mut subscriptions).await?;
                    let Served::Lost(reason) = served else { return Ok(()) };
                    if began.elapsed() > HEALTHY_AFTER {
                        self.failures = 0;
                    }
                    if self.removed == Removed::Tombstone {
                        self.absent.lost(subscriptions.paths());
                    }
                    reason
                }
            };
            self.health.down(&reason);
            self.health.topics.set(0);
            self.failures = self.failures.saturating_add(1);
            let delay = self.backoff.delay(self.failures);
            tracing::debug!(route = %self.keeper.route, reason, ?delay, "no session");
            if self.meanwhile(tokio::time::sleep(delay)).await?.is_none() {
                return Ok(());
            }
        }
    }

    /// Waits for something while what was read is looked after; `None`: the route is to stop.
    async fn meanwhile<T>(&mut self, awaited: impl Future<Output = T>) -> Result<Option<T>, StopReason> {
        let mut awaited = std::pin::pin!(awaited);
        loop {
            tokio::select! {
                done = &mut awaited => return Ok(Some(done)),
                _ = self.stop.stopped() => return Ok(None),
                _ = self.ticks.tick() => {
                    self.keeper.look()?;
                    self.keeper.lanes.flush();
                }
            }
        }
    }

    /// Reads what a session gives, until it is lost or the route is to stop.
    async fn serve(&mut self, mut session: Session<Asked>, subscriptions: &mut Subscriptions) -> Result<Served, StopReason> {
        for (index, selector) in self.selectors.iter().enumerate() {
            if let Err((_, too_long)) = session.request(&Request::Subscribe { selector }, Asked::Selector(index)) {
                return Err(self.refuse(&format!("the topic selector {selector:?}: {too_long}: split it")));
            }
        }
        let mut unanswered = self.selectors.len();
        let mut events = Vec::new();
        let mut arrived: VecDeque<Event<Asked>> = VecDeque::new();
        let mut lost = None;
        let mut waited = tokio::time::Instant::now();
        loop {
            // One at a time: a short change may make a long value.
            while self.keeper.lanes.has_room()
                && let Some(event) = arrived.pop_front()
            {
                if let Err(reason) = self.take(event, &mut session, subscriptions, &mut unanswered)? {
                    lost = Some(reason);
                    arrived.clear();
                }
            }
            let has_room = self.keeper.lanes.has_room();
            if arrived.is_empty()
                && let Some(reason) = lost
            {
                return Ok(Served::Lost(reason));
            }
            let flush_at = self.keeper.lanes.flush_at();
            tokio::select! {
                _ = self.stop.stopped() => {
                    session.close().await;
                    return Ok(Served::Stopped);
                }
                received = session.events(&mut events), if arrived.is_empty() && has_room => {
                    arrived.extend(events.drain(..));
                    lost = received.err().map(|lost| lost.0);
                }
                () = tokio::time::sleep_until(flush_at.unwrap_or(waited)), if flush_at.is_some() => self.keeper.lanes.flush(),
                _ = self.ticks.tick() => {
                    self.keeper.look()?;
                    self.health.topics.set(subscriptions.len() as i64);
                    self.health.values.set(subscriptions.bytes() as i64);
                    if has_room {
                        self.give_up_absent();
                    } else {
                        waited = tokio::time::Instant::now();
                        self.absent.wait();
                    }
                    if session.waits_since().is_some_and(|since| since.max(waited).elapsed() > self.timeout) {
                        lost = Some(format!("no answer within {} s", self.timeout.as_secs_f64()));
                    }
                }
            }
        }
    }

    /// Takes what came from the server; `Err` within: the session is of no use any more, and why.
    fn take(
        &mut self,
        event: Event<Asked>,
        session: &mut Session<Asked>,
        subscriptions: &mut Subscriptions,
        unanswered: &mut usize,
    ) -> Result<Result<(), String>, StopReason> {
        match event {
            Event::Answer { of: Asked::Selector(_), answer: Ok(_), .. } => {
                *unanswered -= 1;
                if *unanswered == 0 {
                    self.health.up();
                    self.absent.answered();
                }
            }
            Event::Answer { of: Asked::Selector(index), answer: Err(refused), .. } => return self.refused(index, &refused).map(Err),
            Event::Answer { of: Asked::Topic(path), answer: Err(refused), .. } => {
                return Ok(Err(format!("topic {path:?} cannot be subscribed to again: {refused}")));
            }
            event => match subscriptions.take(event) {
                Err(error) => return Ok(Err(format!("the server sent {error}"))),
                Ok(Some(update)) => self.update(update, session),
                Ok(None) => {}
            },
        }
        if subscriptions.bytes() > self.values_max {
            return Err(self.refuse(&format!(
                "{} topics and their values take more than `values_max` = {} bytes: raise it, or select fewer topics",
                subscriptions.len(),
                self.values_max
            )));
        }
        Ok(Ok(()))
    }

    fn update(&mut self, update: Update, session: &mut Session<Asked>) {
        match update {
            Update::Subscribed(path, _) => self.absent.came(&path),
            Update::Value(path, specification, bytes) => {
                let entry = Entry { path: &path, value: None, timestamp: now(), unfit: None };
                match self.form.write(specification.kind, &bytes, &mut self.value) {
                    Written::Tombstone => self.keeper.lanes.push(entry),
                    Written::Value(value) => self.keeper.lanes.push(Entry { value: Some(value), ..entry }),
                    Written::Unfit(value, reason) => self.keeper.lanes.push(Entry { value: Some(value), unfit: Some(&reason), ..entry }),
                }
            }
            Update::Unsubscribed(path, Reason::Removed) => {
                if self.removed == Removed::Tombstone {
                    self.keeper.lanes.push(Entry { path: &path, value: None, timestamp: now(), unfit: None });
                }
            }
            Update::Unsubscribed(path, Reason::BackPressure) => {
                tracing::debug!(route = %self.keeper.route, topic = %path, "given up for a while by the server, subscribing again");
                // A path is shorter than any message that a server takes.
                let _ = session.request(&Request::Subscribe { selector: &path::selector(&path) }, Asked::Topic(path.clone()));
            }
            Update::Unsubscribed(path, reason @ (Reason::NotAuthorised | Reason::Control | Reason::Unknown(_))) => {
                tracing::warn!(route = %self.keeper.route, topic = %path, ?reason, "the server ended the subscription");
            }
            Update::Unsubscribed(_, Reason::Requested | Reason::BranchMappings) => {}
        }
    }

    /// Topics that are gone since a connection was lost.
    fn give_up_absent(&mut self) {
        for path in self.absent.take() {
            self.keeper.lanes.push(Entry { path: &path, value: None, timestamp: now(), unfit: None });
        }
    }

    /// The server refuses a selector: why the session is of no use; an error where no other would be.
    fn refused(&self, index: usize, refused: &Refused) -> Result<String, StopReason> {
        let selector = &self.selectors[index];
        let text = format!("the server refuses the topic selector {selector:?}: {refused}");
        match code::consequence(refused.code) {
            Consequence::Retry | Consequence::NewSession => Ok(text),
            Consequence::Stop(remedy) => Err(self.refuse(&format!("{text}: {remedy}"))),
            Consequence::InvalidPath => Err(StopReason::Configuration(format!("{}: {text}: correct `topics`", self.part()))),
            _ => Err(self.refuse(&format!("{text}: the login needs the permissions to select and to read topics"))),
        }
    }

    fn part(&self) -> String {
        format!("source {:?} of route {:?}", self.keeper.lanes.source(), self.keeper.route)
    }

    fn refuse(&self, reason: &str) -> StopReason {
        StopReason::Environment(format!("{}: {reason}", self.part()))
    }
}

/// Milliseconds since 1970-01-01T00:00Z.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
