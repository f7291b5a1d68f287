//! The sink `kafka`: records of a topic, by an idempotent producer.
//!
//! Invariant: a piece is settled when all in-sync replicas hold every record of it, or the dead letters owe it. Records are handed
//! over in the order of their partition, and librdkafka keeps that order per partition of the topic.
//!
//! `ready` makes the record, `line` hands it over and hears how it ends (`fate`), `transaction` ties records to the offsets of what they
//! were made of; `topics` creates topics, `avro` knows the registry's ids.

mod avro;
mod config;
mod fate;
mod line;
mod producer;
mod ready;
#[cfg(test)]
mod tests;
mod topics;
mod transaction;

use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
use rdkafka::types::RDKafkaErrorCode;

use self::avro::Registrar;
pub use self::config::{Bounds, Compression, Config, CreateTopics, KeyPayload, Partition, Partitioner, Payload, Replace, Subject};
use self::line::Line;
use self::ready::{Buffers, Forms, header_list, ready};
use self::topics::{Refusal, Topics};
use super::preview::Preview;
use super::{Inbox, Sink, SinkError, Surroundings, Uses};
use crate::config::{self as checked, Name};
use crate::dead::Class;
use crate::observe::SinkMetrics;
use crate::output::View;
use crate::registry::Registry;

/// How long a broker may take for one answer, and how often it is asked while nothing speaks against it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const PROBES_MAX: usize = 5;

/// How the sink uses destinations.
pub fn destinations(config: &Config) -> Uses {
    if config.topic.is_some() { Uses::Optional } else { Uses::Needed }
}

/// Asks the brokers for the topic; where it is not there and is to be created, whether it could be.
///
/// # Errors
/// What is wrong, in words for the user.
pub async fn probe(config: &Config) -> Result<(), String> {
    let metrics = SinkMetrics::detached();
    let (producer, _, login) = producer::start(config, None, &metrics).map_err(|error| error.to_string())?;
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
        let Some(topic) = topic else { return Ok(None) };
        match metadata.topics().iter().find(|found| found.name() == topic) {
            Some(found) if found.error().is_none() && !found.partitions().is_empty() => Ok(None),
            _ => Ok(Some(topic)),
        }
    });
    let Some(missing) = asked.await.unwrap_or_else(|error| Err(error.to_string()))? else { return Ok(()) };
    match Topics::new(config, &metrics).map_err(|error| error.to_string())? {
        None => Err(format!("there is no topic {missing:?}: create it, or add create_topics = {{ }} to the sink")),
        Some(mut topics) => topics.probe(&missing).await.map_err(|refusal| match refusal {
            Refusal::Name(reason) | Refusal::Lasting(reason) | Refusal::Passing(reason) => reason,
        }),
    }
}

/// A sink of the kind `kafka`.
pub struct Kafka {
    config: Config,
    surroundings: Surroundings,
    /// What becomes of keys and values; or why the schema's file is none.
    forms: Result<Forms, String>,
    /// Where schemas of keys and values that become Avro are registered.
    registry: Option<Place>,
}

/// A registry, as a sink of one route sees it.
struct Place {
    name: Name,
    config: checked::Registry,
    /// It is the route's own.
    same: bool,
    /// How long the route asks again for schemas that are not there.
    wait: Duration,
}

impl Kafka {
    /// A sink that has no connection yet, and no registry.
    pub fn new(config: &Config, surroundings: Surroundings) -> Self {
        let forms = Forms::of(config, surroundings.takes_letters);
        Kafka { config: config.clone(), surroundings, forms, registry: None }
    }

    /// The same with the registry that the configuration names.
    pub fn with_registry(mut self, whole: &checked::Config) -> Self {
        let route = whole.routes.get(&*self.surroundings.route);
        let name = self.config.registry.clone().filter(|_| self.config.has_avro() && !self.surroundings.takes_letters);
        self.registry = name.zip(route).and_then(|(name, route)| {
            let config = whole.registries.get(&name)?.clone();
            let same = route.registry.as_ref() == Some(&name);
            Some(Place { name, config, same, wait: route.unknown_schema_wait.get() })
        });
        self
    }

    /// See [`Preview`]. No registry is asked: Avro is shown with the id that the record has already.
    pub fn preview(&self, view: View<'_>) -> Preview {
        let mut buffers = Buffers::default();
        let own = |_: &str, _, handle| Ok(view.schema(handle).and_then(|entry| entry.id).unwrap_or_default());
        let made = match &self.forms {
            Ok(forms) => ready(&self.config, forms, view, &mut buffers, &own),
            Err(reason) => Err((Class::SinkPermanent, "schema", reason.clone())),
        };
        match made {
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

    fn registrar(&self) -> Result<Option<Registrar>, String> {
        let Some(Place { name, config, same, wait }) = &self.registry else { return Ok(None) };
        let registry = Registry::new(name, config, self.surroundings.metrics.all().clone())?;
        Ok(Some(Registrar::new(registry, *same, &self.config, *wait)))
    }
}

impl Sink for Kafka {
    async fn run(self, inbox: Inbox) -> Result<(), SinkError> {
        let line = Box::new(Line::start(self)?);
        if line.transaction.is_some() { Box::pin(line.run_in_transactions(inbox)).await } else { Box::pin(line.run(inbox)).await }
    }
}
