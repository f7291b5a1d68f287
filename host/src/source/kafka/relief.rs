//! Relief: where all of a route's budget is held by partitions whose sinks do not take anything, the others go on.
//!
//! Invariant: it pauses rarely, since a pause throws away what was fetched: only when the budget was full for a second, and only
//! partitions that got nowhere in it while others wait. What they hold is set aside; they go on when they hold nothing any more.

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::group::{Context, LOOKUP_TIMEOUT};
use crate::ack::{Slot, TopicPartition};

const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// So long the budget has to be full before anything is paused.
const FULL_FOR: Duration = Duration::from_secs(1);

type Positions = Vec<(Slot, Option<i64>)>;

/// See the module.
#[derive(Debug)]
pub struct Relief {
    looked: Instant,
    /// Since when the budget is full, and where each partition was then.
    full: Option<(Instant, Positions)>,
    paused: Vec<(Slot, TopicPartition)>,
}

impl Relief {
    /// Nothing is paused.
    pub fn new() -> Self {
        Relief { looked: Instant::now(), full: None, paused: Vec::new() }
    }

    /// Pauses and resumes what has to be; call it often.
    pub fn look(&mut self, context: &Context, consumer: &BaseConsumer<Context>) {
        if self.looked.elapsed() < LOOK_INTERVAL {
            return;
        }
        self.looked = Instant::now();
        self.resume(context, consumer);
        let (acks, budget) = (&context.shared.acks, &context.shared.budget);
        if !budget.is_exhausted() {
            self.full = None;
            return;
        }
        let now = acks.committables();
        let Some((since, before)) = &self.full else {
            self.full = Some((Instant::now(), now.into_iter().map(|(slot, _, offset)| (slot, offset)).collect()));
            return;
        };
        if since.elapsed() < FULL_FOR {
            return;
        }
        let is_paused = |slot: Slot| self.paused.iter().any(|(paused, _)| *paused == slot);
        let is_stuck = |slot: Slot, offset: Option<i64>| before.contains(&(slot, offset)) && budget.held_of(slot) > 0 && !is_paused(slot);
        let (stuck, others): (Vec<_>, Vec<_>) = now.into_iter().partition(|(slot, _, offset)| is_stuck(*slot, *offset));
        // Where all are stuck, nobody gains by a pause.
        let gains = others.iter().any(|(slot, ..)| !is_paused(*slot));
        self.full = None;
        if !gains {
            return;
        }
        for (slot, name, _) in stuck {
            if !budget.set_aside(slot) {
                continue;
            }
            tracing::warn!(route = %context.rules.route, partition = %name, "paused: its sinks take nothing, and others shall go on");
            match consumer.pause(&one(&name)) {
                Ok(()) => self.paused.push((slot, name)),
                Err(error) => {
                    tracing::warn!(partition = %name, %error, "pause refused");
                    budget.bring_back(slot);
                }
            }
        }
    }

    fn resume(&mut self, context: &Context, consumer: &BaseConsumer<Context>) {
        let (acks, budget) = (&context.shared.acks, &context.shared.budget);
        self.paused.retain(|(slot, name)| {
            if !acks.is_current(*slot) {
                // It left, or a rewind makes it go on.
                budget.bring_back(*slot);
                return false;
            }
            if budget.held_of(*slot) > 0 {
                return true;
            }
            budget.bring_back(*slot);
            tracing::info!(route = %context.rules.route, partition = %name, "goes on");
            if let Err(error) = go_on(context, consumer, *slot, name) {
                tracing::warn!(partition = %name, %error, "no resumption, reading again");
                acks.want_rewind(*slot, "a pause did not end");
            }
            false
        });
    }
}

impl Default for Relief {
    fn default() -> Self {
        Self::new()
    }
}

/// Goes on behind the last record that was dispatched.
fn go_on(context: &Context, consumer: &BaseConsumer<Context>, slot: Slot, name: &TopicPartition) -> rdkafka::error::KafkaResult<()> {
    context.shared.fence.cross(&context.shared.budget);
    let position = context.shared.acks.slots().into_iter().find(|(found, ..)| *found == slot).and_then(|(.., position)| position);
    if let Some(position) = position {
        consumer.seek(&name.topic, name.partition, Offset::Offset(position), LOOKUP_TIMEOUT)?;
    }
    consumer.resume(&one(name))
}

/// A list of one partition.
pub fn one(name: &TopicPartition) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition(&name.topic, name.partition);
    list
}
