//! Dead letters: records that were given up on, with their bytes and the reason, on their way to a sink of their own.
//!
//! Invariant: a dead letter is a piece like any other: the offset of its record is not committed before it is durable. Without a
//! place for dead letters the route stops at the first one.

use std::sync::Arc;

use apache_avro::types::Value as AvroValue;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::Shared;
use tokio::sync::oneshot;

use crate::ack::Token;
use crate::batch::Batch;
use crate::breaker::Breaker;
use crate::config::{self, Action, OnError};
use crate::observe::RouteMetrics;
use crate::output::{Cell, Change, HeaderEdit, Output, Outputs, SinkSet, Text};
use crate::schemas::Schemas;
use crate::sink::{Message, Outbox, Piece};
use crate::stop::{Stop, StopReason};
use crate::value::Format;

/// Why a record was given up, for counting and for choosing what to deliver again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// The bytes are not what format and schema say.
    Decode,
    /// The registry has no such schema.
    Schema,
    /// A plugin rejected it.
    PluginReject,
    /// A plugin trapped at it.
    PluginTrap,
    /// A plugin took longer than its deadline for it.
    PluginTimeout,
    /// What a plugin returned for it is invalid.
    PluginOutput,
    /// The destination is not one that the sink can have.
    DestinationInvalid,
    /// The sink refused it for good.
    SinkPermanent,
    /// The sink refused it as often as it was to be tried.
    SinkRetryExhausted,
    /// It is larger than the sink takes.
    Oversize,
    /// A record of its key before it is a dead letter.
    AfterDeadLetter,
}

impl Class {
    /// As it stands in metrics, headers and rows.
    pub fn name(self) -> &'static str {
        match self {
            Class::Decode => "decode",
            Class::Schema => "schema",
            Class::PluginReject => "plugin-reject",
            Class::PluginTrap => "plugin-trap",
            Class::PluginTimeout => "plugin-timeout",
            Class::PluginOutput => "plugin-output",
            Class::DestinationInvalid => "destination-invalid",
            Class::SinkPermanent => "sink-permanent",
            Class::SinkRetryExhausted => "sink-retry-exhausted",
            Class::Oversize => "oversize",
            Class::AfterDeadLetter => "after-dead-letter",
        }
    }
}

impl OnError {
    /// What becomes of records of a class.
    pub fn of(&self, class: Class) -> Action {
        match class {
            Class::Decode => self.decode,
            Class::Schema => self.schema,
            Class::PluginReject => self.plugin_reject,
            Class::PluginTrap => self.plugin_trap,
            Class::PluginTimeout => self.plugin_timeout,
            Class::PluginOutput => self.plugin_output,
            Class::DestinationInvalid => self.destination_invalid,
            Class::SinkPermanent => self.sink_permanent,
            Class::SinkRetryExhausted => self.sink_retry_exhausted,
            Class::Oversize => self.oversize,
            // Its own key of the route says so, and asks for a place.
            Class::AfterDeadLetter => Action::DeadLetter,
        }
    }
}

/// One record that is given up.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Position in the batch.
    pub record: u32,
    /// What kind of reason.
    pub class: Class,
    /// Short and stable; a plugin's own code where it rejected.
    pub code: String,
    /// What was wrong.
    pub message: String,
    /// The plugin or the sink that gave it up; "decode" for the decoder.
    pub by: Arc<str>,
    /// SHA-256 of the plugin's component, hexadecimal.
    pub digest: Option<Arc<str>>,
    /// How often it was tried: more than once where a sink retries.
    pub attempts: u32,
}

/// How the sink for dead letters takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Key, value and headers as they were, and what is known of the failure as further headers (Kafka).
    Record,
    /// One row with everything in it, [`ROW_SCHEMA`] (tables, files, HTTP).
    Row,
}

/// The row of a dead letter as an Avro schema.
pub const ROW_SCHEMA: &str = r#"{"type":"record","name":"DeadLetter","namespace":"anabranch","fields":[
{"name":"route","type":"string"},{"name":"topic","type":"string"},{"name":"partition","type":"int"},{"name":"offset","type":"long"},
{"name":"timestamp","type":["null",{"type":"long","logicalType":"timestamp-millis"}]},
{"name":"class","type":"string"},{"name":"code","type":"string"},{"name":"message","type":"string"},{"name":"by","type":"string"},
{"name":"digest","type":["null","string"]},{"name":"attempts","type":"int"},{"name":"decision","type":"string"},{"name":"seen","type":{"type":"long","logicalType":"timestamp-millis"}},
{"name":"key","type":["null","bytes"]},{"name":"value","type":["null","bytes"]},
{"name":"headers","type":{"type":"array","items":{"type":"record","name":"Header","fields":[
{"name":"name","type":"string"},{"name":"value","type":["null","bytes"]}]}}}]}"#;

#[derive(Debug)]
struct Place {
    outbox: Outbox,
    schemas: Arc<Schemas>,
    row_schema: Option<(apache_avro::Schema, u32)>,
}

/// Where the dead letters of a route go; clones share it.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    route: Arc<str>,
    place: Option<Arc<Place>>,
    actions: OnError,
    stop: Stop,
    metrics: RouteMetrics,
    breaker: Arc<Breaker>,
    decision: Arc<str>,
}

/// Ready when dead letters are durable; an error when they never will be (the route is stopping, or their partition rewound).
pub type Durable = Shared<oneshot::Receiver<()>>;

impl DeadLetters {
    /// The dead letters of `route`. `place`: the inbox of their sink and how it takes them; `None`: the first one stops the route.
    /// `actions`: what becomes of each class instead.
    ///
    /// # Errors
    /// Where the row's schema finds no room among the route's schemas.
    pub fn new(
        route: Arc<str>,
        place: Option<(Outbox, Form)>,
        schemas: Arc<Schemas>,
        actions: OnError,
        stop: Stop,
        metrics: RouteMetrics,
    ) -> Result<Self, crate::schemas::RegisterError> {
        let place = match place {
            None => None,
            Some((outbox, form)) => {
                let row_schema = match form {
                    Form::Record => None,
                    Form::Row => {
                        let parsed = apache_avro::Schema::parse_str(ROW_SCHEMA).expect("a constant that a test parses");
                        Some((parsed, schemas.register(ROW_SCHEMA)?))
                    }
                };
                Some(Arc::new(Place { outbox, schemas, row_schema }))
            }
        };
        let breaker = Arc::new(Breaker::new(config::Breaker::default()));
        Ok(DeadLetters { route, place, actions, stop, metrics, breaker, decision: "".into() })
    }

    /// The same, whose letters name what decided about their records: the digest of the plugins, their configuration and the routing.
    pub fn with_decision(self, decision: Arc<str>) -> Self {
        DeadLetters { decision, ..self }
    }

    /// The same, with other bounds for how many are too many.
    pub fn with_breaker(self, rule: config::Breaker) -> Self {
        DeadLetters { breaker: Arc::new(Breaker::new(rule)), ..self }
    }

    /// So many records of the route were decided, those that are given up among them.
    pub fn passed(&self, records: usize) {
        self.breaker.passed(records as u64);
    }

    /// Records of a batch that never reached a sink are given up. The new piece is owed before this returns, so the caller may
    /// settle `token` at once.
    pub fn give_up(&self, token: &Token, batch: &Arc<Batch>, letters: &[Letter]) -> Durable {
        let (durable, ready) = oneshot::channel();
        let ready = ready.shared();
        if letters.is_empty() {
            let _ = durable.send(());
            return ready;
        }
        let mut kept = Vec::with_capacity(letters.len());
        for letter in letters {
            match self.actions.of(letter.class) {
                Action::Drop => self.metrics.dead_letter(letter.class),
                Action::DeadLetter if self.place.is_some() => {
                    self.metrics.dead_letter(letter.class);
                    kept.push(letter.clone());
                }
                Action::DeadLetter | Action::Stop => {
                    self.stop.stop(StopReason::DeadLetter(self.refusal(batch, letter)));
                    // The record stays owed: nothing settles this token, so the commit stays in front of it.
                    drop(token.another());
                    return ready;
                }
                Action::Retry => {
                    token.another().rewind("a record failed and is to be tried again");
                    return ready;
                }
            }
        }
        // Nothing is wrong with a record that follows another.
        let wrong: Vec<&Letter> = letters.iter().filter(|letter| letter.class != Class::AfterDeadLetter).collect();
        if let Some(last) = wrong.last()
            && self.breaker.gave_up(wrong.len() as u64)
        {
            self.stop.stop(StopReason::DeadLetter(self.too_many(batch, last)));
            drop(token.another());
            return ready;
        }
        match &self.place {
            Some(place) if !kept.is_empty() => {
                let outputs = self.outputs(place, batch, &kept);
                let token = token.another().notifying(durable);
                place.outbox.send(Message::Piece(Piece { outputs: Arc::new(outputs), members: None, token }));
            }
            _ => {
                let _ = durable.send(());
            }
        }
        ready
    }

    /// A sink gives up outputs of a piece: `letters` name positions in `piece.outputs.list` and why.
    pub fn give_up_outputs(&self, piece: &Piece, letters: Vec<(u32, Letter)>) -> Durable {
        for (index, _) in &letters {
            let view = piece.outputs.view(*index as usize);
            let input = view.output().input;
            let same = piece.outputs.list.iter().filter(|output| output.input == input);
            let owed = same.map(|output| output.sinks.count()).sum();
            piece.token.give_up(view.offset(), owed);
        }
        let letters: Vec<Letter> = letters.into_iter().map(|(_, letter)| letter).collect();
        self.give_up(&piece.token, &piece.outputs.batch, &letters)
    }

    /// The outputs that the sink of the dead letters would get for records of a batch; `None`: there is no such sink.
    pub fn preview(&self, batch: &Arc<Batch>, letters: &[Letter]) -> Option<Outputs> {
        self.place.as_ref().map(|place| self.outputs(place, batch, letters))
    }

    fn refusal(&self, batch: &Batch, letter: &Letter) -> String {
        format!(
            "record {}/{} offset {}: {} ({}, by {:?}); a bad record stops the route where it has no place for dead letters: \
             name a sink in `dead_letters` of [route.{}], or choose in its `on_error` what becomes of such records",
            batch.topic,
            batch.partition,
            batch.offsets[letter.record as usize],
            letter.message,
            letter.class.name(),
            letter.by,
            self.route
        )
    }

    fn too_many(&self, batch: &Batch, last: &Letter) -> String {
        let config::Breaker { dead_letters, records } = self.breaker.rule();
        format!(
            "more than {dead_letters} of the last {records} records were given up, at last {}/{} offset {}: {} ({}, by {:?}): that is no bad \
             record any more; mend what gives them up, or raise `breaker` in [route.{}]",
            batch.topic,
            batch.partition,
            batch.offsets[last.record as usize],
            last.message,
            last.class.name(),
            last.by,
            self.route
        )
    }

    fn outputs(&self, place: &Place, batch: &Arc<Batch>, letters: &[Letter]) -> Outputs {
        let mut buffer = Vec::new();
        let mut list = Vec::new();
        let mut header_edits = Vec::new();
        let seen = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        for letter in letters {
            let mut output = Output { change: Change::Append, ..Output::unchanged(letter.record, SinkSet::first(1)) };
            match &place.row_schema {
                Some((schema, handle)) => {
                    let at = write(&mut buffer, |buffer| self.write_row(schema, batch, letter, seen, buffer));
                    output.key = Cell::Null;
                    output.value = Cell::Set { at, format: Format::Avro, schema: *handle };
                }
                None => {
                    output.headers = Some(header_edits.len() as u32);
                    header_edits.push(self.headers(batch, letter, seen, &mut buffer));
                }
            }
            list.push(output);
        }
        Outputs {
            batch: batch.clone(),
            key_format: Format::Raw,
            value_format: Format::Raw,
            schemas: place.schemas.snapshot(),
            buffers: vec![Bytes::from(buffer)],
            header_edits,
            list,
        }
    }

    fn headers(&self, batch: &Batch, letter: &Letter, seen: i64, buffer: &mut Vec<u8>) -> Vec<HeaderEdit> {
        let record = letter.record as usize;
        let mut edits = Vec::new();
        let mut set = |name: &'static str, value: &str| {
            let at = write(buffer, |buffer| buffer.extend_from_slice(value.as_bytes()));
            edits.push(HeaderEdit { name: name.into(), value: Some(at) });
        };
        set("anabranch.route", &self.route);
        set("anabranch.topic", &batch.topic);
        set("anabranch.partition", &batch.partition.to_string());
        set("anabranch.offset", &batch.offsets[record].to_string());
        set("anabranch.timestamp", &batch.timestamps[record].to_string());
        set("anabranch.class", letter.class.name());
        set("anabranch.code", &letter.code);
        set("anabranch.message", &letter.message);
        set("anabranch.by", &letter.by);
        if let Some(digest) = &letter.digest {
            set("anabranch.digest", digest);
        }
        set("anabranch.attempts", &letter.attempts.to_string());
        set("anabranch.decision", &self.decision);
        set("anabranch.seen", &seen.to_string());
        edits
    }

    fn write_row(&self, schema: &apache_avro::Schema, batch: &Batch, letter: &Letter, seen: i64, buffer: &mut Vec<u8>) {
        let record = letter.record as usize;
        let text = |text: &str| AvroValue::String(text.to_owned());
        let optional = |value: Option<AvroValue>| match value {
            None => AvroValue::Union(0, Box::new(AvroValue::Null)),
            Some(value) => AvroValue::Union(1, Box::new(value)),
        };
        let bytes = |bytes: Option<&[u8]>| optional(bytes.map(|bytes| AvroValue::Bytes(bytes.to_vec())));
        let headers = batch.headers.of(record).map(|(name, value)| {
            AvroValue::Record(vec![("name".into(), text(&String::from_utf8_lossy(name))), ("value".into(), bytes(value))])
        });
        let timestamp = batch.timestamps[record];
        let row = AvroValue::Record(vec![
            ("route".into(), text(&self.route)),
            ("topic".into(), text(&batch.topic)),
            ("partition".into(), AvroValue::Int(batch.partition)),
            ("offset".into(), AvroValue::Long(batch.offsets[record])),
            ("timestamp".into(), optional((timestamp >= 0).then_some(AvroValue::TimestampMillis(timestamp)))),
            ("class".into(), text(letter.class.name())),
            ("code".into(), text(&letter.code)),
            ("message".into(), text(&letter.message)),
            ("by".into(), text(&letter.by)),
            ("digest".into(), optional(letter.digest.as_deref().map(text))),
            ("attempts".into(), AvroValue::Int(letter.attempts.try_into().unwrap_or(i32::MAX))),
            ("decision".into(), text(&self.decision)),
            ("seen".into(), AvroValue::TimestampMillis(seen)),
            ("key".into(), bytes(batch.keys.get(record))),
            ("value".into(), bytes(batch.values.get(record))),
            ("headers".into(), AvroValue::Array(headers.collect())),
        ]);
        let encoded = apache_avro::to_avro_datum(schema, row).expect("built to fit its schema, as a test shows");
        buffer.extend_from_slice(&encoded);
    }
}

fn write(buffer: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) -> Text {
    let start = buffer.len() as u32;
    fill(buffer);
    Text { buffer: 0, start, end: buffer.len() as u32 }
}
