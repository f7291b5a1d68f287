//! From a route and its source to all that reading its topics takes.
//!
//! Invariant: of several ledgers the least is where reading begins, since each sink drops what it has.

use std::sync::Arc;

use super::begin::{Held, Ledgers, Start};
use super::client::{Credentials, Login, consumer_config};
use super::group::{ReadLedgers, Rules};
use super::start::Reading;
use crate::config::{AfterDeadLetter, Config, KafkaSource, Route};
use crate::sink;
use crate::source::{DRAIN_DEADLINE, Feed, STUCK_AFTER};

impl Reading {
    /// Reads `source` for the route of `feed`. Call it inside a tokio runtime.
    pub fn of(source: &KafkaSource, feed: Feed) -> Self {
        let (bounds, budget, part) = (feed.bounds(), feed.budget(), feed.part());
        let Feed { config, route, until_end, acks, sinks, urgency, workers, stop, metrics, logs, heartbeat, per_partition, member } = feed;
        let name: Arc<str> = route.name.to_string().into();
        let login = Login::new(&source.brokers.join(","), &part, metrics.all().clone(), Credentials::of(&source.security));
        Reading {
            client: consumer_config(source, &name, &route.group),
            topics: route.topics.clone(),
            until_end,
            bounds,
            rules: Rules {
                route: name,
                start: start(&route.start),
                ledgers: read_ledgers(config, route.clone()),
                out_of_range: route.out_of_range,
                revoke_deadline: route.revoke_deadline.get(),
                drain_deadline: DRAIN_DEADLINE,
                commit_interval: (!acks.is_committed_by_sink()).then(|| route.commit_interval.get()),
                rewinds_max: route.rewinds_max,
                stuck_after: STUCK_AFTER,
                keeps_dead_keys: route.after_dead_letter == AfterDeadLetter::DeadLetter,
            },
            acks,
            budget,
            sinks,
            urgency,
            workers,
            stop,
            metrics,
            login,
            logs,
            heartbeat,
            per_partition,
            member,
        }
    }
}

fn start(start: &crate::config::Start) -> Start {
    match start {
        crate::config::Start::Earliest => Start::Earliest,
        crate::config::Start::Latest => Start::Latest,
        crate::config::Start::Timestamp(at) => Start::Timestamp(*at),
        crate::config::Start::Offsets(offsets) => Start::Offsets(offsets.clone().into_iter().collect()),
    }
}

/// Reads what the route's ledgers hold; of several ledgers the least, since each sink drops what it has.
fn read_ledgers(config: Arc<Config>, route: Route) -> Box<ReadLedgers> {
    let runtime = tokio::runtime::Handle::current();
    Box::new(move || -> Result<Ledgers, String> {
        let mut least = Ledgers::new();
        for name in &route.to {
            let read = sink::ledger_positions(&config.sinks[name], &route.group, name);
            let Some(positions) = runtime.block_on(read) else { continue };
            let positions = positions.map_err(|error| format!("sink {:?}: {error}", name.to_string()))?;
            for (partition, next, topic_id) in positions {
                let held = Held { sink: name.as_str().into(), next, topic_id };
                let least = least.entry(partition).or_insert_with(|| held.clone());
                if held.next < least.next {
                    *least = held;
                }
            }
        }
        Ok(least)
    })
}
