//! One connection of the sink: the topic paths that are its, sent over one session after another.
//!
//! Invariant: an output ends when the server has answered that it is made, or the dead letters owe it; what a lost session left without
//! an answer is sent again on the next, in the order of its path (see `topics`).

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::topics::{How, Outcome, Paths, Ticket, Topics};
use crate::dead::{Class, Letter};
use crate::diffusion::code::{self, Consequence};
use crate::diffusion::connect::Settings;
use crate::diffusion::link::Lost;
use crate::diffusion::path;
use crate::diffusion::service::{Constraint, Request, Specification, TopicType};
use crate::diffusion::session::{Event, Refused, Session};
use crate::observe::SinkMetrics;
use crate::output::{Outputs, View};
use crate::sink::backoff::Backoff;
use crate::sink::{SinkError, Surroundings};
use crate::value::{DecodeError, PlainOptions, write_plain_cbor};

/// Bytes of updates that wait for the server to take them; a single one may be longer.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Where answers come out of order, so many times `in_flight_max` updates may be behind the oldest without an answer.
const WINDOW_FACTOR: usize = 16;
/// A topic that is neither there nor can be created is given up after so many turns.
const TURNS_MAX: u32 = 3;
/// JSON null in CBOR.
const NULL: &[u8] = &[0xf6];

/// The outputs of one piece while updates carry them.
#[derive(Debug)]
pub struct Held {
    /// Number of the piece, in the order of arrival.
    pub number: u64,
    /// The outputs.
    pub outputs: Arc<Outputs>,
    /// The partition left or is read again: nothing of it is sent any more.
    pub abandoned: AtomicBool,
}

/// One output on its way.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its piece.
    pub held: Arc<Held>,
    /// Position in the list of outputs.
    pub index: u32,
}

impl Item {
    fn view(&self) -> View<'_> {
        self.held.outputs.view(self.index as usize)
    }

    fn is_abandoned(&self) -> bool {
        self.held.abandoned.load(Ordering::Relaxed)
    }
}

/// An output for a topic path.
#[derive(Debug)]
pub struct Order {
    /// The path.
    pub path: Box<str>,
    /// The output.
    pub item: Item,
    /// Whether the topic is to go.
    pub removes: bool,
}

/// How an output ended; `letter: None`: delivered, or abandoned.
#[derive(Debug)]
pub struct Ended {
    /// Number of the piece.
    pub number: u64,
    /// Why it was given up.
    pub letter: Option<(u32, Letter)>,
}

/// What all lanes of a sink have in common.
#[derive(Debug)]
pub struct Common {
    /// How to connect.
    pub settings: Settings,
    /// Topics that are created are this.
    pub specification: Specification,
    /// How values are written.
    pub json: PlainOptions,
    /// Updates in flight.
    pub in_flight_max: usize,
    /// Updates of one path in flight.
    pub path_in_flight_max: usize,
    /// How many paths there may be.
    pub paths: Arc<Paths>,
    /// Whether values that the session set last are left out: then this makes hashes to compare them by.
    pub unchanged: Option<RandomState>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Delays between tries.
    pub backoff: Backoff,
    /// 0: without end.
    pub attempts_max: u32,
    /// Whether the server is there.
    pub health: Health,
    /// Name, metrics, dead letters.
    pub surroundings: Surroundings,
}

/// Whether the server is there, as far as all lanes know.
#[derive(Debug)]
pub struct Health {
    metrics: SinkMetrics,
    lanes_down: AtomicUsize,
}

impl Health {
    /// It is believed to be there.
    pub fn new(metrics: SinkMetrics) -> Self {
        Health { metrics, lanes_down: AtomicUsize::new(0) }
    }
}

/// Appends the value of an output as a topic's; null for a tombstone.
///
/// # Errors
/// Where the value cannot be read.
pub fn render(view: View<'_>, json: &PlainOptions, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    match view.value() {
        Some(value) => write_plain_cbor(value, json, out),
        None => {
            out.extend_from_slice(NULL);
            Ok(())
        }
    }
}

/// See the module's documentation.
pub struct Lane {
    common: Arc<Common>,
    orders: mpsc::UnboundedReceiver<Vec<Order>>,
    is_closed: bool,
    ended: mpsc::UnboundedSender<Vec<Ended>>,
    topics: Topics<Item>,
    /// To report, and room for what ends with an answer.
    endings: Vec<Ended>,
    made: Vec<Item>,
    /// Room for a value.
    value: Vec<u8>,
    is_down: bool,
    /// Sessions lost or refused since the last one that answered anything.
    failures: u32,
}

/// How a session ended.
enum Served {
    Finished,
    Lost(String),
}

type Waiting = (Ticket, How);

impl Lane {
    /// A lane that takes orders and reports what ended; both channels are bounded by what the sink lets in.
    pub fn new(common: Arc<Common>, orders: mpsc::UnboundedReceiver<Vec<Order>>, ended: mpsc::UnboundedSender<Vec<Ended>>) -> Self {
        let topics = Topics::new(common.paths.clone(), common.path_in_flight_max);
        let (endings, made, value) = (Vec::new(), Vec::new(), Vec::new());
        Lane { common, orders, is_closed: false, ended, topics, endings, made, value, is_down: false, failures: 0 }
    }

    /// Works until there are no more orders and all are done.
    ///
    /// # Errors
    /// Where the server refuses what waiting cannot mend.
    pub async fn run(mut self) -> Result<(), SinkError> {
        loop {
            let Some(mut session) = self.connect().await? else { return Ok(()) };
            match self.serve(&mut session).await? {
                Served::Finished => {
                    session.close().await;
                    return Ok(());
                }
                Served::Lost(reason) => {
                    let unanswered = session.in_flight();
                    tracing::debug!(sink = %self.common.surroundings.sink, unanswered, reason, "session lost");
                    drop(session);
                    self.topics.lose(Instant::now());
                    self.common.surroundings.metrics.retries.inc_by(unanswered as u64);
                    self.down(&reason).await;
                }
            }
        }
    }

    fn stop(&self, reason: String) -> SinkError {
        SinkError::Environment { sink: self.common.surroundings.sink.clone(), reason }
    }

    /// A session, as soon as there is one; `None`: none is needed any more.
    async fn connect(&mut self) -> Result<Option<Session<Waiting>>, SinkError> {
        let common = self.common.clone();
        loop {
            let attempt = Session::connect(&common.settings);
            tokio::pin!(attempt);
            let connected = loop {
                if self.is_closed && self.topics.is_empty() {
                    return Ok(None);
                }
                self.report();
                tokio::select! {
                    connected = &mut attempt => break connected,
                    orders = self.orders.recv(), if !self.is_closed => self.take(orders),
                }
            };
            match connected {
                Ok(session) => {
                    tracing::debug!(sink = %common.surroundings.sink, server = ?session.server(), "connected");
                    self.up();
                    return Ok(Some(session));
                }
                Err(error) if error.is_permanent() => return Err(self.stop(format!("{}: {error}", common.settings.url))),
                Err(error) => self.down(&format!("{}: {error}", common.settings.url)).await,
            }
        }
    }

    fn up(&mut self) {
        let health = &self.common.health;
        if std::mem::take(&mut self.is_down) {
            health.lanes_down.fetch_sub(1, Ordering::Relaxed);
        }
        if health.lanes_down.load(Ordering::Relaxed) == 0 {
            health.metrics.up();
        }
    }

    /// The server is not there: says so, and waits for the next try. Orders are taken meanwhile.
    async fn down(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.is_down, true) {
            self.common.health.lanes_down.fetch_add(1, Ordering::Relaxed);
        }
        self.common.health.metrics.down(reason);
        self.failures = self.failures.saturating_add(1);
        let delay = tokio::time::sleep(self.common.backoff.delay(self.failures));
        tokio::pin!(delay);
        while !(self.is_closed && self.topics.is_empty()) {
            self.report();
            tokio::select! {
                () = &mut delay => return,
                orders = self.orders.recv(), if !self.is_closed => self.take(orders),
            }
        }
    }

    fn take(&mut self, orders: Option<Vec<Order>>) {
        let Some(orders) = orders else {
            self.is_closed = true;
            return;
        };
        for Order { path, item, removes } in orders {
            if let Err(item) = self.topics.push(&path, item, removes) {
                let message = format!(
                    "{path:?} would be one topic path more than {} (paths_max): look whether the pattern of the path is meant so, \
                     or raise paths_max",
                    self.common.paths.max()
                );
                self.give_up(&item, Class::DestinationInvalid, "paths-max", message, 1);
            }
        }
    }

    async fn serve(&mut self, session: &mut Session<Waiting>) -> Result<Served, SinkError> {
        let mut events = Vec::new();
        loop {
            while let Ok(orders) = self.orders.try_recv() {
                self.take(Some(orders));
            }
            self.send(session);
            self.report();
            if self.is_closed && self.topics.is_empty() {
                return Ok(Served::Finished);
            }
            let overdue = session.waits_since().map(|since| since + self.common.timeout);
            // What waits for a time can only be sent where there is room.
            let due = self.topics.deadline().filter(|_| self.has_room(session));
            let deadline = overdue.into_iter().chain(due).min();
            tokio::select! {
                received = session.events(&mut events) => {
                    for event in events.drain(..) {
                        if let Event::Answer { of: (ticket, how), took, answer } = event
                            && let Some(lost) = self.answer(ticket, how, took, answer)?
                        {
                            return Ok(Served::Lost(lost));
                        }
                    }
                    if let Err(Lost(reason)) = received {
                        return Ok(Served::Lost(reason));
                    }
                }
                orders = self.orders.recv(), if !self.is_closed => self.take(orders),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    let now = Instant::now();
                    if overdue.is_some_and(|overdue| overdue <= now) {
                        let seconds = self.common.timeout.as_secs_f64();
                        return Ok(Served::Lost(format!("an update was not answered within {seconds} s (timeout)")));
                    }
                }
            }
        }
    }

    fn has_room(&self, session: &Session<Waiting>) -> bool {
        let in_flight_max = self.common.in_flight_max;
        session.in_flight() < in_flight_max
            && session.window() < WINDOW_FACTOR * in_flight_max
            && session.waiting_bytes() < WAITING_BYTES_MAX
    }

    /// Sends as much as may be in flight.
    fn send(&mut self, session: &mut Session<Waiting>) {
        let now = Instant::now();
        while self.has_room(session)
            && let Some(next) = self.topics.next(now)
        {
            let (ticket, how, path, item) = (next.ticket, next.how, next.path.clone(), next.item.clone());
            if item.is_abandoned() {
                self.endings.push(Ended { number: item.held.number, letter: None });
                self.finish(ticket, Outcome::GivenUp, now);
                continue;
            }
            match self.request(session, ticket, how, &path, &item) {
                Ok(true) => {}
                Ok(false) => {
                    drop(self.topics.end(ticket, Outcome::Made, now, &mut self.made));
                    self.common.surroundings.metrics.skipped.inc_by(self.made.len() as u64);
                    self.end_made();
                }
                Err((class, code, message)) => {
                    self.give_up(&item, class, code, message, 1);
                    self.finish(ticket, Outcome::GivenUp, now);
                }
            }
        }
    }

    /// Queues a request; `false`: none is needed, the topic has this value.
    fn request(
        &mut self,
        session: &mut Session<Waiting>,
        ticket: Ticket,
        how: How,
        path: &str,
        item: &Item,
    ) -> Result<bool, (Class, &'static str, String)> {
        self.value.clear();
        match item.view().value() {
            None => self.value.extend_from_slice(NULL),
            Some(value) => {
                write_plain_cbor(value, &self.common.json, &mut self.value).map_err(|error| (Class::Decode, "cbor", error.to_string()))?
            }
        }
        let hash = self.common.unchanged.as_ref().map(|hasher| hasher.hash_one(&self.value));
        if how != How::Remove && hash.is_some_and(|hash| self.topics.is_unchanged(ticket, hash)) {
            return Ok(false);
        }
        let (value, constraint) = (self.value.as_slice(), Constraint::None);
        let selector;
        let request = match how {
            How::Set => Request::Set { path, kind: TopicType::JSON, value, constraint },
            How::AddAndSet => Request::AddAndSet { path, specification: self.common.specification.clone(), value, constraint },
            How::Remove => {
                selector = path::selector(path);
                Request::Remove { selector: &selector }
            }
        };
        match session.request(&request, (ticket, how)) {
            Ok(bytes) => {
                self.common.surroundings.metrics.bytes.inc_by(bytes as u64);
                Ok(true)
            }
            Err((_, error)) => Err((Class::Oversize, "message-max", error.to_string())),
        }
    }

    /// An answer came. `Some`: nothing more can be done on this session, and why.
    fn answer(
        &mut self,
        ticket: Ticket,
        how: How,
        took: Duration,
        answer: Result<bytes::Bytes, Refused>,
    ) -> Result<Option<String>, SinkError> {
        let now = Instant::now();
        let common = self.common.clone();
        self.failures = 0;
        common.surroundings.metrics.flush.observe(took.as_secs_f64());
        let Err(refused) = answer else {
            self.finish(ticket, Outcome::Made, now);
            return Ok(None);
        };
        let Some((path, item, tries)) = self.topics.get(ticket) else { return Ok(None) };
        let (path, item) = (path.clone(), item.clone());
        let tries = tries + 1;
        let is_exhausted = common.attempts_max > 0 && tries >= common.attempts_max;
        let again = Outcome::Again(now + common.backoff.delay(tries));
        let outcome = match code::consequence(refused.code) {
            Consequence::Retry | Consequence::NewSession if is_exhausted => {
                let message = format!("tried {tries} times, the last time: {refused}");
                self.give_up(&item, Class::SinkRetryExhausted, "retries", message, tries);
                Outcome::GivenUp
            }
            Consequence::Retry => {
                common.surroundings.metrics.retries.inc();
                if tries.is_multiple_of(10) {
                    tracing::warn!(sink = %common.surroundings.sink, %path, tries, %refused, "an update is still refused, trying on");
                }
                again
            }
            Consequence::NewSession => {
                self.finish(ticket, again, now);
                return Ok(Some(refused.to_string()));
            }
            Consequence::NoSuchTopic if how == How::Set => Outcome::Create,
            // It is gone already.
            Consequence::NoSuchTopic if how == How::Remove => Outcome::Made,
            Consequence::OtherSpecification if how == How::AddAndSet && tries < TURNS_MAX => Outcome::Exists,
            Consequence::Stop(remedy) => return Err(self.stop(format!("topic path {path:?}: {refused}: {remedy}"))),
            consequence => {
                let class = if consequence == Consequence::InvalidPath { Class::DestinationInvalid } else { Class::SinkPermanent };
                self.give_up(&item, class, &refused.code.to_string(), format!("topic path {path:?}: {refused}"), tries);
                Outcome::GivenUp
            }
        };
        self.finish(ticket, outcome, now);
        Ok(None)
    }

    fn finish(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) {
        // What is given up was reported where that was decided.
        drop(self.topics.end(ticket, outcome, now, &mut self.made));
        self.common.surroundings.metrics.outputs.inc_by(self.made.len() as u64);
        self.end_made();
    }

    fn end_made(&mut self) {
        self.endings.extend(self.made.drain(..).map(|item| Ended { number: item.held.number, letter: None }));
    }

    fn give_up(&mut self, item: &Item, class: Class, code: &str, message: String, attempts: u32) {
        let (index, letter) = self.common.surroundings.letter(item.view(), class, code, message);
        self.endings.push(Ended { number: item.held.number, letter: Some((index, Letter { attempts, ..letter })) });
    }

    fn report(&mut self) {
        if !self.endings.is_empty() {
            // Where nobody hears it, the sink is stopping.
            let _ = self.ended.send(std::mem::take(&mut self.endings));
        }
    }
}
