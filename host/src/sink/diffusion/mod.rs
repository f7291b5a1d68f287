//! The sink `diffusion`: the value of a topic for each record, over one session or several.
//!
//! Invariant: updates of one topic path are made in the order in which the records came, whatever is refused, tried again or lost with
//! a connection, so a topic ends with the last record's value; a piece is settled when the server has made, or the dead letters owe,
//! every output of it. Delivery is at least once: after a crash or a lost connection updates may be made twice.

mod config;
#[cfg(test)]
mod conversions;
mod lane;
mod pattern;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;
mod topics;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use self::config::{Config, Retry, Tombstone, Unchanged};
use self::lane::{Common, Ended, Health, Held, Item, Lane, Order, render};
pub use self::pattern::PathPattern;
use self::pattern::topic_path;
use self::topics::Paths;
use super::backoff::Backoff;
use super::preview::Preview;
use super::{Inbox, Message, Piece, Sink, SinkError, Surroundings, Uses, give_up};
use crate::ack::Slot;
use crate::dead::{Class, Letter};
use crate::diffusion::service::{Specification, TopicType};
use crate::diffusion::session::Session;
use crate::output::View;
use crate::value::{Format, JsonOptions, Value, write_json};

/// So many outputs at least are sorted to their paths at once. More of them let more paths pass a slow one; each costs about 150 bytes
/// beside the batch that it is part of.
const WINDOW: usize = 16_384;

/// How the sink uses destinations.
pub fn destinations(config: &Config) -> Uses {
    if config.takes_destination() { Uses::Needed } else { Uses::Ignored }
}

/// Looks whether the server takes the login; changes nothing.
///
/// # Errors
/// What is wrong, in words for the user.
pub async fn probe(config: &Config) -> Result<(), String> {
    let session = Session::<()>::connect(&config.settings()?).await.map_err(|error| format!("{}: {error}", config.url))?;
    session.close().await;
    Ok(())
}

/// A sink of the kind `diffusion`.
#[derive(Debug)]
pub struct Diffusion {
    common: Arc<Common>,
    path: Option<PathPattern>,
    tombstone: Tombstone,
    sessions: usize,
}

impl Diffusion {
    /// A sink that has not connected yet.
    ///
    /// # Errors
    /// Where certificates cannot be read.
    pub fn new(config: &Config, surroundings: Surroundings) -> Result<Self, SinkError> {
        let wrong = |reason| SinkError::Configuration { sink: surroundings.sink.clone(), reason };
        let settings = config.settings().map_err(wrong)?;
        let specification = Specification { kind: TopicType::JSON, properties: config.topic_properties.clone() };
        let common = Common {
            settings,
            specification,
            json: config.json,
            in_flight_max: config.in_flight_max.get(),
            path_in_flight_max: config.path_in_flight_max.get(),
            paths: Arc::new(Paths::new(config.paths_max.get())),
            unchanged: (config.unchanged == Unchanged::Skip).then(RandomState::new),
            timeout: config.timeout.get(),
            backoff: Backoff { min: config.retry.delay_min.get(), max: config.retry.delay_max.get() },
            attempts_max: config.retry.attempts_max,
            health: Health::new(surroundings.metrics.clone()),
            surroundings,
        };
        let (path, sessions) = (config.path.clone(), config.sessions.get());
        Ok(Diffusion { common: Arc::new(common), path, tombstone: config.tombstone, sessions })
    }

    /// What an output would do, without a server.
    pub fn preview(&self, view: View<'_>) -> Preview {
        let (path, removes) = match self.decide(view) {
            Decision::Skip => return Preview::Skipped("a tombstone, and `tombstone` of the sink is \"skip\"".to_owned()),
            Decision::GiveUp((_, letter)) => return Preview::GivenUp(letter),
            Decision::Update { path, removes } => (path.into_owned(), removes),
        };
        if removes {
            return Preview::Topic { path, value: None };
        }
        let (mut cbor, mut json) = (Vec::new(), Vec::new());
        let written = render(view, &self.common.json, &mut cbor).and_then(|()| {
            let value = Value { format: Format::Cbor, schema: None, bytes: &cbor };
            write_json(value, &JsonOptions::default(), &mut json)
        });
        match written {
            Ok(()) => Preview::Topic { path, value: Some(json) },
            Err(error) => Preview::GivenUp(self.common.surroundings.letter(view, Class::Decode, "cbor", error.to_string()).1),
        }
    }

    fn decide<'a>(&self, view: View<'a>) -> Decision<'a> {
        let is_tombstone = view.value().is_none();
        if is_tombstone && self.tombstone == Tombstone::Skip {
            return Decision::Skip;
        }
        match topic_path(self.path.as_ref(), view) {
            Ok(path) => Decision::Update { path, removes: is_tombstone && self.tombstone == Tombstone::Remove },
            Err(error) => {
                let letter = self.common.surroundings.letter(view, Class::DestinationInvalid, "path", error.to_string());
                Decision::GiveUp(letter)
            }
        }
    }
}

/// What becomes of an output before the server is asked.
enum Decision<'a> {
    Skip,
    GiveUp((u32, Letter)),
    Update { path: Cow<'a, str>, removes: bool },
}

impl Sink for Diffusion {
    async fn run(self, mut inbox: Inbox) -> Result<(), SinkError> {
        let mut running = JoinSet::new();
        let (report, mut reports) = mpsc::unbounded_channel();
        let mut lanes = Vec::with_capacity(self.sessions);
        for _ in 0..self.sessions {
            let (orders, taken) = mpsc::unbounded_channel();
            running.spawn(Lane::new(self.common.clone(), taken, report.clone()).run());
            lanes.push(orders);
        }
        drop(report);
        let mut queue = Queue {
            window: WINDOW.max(4 * self.common.in_flight_max * self.sessions),
            sink: self,
            lanes,
            backlog: VecDeque::new(),
            owed: HashMap::new(),
            arrived: 0,
            admitted: 0,
            hashes: RandomState::new(),
        };
        let mut is_open = true;
        loop {
            while is_open && let Some(message) = inbox.try_next() {
                queue.take(message);
            }
            queue.admit();
            if !is_open && queue.is_done() {
                // Without orders the lanes end.
                queue.lanes.clear();
            }
            tokio::select! {
                message = inbox.next(), if is_open => match message {
                    Some(message) => queue.take(message),
                    None => is_open = false,
                },
                Some(ended) = reports.recv() => queue.end(ended),
                joined = running.join_next() => match joined {
                    None => return Ok(()),
                    Some(Ok(ended)) => ended?,
                    Some(Err(error)) => return Err(queue.broken(&error)),
                },
            }
        }
    }
}

/// All that waits or is owed.
struct Queue {
    sink: Diffusion,
    lanes: Vec<mpsc::UnboundedSender<Vec<Order>>>,
    window: usize,
    /// Pieces that found no room in the window, in their order.
    backlog: VecDeque<Piece>,
    owed: HashMap<u64, Owed>,
    arrived: u64,
    /// Outputs that are with the lanes.
    admitted: usize,
    hashes: RandomState,
}

struct Owed {
    piece: Piece,
    held: Arc<Held>,
    left: usize,
}

impl Queue {
    fn is_done(&self) -> bool {
        self.owed.is_empty() && self.backlog.is_empty()
    }

    fn broken(&self, error: &tokio::task::JoinError) -> SinkError {
        SinkError::Environment { sink: self.sink.common.surroundings.sink.clone(), reason: format!("a connection broke off: {error}") }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Piece(piece) => self.backlog.push_back(piece),
            Message::Letters(..) => {}
            Message::Abandon(slot) => self.abandon(slot),
        }
    }

    fn abandon(&mut self, slot: Slot) {
        self.backlog.retain(|piece| piece.token.slot() != slot);
        // What is with a lane or in flight goes its way and finds the mark.
        self.owed.retain(|_, owed| {
            let abandoned = owed.piece.token.slot() == slot;
            if abandoned {
                owed.held.abandoned.store(true, Ordering::Relaxed);
            }
            !abandoned
        });
    }

    fn admit(&mut self) {
        while self.admitted < self.window
            && let Some(piece) = self.backlog.pop_front()
        {
            self.admit_piece(piece);
        }
    }

    fn admit_piece(&mut self, piece: Piece) {
        let surroundings = &self.sink.common.surroundings;
        let number = self.arrived;
        self.arrived += 1;
        let held = Arc::new(Held { number, outputs: piece.outputs.clone(), abandoned: AtomicBool::new(false) });
        let mut orders: Vec<Vec<Order>> = self.lanes.iter().map(|_| Vec::new()).collect();
        let mut letters: Vec<(u32, Letter)> = Vec::new();
        let mut left = 0;
        for view in piece.iter() {
            match self.sink.decide(view) {
                Decision::Skip => {
                    surroundings.metrics.skipped.inc();
                }
                Decision::GiveUp(letter) => letters.push(letter),
                Decision::Update { path, removes } => {
                    let lane = self.hashes.hash_one(&*path) as usize % orders.len();
                    let item = Item { held: held.clone(), index: view.index as u32 };
                    orders[lane].push(Order { path: path.into(), item, removes });
                    left += 1;
                }
            }
        }
        give_up(surroundings, &piece, letters);
        if left == 0 {
            piece.token.settle();
            return;
        }
        self.admitted += left;
        self.owed.insert(number, Owed { piece, held, left });
        for (lane, orders) in self.lanes.iter().zip(orders) {
            if !orders.is_empty() {
                // A lane that is gone ends the sink.
                let _ = lane.send(orders);
            }
        }
    }

    fn end(&mut self, ended: Vec<Ended>) {
        self.admitted = self.admitted.saturating_sub(ended.len());
        for Ended { number, letter } in ended {
            // What was abandoned is owed by nobody.
            let Some(owed) = self.owed.get_mut(&number) else { continue };
            if let Some(letter) = letter {
                give_up(&self.sink.common.surroundings, &owed.piece, vec![letter]);
            }
            owed.left -= 1;
            if owed.left == 0
                && let Some(owed) = self.owed.remove(&number)
            {
                owed.piece.token.settle();
            }
        }
    }
}
