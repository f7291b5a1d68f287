//! The sink `kafka`: records of a topic, by an idempotent producer.
//!
//! Invariant: a piece is settled when all in-sync replicas hold every record of it, or the dead letters owe it. Records are handed
//! over in the order of their partition, and librdkafka keeps that order per partition of the topic.

mod config;
mod producer;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use tokio::time::MissedTickBehavior;

pub use self::config::{Compression, Config, Partition, Payload, Replace};
use self::producer::{Producer, Report, Reports, mark};
use super::preview::Preview;
use super::{Inbox, Message, Piece, Sink, SinkError, Surroundings, Uses, give_up};
use crate::batch::PREFIX_LEN;
use crate::config::check_topic;
use crate::dead::Class;
use crate::output::{Cell, View};
use crate::source::kafka::client::Login;
use crate::value::{Format, write_json};

/// How long a full queue is waited for before it is looked at again, should no report come.
const QUEUE_WAIT: Duration = Duration::from_millis(50);
/// How often brokers that were unreachable are asked whether they are back, and how long that may take.
const BACK_INTERVAL: Duration = Duration::from_secs(2);
const BACK_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a broker may take for one answer, and how often it is asked while nothing speaks against it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const PROBES_MAX: usize = 5;

/// How the sink uses destinations.
pub fn destinations(config: &Config) -> Uses {
    if config.topic.is_some() { Uses::Optional } else { Uses::Needed }
}

/// Asks the brokers for the topic.
///
/// # Errors
/// What is wrong, in words for the user.
pub async fn probe(config: &Config) -> Result<(), String> {
    let metrics = crate::observe::SinkMetrics::detached();
    let (producer, _, login) = producer::start(config, &metrics).map_err(|error| error.to_string())?;
    let topic = config.topic.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let mut answer = Err(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut));
        for _ in 0..PROBES_MAX {
            // Of all topics: a producer that asks for one by its name has it created.
            answer = producer.client().fetch_metadata(None, PROBE_TIMEOUT);
            // What the client heard meanwhile names the cause; a time-out alone does not.
            if let (Err(_), Some(trouble)) = (&answer, login.trouble()) {
                return Err(trouble.text);
            }
            if answer.is_ok() {
                break;
            }
        }
        let metadata = answer.map_err(|error| error.to_string())?;
        let Some(topic) = topic else { return Ok(()) };
        match metadata.topics().iter().find(|found| found.name() == topic) {
            Some(found) if found.error().is_none() && !found.partitions().is_empty() => Ok(()),
            _ => Err(format!("there is no topic {topic:?}: create it")),
        }
    });
    asked.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// A sink of the kind `kafka`.
pub struct Kafka {
    config: Config,
    surroundings: Surroundings,
}

impl Kafka {
    /// A sink that has no connection yet.
    pub fn new(config: &Config, surroundings: Surroundings) -> Self {
        Kafka { config: config.clone(), surroundings }
    }

    /// See [`Preview`].
    pub fn preview(&self, view: View<'_>) -> Preview {
        let mut text = Vec::new();
        match ready(&self.config, view, &mut text) {
            Err((class, code, message)) => Preview::GivenUp(self.surroundings.letter(view, class, code, message).1),
            Ok(ready) => Preview::Record {
                topic: ready.topic.clone().into_owned(),
                partition: ready.partition,
                key: ready.key.map(<[u8]>::to_vec),
                value: ready.value.map(<[u8]>::to_vec),
                headers: header_list(view).into_iter().map(|(name, value)| (name, value.map(<[u8]>::to_vec))).collect(),
            },
        }
    }
}

/// What becomes of a record that did not arrive.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    GiveUp(Class, String),
    Stop(String),
    /// The producer's own state, or nothing that is known here: read again.
    Rewind,
}

/// Why a record was not handed over.
enum Refusal {
    GiveUp(Unfit),
    Stop(String),
    Full,
}

/// Why a record is none for the topic: class, code and message of its dead letter.
type Unfit = (Class, &'static str, String);

/// A record as its topic gets it.
struct Ready<'v> {
    topic: Cow<'v, str>,
    partition: Option<i32>,
    key: Option<&'v [u8]>,
    value: Option<&'v [u8]>,
}

impl Sink for Kafka {
    async fn run(self, mut inbox: Inbox) -> Result<(), SinkError> {
        let mut line = Line::start(self)?;
        let mut open = true;
        let mut looks = tokio::time::interval(BACK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while open || !line.owed.is_empty() {
            let reports = line.reports.clone();
            tokio::select! {
                message = inbox.next(), if open => match message {
                    Some(Message::Piece(piece)) => line.write(piece).await?,
                    Some(Message::Abandon(slot)) => line.owed.retain(|_, owed| owed.piece.token.slot() != slot),
                    None => open = false,
                },
                reports = reports.take() => line.report(reports)?,
                // Librdkafka reports when brokers go, not when they come back, and no record may come to find out.
                _ = looks.tick() => line.ask_whether_back().await,
            }
        }
        line.end().await;
        Ok(())
    }
}

struct Owed {
    piece: Piece,
    left: usize,
}

/// The producer and what it owes.
struct Line {
    sink: Kafka,
    producer: Arc<Producer>,
    reports: Arc<Reports>,
    login: Login,
    owed: HashMap<u32, Owed>,
    arrived: u32,
    text: Vec<u8>,
    is_up: bool,
}

impl Line {
    fn start(sink: Kafka) -> Result<Self, SinkError> {
        let surroundings = &sink.surroundings;
        let (producer, reports, login) = producer::start(&sink.config, &surroundings.metrics)
            .map_err(|error| SinkError::Configuration { sink: surroundings.sink.clone(), reason: error.to_string() })?;
        let producer = Arc::new(producer);
        Ok(Line { sink, producer, reports, login, owed: HashMap::new(), arrived: 0, text: Vec::new(), is_up: false })
    }

    async fn write(&mut self, piece: Piece) -> Result<(), SinkError> {
        let number = self.arrived;
        self.arrived = self.arrived.wrapping_add(1);
        let mut letters = Vec::new();
        let outputs = piece.outputs.clone();
        let members: Vec<u32> = piece.iter().map(|view| view.index as u32).collect();
        let slot = piece.token.slot();
        self.owed.insert(number, Owed { left: members.len(), piece });
        for index in members {
            let view = outputs.view(index as usize);
            loop {
                match self.hand_over(view, number) {
                    Ok(bytes) => _ = self.sink.surroundings.metrics.bytes.inc_by(bytes),
                    Err(Refusal::GiveUp((class, code, message))) => {
                        letters.push(self.sink.surroundings.letter(view, class, code, message));
                    }
                    Err(Refusal::Stop(reason)) => return Err(self.environment(reason)),
                    Err(Refusal::Full) => {
                        let reports = self.reports.clone();
                        if let Ok(reports) = tokio::time::timeout(QUEUE_WAIT, reports.take()).await {
                            self.report(reports)?;
                        }
                        // Meanwhile it may have rewound; what is left of it is read again.
                        let is_owed = self.owed.get(&number).is_some_and(|owed| owed.piece.token.slot() == slot);
                        if !is_owed {
                            return Ok(());
                        }
                        continue;
                    }
                }
                break;
            }
        }
        if let Some(owed) = self.owed.get_mut(&number) {
            let given_up = letters.len();
            give_up(&self.sink.surroundings, &owed.piece, letters);
            owed.left -= given_up;
        }
        self.settle_if_done(number);
        Ok(())
    }

    /// Hands a record to the producer; bytes of key and value.
    fn hand_over(&mut self, view: View<'_>, number: u32) -> Result<u64, Refusal> {
        self.text.clear();
        let Ready { topic, partition, key, value } = ready(&self.sink.config, view, &mut self.text).map_err(Refusal::GiveUp)?;
        let bytes = value.map_or(0, <[u8]>::len) + key.map_or(0, <[u8]>::len);
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&topic, mark(number, view.index as u32));
        record.payload = value;
        record.key = key;
        record.partition = partition;
        record.timestamp = (view.timestamp() >= 0).then(|| view.timestamp());
        record.headers = headers(view);
        match self.producer.send(record) {
            Ok(()) => Ok(bytes as u64),
            Err((error, _)) => match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::QueueFull) => Err(Refusal::Full),
                Some(code) => match self.fate(view, code, &error) {
                    Fate::GiveUp(class, message) => Err(Refusal::GiveUp((class, "kafka", message))),
                    Fate::Stop(reason) => Err(Refusal::Stop(reason)),
                    Fate::Rewind => Err(Refusal::Stop(format!("the producer takes no records: {error}"))),
                },
                None => Err(Refusal::Stop(format!("the producer takes no records: {error}"))),
            },
        }
    }

    fn report(&mut self, reports: Vec<Report>) -> Result<(), SinkError> {
        let mut delivered = 0;
        for report in reports {
            let Some(owed) = self.owed.get_mut(&report.number) else { continue };
            let Some(code) = report.error else {
                delivered += 1;
                owed.left -= 1;
                self.settle_if_done(report.number);
                continue;
            };
            let outputs = owed.piece.outputs.clone();
            let view = outputs.view(report.index as usize);
            match self.fate(view, code, &KafkaError::MessageProduction(code)) {
                Fate::GiveUp(class, message) => {
                    let letter = self.sink.surroundings.letter(view, class, "kafka", message);
                    if let Some(owed) = self.owed.get_mut(&report.number) {
                        give_up(&self.sink.surroundings, &owed.piece, vec![letter]);
                        owed.left -= 1;
                    }
                    self.settle_if_done(report.number);
                }
                Fate::Stop(reason) => return Err(self.environment(reason)),
                Fate::Rewind => {
                    tracing::warn!(sink = %self.sink.surroundings.sink, error = %code, "a record did not arrive, reading again");
                    if let Some(owed) = self.owed.remove(&report.number) {
                        owed.piece.token.rewind("a record did not arrive at the kafka sink");
                    }
                    // A producer with a fatal error delivers nothing any more.
                    if self.producer.client().fatal_error().is_some() {
                        return self.renew();
                    }
                }
            }
        }
        if delivered > 0 {
            self.sink.surroundings.metrics.outputs.inc_by(delivered);
            if !self.is_up || self.login.trouble().is_some() {
                self.is_up = true;
                self.login.answered();
                self.sink.surroundings.metrics.up();
            }
        }
        Ok(())
    }

    async fn ask_whether_back(&mut self) {
        if !self.login.is_down() {
            return;
        }
        let producer = self.producer.clone();
        // Of all topics: a producer that asks for one by its name has it created.
        let asked = tokio::task::spawn_blocking(move || producer.client().fetch_metadata(None, BACK_TIMEOUT).is_ok());
        if asked.await.unwrap_or(false) {
            self.login.answered();
            self.sink.surroundings.metrics.up();
        }
    }

    /// A new producer; what the former one owed is read again.
    fn renew(&mut self) -> Result<(), SinkError> {
        for (_, owed) in self.owed.drain() {
            owed.piece.token.rewind("the kafka sink's producer had to be renewed");
        }
        let (producer, reports, login) =
            producer::start(&self.sink.config, &self.sink.surroundings.metrics).map_err(|error| self.environment(error.to_string()))?;
        (self.producer, self.reports, self.login) = (Arc::new(producer), reports, login);
        Ok(())
    }

    fn settle_if_done(&mut self, number: u32) {
        if self.owed.get(&number).is_some_and(|owed| owed.left == 0)
            && let Some(owed) = self.owed.remove(&number)
        {
            owed.piece.token.settle();
        }
    }

    fn fate(&self, view: View<'_>, code: RDKafkaErrorCode, error: &KafkaError) -> Fate {
        let topic = topic(&self.sink.config, view).unwrap_or_default();
        let brokers = self.sink.config.brokers.join(",");
        match code {
            RDKafkaErrorCode::MessageSizeTooLarge => {
                let message = format!(
                    "larger than topic {topic:?} takes ({error}): raise its max.message.bytes; where small records are refused too, \
                     set \"batch.size\" in `properties` below it"
                );
                Fate::GiveUp(Class::Oversize, message)
            }
            RDKafkaErrorCode::InvalidMessage | RDKafkaErrorCode::InvalidRecord | RDKafkaErrorCode::InvalidTimestamp => {
                Fate::GiveUp(Class::SinkPermanent, format!("topic {topic:?} refuses the record: {error}"))
            }
            RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::InvalidTopic => {
                let message = format!("{brokers} knows no topic {topic:?} ({error})");
                match view.destination() {
                    Some(_) => Fate::GiveUp(Class::DestinationInvalid, message),
                    None => Fate::Stop(format!("{message}: create it, or correct `topic`")),
                }
            }
            RDKafkaErrorCode::UnknownPartition => {
                Fate::Stop(format!("topic {topic:?} has no partition {}: add partitions, or set partition = \"key\"", view.partition()))
            }
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                Fate::Stop(format!("{brokers} lets this login not write to topic {topic:?} ({error}): grant it WRITE"))
            }
            _ => Fate::Rewind,
        }
    }

    fn environment(&self, reason: String) -> SinkError {
        SinkError::Environment { sink: self.sink.surroundings.sink.clone(), reason }
    }

    /// Nothing is owed any more; the producer's thread is waited for elsewhere.
    async fn end(self) {
        let producer = self.producer;
        // Dropping a client waits for its threads; a panic there concerns nobody any more.
        let _ = tokio::task::spawn_blocking(move || drop(producer)).await;
    }
}

/// The record as its topic gets it; `text` holds what is written for it.
fn ready<'v>(config: &'v Config, view: View<'v>, text: &'v mut Vec<u8>) -> Result<Ready<'v>, Unfit> {
    let unfit = |message| (Class::DestinationInvalid, "destination", message);
    let topic = topic(config, view);
    let topic = topic.ok_or_else(|| unfit("the record has no destination, and the sink no `topic`".to_owned()))?;
    if view.destination().is_some()
        && let Some(fault) = check_topic("topic", &topic)
    {
        return Err(unfit(format!("{}: {}", fault.wrong, fault.remedy)));
    }
    let partition = (config.partition == Partition::Same).then(|| view.partition());
    let key = view.input_key_bytes().or_else(|| view.key().map(|key| key.bytes));
    Ok(Ready { topic, partition, key, value: value(config, view, text)? })
}

/// The topic that a record goes to: its destination, or else the sink's own.
fn topic<'v>(config: &'v Config, view: View<'v>) -> Option<Cow<'v, str>> {
    match view.destination() {
        Some(destination) => Some(config.replace.name(destination)),
        None => config.topic.as_deref().map(Cow::Borrowed),
    }
}

/// The value as the topic gets it; `None`: a tombstone.
fn value<'v>(config: &Config, view: View<'v>, text: &'v mut Vec<u8>) -> Result<Option<&'v [u8]>, Unfit> {
    let Some(value) = view.value() else { return Ok(None) };
    if config.value == Payload::Json {
        write_json(value, &config.json, text).map_err(|error| (Class::Decode, "json", error.to_string()))?;
        return Ok(Some(text));
    }
    if let Some(bytes) = view.input_value_bytes() {
        return Ok(Some(bytes));
    }
    let is_set = matches!(view.output().value, Cell::Set { .. });
    if !is_set || value.format != Format::Avro {
        return Ok(Some(value.bytes));
    }
    // Avro that nobody can look up is of no use to a reader.
    let Some(id) = view.schema(view.value_schema()).and_then(|entry| entry.id) else {
        let message = "a plugin made the value, and its schema is not in the registry: set value = \"json\" in the sink".to_owned();
        return Err((Class::SinkPermanent, "schema", message));
    };
    text.reserve(PREFIX_LEN + value.bytes.len());
    text.push(0);
    text.extend_from_slice(&id.to_be_bytes());
    text.extend_from_slice(value.bytes);
    Ok(Some(text))
}

fn headers(view: View<'_>) -> Option<OwnedHeaders> {
    let list = header_list(view);
    if list.is_empty() {
        return None;
    }
    let mut headers = OwnedHeaders::new_with_capacity(list.len());
    for (name, value) in list {
        headers = headers.insert(Header { key: &name, value });
    }
    Some(headers)
}

fn header_list(view: View<'_>) -> Vec<(String, Option<&[u8]>)> {
    // Names come from librdkafka, which has them as C strings too.
    view.headers().into_iter().map(|(name, value)| (String::from_utf8_lossy(name).replace('\0', ""), value)).collect()
}
