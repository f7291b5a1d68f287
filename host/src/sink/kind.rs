//! The kinds of sinks: one `match` for each question that is asked of any of them.
//!
//! Invariant: a kind that the configuration knows is answered for here, or this does not compile.

use std::sync::Arc;

use super::{Inbox, Sink as _, SinkError, Surroundings, Uses, delta, diffusion, file, http, kafka, null, stdout};
use crate::ack::TopicPartition;
use crate::config::{Config, Name, Sink};
use crate::dead::Form;

/// What a ledger holds: partition, the offset behind the last one that it holds, and the id of the topic when that was written.
pub type Held = Vec<(TopicPartition, i64, Option<Arc<str>>)>;

/// The positions that the sink `name` of a consumer group holds in a ledger of its own; `None`: its kind has none.
///
/// # Errors
/// Inside, where the ledger cannot be read.
pub async fn ledger_positions(sink: &Sink, group: &str, name: &str) -> Option<Result<Held, String>> {
    match sink {
        Sink::Delta(config) => Some(delta::ledger_positions(config, group, name).await.map_err(|error| error.to_string())),
        Sink::Null(_) | Sink::Stdout(_) | Sink::File(_) | Sink::Http(_) | Sink::Kafka(_) | Sink::Diffusion(_) => None,
    }
}

/// Runs the sink `name` of the configuration until its inbox closes and everything is durable.
///
/// # Errors
/// Only for what waiting cannot mend; the route stops with it.
pub async fn run(config: Arc<Config>, name: Name, surroundings: Surroundings, inbox: Inbox) -> Result<(), SinkError> {
    match &config.sinks[&name] {
        Sink::Null(config) => null::Null::new(config, surroundings).run(inbox).await,
        Sink::Stdout(config) => stdout::Stdout::new(config, surroundings).run(inbox).await,
        Sink::File(config) => file::FileSink::new(config, surroundings).run(inbox).await,
        Sink::Http(config) => http::Http::new(config, surroundings)?.run(inbox).await,
        Sink::Kafka(own) => kafka::Kafka::new(own, surroundings).with_registry(&config).run(inbox).await,
        Sink::Delta(config) => delta::Delta::new(config, surroundings)?.run(inbox).await,
        Sink::Diffusion(config) => diffusion::Diffusion::new(config, surroundings)?.run(inbox).await,
    }
}

/// How the sink uses the destinations that plugins choose.
pub fn destinations(sink: &Sink) -> Uses {
    match sink {
        Sink::Null(config) => null::destinations(config),
        Sink::Stdout(config) => stdout::destinations(config),
        Sink::File(config) => file::destinations(config),
        Sink::Http(config) => http::destinations(config),
        Sink::Kafka(config) => kafka::destinations(config),
        Sink::Delta(config) if config.root.is_some() => Uses::Needed,
        Sink::Delta(_) => Uses::Ignored,
        Sink::Diffusion(config) => diffusion::destinations(config),
    }
}

/// Whether the sink commits the offsets of its route, together with what it writes.
pub fn commits_offsets(sink: &Sink) -> bool {
    match sink {
        Sink::Kafka(config) => config.exactly_once,
        Sink::Null(_) | Sink::Stdout(_) | Sink::File(_) | Sink::Http(_) | Sink::Delta(_) | Sink::Diffusion(_) => false,
    }
}

/// How the sink takes dead letters.
pub fn form(sink: &Sink) -> Form {
    match sink {
        Sink::Kafka(_) => Form::Record,
        Sink::Null(_) | Sink::Stdout(_) | Sink::File(_) | Sink::Http(_) | Sink::Delta(_) | Sink::Diffusion(_) => Form::Row,
    }
}

/// Ledgers of other names in the sink's tables that hold partitions of a route's topics, as warnings for the user.
///
/// # Errors
/// Where a ledger cannot be read.
pub async fn other_ledgers(sink: &Sink, group: &str, name: &str, is_ours: &(dyn Fn(&str) -> bool + Sync)) -> Result<Vec<String>, String> {
    match sink {
        Sink::Delta(config) => delta::other_ledgers(config, group, name, is_ours).await.map_err(|error| error.to_string()),
        Sink::Null(_) | Sink::Stdout(_) | Sink::File(_) | Sink::Http(_) | Sink::Kafka(_) | Sink::Diffusion(_) => Ok(Vec::new()),
    }
}

/// Looks whether the sink's place is there and usable; writes no record.
///
/// # Errors
/// What is wrong, in words for the user.
pub async fn probe(sink: &Sink) -> Result<(), String> {
    match sink {
        Sink::Null(_) | Sink::Stdout(_) => Ok(()),
        Sink::File(config) => file::probe(config).await,
        Sink::Http(config) => http::probe(config).await,
        Sink::Kafka(config) => kafka::probe(config).await,
        Sink::Delta(config) => delta::probe(config).await,
        Sink::Diffusion(config) => diffusion::probe(config).await,
    }
}
