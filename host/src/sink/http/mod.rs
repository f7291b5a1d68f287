//! The sink `http`: a request a record, or a batch of records as a JSON array or as lines.
//!
//! Invariant: records of one key never overtake each other (`order = "key"`), whatever is slow, refused or tried again; a piece is
//! settled when the host has taken, or the dead letters owe, every output of it.

mod client;
mod config;
mod lanes;
mod location;
mod pace;
mod preview;
mod request;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::AHashMap;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use self::client::probe;
pub use self::config::{Batch, Body, Config, Form, Method, Order, RecordKeys, Retry, Text, Tombstone, UrlPattern};
pub use self::preview::Previewer;

use self::lanes::{Bounds, Lanes, Waiting};
use self::request::{Ended, Held, Item, Requests};
use super::{Heard, Inbox, Message, Piece, Sink, SinkError, Surroundings, Uses, give_up};
use crate::ack::Slot;
use crate::output::View;

/// So many records at least are sorted into lanes at once. More of them let more keys pass a slow one; each costs about 100 bytes
/// beside the batch that it is part of.
const WINDOW: usize = 16_384;

/// How the sink uses destinations.
pub fn destinations(config: &Config) -> Uses {
    if config.takes_destination() { Uses::Needed } else { Uses::Ignored }
}

/// A sink of the kind `http`.
#[derive(Debug)]
pub struct Http {
    requests: Arc<Requests>,
    surroundings: Surroundings,
    order: Order,
    skip_tombstones: bool,
    by_destination: bool,
    bounds: Bounds,
    in_flight_max: usize,
}

impl Http {
    /// A sink that has asked nothing of its host yet.
    ///
    /// # Errors
    /// Where certificates cannot be read or headers and secrets are no header values.
    pub fn new(config: &Config, surroundings: Surroundings) -> Result<Self, SinkError> {
        let requests = client::requests(config, &surroundings)
            .map_err(|reason| SinkError::Configuration { sink: surroundings.sink.clone(), reason })?;
        Ok(Http {
            requests: Arc::new(requests),
            order: config.order,
            skip_tombstones: config.tombstone == Tombstone::Skip,
            by_destination: config.batch.form != Form::Single && config.takes_destination(),
            bounds: config.bounds(),
            in_flight_max: config.in_flight_max.get(),
            surroundings,
        })
    }
}

impl Sink for Http {
    async fn run(self, mut inbox: Inbox) -> Result<(), SinkError> {
        let mut queue = Queue {
            lanes: Lanes::new(self.bounds),
            window: WINDOW.max(2 * self.bounds.rows_max * self.in_flight_max),
            sink: self,
            backlog: VecDeque::new(),
            owed: AHashMap::new(),
            arrived: 0,
            loose: 0,
            hashes: RandomState::new(),
        };
        let mut running: JoinSet<(Vec<u64>, Vec<Ended>)> = JoinSet::new();
        let mut open = true;
        loop {
            while open && let Some(message) = inbox.try_next() {
                queue.take(message);
            }
            let urgent = !open || inbox.is_urgent();
            queue.start(&mut running, urgent);
            if !open && running.is_empty() && queue.owed.is_empty() {
                return Ok(());
            }
            let has_room = running.len() < queue.sink.in_flight_max;
            let deadline = queue.lanes.deadline().filter(|_| has_room && !urgent);
            tokio::select! {
                heard = hear(&mut inbox, urgent), if open => match heard {
                    Heard::Message(message) => queue.take(message),
                    Heard::Closed => open = false,
                    Heard::Urgent => (),
                },
                Some(ended) = running.join_next() => queue.end(ended)?,
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => (),
            }
            while let Some(ended) = running.try_join_next() {
                queue.end(ended)?;
            }
        }
    }
}

/// What happens next at the inbox; urgency only where it is not known yet. Cancel safe.
async fn hear(inbox: &mut Inbox, urgent: bool) -> Heard {
    if urgent {
        return inbox.next().await.map_or(Heard::Closed, Heard::Message);
    }
    inbox.next_or_urgent().await
}

/// All that waits or is owed.
struct Queue {
    sink: Http,
    lanes: Lanes<Item>,
    window: usize,
    /// Pieces that found no room in the window, in their order.
    backlog: VecDeque<Piece>,
    owed: AHashMap<u64, Owed>,
    arrived: u64,
    /// Numbers lanes of their own, where no order is kept.
    loose: u64,
    hashes: RandomState,
}

struct Owed {
    piece: Piece,
    held: Arc<Held>,
    left: usize,
}

impl Queue {
    fn take(&mut self, message: Message) {
        match message {
            Message::Piece(piece) => self.backlog.push_back(piece),
            Message::Letters(..) => {}
            Message::Abandon(slot) => self.abandon(slot),
        }
    }

    fn abandon(&mut self, slot: Slot) {
        self.backlog.retain(|piece| piece.token.slot() != slot);
        // What is in a lane or in flight goes its way and finds the mark.
        self.owed.retain(|_, owed| {
            let abandoned = owed.piece.token.slot() == slot;
            if abandoned {
                owed.held.abandoned.store(true, Ordering::Relaxed);
            }
            !abandoned
        });
    }

    fn start(&mut self, running: &mut JoinSet<(Vec<u64>, Vec<Ended>)>, urgent: bool) {
        let now = Instant::now();
        loop {
            while self.lanes.len() < self.window
                && let Some(piece) = self.backlog.pop_front()
            {
                self.admit(piece, now);
            }
            if running.len() >= self.sink.in_flight_max {
                return;
            }
            let Some(mut load) = self.lanes.take(now, urgent) else { return };
            load.items.sort_unstable_by_key(|item| (item.held.number, item.index));
            let requests = self.sink.requests.clone();
            running.spawn(async move { (load.lanes, requests.deliver(load.items).await) });
        }
    }

    fn admit(&mut self, piece: Piece, now: Instant) {
        let number = self.arrived;
        self.arrived += 1;
        let held = Arc::new(Held { number, outputs: piece.outputs.clone(), abandoned: AtomicBool::new(false) });
        let batch = &piece.outputs.batch;
        let mut partition = self.hashes.build_hasher();
        batch.topic.hash(&mut partition);
        partition.write_i32(batch.partition);
        let mut left = 0;
        for view in piece.iter() {
            let value = view.value();
            if value.is_none() && self.sink.skip_tombstones {
                self.sink.surroundings.metrics.skipped.inc();
                continue;
            }
            let lane = match self.sink.order {
                Order::Key => lane_of_key(&partition, view),
                Order::Partition => partition.finish(),
                Order::None => {
                    self.loose += 1;
                    self.loose
                }
            };
            let group = match view.destination() {
                // Keyed with random numbers, so nobody can choose destinations that share a request.
                Some(destination) if self.sink.by_destination => self.hashes.hash_one(destination),
                _ => 0,
            };
            let item = Item { held: held.clone(), index: view.index as u32 };
            self.lanes.push(Waiting { lane, group, bytes: value.map_or(0, |value| value.bytes.len()), item }, now);
            left += 1;
        }
        if left == 0 {
            piece.token.settle();
            return;
        }
        self.owed.insert(number, Owed { piece, held, left });
    }

    fn end(&mut self, ended: Result<(Vec<u64>, Vec<Ended>), tokio::task::JoinError>) -> Result<(), SinkError> {
        let (lanes, outputs) = ended.map_err(|error| SinkError::Environment {
            sink: self.sink.surroundings.sink.clone(),
            reason: format!("a request broke off: {error}"),
        })?;
        for output in outputs {
            // What was abandoned is owed by nobody.
            let Some(owed) = self.owed.get_mut(&output.number) else { continue };
            if let Some(letter) = output.letter {
                give_up(&self.sink.surroundings, &owed.piece, vec![*letter]);
            }
            owed.left -= output.count;
            if owed.left == 0
                && let Some(owed) = self.owed.remove(&output.number)
            {
                owed.piece.token.settle();
            }
        }
        self.lanes.release(&lanes, Instant::now());
        Ok(())
    }
}

/// A key lives in one partition, so the partition is part of the lane; records without a key share their partition's.
fn lane_of_key(partition: &(impl Hasher + Clone), view: View<'_>) -> u64 {
    let mut lane = partition.clone();
    if let Some(key) = view.key() {
        key.bytes.hash(&mut lane);
    }
    lane.finish()
}
