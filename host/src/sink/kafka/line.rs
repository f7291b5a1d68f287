//! The producer, what it owes, and the way of a piece into it.
//!
//! Invariant: a piece is settled when all its records were reported as delivered or are owed by the dead letters; in a transaction, when
//! that has landed.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use tokio::time::{Interval, MissedTickBehavior};

use super::avro::Registrar;
use super::fate::{Fate, fate};
use super::producer::{self, Producer, Report, Reports, mark};
use super::ready::{Buffers, Forms, Ready, Unfit, headers, ready, topic};
use super::topics::{Refusal as NoTopic, Topics};
use super::transaction::Transaction;
use super::{Kafka, SinkError};
use crate::ack::{Slot, Token};
use crate::dead::{Class, Letter};
use crate::output::{Outputs, View};
use crate::sink::{Inbox, Message, Piece, Surroundings, give_up};
use crate::source::kafka::client::Login;

/// How long a full queue is waited for before it is looked at again, should no report come.
const QUEUE_WAIT: Duration = Duration::from_millis(50);
/// How often brokers that were unreachable are asked whether they are back, and how long that may take.
const BACK_INTERVAL: Duration = Duration::from_secs(2);
const BACK_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a record was not handed over.
enum Refusal {
    GiveUp(Unfit),
    Stop(String),
    /// The transaction has to be aborted.
    Broken(String),
    Full,
}

/// Records of a piece that were not reported yet.
pub(super) struct Owed {
    outputs: Arc<Outputs>,
    /// `None`: the transaction has it.
    token: Option<Token>,
    pub(super) slot: Slot,
    left: usize,
}

impl Owed {
    /// Of a piece with a token only.
    fn give_up(&mut self, surroundings: &Surroundings, letters: Vec<(u32, Letter)>) {
        self.left -= letters.len();
        let Some(token) = self.token.take() else { return };
        let piece = Piece { outputs: self.outputs.clone(), members: None, token };
        give_up(surroundings, &piece, letters);
        self.token = Some(piece.token);
    }
}

/// See the module.
pub(super) struct Line {
    pub(super) sink: Kafka,
    pub(super) producer: Arc<Producer>,
    pub(super) reports: Arc<Reports>,
    pub(super) login: Login,
    pub(super) owed: HashMap<u32, Owed>,
    /// What the records go out in, where they do so in transactions.
    pub(super) transaction: Option<Transaction>,
    registrar: Option<Registrar>,
    topics: Option<Topics>,
    forms: Forms,
    arrived: u32,
    buffers: Buffers,
    is_up: bool,
}

impl Line {
    pub(super) fn start(sink: Kafka) -> Result<Self, SinkError> {
        let surroundings = &sink.surroundings;
        let refused = |reason: String| SinkError::Configuration { sink: surroundings.sink.clone(), reason };
        let transaction = Transaction::of(&sink.config, surroundings);
        let id = transaction.as_ref().map(Transaction::id);
        let (producer, reports, login) =
            producer::start(&sink.config, id, &surroundings.metrics).map_err(|error| refused(error.to_string()))?;
        let topics = Topics::new(&sink.config, &surroundings.metrics).map_err(|error| refused(error.to_string()))?;
        let forms = sink.forms.clone().map_err(refused)?;
        let registrar = sink.registrar().map_err(refused)?;
        Ok(Line {
            sink,
            producer: Arc::new(producer),
            reports,
            login,
            owed: HashMap::new(),
            transaction,
            registrar,
            topics,
            forms,
            arrived: 0,
            buffers: Buffers::default(),
            is_up: false,
        })
    }

    pub(super) async fn run(mut self: Box<Self>, mut inbox: Inbox) -> Result<(), SinkError> {
        let mut open = true;
        let mut looks = looks();
        while open || !self.owed.is_empty() {
            let reports = self.reports.clone();
            tokio::select! {
                message = inbox.next(), if open => match message {
                    Some(Message::Piece(piece)) => self.write(piece).await?,
                    Some(Message::Letters(..)) => {}
                    Some(Message::Abandon(slot)) => self.owed.retain(|_, owed| owed.slot != slot),
                    None => open = false,
                },
                reports = reports.take() => self.report(reports)?,
                // Librdkafka reports when brokers go, not when they come back, and no record may come to find out.
                _ = looks.tick() => self.ask_whether_back().await,
            }
        }
        self.end().await;
        Ok(())
    }

    pub(super) async fn write(&mut self, piece: Piece) -> Result<(), SinkError> {
        self.prepare(&piece).await?;
        if self.transaction.is_some() && !piece.token.is_current() {
            // It is read again, and comes after what is read again before it.
            return Ok(());
        }
        self.begin().await?;
        let number = self.arrived;
        self.arrived = self.arrived.wrapping_add(1);
        let mut letters = Vec::new();
        let outputs = piece.outputs.clone();
        let members: Vec<u32> = piece.iter().map(|view| view.index as u32).collect();
        let slot = piece.token.slot();
        self.owed.insert(number, Owed { left: members.len(), outputs: piece.outputs, token: Some(piece.token), slot });
        for index in members {
            let view = outputs.view(index as usize);
            loop {
                match self.hand_over(view, number) {
                    Ok(bytes) => {
                        self.sink.surroundings.metrics.bytes.inc_by(bytes);
                        if let Some(transaction) = &mut self.transaction {
                            transaction.add(bytes);
                        }
                    }
                    Err(Refusal::GiveUp((class, code, message))) => {
                        letters.push(self.sink.surroundings.letter(view, class, code, message));
                    }
                    Err(Refusal::Stop(reason)) => return Err(self.environment(reason)),
                    Err(Refusal::Broken(reason)) => return self.abort(&reason).await,
                    Err(Refusal::Full) => {
                        let reports = self.reports.clone();
                        if let Ok(reports) = tokio::time::timeout(QUEUE_WAIT, reports.take()).await {
                            self.report(reports)?;
                            self.abort_if_broken().await?;
                        }
                        // Meanwhile it may have rewound; what is left of it is read again.
                        if !self.owed.contains_key(&number) {
                            return Ok(());
                        }
                        continue;
                    }
                }
                break;
            }
        }
        if let Some(owed) = self.owed.get_mut(&number) {
            owed.give_up(&self.sink.surroundings, letters);
            if let Some(transaction) = &mut self.transaction {
                transaction.hold(owed.token.take());
            }
        }
        self.settle_if_done(number);
        Ok(())
    }

    /// Sees to it that the topics of a piece are there, and that its schemas have ids. Reports are heeded meanwhile.
    async fn prepare(&mut self, piece: &Piece) -> Result<(), SinkError> {
        if let Some(topics) = &self.topics {
            let wanted = piece.iter().filter_map(|view| topic(&self.sink.config, view).ok());
            let mut missing: Vec<String> = wanted.filter(|topic| !topics.has(topic)).map(Cow::into_owned).collect();
            missing.sort_unstable();
            missing.dedup();
            for topic in missing {
                self.create(&topic).await?;
            }
        }
        let Some(registrar) = &self.registrar else { return Ok(()) };
        let missing = registrar.missing(piece, &self.sink.config, &self.forms);
        if missing.is_empty() {
            return Ok(());
        }
        // A registry may be away for long, and a transaction must not stay open for long.
        self.commit().await?;
        for question in missing {
            let known = loop {
                let Some(registrar) = &self.registrar else { return Ok(()) };
                let reports = self.reports.clone();
                tokio::select! {
                    known = Box::pin(registrar.ask(&question)) => break known,
                    reports = reports.take() => self.report(reports)?,
                }
            };
            if let Some(registrar) = &mut self.registrar {
                registrar.learn(question, known);
            }
        }
        Ok(())
    }

    async fn create(&mut self, topic: &str) -> Result<(), SinkError> {
        self.commit().await?;
        loop {
            let Some(topics) = &mut self.topics else { return Ok(()) };
            let reports = self.reports.clone();
            let answer = tokio::select! {
                answer = topics.ensure(topic) => answer,
                reports = reports.take() => {
                    self.report(reports)?;
                    continue;
                }
            };
            return match answer {
                Ok(()) => {
                    self.answered();
                    Ok(())
                }
                // Whatever the producer says of the topic then decides about its record.
                Err(NoTopic::Name(reason) | NoTopic::Passing(reason)) => {
                    tracing::warn!(sink = %self.sink.surroundings.sink, reason, "no topic");
                    Ok(())
                }
                Err(NoTopic::Lasting(reason)) => Err(self.environment(reason)),
            };
        }
    }

    /// Hands a record to the producer; bytes of key and value.
    fn hand_over(&mut self, view: View<'_>, number: u32) -> Result<u64, Refusal> {
        if let Some((class, message)) = self.transaction.as_ref().and_then(|transaction| transaction.condemned(view)) {
            return Err(Refusal::GiveUp((class, "kafka", message)));
        }
        let registrar = &self.registrar;
        let id = |topic: &str, part, handle| match registrar {
            Some(registrar) => registrar.find(topic, part, handle),
            None => Err((Class::Schema, "registry", "the sink has no registry".to_owned())),
        };
        let Ready { topic, partition, key, value } =
            ready(&self.sink.config, &self.forms, view, &mut self.buffers, &id).map_err(Refusal::GiveUp)?;
        let bytes = value.map_or(0, <[u8]>::len) + key.map_or(0, <[u8]>::len);
        let mut record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&topic, mark(number, view.index as u32));
        record.payload = value;
        record.key = key;
        record.partition = partition;
        record.timestamp = (view.timestamp() >= 0).then(|| view.timestamp());
        record.headers = headers(view);
        let Err((error, _)) = self.producer.send(record) else { return Ok(bytes as u64) };
        let code = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => return Err(Refusal::Full),
            code => code.unwrap_or(RDKafkaErrorCode::Fail),
        };
        Err(match fate(&self.sink.config, view, code, &error) {
            Fate::GiveUp(class, message) => Refusal::GiveUp((class, "kafka", message)),
            Fate::Stop(reason) => Refusal::Stop(reason),
            Fate::Rewind if self.transaction.is_some() => Refusal::Broken(error.to_string()),
            Fate::Rewind => Refusal::Stop(format!("the producer takes no records: {error}")),
        })
    }

    pub(super) fn report(&mut self, reports: Vec<Report>) -> Result<(), SinkError> {
        let mut delivered = 0;
        for report in reports {
            let Some(owed) = self.owed.get_mut(&report.number) else { continue };
            let Some(code) = report.error else {
                delivered += 1;
                owed.left -= 1;
                self.settle_if_done(report.number);
                continue;
            };
            let outputs = owed.outputs.clone();
            let view = outputs.view(report.index as usize);
            match fate(&self.sink.config, view, code, &KafkaError::MessageProduction(code)) {
                Fate::Stop(reason) => return Err(self.environment(reason)),
                fate if self.transaction.is_some() => self.condemn(view, code, fate),
                Fate::GiveUp(class, message) => {
                    let letter = self.sink.surroundings.letter(view, class, "kafka", message);
                    owed.give_up(&self.sink.surroundings, vec![letter]);
                    self.settle_if_done(report.number);
                }
                Fate::Rewind => {
                    tracing::warn!(sink = %self.sink.surroundings.sink, error = %code, "a record did not arrive, reading again");
                    if let Some(token) = self.owed.remove(&report.number).and_then(|owed| owed.token) {
                        token.rewind("a record did not arrive at the kafka sink");
                    }
                    // A producer with a fatal error delivers nothing any more.
                    if self.producer.client().fatal_error().is_some() {
                        return self.renew();
                    }
                }
            }
        }
        if delivered > 0 {
            if self.transaction.is_none() {
                self.sink.surroundings.metrics.outputs.inc_by(delivered);
            }
            self.answered();
        }
        Ok(())
    }

    /// The brokers did what they were asked for.
    pub(super) fn answered(&mut self) {
        if !self.is_up || self.login.trouble().is_some() {
            self.is_up = true;
            self.login.answered();
            self.sink.surroundings.metrics.up();
        }
    }

    /// The brokers do not answer, and are waited for.
    pub(super) fn waits(&mut self, reason: &str) {
        self.is_up = false;
        self.sink.surroundings.metrics.down(reason);
    }

    /// A new producer; what the former one owed is read again.
    pub(super) fn renew(&mut self) -> Result<(), SinkError> {
        for token in self.owed.drain().filter_map(|(_, owed)| owed.token) {
            token.rewind("the kafka sink's producer had to be renewed");
        }
        let id = self.transaction.as_ref().map(Transaction::id);
        let (producer, reports, login) =
            producer::start(&self.sink.config, id, &self.sink.surroundings.metrics).map_err(|error| self.environment(error.to_string()))?;
        (self.producer, self.reports, self.login) = (Arc::new(producer), reports, login);
        Ok(())
    }

    fn settle_if_done(&mut self, number: u32) {
        if self.owed.get(&number).is_some_and(|owed| owed.left == 0)
            && let Some(token) = self.owed.remove(&number).and_then(|owed| owed.token)
        {
            token.settle();
        }
    }

    /// Asks brokers that were unreachable whether they are back.
    pub(super) async fn ask_whether_back(&mut self) {
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

    pub(super) fn environment(&self, reason: String) -> SinkError {
        SinkError::Environment { sink: self.sink.surroundings.sink.clone(), reason }
    }

    /// Nothing is owed any more; the producer's thread is waited for elsewhere.
    pub(super) async fn end(self: Box<Self>) {
        let producer = self.producer;
        // Dropping a client waits for its threads; a panic there concerns nobody any more.
        let _ = tokio::task::spawn_blocking(move || drop(producer)).await;
    }
}

/// When brokers that were unreachable are asked.
pub(super) fn looks() -> Interval {
    let mut looks = tokio::time::interval(BACK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}
