//! Sinks: where records go to. A sink is one task that takes pieces and settles each when what it holds is durable.
//!
//! Invariant (I3): a piece's token is settled only after its outputs are durable at the sink, or given up as dead letters.
//! A sink that cannot write now waits (and says so); it never drops.

pub mod backoff;
pub mod delta;
pub mod diffusion;
pub mod file;
#[cfg(test)]
mod fixture;
pub mod http;
pub mod kafka;
mod kind;
pub mod line;
pub mod null;
pub mod preview;
pub mod stdout;

pub use kind::{Held, commits_offsets, destinations, form, ledger_positions, other_ledgers, probe, run};

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::ack::{Acks, Slot, Token};
use crate::dead::{Class, DeadLetters, Durable, Letter};
use crate::observe::{RouteMetrics, SinkMetrics};
use crate::output::{Outputs, View};
use crate::source::kafka::member::Member;
use crate::source::logs::Logs;

/// One sink's outputs of one batch, and what it owes for them.
#[derive(Debug)]
pub struct Piece {
    /// The outputs of the batch, for all sinks; let go of it as soon as its bytes are not needed any more: it holds the batch's
    /// share of the byte budget.
    pub outputs: Arc<Outputs>,
    /// Which of them are this sink's, ascending positions in `outputs.list`; `None`: all.
    pub members: Option<Vec<u32>>,
    /// Settle it when all of them are durable or given up.
    pub token: Token,
}

impl Piece {
    /// This sink's outputs, in the partition's order.
    pub fn iter(&self) -> impl Iterator<Item = View<'_>> {
        let all = self.members.is_none();
        let listed = self.members.as_deref().unwrap_or_default();
        let every = (0..if all { self.outputs.list.len() as u32 } else { 0 }).chain(listed.iter().copied());
        every.map(|index| self.outputs.view(index as usize))
    }

    /// How many outputs it has.
    pub fn len(&self) -> usize {
        self.members.as_ref().map_or(self.outputs.list.len(), Vec::len)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What reaches a sink's task.
#[derive(Debug)]
pub enum Message {
    /// Outputs to write.
    Piece(Piece),
    /// Records of a partition, in front of its next piece, became dead letters: ready when those are durable. A sink that keeps how far it
    /// covers a partition goes no further before that.
    Letters(Slot, Durable),
    /// The partition left or is read again: what the sink holds of this life of it will never settle.
    Abandon(Slot),
}

/// The pieces for one sink of one route. Closed and empty: everything has come, finish and return.
///
/// It has no bound of its own: what waits in it holds the byte budget of the route.
#[derive(Debug)]
pub struct Inbox {
    messages: mpsc::UnboundedReceiver<Message>,
    urgent: watch::Receiver<u32>,
}

/// What an [`Inbox`] hears.
#[derive(Debug)]
pub enum Heard {
    /// A message came.
    Message(Message),
    /// What is held back should become durable now.
    Urgent,
    /// Nothing more will come.
    Closed,
}

/// The other end of an [`Inbox`].
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::UnboundedSender<Message>);

/// Tells all sinks of a route to make durable what they hold as soon as they can, without waiting for more: a partition is about
/// to leave, or the route ends.
#[derive(Debug)]
pub struct Urgency(watch::Sender<u32>);

impl Urgency {
    /// Nothing is urgent.
    pub fn new() -> Self {
        Urgency(watch::Sender::new(0))
    }

    /// Urgent from now on, until [`Urgency::lower`] was called as often.
    pub fn raise(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    /// See [`Urgency::raise`].
    pub fn lower(&self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }

    /// An inbox that hears of it.
    pub fn inbox(&self) -> (Outbox, Inbox) {
        let (sender, messages) = mpsc::unbounded_channel();
        (Outbox(sender), Inbox { messages, urgent: self.0.subscribe() })
    }
}

impl Default for Urgency {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// Hands a message over. A sink that is gone drops it: its token rewinds the partition, and the route is stopping anyway.
    pub fn send(&self, message: Message) {
        let _ = self.0.send(message);
    }
}

impl Inbox {
    /// The next message; `None`: the route ends, nothing more will come. Cancel safe.
    pub async fn next(&mut self) -> Option<Message> {
        self.messages.recv().await
    }

    /// The next message, or that it became urgent: for sinks that hold something back. Call it while it is not urgent yet.
    /// Cancel safe.
    pub async fn next_or_urgent(&mut self) -> Heard {
        tokio::select! {
            message = self.messages.recv() => message.map_or(Heard::Closed, Heard::Message),
            Ok(_) = self.urgent.wait_for(|count| *count > 0) => Heard::Urgent,
        }
    }

    /// A message that is there already.
    pub fn try_next(&mut self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    /// Whether the sink should make durable what it holds without waiting for more.
    pub fn is_urgent(&self) -> bool {
        *self.urgent.borrow() > 0
    }

    /// Returns as soon as it is urgent. Cancel safe.
    pub async fn urgent(&mut self) {
        if self.urgent.wait_for(|count| *count > 0).await.is_err() {
            // Nobody can raise it any more; the inbox is about to close.
            std::future::pending::<()>().await;
        }
    }
}

/// How a sink uses the destinations that plugins choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uses {
    /// Every output needs one.
    Needed,
    /// It has a default for outputs without one.
    Optional,
    /// It has one place for all outputs.
    Ignored,
}

/// What a sink needs beside its own configuration.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Name of the route.
    pub route: Arc<str>,
    /// Name of the sink.
    pub sink: Arc<str>,
    /// Consumer group of the route: part of idempotency keys and ledgers.
    pub group: Arc<str>,
    /// Digest of what decides about records (components, their configuration, routing): for ledgers.
    pub decision: Arc<str>,
    /// Whether offsets do not tell which records are there already: those of dead letters, which come in no order, and of a source that
    /// has no offsets of its own.
    pub without_ledger: bool,
    /// Whether what it gets are the dead letters of a route.
    pub takes_letters: bool,
    /// Where given-up outputs go.
    pub dead: DeadLetters,
    /// What may be asked about the logs that records come from.
    pub logs: Logs,
    /// The offsets of the route, where this sink commits them together with its records.
    pub offsets: Option<Offsets>,
    /// Counters of this sink.
    pub metrics: SinkMetrics,
}

/// The offsets of a route that a sink commits itself.
#[derive(Debug, Clone)]
pub struct Offsets {
    /// What may be committed.
    pub acks: Acks,
    /// In whose name.
    pub member: Member,
    /// A static member's name: no other process of the group has it.
    pub instance_id: Option<Arc<str>>,
    /// Time between commits while nothing is written.
    pub interval: Duration,
    /// Counters of the route.
    pub metrics: RouteMetrics,
}

impl Surroundings {
    /// The letter with which this sink gives `view` up.
    pub fn letter(&self, view: View<'_>, class: Class, code: &str, message: String) -> (u32, Letter) {
        let letter =
            Letter { record: view.output().input, class, code: code.to_owned(), message, by: self.sink.clone(), digest: None, attempts: 1 };
        (view.index as u32, letter)
    }
}

/// A sink gives up outputs of a piece, each named by its position in the list of outputs. Afterwards the dead letters owe them, and
/// the piece may be settled: nobody here waits until they are durable.
fn give_up(surroundings: &Surroundings, piece: &Piece, letters: Vec<(u32, Letter)>) {
    if letters.is_empty() {
        return;
    }
    surroundings.metrics.given_up.inc_by(letters.len() as u64);
    drop(surroundings.dead.give_up_outputs(piece, letters));
}

/// Why a sink stops its route.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The user has to change something; retrying cannot help.
    #[error("sink {sink:?}: {reason}")]
    Configuration {
        /// Name of the sink.
        sink: Arc<str>,
        /// What is wrong, and the remedy.
        reason: String,
    },
    /// The sink's place is not usable: another writer, a restored table, a refused login.
    #[error("sink {sink:?}: {reason}")]
    Environment {
        /// Name of the sink.
        sink: Arc<str>,
        /// What is wrong, and the remedy.
        reason: String,
    },
}

/// What kind of sink it is and how it works: one implementation per kind.
pub trait Sink: Send + 'static {
    /// Takes pieces until the inbox closes, makes all of them durable, settles them, and returns.
    ///
    /// # Errors
    /// Only for what waiting cannot mend; the route stops with it.
    fn run(self, inbox: Inbox) -> impl Future<Output = Result<(), SinkError>> + Send;
}
