//! `check --connect`: asks every broker, registry and sink of a configuration whether it is there.
//!
//! Invariant: nothing is written anywhere, and no consumer group is joined.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::config::Config;
use crate::observe::Metrics;
use crate::registry::Registry;
use crate::sink;
use crate::source::kafka::client::consumer_config;

const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What does not answer, one line each. Empty: everything does.
pub async fn all(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, source) in &config.sources {
        let mut client = consumer_config(source, "check", "anabranch-check");
        client.set("log_level", "0");
        let asked = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = client.create()?;
            consumer.fetch_metadata(None, ANSWER_MAX).map(drop)
        });
        if let Ok(Err(error)) = asked.await {
            problems.push(format!(
                "source {:?}: no answer from {} ({error}): check `brokers`, `security`, and that a broker runs there",
                name.as_str(),
                source.brokers.join(",")
            ));
        }
    }
    for (name, registry) in &config.registries {
        let answered = match Registry::new(name.as_str(), registry, Metrics::new()) {
            Ok(registry) => registry.probe().await,
            Err(error) => Err(error),
        };
        if let Err(error) = answered {
            problems.push(format!("registry {:?}: {error}", name.as_str()));
        }
    }
    for (name, sink) in &config.sinks {
        if let Err(error) = sink::probe(sink).await {
            problems.push(format!("sink {:?}: {error}", name.as_str()));
        }
    }
    problems
}
