//! Topics that are created because a record goes there.
//!
//! Invariant: a topic that is there is left as it is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;

use super::config::{Config, CreateTopics};
use crate::config::Property;
use crate::observe::SinkMetrics;
use crate::source::kafka::client::{Credentials, Login};
use crate::source::kafka::start::Probe;

/// How long brokers may take for one answer; they are asked again without end.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Topics that are remembered as being there; beyond it all are looked for again.
const KNOWN_MAX: usize = 100_000;

/// Why a topic cannot be had: what is wrong, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its name is at fault.
    Name(String),
    /// The configuration is, or the login's rights.
    Lasting(String),
    /// Nobody answers.
    Passing(String),
}

/// See the module.
pub struct Topics {
    rule: CreateTopics,
    brokers: String,
    admin: Arc<AdminClient<Probe>>,
    metrics: SinkMetrics,
    known: HashSet<String>,
}

impl Topics {
    /// Creates topics as the configuration says; `None`: it says nothing.
    ///
    /// # Errors
    /// Properties that librdkafka does not take.
    pub fn new(config: &Config, metrics: &SinkMetrics) -> KafkaResult<Option<Self>> {
        let Some(rule) = config.create_topics.clone() else { return Ok(None) };
        let brokers = config.brokers.join(",");
        let login = Login::new(&brokers, metrics.part(), metrics.all().clone(), Credentials::of(&config.security));
        let admin = Arc::new(AdminClient::from_config_and_context(&config.client(None), Probe(login))?);
        Ok(Some(Topics { rule, brokers, admin, metrics: metrics.clone(), known: HashSet::new() }))
    }

    /// Whether a topic is known to be there.
    pub fn has(&self, topic: &str) -> bool {
        self.known.contains(topic)
    }

    /// Sees to it that a topic is there; waits for brokers that do not answer. Cancel safe.
    ///
    /// # Errors
    /// Never [`Refusal::Passing`].
    pub async fn ensure(&mut self, topic: &str) -> Result<(), Refusal> {
        loop {
            match self.try_once(topic).await {
                Err(Refusal::Passing(reason)) => {
                    self.metrics.down(&reason);
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                answer => return answer,
            }
        }
    }

    async fn try_once(&mut self, topic: &str) -> Result<(), Refusal> {
        if self.known.is_empty() || self.known.len() >= KNOWN_MAX {
            self.known = self.list().await?;
        }
        if self.known.contains(topic) {
            return Ok(());
        }
        self.create(topic, false).await?;
        tracing::info!(topic, "topic created");
        self.known.insert(topic.to_owned());
        Ok(())
    }

    /// Asks whether a topic that is not there could be created.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&mut self, topic: &str) -> Result<(), Refusal> {
        if self.list().await?.contains(topic) {
            return Ok(());
        }
        self.create(topic, true).await
    }

    /// The topics that are there. Of all: who asks for one by its name may have it created by the broker.
    async fn list(&self) -> Result<HashSet<String>, Refusal> {
        let admin = self.admin.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let metadata = admin.inner().fetch_metadata(None, ANSWER_MAX)?;
            let there = metadata.topics().iter().filter(|topic| topic.error().is_none());
            Ok(there.map(|topic| topic.name().to_owned()).collect())
        });
        let answer: KafkaResult<_> = asked.await.unwrap_or(Err(KafkaError::Canceled));
        answer.map_err(|error| Refusal::Passing(format!("no list of topics from {}: {error}", self.brokers)))
    }

    async fn create(&self, topic: &str, only_ask: bool) -> Result<(), Refusal> {
        let number = |number: Option<i32>| number.unwrap_or(-1);
        let partitions = number(self.rule.partitions.and_then(|count| i32::try_from(count.get()).ok()));
        let replication = number(self.rule.replication.map(|count| i32::from(count.get())));
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
        for (name, Property(value)) in &self.rule.config {
            new = new.set(name, value);
        }
        let options = AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX)).validate_only(only_ask);
        let answer = self.admin.create_topics([&new], &options).await;
        let answer = answer.map_err(|error| Refusal::Passing(format!("topic {topic:?} is not created by {}: {error}", self.brokers)))?;
        match answer.into_iter().next() {
            Some(Err((_, code))) => self.judge(topic, code),
            _ => Ok(()),
        }
    }

    fn judge(&self, topic: &str, code: RDKafkaErrorCode) -> Result<(), Refusal> {
        let Topics { rule, brokers, .. } = self;
        let not = format!("topic {topic:?} is not created by {brokers} ({code})");
        match code {
            RDKafkaErrorCode::TopicAlreadyExists => Ok(()),
            RDKafkaErrorCode::InvalidTopic => Err(Refusal::Name(not)),
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                Err(Refusal::Lasting(format!("{not}: grant the login CREATE on it, or create it")))
            }
            RDKafkaErrorCode::InvalidReplicationFactor => {
                let wanted = rule.replication.map_or(0, std::num::NonZeroU16::get);
                Err(Refusal::Lasting(format!("{not}: there are not {wanted} brokers; correct `replication` in create_topics")))
            }
            RDKafkaErrorCode::InvalidPartitions => Err(Refusal::Lasting(format!("{not}: correct `partitions` in create_topics"))),
            RDKafkaErrorCode::InvalidConfig => Err(Refusal::Lasting(format!("{not}: correct `config` in create_topics"))),
            RDKafkaErrorCode::PolicyViolation => Err(Refusal::Lasting(format!(
                "{not}: create_topics is not what the brokers' policy allows, correct it or create the topic"
            ))),
            RDKafkaErrorCode::InvalidRequest | RDKafkaErrorCode::UnsupportedVersion => {
                Err(Refusal::Lasting(format!("{not}: write `partitions` and `replication` in create_topics: old brokers have no defaults")))
            }
            _ => Err(Refusal::Passing(not)),
        }
    }
}
