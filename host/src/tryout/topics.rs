//! Values of a Diffusion server to try: those that its topics have, then those that come.
//!
//! Invariant: they are read by the source itself, and the server is asked for nothing but them.

use std::sync::{Arc, mpsc as threads};
use std::time::Duration;

use tokio::sync::mpsc;

use super::from::From;
use super::read::{Heard, failure};
use crate::ack::Acks;
use crate::cli::Failure;
use crate::config::{Config, DiffusionSource, Route, Topics};
use crate::observe::Metrics;
use crate::sink::Urgency;
use crate::source::kafka::heartbeat::Heartbeat;
use crate::source::logs::Logs;
use crate::source::work::WorkerMessage;
use crate::source::{self, Feed};
use crate::stop::{Stop, StopReason};

/// How long the server may take to answer at all.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// So long without a value is told.
const SILENCE: Duration = Duration::from_secs(2);

/// All that reading takes.
pub struct Values {
    /// The whole configuration.
    pub config: Config,
    /// The route.
    pub route: Route,
    /// Where it begins: there is no choice.
    pub from: From,
    /// How many values.
    pub records: usize,
    /// Ends it.
    pub stop: Stop,
}

impl Values {
    /// Reads until there are enough values or it is to end.
    ///
    /// # Errors
    /// Where the server does not answer, or refuses the login or a selector.
    pub async fn run(self, source: &DiffusionSource, out: mpsc::Sender<Heard>) -> Result<(), Failure> {
        if self.from != From::Newest {
            return Err(Failure::Configuration("--from: topics of a Diffusion server have no past: leave it out".into()));
        }
        let mut route = self.route;
        let selectors: Vec<&str> = match &route.topics {
            Topics::List(list) => list.iter().map(String::as_str).collect(),
            Topics::Regex(_) => Vec::new(),
        };
        let what = selectors.join(", ");
        let name = format!("source {:?}", route.from.to_string());
        let answered = source::diffusion::probe(source, selectors, ANSWER_MAX).await;
        answered.map_err(|problems| Failure::Environment(format!("{name}: {}", problems.join("; "))))?;
        route.batch.records_max = 1;
        let (worker, works) = threads::channel();
        let reading = source::start(Feed {
            metrics: Metrics::new().route(&route.name.as_str().into()),
            config: Arc::new(self.config),
            route,
            until_end: false,
            acks: Acks::new(),
            sinks: Vec::new(),
            urgency: Arc::new(Urgency::new()),
            workers: vec![worker],
            stop: self.stop.clone(),
            logs: Logs::default(),
            heartbeat: Heartbeat::new(),
            per_partition: 0,
            member: Default::default(),
        });
        let records = self.records;
        let forwarding = tokio::task::spawn_blocking(move || forward(&works, &out, records, &what));
        let forwarded = forwarding.await.map_err(|error| Failure::Broken(error.to_string()));
        // The server's refusal ends it too, and then says more.
        self.stop.stop(StopReason::Asked);
        let read = reading.await.map_err(|error| Failure::Broken(error.to_string()))?;
        read.map_err(failure)?;
        forwarded
    }
}

fn forward(works: &threads::Receiver<WorkerMessage>, out: &mpsc::Sender<Heard>, records: usize, what: &str) {
    let mut sent = 0;
    let mut told = false;
    while sent < records {
        let message = match works.recv_timeout(SILENCE) {
            Ok(message) => message,
            Err(threads::RecvTimeoutError::Disconnected) => return,
            Err(threads::RecvTimeoutError::Timeout) if told => continue,
            Err(threads::RecvTimeoutError::Timeout) => {
                told = true;
                let text = format!("no more values are there: waiting for new ones in {what}; Ctrl-C ends");
                let _ = out.blocking_send(Heard::Note(text));
                continue;
            }
        };
        let WorkerMessage::Work(work) = message else { continue };
        work.token.settle();
        if out.blocking_send(Heard::Record(Box::new(work.batch), work.letters)).is_err() {
            return;
        }
        sent += 1;
    }
}
