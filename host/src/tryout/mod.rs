//! `anabranch try`: what would become of live records, without doing any of it.
//!
//! Invariant: no group is joined, no offset committed, nothing written or created at any sink; what is shown is made by the parts
//! that `anabranch run` uses.

mod decide;
mod from;
mod read;
mod report;
mod text;
mod topics;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::cli::{Failure, TryOptions, is_colourful};
use crate::config::{Action, Config, KafkaSource, Route, Source};
use crate::decode::Ask;
use crate::observe::Metrics;
use crate::pipeline;
use crate::plugin::Engine;
use crate::run;
use crate::source::kafka::client::{Credentials, Login, consumer_config};
use crate::stop::{Stop, StopReason};
use decide::Decider;
pub use from::From;
use read::{Heard, Reading};
use report::{Outcome, Report};
use text::Style;
use topics::Values;

/// Most records that one call tries: they are held until the newest of all partitions are known.
pub const RECORDS_MAX: u64 = 10_000;
/// Records that wait to be shown.
const WAITING_MAX: usize = 16;

/// Tries records of a route and prints what would become of them. Call it inside a tokio runtime of several threads.
///
/// # Errors
/// Where the source or the registry do not answer, topics are not there, or a sink cannot be as it is configured.
pub async fn run(config: Config, options: TryOptions) -> Result<(), Failure> {
    let route = config.routes[&options.route].clone();
    let stop = Stop::new();
    stop_on_signals(&stop)?;
    let metrics = Metrics::new();
    let engine = Engine::new().map_err(|error| Failure::Environment(error.to_string()))?;
    let mut chains = run::plan(&engine, &config, None)
        .map_err(|problems| Failure::Configuration(problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>().join("; ")))?;
    let plugins = chains.remove(&route.name).ok_or_else(|| Failure::Broken(format!("route {:?} has no plan", route.name.to_string())))?;
    let registry = run::registry_of(&config, &route, &plugins, &metrics).map_err(Failure::Configuration)?;
    let formats = pipeline::formats(&route);
    let mut decider = Decider::new(&config, &route, formats, plugins, registry.map(|asker| -> Arc<dyn Ask> { asker }), stop.clone())?;

    let records = options.records.min(RECORDS_MAX) as usize;
    let (sender, mut heard) = mpsc::channel(WAITING_MAX);
    let reader = match config.sources[&route.from].clone() {
        Source::Kafka(source) => {
            let reading = reading(&source, &route, options.from, records, metrics, &stop);
            tokio::task::spawn_blocking(move || reading.run(&sender))
        }
        Source::Diffusion(source) => {
            let values = Values { config, route, from: options.from, records, stop: stop.clone() };
            tokio::spawn(async move { values.run(&source, sender).await })
        }
    };

    let out = std::io::stdout();
    let style = Style::new(decider.names(), is_colourful(out.is_terminal()), options.full);
    let mut tally = Tally::default();
    let showing = async {
        while let Some(message) = heard.recv().await {
            let (batch, letters) = match message {
                Heard::Note(text) => {
                    note(&text);
                    continue;
                }
                Heard::Record(batch, letters) => (*batch, letters),
            };
            let Some(report) = decider.decide(batch, letters, note).await? else { break };
            tally.count(&report);
            let shown = if options.json {
                serde_json::to_string(&report).map(|line| line + "\n").map_err(|error| Failure::Broken(error.to_string()))?
            } else {
                style.text(&report)
            };
            if !print(&shown)? {
                break;
            }
        }
        Ok(())
    };
    let shown: Result<(), Failure> = showing.await;
    // A reader that waits for records hears it; so does one that has more of them than anybody wants.
    stop.stop(StopReason::Asked);
    drop(heard);
    let read = reader.await.map_err(|error| Failure::Broken(error.to_string()));
    shown?;
    read??;
    if !options.json {
        print(&tally.text())?;
    }
    Ok(())
}

/// What reading records of a Kafka cluster takes.
fn reading(source: &KafkaSource, route: &Route, from: From, records: usize, metrics: Metrics, stop: &Stop) -> Reading {
    let name = route.name.to_string();
    let mut client = consumer_config(source, &name, &route.group);
    // A record that is gone meanwhile is no reason to fail: the oldest that is there is as good.
    client.set("auto.offset.reset", "earliest");
    let part = format!("source {:?}", route.from.to_string());
    let login = Login::new(&source.brokers.join(","), &part, metrics, Credentials::of(&source.security));
    Reading { route: name, client, topics: route.topics.clone(), from, records, login, stop: stop.clone() }
}

/// How the records ended.
#[derive(Debug, Default)]
struct Tally {
    records: u64,
    sinks: BTreeMap<String, u64>,
    dead_letters: usize,
    outcomes: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn count(&mut self, report: &Report) {
        self.records += 1;
        for delivery in &report.sinks {
            if !matches!(delivery.what, report::Shown::GivenUp(_) | report::Shown::Skipped(_)) {
                *self.sinks.entry(delivery.sink.clone()).or_default() += 1;
            }
        }
        // Each sink that gives a record up makes one of its own.
        self.dead_letters += report.dead_letters.iter().filter(|letter| letter.action == Action::DeadLetter).count();
        let name = match report.outcome {
            Outcome::Delivered | Outcome::DeadLetter => return,
            Outcome::Filtered => "filtered",
            Outcome::Dropped => "dropped",
            Outcome::Stops => "would stop the route",
        };
        *self.outcomes.entry(name).or_default() += 1;
    }

    fn text(&self) -> String {
        let to = self.sinks.iter().map(|(sink, count)| format!("{count} to {sink}"));
        let mut parts: Vec<String> = to.chain(self.outcomes.iter().map(|(name, count)| format!("{count} {name}"))).collect();
        match self.dead_letters {
            0 => (),
            1 => parts.push("1 dead letter".to_owned()),
            more => parts.push(format!("{more} dead letters")),
        }
        let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
        let records = if self.records == 1 { "1 record".to_owned() } else { format!("{} records", self.records) };
        format!("{records} tried{parts}; nothing was written, nothing committed\n")
    }
}

/// For people beside the output, so it goes to the standard error output.
fn note(text: &str) {
    eprintln!("{}", text::printable(text));
}

/// Returns whether anybody still reads.
fn print(text: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Environment(format!("standard output: {error}"))),
    }
}

/// The first SIGINT or SIGTERM ends it in order, the second at once: there is nothing to lose.
fn stop_on_signals(stop: &Stop) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| Failure::Environment(format!("signals cannot be heard: {error}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut next = async || tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () };
        next().await;
        stop.stop(StopReason::Asked);
        next().await;
        std::process::exit(1);
    });
    Ok(())
}
