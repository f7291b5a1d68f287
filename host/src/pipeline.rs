//! The whole way of a record on one screen: source, workers (decode, plugins, route), sinks, acks.
//!
//! Invariant: a route owns all its parts; when it ends, every thread and task of it has ended too.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use crate::ack::Acks;
use crate::ack::tracker::Counts;
use crate::config::{AfterDeadLetter, Config, KeyFormat, Route, Sink, ValueFormat};
use crate::dead::{DeadLetters, Form};
use crate::decode::{Ask, Resolver};
use crate::observe::Metrics;
use crate::output::Formats;
use crate::plugin::{Chain, ChainPlan};
use crate::route::Router;
use crate::sink::{self, Offsets, Outbox, SinkError, Surroundings, Urgency};
use crate::source::kafka::heartbeat::{Change, Heartbeat};
use crate::source::kafka::member::Member;
use crate::source::logs::Logs;
use crate::source::{self, Feed};
use crate::stop::{Stop, StopReason};
use crate::value::Format;
use crate::worker::Worker;

/// A route that is ready to run.
pub struct Pipeline {
    /// The whole configuration.
    pub config: Arc<Config>,
    /// The route.
    pub route: Route,
    /// Its plugins.
    pub plugins: Arc<ChainPlan>,
    /// Its registry.
    pub registry: Option<Arc<dyn Ask>>,
    /// Metrics of the process.
    pub metrics: Metrics,
    /// Stops the route.
    pub stop: Stop,
    /// Stop at the end offsets seen at start.
    pub until_end: bool,
}

/// How long sinks may take to end once nothing more comes and the drain is over.
const SINKS_END: Duration = Duration::from_secs(5);
/// So long without a sign of life from the control thread is reported: longer than a revoke or a lookup takes.
const SILENT_AFTER: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How a route ended.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// How its records ended.
    pub counts: Counts,
    /// From the first batch that was read to the last that was settled.
    pub took: Duration,
    /// Why it stopped before its work was done.
    pub reason: Option<StopReason>,
}

impl Pipeline {
    /// Runs the route to its end.
    pub async fn run(self) -> Ended {
        let acks = Acks::new();
        let reason = self.flow(acks.clone()).await.err();
        Ended { counts: acks.counts(), took: acks.took(), reason }
    }

    async fn flow(self, acks: Acks) -> Result<(), StopReason> {
        let Pipeline { config, route, plugins, registry, metrics, stop, until_end } = self;
        let name: Arc<str> = route.name.to_string().into();
        let counters = metrics.route(&name);
        let schemas = plugins.schemas.clone();
        let urgency = Arc::new(Urgency::new());
        let mut sinks = JoinSet::new();
        let logs = Logs::default();
        let decision: Arc<str> = decision(&plugins, &route).into();
        let broken = |error: crate::schemas::RegisterError| StopReason::Broken(error.to_string());

        // A sink that commits the offsets is the only one; see `config::check`.
        let member = Member::default();
        let offsets = route.to.iter().any(|sink| sink::commits_offsets(&config.sinks[sink])).then(|| Offsets {
            acks: acks.clone(),
            member: member.clone(),
            instance_id: config.sources[&route.from].kafka().and_then(|source| source.instance_id.as_deref().map(Into::into)),
            interval: route.commit_interval.get(),
            metrics: counters.clone(),
        });
        if offsets.is_some() {
            acks.commit_by_sink();
        }

        // Sinks, from the far end: dead letters first, since the others hand over to them.
        let is_log = config.sources[&route.from].is_log();
        let surroundings = |sink: &str, dead: &DeadLetters, takes_letters: bool| Surroundings {
            without_ledger: takes_letters || !is_log,
            takes_letters,
            route: name.clone(),
            sink: sink.into(),
            group: route.group.as_str().into(),
            decision: decision.clone(),
            dead: dead.clone(),
            logs: logs.clone(),
            offsets: offsets.clone().filter(|_| !takes_letters),
            metrics: counters.sink(sink),
        };
        let nowhere =
            DeadLetters::new(name.clone(), None, schemas.clone(), route.on_error, stop.clone(), counters.clone()).map_err(broken)?;
        let mut place = None;
        if let Some(letters) = &route.dead_letters {
            let (outbox, inbox) = urgency.inbox();
            let form = if matches!(config.sinks[letters], Sink::Kafka(_)) { Form::Record } else { Form::Row };
            sinks.spawn(sink::run(config.clone(), letters.clone(), surroundings(letters, &nowhere, true), inbox));
            place = Some((outbox, form));
        }
        let mut outboxes: Vec<Outbox> = place.iter().map(|(outbox, _)| outbox.clone()).collect();
        let dead = DeadLetters::new(name.clone(), place, schemas.clone(), route.on_error, stop.clone(), counters.clone())
            .map_err(broken)?
            .with_breaker(route.breaker)
            .with_decision(decision.clone());
        let mut to = Vec::new();
        for sink_name in &route.to {
            let (outbox, inbox) = urgency.inbox();
            sinks.spawn(sink::run(config.clone(), sink_name.clone(), surroundings(sink_name, &dead, false), inbox));
            to.push(outbox);
        }
        outboxes.extend(to.iter().cloned());

        // Workers: decode, plugins, route.
        let formats = formats(&route);
        let per_partition = plugins.per_partition();
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..route.workers.max(1)).map(|_| mpsc::channel()).unzip();
        let resolver = Resolver::new(schemas.clone(), registry, senders.clone(), route.unknown_schema_wait.get(), stop.clone());
        let router = Router { sinks: to, dead: dead.clone(), metrics: counters.clone() };
        let follows = route.after_dead_letter == AfterDeadLetter::DeadLetter;
        let mut workers = Vec::new();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let worker = Worker {
                inbox,
                formats,
                resolver: resolver.clone(),
                schemas: schemas.clone(),
                chain: Chain::new(&plugins),
                router: router.clone(),
                ordered: follows.then(|| (name.clone(), route.on_error)),
                stop: stop.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("work-{name}-{index}"));
            let spawned = thread.spawn(move || worker.run());
            workers.push(spawned.map_err(|error| StopReason::Environment(format!("no thread for a worker: {error}")))?);
        }
        drop((router, dead, nowhere));

        // The source, on threads of its own until the route ends.
        let heartbeat = Heartbeat::new();
        let mut source = source::start(Feed {
            config: config.clone(),
            route: route.clone(),
            until_end,
            acks,
            sinks: outboxes,
            urgency,
            workers: senders,
            stop: stop.clone(),
            metrics: counters,
            logs,
            heartbeat: heartbeat.clone(),
            per_partition,
            member,
        });

        // Until the source ends, a sink that ends has failed.
        let mut watch = heartbeat.watch(SILENT_AFTER);
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let control = format!("control thread of route {name:?}");
        let outcome = loop {
            tokio::select! {
                ended = &mut source => break ended.unwrap_or_else(|error| Err(StopReason::Broken(error.to_string()))),
                Some(ended) = sinks.join_next() => if let Some(reason) = failure(ended) { stop.stop(reason) },
                _ = looks.tick() => match watch.look() {
                    None => (),
                    Some(Change::Silent(silence)) => {
                        tracing::error!(route = %name, seconds = silence.as_secs(), "the control thread does not move: its membership may be lost");
                        metrics.part_down(&control, "it does not move");
                    }
                    Some(Change::Back) => {
                        tracing::info!(route = %name, "the control thread moves again");
                        metrics.part_up(&control);
                    }
                },
            }
        };
        resolver.close();
        for worker in workers {
            let joined = tokio::task::spawn_blocking(move || worker.join());
            if !matches!(joined.await, Ok(Ok(()))) {
                stop.stop(StopReason::Broken(format!("route {name:?}: a worker ended by a panic")));
            }
        }
        let ending = async {
            while let Some(ended) = sinks.join_next().await {
                if let Some(reason) = failure(ended) {
                    stop.stop(reason);
                }
            }
        };
        // What a sink still holds then is not settled, so it is read again.
        let _ = tokio::time::timeout(SINKS_END, ending).await;
        outcome?;
        match stop.reason() {
            None | Some(StopReason::Asked) => Ok(()),
            Some(reason) => Err(reason),
        }
    }
}

fn failure(ended: Result<Result<(), SinkError>, tokio::task::JoinError>) -> Option<StopReason> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(error @ SinkError::Configuration { .. })) => Some(StopReason::Configuration(error.to_string())),
        Ok(Err(error @ SinkError::Environment { .. })) => Some(StopReason::Environment(error.to_string())),
        Err(error) => Some(StopReason::Broken(format!("a sink ended by a panic: {error}"))),
    }
}

/// How keys and values of a route are to be read.
pub fn formats(route: &Route) -> Formats {
    Formats { key: key_format(route.key), value: value_format(route.value) }
}

fn key_format(format: KeyFormat) -> Format {
    match format {
        KeyFormat::Raw | KeyFormat::String => Format::Raw,
        KeyFormat::Avro => Format::Avro,
        KeyFormat::Json => Format::Json,
    }
}

fn value_format(format: ValueFormat) -> Format {
    match format {
        ValueFormat::Avro => Format::Avro,
        ValueFormat::Json => Format::Json,
        ValueFormat::Raw => Format::Raw,
    }
}

/// Digest of all that decides what becomes of a record: plugins, how it is decoded, which sinks there are to choose from.
pub fn decision(plugins: &ChainPlan, route: &Route) -> String {
    let mut hasher = Sha256::new();
    let mut formats = format!("{:?} {:?}", route.key, route.value);
    if route.after_dead_letter == AfterDeadLetter::DeadLetter {
        formats.push_str(" after_dead_letter");
    }
    let to = route.to.iter().map(|sink| sink.as_str());
    for part in [plugins.digest(), &formats].into_iter().chain(to) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
