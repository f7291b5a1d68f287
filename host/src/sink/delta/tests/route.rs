//! What surrounds a sink in a route: pieces with real tokens, dead letters, a decision.

use std::sync::Arc;
use std::time::Duration;

use apache_avro::types::Value as Avro;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::lake::Lake;
use crate::ack::{Acks, Slot, Token, TopicPartition};
use crate::batch::{Batch, Entries, Handles, Headers};
use crate::dead::{DeadLetters, Form};
use crate::observe::Metrics;
use crate::output::{Change, Formats, Outputs, SinkSet, Text};
use crate::schemas::Schemas;
use crate::sink::delta::{Config, Delta};
use crate::sink::{Inbox, Message, Outbox, Piece, Sink, SinkError, Surroundings, Urgency};
use crate::source::logs::Logs;
use crate::stop::Stop;
use crate::value::Format;

pub const ORDER: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"name","type":"string"}]}"#;
pub const ORDER_AND_CITY: &str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"name","type":"string"},{"name":"city","type":["null","string"],"default":null}]}"#;
pub const ORDER_WITH_TEXT_ID: &str =
    r#"{"type":"record","name":"Order","fields":[{"name":"id","type":{"type":"array","items":"string"}},{"name":"name","type":"string"}]}"#;

/// Longest wait for what has to come: a test that waits for a mistake fails, it does not hang.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest life of a sink.
pub const SINK_MAX: Duration = Duration::from_secs(60);

/// Waits until it is so. The deadline counts real time, also where the test's clock stands still.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < WAIT_MAX, "waited {WAIT_MAX:?} for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A route with one sink under test.
pub struct Route {
    pub acks: Acks,
    pub schemas: Arc<Schemas>,
    pub urgency: Urgency,
    pub around: Surroundings,
    pub metrics: Metrics,
    pub stop: Stop,
    /// Dead letters as they arrive at their sink.
    pub letters: Inbox,
}

impl Route {
    pub fn new() -> Self {
        Self::with_place(true)
    }

    pub fn with_place(has_place: bool) -> Self {
        let (urgency, metrics, schemas, stop) = (Urgency::new(), Metrics::new(), Arc::new(Schemas::new()), Stop::new());
        let route: Arc<str> = "orders".into();
        let (outbox, letters) = urgency.inbox();
        let of_route = metrics.route(&route);
        let place = has_place.then_some((outbox, Form::Record));
        let dead = DeadLetters::new(route.clone(), place, schemas.clone(), Default::default(), stop.clone(), of_route.clone())
            .expect("a schema that parses");
        let around = Surroundings {
            route,
            sink: "lake".into(),
            group: "g".into(),
            decision: "d1".into(),
            without_ledger: false,
            takes_letters: false,
            dead,
            logs: Logs::default(),
            offsets: None,
            metrics: of_route.sink("lake"),
        };
        Route { acks: Acks::new(), schemas, urgency, around, metrics, stop, letters }
    }

    pub fn assign(&self, partition: i32) -> Slot {
        self.acks.assign(TopicPartition { topic: "orders".into(), partition }, Some(0))
    }

    /// A sink that runs, and where its pieces go.
    pub fn start(&self, config: &Config) -> (Outbox, JoinHandle<Result<(), SinkError>>) {
        let (outbox, inbox) = self.urgency.inbox();
        let sink = Delta::new(config, self.around.clone()).expect("a good place");
        let running = sink.run(inbox);
        (outbox, tokio::spawn(async { tokio::time::timeout(SINK_MAX, running).await.expect("the sink ends in time") }))
    }

    /// A piece with records of consecutive offsets from `first`, under an Avro schema; `None` is a tombstone.
    pub fn piece(&self, slot: Slot, partition: i32, first: i64, schema: &str, values: &[Option<Avro>]) -> Piece {
        let handle = self.schemas.register(schema).expect("a schema");
        let parsed = apache_avro::Schema::parse_str(schema).expect("a schema");
        let values =
            values.iter().map(|value| value.as_ref().map(|value| apache_avro::to_avro_datum(&parsed, value.clone()).expect("fits")));
        self.piece_of(slot, partition, first, Format::Avro, handle, values.collect())
    }

    pub fn piece_of(&self, slot: Slot, partition: i32, first: i64, format: Format, handle: u32, values: Vec<Option<Vec<u8>>>) -> Piece {
        let count = values.len();
        let mut bytes = Entries::default();
        for value in &values {
            let framed =
                value.as_ref().map(|value| if handle == 0 { value.clone() } else { [&[0, 0, 0, 0, 1], value.as_slice()].concat() });
            bytes.push(framed.as_deref());
        }
        let mut keys = Entries::default();
        (0..count).for_each(|index| keys.push(Some(format!("k{index}").as_bytes())));
        let batch = Batch {
            topic: "orders".into(),
            partition,
            offsets: (first..first + count as i64).collect(),
            timestamps: (0..count as i64).map(|index| 1_700_000_000_000 + index).collect(),
            keys,
            values: bytes,
            headers: Headers::default(),
            key_schemas: Handles::All(0),
            value_schemas: Handles::All(handle),
            permit: None,
        };
        let formats = Formats { key: Format::Raw, value: format };
        let outputs = Outputs::unchanged(Arc::new(batch), formats, self.schemas.snapshot(), SinkSet::first(1));
        Piece { outputs: Arc::new(outputs), members: None, token: self.token(slot, first, count) }
    }

    fn token(&self, slot: Slot, first: i64, count: usize) -> Token {
        self.acks.dispatch(slot, first, first + count as i64, count as u64).expect("an active partition")
    }

    /// Orders with these ids at consecutive offsets from `first`.
    pub fn orders(&self, slot: Slot, partition: i32, first: i64, ids: &[i64]) -> Piece {
        let values: Vec<_> = ids.iter().map(|id| Some(order(*id))).collect();
        self.piece(slot, partition, first, ORDER, &values)
    }

    /// The next dead letter.
    pub async fn next_letter(&mut self) -> Piece {
        match tokio::time::timeout(WAIT_MAX, self.letters.next()).await {
            Ok(Some(Message::Piece(letter))) => letter,
            other => panic!("a dead letter was expected, not {:?}", other.map(|message| message.is_some())),
        }
    }

    /// Offsets that became committable since the last call, of one partition.
    pub fn committable(&self, slot: Slot) -> Option<i64> {
        self.acks.take_committable(Some(&[slot])).first().map(|due| due.offset)
    }

    /// Waits until everything of a partition up to `next` is committable.
    pub async fn settled(&self, slot: Slot, next: i64) {
        let began = std::time::Instant::now();
        while self.committable(slot) != Some(next) {
            assert!(began.elapsed() < WAIT_MAX, "waited {WAIT_MAX:?} for {slot:?} to be settled up to {next}");
            tokio::task::yield_now().await;
        }
    }
}

pub fn order(id: i64) -> Avro {
    Avro::Record(vec![("id".into(), Avro::Long(id)), ("name".into(), Avro::String(format!("n{id}")))])
}

/// Destinations for the outputs of a piece, in turn.
pub fn with_destinations(mut piece: Piece, names: &[&str]) -> Piece {
    let outputs = Arc::get_mut(&mut piece.outputs).expect("nobody else has it");
    let mut buffer = Vec::new();
    for (output, name) in outputs.list.iter_mut().zip(names.iter().cycle()) {
        let start = buffer.len() as u32;
        buffer.extend_from_slice(name.as_bytes());
        output.destination = Some(Text { buffer: 0, start, end: buffer.len() as u32 });
    }
    outputs.buffers = vec![Bytes::from(buffer)];
    piece
}

pub fn with_change(mut piece: Piece, change: Change) -> Piece {
    let outputs = Arc::get_mut(&mut piece.outputs).expect("nobody else has it");
    outputs.list.iter_mut().for_each(|output| output.change = change);
    piece
}

pub fn one_table(lake: &Lake) -> Config {
    Config { uri: Some(lake.uri()), ..Config::default() }
}

pub fn send(outbox: &Outbox, piece: Piece) {
    outbox.send(Message::Piece(piece));
}
