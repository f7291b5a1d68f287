//! `check --connect`: asks every broker, registry and sink of a configuration whether it is there, and brokers for the routes' topics.
//!
//! Invariant: no record is written anywhere, and no consumer group is joined. All are asked at the same time, so the slowest one
//! decides how long it takes.

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, join_all};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::BaseConsumer;
use rdkafka::metadata::Metadata as Answer;

use crate::config::{Config, DiffusionSource, KafkaSource, Name, Registry as RegistryConfig, Route, Sink, Source, Topics};
use crate::observe::Metrics;
use crate::registry::Registry;
use crate::sink;
use crate::source::diffusion;
use crate::source::kafka::client::{Credentials, Login, consumer_config};
use crate::source::kafka::start::{Probe, find, reach};
use crate::stop::Stop;

/// How long a broker may take for its first answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What was found, one line each.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What keeps a route from working.
    pub problems: Vec<String>,
    /// What may be meant so.
    pub warnings: Vec<String>,
}

impl Found {
    fn problem(text: String) -> Self {
        Found { problems: vec![text], warnings: Vec::new() }
    }
}

/// Asks all of them. Nothing found: everything answers.
pub async fn all(config: &Config) -> Found {
    let mut asked: Vec<BoxFuture<'_, Found>> = Vec::new();
    for (name, source) in &config.sources {
        let routes: Vec<Route> = config.routes.values().filter(|route| route.from == *name).cloned().collect();
        match source {
            Source::Kafka(source) => asked.push(ask_kafka(name, source, routes).boxed()),
            Source::Diffusion(source) => asked.push(ask_diffusion(name, source, routes).boxed()),
        }
    }
    for (name, registry) in &config.registries {
        asked.push(ask_registry(name, registry).boxed());
    }
    for (name, sink) in &config.sinks {
        let routes = config.routes.values().filter(|route| route.to.contains(name)).collect();
        asked.push(ask_sink(name, sink, routes).boxed());
    }
    let mut found = Found::default();
    for part in join_all(asked).await {
        found.problems.extend(part.problems);
        found.warnings.extend(part.warnings);
    }
    found
}

async fn ask_kafka(name: &Name, source: &KafkaSource, routes: Vec<Route>) -> Found {
    let part = format!("source {:?}", name.as_str());
    let client = consumer_config(source, "check", "anabranch-check");
    let login = Login::new(&source.brokers.join(","), &part, Metrics::new(), Credentials::of(&source.security));
    let asked = tokio::task::spawn_blocking(move || {
        let probe = BaseConsumer::from_config_and_context(&client, Probe(login.clone())).map_err(|error| error.to_string())?;
        let answer = reach(&probe, &login, &Stop::new(), ANSWER_MAX).map_err(|reason| reason.to_string())?;
        Ok::<_, String>(answer.map_or_else(Found::default, |answer| look_for_topics(&answer, &routes)))
    });
    match asked.await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(found) => found,
        Err(reason) => Found::problem(format!("{part}: {reason}")),
    }
}

async fn ask_diffusion(name: &Name, source: &DiffusionSource, routes: Vec<Route>) -> Found {
    let lists = routes.iter().filter_map(|route| match &route.topics {
        Topics::List(list) => Some(list.iter().map(String::as_str)),
        Topics::Regex(_) => None,
    });
    let asked = diffusion::probe(source, lists.flatten().collect(), ANSWER_MAX).await;
    let problem = |reason| format!("source {:?}: {reason}", name.as_str());
    Found { problems: asked.err().into_iter().flatten().map(problem).collect(), warnings: Vec::new() }
}

fn look_for_topics(answer: &Answer, routes: &[Route]) -> Found {
    let mut found = Found::default();
    for route in routes {
        let name = route.name.as_str();
        match &route.topics {
            Topics::List(list) => {
                let alone = list.iter().map(|topic| Topics::List(vec![topic.clone()]));
                let missing = alone.filter_map(|topic| find(answer, &topic).err());
                found.problems.extend(missing.map(|text| format!("route {name:?}: {text}")));
            }
            Topics::Regex(pattern) => {
                if !answer.topics().iter().any(|topic| route.topics.contains(topic.name())) {
                    let text = format!("route {name:?}: no topic matches {pattern} yet: the route waits until one is created");
                    found.warnings.push(text);
                }
            }
        }
    }
    found
}

async fn ask_registry(name: &Name, config: &RegistryConfig) -> Found {
    // Problems that `Registry::new` tells name the registry already.
    let registry = match Registry::new(name.as_str(), config, Metrics::new()) {
        Ok(registry) => registry,
        Err(reason) => return Found::problem(reason),
    };
    match registry.probe().await {
        Ok(()) => Found::default(),
        Err(reason) => Found::problem(format!("registry {:?}: {reason}", name.as_str())),
    }
}

async fn ask_sink(name: &Name, sink: &Sink, routes: Vec<&Route>) -> Found {
    if let Err(reason) = sink::probe(sink).await {
        return Found::problem(format!("sink {:?}: {reason}", name.as_str()));
    }
    let mut found = Found::default();
    for route in routes {
        match sink::other_ledgers(sink, &route.group, name.as_str(), &|topic| route.topics.contains(topic)).await {
            Ok(warnings) => found.warnings.extend(warnings.into_iter().map(|text| format!("sink {:?}: {text}", name.as_str()))),
            Err(reason) => found.problems.push(format!("sink {:?}: {reason}", name.as_str())),
        }
    }
    found
}
