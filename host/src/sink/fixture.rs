//! For tests of sinks: a route of one sink, with real acks, whose pieces are made of text.
//!
//! Invariant: tokens are those of production, so a test sees what would be committed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{Inbox, Message, Outbox, Piece, Sink, SinkError, Surroundings, Urgency};
use crate::ack::{Acks, Slot, TopicPartition};
use crate::batch::{Batch, Entries, Handles, Headers};
use crate::dead::{DeadLetters, Form};
use crate::observe::{Metrics, RouteMetrics};
use crate::output::{Formats, Outputs, SinkSet};
use crate::schemas::Schemas;
use crate::source::logs::Logs;
use crate::stop::Stop;
use crate::value::Format;

/// Longer waits are failures.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Key and value of a record.
pub type Record<'a> = (Option<&'a str>, Option<&'a str>);

pub struct Route {
    pub acks: Acks,
    pub urgency: Urgency,
    pub metrics: RouteMetrics,
    pub surroundings: Surroundings,
    pub format: Format,
    partitions: HashMap<i32, (Slot, i64)>,
    outbox: Outbox,
    inbox: Option<Inbox>,
    /// What reaches the sink for dead letters.
    pub dead: Inbox,
    letters: VecDeque<(Option<String>, HashMap<String, String>)>,
}

impl Route {
    /// A route with values in `format`, group `g`, sink `out`, and a place for dead letters that the test reads.
    pub fn new(format: Format) -> Self {
        Self::with_dead_letters(format, Form::Record)
    }

    pub fn with_dead_letters(format: Format, form: Form) -> Self {
        let (urgency, stop) = (Urgency::new(), Stop::new());
        let metrics = Metrics::new().route(&"r".into());
        let (outbox, inbox) = urgency.inbox();
        let (dead_outbox, dead) = urgency.inbox();
        let place = Some((dead_outbox, form));
        let letters = DeadLetters::new("r".into(), place, Arc::new(Schemas::new()), Default::default(), stop, metrics.clone()).unwrap();
        let surroundings = Surroundings {
            route: "r".into(),
            sink: "out".into(),
            group: "g".into(),
            decision: "d".into(),
            without_ledger: false,
            takes_letters: false,
            dead: letters,
            logs: Logs::default(),
            offsets: None,
            metrics: metrics.sink("out"),
        };
        let (partitions, inbox) = (HashMap::new(), Some(inbox));
        Route { acks: Acks::new(), urgency, metrics, letters: VecDeque::new(), surroundings, format, partitions, outbox, inbox, dead }
    }

    pub fn start<S: Sink>(&mut self, sink: S) -> JoinHandle<Result<(), SinkError>> {
        tokio::spawn(sink.run(self.inbox.take().expect("started once")))
    }

    /// Dead letters go to this sink instead of the test.
    pub fn start_for_dead_letters<S: Sink>(&mut self, sink: S) -> JoinHandle<Result<(), SinkError>> {
        let (_, nothing) = self.urgency.inbox();
        tokio::spawn(sink.run(std::mem::replace(&mut self.dead, nothing)))
    }

    pub fn batch(&mut self, partition: i32, records: &[Record<'_>]) -> Batch {
        let name = TopicPartition { topic: "t".into(), partition };
        let (_, next) = self.partitions.entry(partition).or_insert_with(|| (self.acks.assign(name, Some(0)), 0));
        let offsets: Vec<i64> = (*next..).take(records.len()).collect();
        *next += records.len() as i64;
        let (mut keys, mut values) = (Entries::default(), Entries::default());
        for (key, value) in records {
            keys.push(key.map(str::as_bytes));
            values.push(value.map(str::as_bytes));
        }
        Batch {
            topic: "t".into(),
            partition,
            timestamps: vec![1_700_000_000_000; offsets.len()],
            offsets,
            keys,
            values,
            headers: Headers::default(),
            key_schemas: Handles::All(0),
            value_schemas: Handles::All(0),
            permit: None,
        }
    }

    pub fn outputs(&self, batch: Batch) -> Outputs {
        let formats = Formats { key: Format::Raw, value: self.format };
        Outputs::unchanged(Arc::new(batch), formats, Schemas::new().snapshot(), SinkSet::first(1))
    }

    pub fn send_outputs(&mut self, outputs: Outputs) {
        let batch = &outputs.batch;
        let (slot, _) = self.partitions[&batch.partition];
        let (first, next) = (batch.offsets[0], batch.offsets[batch.len() - 1] + 1);
        let token = self.acks.dispatch(slot, first, next, batch.len() as u64).unwrap();
        self.outbox.send(Message::Piece(Piece { outputs: Arc::new(outputs), members: None, token }));
    }

    pub fn send(&mut self, partition: i32, records: &[Record<'_>]) {
        let batch = self.batch(partition, records);
        let outputs = self.outputs(batch);
        self.send_outputs(outputs);
    }

    /// The partition is read again from its committable offset, as after a rewind.
    pub fn rewind(&mut self, partition: i32) -> i64 {
        let (slot, next) = self.partitions.get_mut(&partition).unwrap();
        self.acks.want_rewind(*slot, "test");
        let rewind = self.acks.take_rewinds().remove(0);
        self.outbox.send(Message::Abandon(*slot));
        self.acks.rewound(rewind.slot);
        *slot = rewind.slot;
        *next = rewind.from.unwrap();
        *next
    }

    /// The end: nothing more comes.
    pub fn close(&mut self) {
        let (closed, _) = self.urgency.inbox();
        self.outbox = closed;
    }

    /// Offset that a restart would begin at, of a partition.
    pub fn committable(&self, partition: i32) -> Option<i64> {
        let moved = self.acks.take_committable(None);
        moved.into_iter().find(|due| due.name.partition == partition).map(|due| due.offset)
    }

    /// Waits until nothing is owed but by the dead letters that the test holds.
    pub async fn settled(&self) {
        self.until("everything is settled", || self.acks.is_idle()).await;
    }

    pub async fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The next dead letter: its value and its headers. The piece that brought it is settled.
    pub async fn dead_letter(&mut self) -> (Option<String>, HashMap<String, String>) {
        if self.letters.is_empty() {
            let message = tokio::time::timeout(PATIENCE, self.dead.next()).await.expect("a dead letter in time");
            let Some(Message::Piece(piece)) = message else { panic!("no dead letter") };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            for view in piece.iter() {
                let headers = view.headers().into_iter().map(|(name, value)| (text(name), text(value.unwrap()))).collect();
                self.letters.push_back((view.input_value_bytes().map(text), headers));
            }
            piece.token.settle();
        }
        self.letters.pop_front().expect("a piece has outputs")
    }
}
