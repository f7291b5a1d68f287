//! The control thread of a route: it keeps the membership alive, reads partitions again, commits, watches, and ends.
//!
//! Invariant: it never waits for anything but the broker, and for sinks while a partition leaves; a rewind that is to come later is
//! remembered, not slept over.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message as _;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::begin::{made_anew, out_of_range};
use super::group::{Context, LOOKUP_TIMEOUT, to_list};
use super::native;
use super::reader::{Ends, FIRST_EPOCH, ReadError, Shared};
use super::relief::{Relief, one};
use super::start::{matching, subscribe};
use crate::ack::{Rewind, Slot, TopicPartition};
use crate::config::{OutOfRange, Topics};
use crate::source::{WATCH_INTERVAL, rewind_wait, watch};
use crate::stop::StopReason;

const POLL: Duration = Duration::from_millis(20);
/// How often brokers that were unreachable are asked whether they are back, and how long that may take.
const BACK_INTERVAL: Duration = Duration::from_secs(2);
const BACK_TIMEOUT: Duration = Duration::from_millis(500);
/// How often topics are looked at: whether others match the route's pattern, whether one was made anew. And how long an answer may take.
const MATCH_INTERVAL: Duration = Duration::from_secs(10);
const MATCH_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the group is asked how far other members are.
const OTHERS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a topic that is gone is looked for: a broker that just started may not know it yet.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// By then a partition that was told to stop has done so.
const STOPPED_AFTER: Duration = Duration::from_secs(5);

/// The control thread.
pub struct Control {
    consumer: Arc<BaseConsumer<Context>>,
    errors: mpsc::Receiver<ReadError>,
    /// Rewinds that begin at a moment; their partitions are paused.
    waiting: Vec<(Instant, Rewind)>,
    /// Partitions whose next record the log does not hold any more.
    out_of_range: Vec<TopicPartition>,
    /// Topics that brokers may not know any more.
    gone: Vec<Gone>,
    /// What is subscribed to.
    topics: Vec<String>,
    relief: Relief,
    /// Partitions that were started again: they are forwarded until a moment at which they surely stopped before.
    restarted: Vec<(Instant, TopicPartition)>,
    /// With `--until-end`: when the group was last asked how far other members are.
    others_asked: Option<Instant>,
    /// Whether the log says that other members are waited for.
    others_told: bool,
}

struct Gone {
    topic: String,
    /// Since when brokers answer that they do not know it.
    since: Option<Instant>,
    asked: Instant,
}

/// What is done at intervals, and when it was done last.
struct Clock {
    committed: Instant,
    watched: Instant,
    asked: Instant,
    matched: Instant,
}

impl Control {
    /// `errors`: those that the reader meets. `topics`: what is subscribed to.
    pub fn new(consumer: Arc<BaseConsumer<Context>>, errors: mpsc::Receiver<ReadError>, topics: Vec<String>) -> Self {
        Control {
            consumer,
            errors,
            waiting: Vec::new(),
            out_of_range: Vec::new(),
            gone: Vec::new(),
            topics,
            relief: Relief::new(),
            restarted: Vec::new(),
            others_asked: None,
            others_told: false,
        }
    }

    /// Keeps the route reading until it is to stop or, with `--until-end`, everything is settled; then drains, commits and leaves
    /// the group.
    pub fn run(mut self) {
        let context = self.consumer.context().clone();
        let now = Instant::now();
        let mut clock = Clock { committed: now, watched: now, asked: now, matched: now };
        while !context.stop.is_stopped() && !self.is_finished(&context) {
            context.heartbeat.beat();
            self.poll(&context, POLL);
            while let Ok(error) = self.errors.try_recv() {
                self.heed(&context, &error);
            }
            self.rewind(&context);
            self.jump(&context);
            self.forward_restarted(&context);
            self.look_for_topics(&context);
            self.relief.look(&context, &self.consumer);
            if let Some(interval) = context.rules.commit_interval
                && (context.commit_soon.swap(false, Ordering::Relaxed) || clock.committed.elapsed() >= interval)
            {
                clock.committed = Instant::now();
                self.commit(&context);
            }
            if clock.watched.elapsed() >= WATCH_INTERVAL {
                clock.watched = Instant::now();
                let Shared { acks, budget, metrics, .. } = &*context.shared;
                watch(&context.rules.route, acks, budget, metrics, context.rules.stuck_after);
                // A safety net: a partition whose forwarding is lost would be read by nobody.
                self.forward(&context, &context.shared.acks.slots().into_iter().map(|(_, name, _)| name).collect::<Vec<_>>());
            }
            if clock.matched.elapsed() >= MATCH_INTERVAL && !context.login.is_down() {
                clock.matched = Instant::now();
                if matches!(context.topics, Topics::Regex(_)) {
                    self.match_topics(&context);
                }
                self.compare_topic_ids(&context);
            }
            if context.login.is_down() && clock.asked.elapsed() >= BACK_INTERVAL {
                self.ask_whether_back(&context);
                clock.asked = Instant::now();
            }
        }
        self.drain(&context);
    }

    fn poll(&mut self, context: &Context, timeout: Duration) {
        let consumer = self.consumer.clone();
        match consumer.poll(timeout) {
            None => (),
            // A record that did not come through our queue: the partition's forwarding was lost. Forward it again and read again.
            Some(Ok(message)) => {
                let Some(slot) = context.shared.acks.slot_of(message.topic(), message.partition()) else { return };
                if let Some(queue) = &*context.queue.lock() {
                    queue.forward(message.topic(), message.partition());
                }
                context.shared.acks.want_rewind(slot, "its records arrived at the wrong queue");
            }
            Some(Err(KafkaError::PartitionEOF(_))) => (),
            Some(Err(error)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
                let fatal = consumer.client().fatal_error();
                let (code, reason) = fatal.unwrap_or_else(|| (code, error.to_string()));
                self.heed(context, &ReadError { topic: String::new(), partition: -1, code, reason });
            }
        }
    }

    /// What an error of the group or of a partition means for the route.
    fn heed(&mut self, context: &Context, error: &ReadError) {
        let route = &context.rules.route;
        let ReadError { topic, partition, code, reason } = error;
        let place = if topic.is_empty() { String::new() } else { format!("{topic}/{partition}: ") };
        let refuse = |remedy: &str| {
            context.stop.stop(StopReason::Environment(format!("route {route:?}: {place}{reason}: {remedy}")));
        };
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                let name = TopicPartition { topic: topic.as_str().into(), partition: *partition };
                if !self.out_of_range.contains(&name) {
                    self.out_of_range.push(name);
                }
            }
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed => {
                refuse("give the user the right to read the topic and the group");
            }
            RDKafkaErrorCode::FencedInstanceId => {
                refuse("another process of the group has the same `instance_id`: give each its own");
            }
            RDKafkaErrorCode::InconsistentGroupProtocol => refuse(
                "other members of the group share partitions in another way: give all the same `assignor`, or this route another `group`",
            ),
            RDKafkaErrorCode::InvalidSessionTimeout => refuse("choose a `session_timeout` that the brokers allow"),
            RDKafkaErrorCode::InvalidGroupId => refuse("choose another `group`"),
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicId => {
                self.look_for(context, topic);
            }
            code => context.login.error(&KafkaError::MessageConsumption(*code), reason),
        }
    }

    /// Topics that match the route's pattern come and go.
    fn match_topics(&mut self, context: &Context) {
        // Without an answer nothing is known; the next one will do.
        let Ok(metadata) = self.consumer.fetch_metadata(None, MATCH_TIMEOUT) else { return };
        let topics = matching(&metadata, &context.topics);
        if topics == self.topics {
            return;
        }
        tracing::info!(route = %context.rules.route, ?topics, "other topics match now");
        match subscribe(&self.consumer, &topics) {
            Ok(()) => self.topics = topics,
            Err(error) => tracing::warn!(route = %context.rules.route, %error, "no subscription to the topics that match, trying again"),
        }
    }

    /// A topic that was made anew has other records at the same offsets; librdkafka goes on in it where the former one was left. Of one
    /// that is gone for good it says nothing for minutes.
    fn compare_topic_ids(&mut self, context: &Context) {
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        let ids = native::topic_ids(&self.consumer, &topics, MATCH_TIMEOUT);
        if let Some(topic) = context.made_anew(&ids) {
            let text = format!("route {:?}: {}", context.rules.route, made_anew(&context.rules.route, topic));
            context.stop.stop(StopReason::Environment(text));
        }
        let missing: Vec<String> = self.topics.iter().filter(|topic| !ids.contains_key(*topic)).cloned().collect();
        missing.iter().for_each(|topic| self.look_for(context, topic));
    }

    /// Looks for a topic from now on, until brokers say whether it is there.
    fn look_for(&mut self, context: &Context, topic: &str) {
        // Those of a pattern are let go when it is matched again.
        let is_named = matches!(context.topics, Topics::List(_)) && !topic.is_empty();
        if is_named && !self.gone.iter().any(|gone| gone.topic == topic) {
            self.gone.push(Gone { topic: topic.to_owned(), since: None, asked: Instant::now() });
        }
    }

    /// Topics that are gone for good end a route that names them: going on in a topic that is made anew would jump over its records.
    fn look_for_topics(&mut self, context: &Context) {
        let consumer = &self.consumer;
        self.gone.retain_mut(|gone| {
            if gone.asked.elapsed() < BACK_INTERVAL {
                return true;
            }
            gone.asked = Instant::now();
            let Ok(metadata) = consumer.fetch_metadata(Some(&gone.topic), BACK_TIMEOUT) else { return true };
            let topic = metadata.topics().iter().find(|topic| topic.name() == gone.topic);
            let missing = topic.is_none_or(|topic| topic.partitions().is_empty() || topic.error().is_some());
            if !missing {
                return false;
            }
            if gone.since.get_or_insert_with(Instant::now).elapsed() < GONE_AFTER {
                return true;
            }
            context.stop.stop(StopReason::Environment(format!(
                "route {:?}: topic {:?} was deleted while it was read: start the route again when it is made anew",
                context.rules.route, gone.topic
            )));
            false
        });
    }

    fn rewind(&mut self, context: &Context) {
        for rewind in context.shared.acks.take_rewinds() {
            context.shared.metrics.rewinds.inc();
            context.shared.epoch.fetch_add(1, Ordering::AcqRel);
            let name = &rewind.name;
            if rewind.without_progress > context.rules.rewinds_max {
                context.stop.stop(StopReason::Broken(format!(
                    "route {:?}: {name} was read again {} times from offset {:?} without getting further ({})",
                    context.rules.route,
                    rewind.without_progress - 1,
                    rewind.from,
                    rewind.reason
                )));
                return;
            }
            tracing::warn!(route = %context.rules.route, partition = %name, from = rewind.from, reason = rewind.reason, "rewind");
            context.forget(rewind.old, name);
            // Pausing throws away what was fetched; behind the fence the reader holds nothing of before.
            if let Err(error) = self.consumer.pause(&one(name)) {
                tracing::warn!(partition = %name, %error, "pause refused");
            }
            self.waiting.push((Instant::now() + rewind_wait(rewind.without_progress), rewind));
        }
        let now = Instant::now();
        if !self.waiting.iter().any(|(due, _)| *due <= now) {
            return;
        }
        context.shared.fence.cross(&context.shared.budget);
        let (due, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(due, _)| *due <= now);
        self.waiting = waiting;
        for (_, rewind) in due {
            self.read_again(context, &rewind);
        }
    }

    /// The end of a rewind: reading begins at its offset.
    fn read_again(&self, context: &Context, rewind: &Rewind) {
        // The partition may have left meanwhile.
        let (Some(from), true) = (rewind.from, context.shared.acks.is_current(rewind.slot)) else { return };
        let name = &rewind.name;
        if let Some(ends) = &context.shared.ends {
            ends.reached.lock().remove(name);
        }
        match self.consumer.seek(&name.topic, name.partition, Offset::Offset(from), LOOKUP_TIMEOUT) {
            Ok(()) => context.shared.acks.rewound(rewind.slot),
            Err(error) => {
                tracing::warn!(partition = %name, %error, "seek refused, trying again");
                context.shared.acks.want_rewind(rewind.slot, "the seek of a rewind was refused");
            }
        }
        if let Err(error) = self.consumer.resume(&one(name)) {
            tracing::warn!(partition = %name, %error, "resume refused");
        }
    }

    /// The log does not hold what comes next: stop and ask, or go on where the configuration says, once nothing before it is owed.
    fn jump(&mut self, context: &Context) {
        if self.out_of_range.is_empty() {
            return;
        }
        let acks = &context.shared.acks;
        // The error may have overtaken records that came with it.
        context.shared.fence.cross(&context.shared.budget);
        for name in std::mem::take(&mut self.out_of_range) {
            let Some(slot) = acks.slot_of(&name.topic, name.partition) else { continue };
            let Some((_, _, Some(position))) = acks.slots().into_iter().find(|(found, ..)| *found == slot) else { continue };
            if context.rules.out_of_range != OutOfRange::Stop && !acks.is_settled(slot) {
                self.out_of_range.push(name);
                continue;
            }
            let (first, end) = match context.range(&self.consumer, &name) {
                Ok(range) => range,
                Err(text) => return context.stop.stop(StopReason::Environment(format!("route {:?}: {text}", context.rules.route))),
            };
            if (first..=end).contains(&position) {
                // The broker was asked for another offset than ours, or has caught up since.
                tracing::warn!(route = %context.rules.route, partition = %name, position, "refused as out of range and is not: reading again");
                if let Err(error) = self.restart(context, slot, &name, None) {
                    let text = format!("route {:?}: {name}: no start at offset {position}: {error}", context.rules.route);
                    return context.stop.stop(StopReason::Environment(text));
                }
                continue;
            }
            let to = match context.rules.out_of_range {
                OutOfRange::Stop => {
                    let text = out_of_range(&context.rules.route, &name, "the next offset", position, first, end);
                    return context.stop.stop(StopReason::Environment(format!("route {:?}: {text}", context.rules.route)));
                }
                OutOfRange::Earliest => first,
                OutOfRange::Latest => end,
            };
            tracing::warn!(route = %context.rules.route, partition = %name, position, to, "the log does not hold what comes next, going on");
            if let Err(error) = self.restart(context, slot, &name, Some(to)) {
                let text = format!("route {:?}: {name}: no start at offset {to}: {error}", context.rules.route);
                return context.stop.stop(StopReason::Environment(text));
            }
        }
    }

    /// Starts a partition that librdkafka stopped, at `to` or where it was: it cannot be sought, only be assigned again.
    fn restart(&mut self, context: &Context, slot: Slot, name: &TopicPartition, to: Option<i64>) -> KafkaResult<()> {
        let acks = &context.shared.acks;
        let cooperative = matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        // Without increments all partitions are assigned again: nothing may be dispatched between reading positions and that.
        let restarted: Vec<Slot> = acks.slots().into_iter().map(|(slot, ..)| slot).filter(|other| !cooperative || *other == slot).collect();
        acks.stop_dispatch(&restarted);
        let mut paused = TopicPartitionList::new();
        for (_, name, _) in acks.slots().iter().filter(|(found, ..)| restarted.contains(found)) {
            paused.add_partition(&name.topic, name.partition);
        }
        // A pause outlives the assignment: nothing arrives before it may be dispatched.
        self.consumer.pause(&paused)?;
        context.shared.fence.cross(&context.shared.budget);
        if let Some(to) = to {
            acks.jump(slot, to);
        }
        let mut list = TopicPartitionList::new();
        for (found, name, position) in acks.slots() {
            if let (true, Some(position)) = (restarted.contains(&found), position) {
                list.add_partition_offset(&name.topic, name.partition, Offset::Offset(position))?;
            }
        }
        if cooperative {
            self.consumer.incremental_unassign(&one(name))?;
            self.consumer.incremental_assign(&list)?;
        } else {
            self.consumer.assign(&list)?;
        }
        let until = Instant::now() + STOPPED_AFTER;
        let names = list.elements().into_iter().map(|element| (element.topic().into(), element.partition()));
        self.restarted.extend(names.map(|(topic, partition)| (until, TopicPartition { topic, partition })));
        context.shared.epoch.fetch_add(1, Ordering::AcqRel);
        restarted.into_iter().for_each(|slot| acks.rewound(slot));
        self.consumer.resume(&paused)
    }

    /// A partition loses its forwarding when it stops, and nobody tells when that is. What arrives before it is forwarded waits.
    fn forward_restarted(&mut self, context: &Context) {
        let names: Vec<TopicPartition> = self.restarted.iter().map(|(_, name)| name.clone()).collect();
        self.forward(context, &names);
        self.restarted.retain(|(until, _)| *until > Instant::now());
    }

    fn forward(&self, context: &Context, names: &[TopicPartition]) {
        if let Some(queue) = &*context.queue.lock() {
            names.iter().for_each(|name| queue.forward(&name.topic, name.partition));
        }
    }

    fn commit(&self, context: &Context) {
        let due = context.shared.acks.take_committable(None);
        if due.is_empty() {
            return;
        }
        let queue = context.queue.lock();
        let Some(queue) = &*queue else { return };
        if let Err(error) = queue.commit(&to_list(&due, &context.logs)) {
            tracing::warn!(route = %context.rules.route, %error, "commit not sent, due again");
            let names: Vec<_> = due.into_iter().map(|due| due.name).collect();
            context.shared.acks.commit_failed(&names);
        }
    }

    /// Librdkafka reports when brokers go, not when they come back.
    fn ask_whether_back(&self, context: &Context) {
        let slots = context.shared.acks.slots();
        let topic = slots.first().map(|(_, name, _)| &*name.topic).or(context.at_start.iter().next().map(|name| &*name.topic));
        if self.consumer.fetch_metadata(topic, BACK_TIMEOUT).is_ok() {
            context.login.answered();
        }
    }

    fn is_finished(&mut self, context: &Context) -> bool {
        let Some(ends) = &context.shared.ends else { return false };
        let slots = context.shared.acks.slots();
        let reached = ends.reached.lock();
        let read = slots.iter().all(|(_, name, position)| {
            reached.contains(name) || position.is_some_and(|position| ends.at.get(name).is_none_or(|end| position >= *end))
        });
        drop(reached);
        // Not idle yet is fine: draining makes the sinks flush, and a rewind on the way makes this false again.
        read && (context.shared.acks.is_idle() || hurry(context)) && self.others_are_done(context, ends, &slots)
    }

    /// Whether the group committed the ends of those partitions that another member holds, or nobody yet. A member that was killed
    /// holds some until its session ends; they come to this process then.
    fn others_are_done(&mut self, context: &Context, ends: &Ends, slots: &[(Slot, TopicPartition, Option<i64>)]) -> bool {
        let ours: HashSet<&TopicPartition> = slots.iter().map(|(_, name, _)| name).collect();
        let mut others = TopicPartitionList::new();
        for (name, _) in ends.at.iter().filter(|(name, end)| **end > 0 && !ours.contains(name)) {
            others.add_partition(&name.topic, name.partition);
        }
        if others.count() == 0 {
            return true;
        }
        // Before the group has given us our share nothing here was looked at, such as whether the offsets are of the same topic.
        if context.shared.epoch.load(Ordering::Acquire) == FIRST_EPOCH {
            return false;
        }
        if self.others_asked.is_some_and(|asked| asked.elapsed() < OTHERS_INTERVAL) {
            return false;
        }
        if !ours.is_empty() && !std::mem::replace(&mut self.others_told, true) {
            tracing::info!(route = %context.rules.route, partitions = others.count(), "all read here, waiting for partitions of other members");
        }
        let answer = self.consumer.committed_offsets(others, BACK_TIMEOUT);
        self.others_asked = Some(Instant::now());
        // Without an answer nothing is known; the next one will do.
        let Ok(committed) = answer else { return false };
        committed.elements().iter().all(|element| {
            let name = TopicPartition { topic: element.topic().into(), partition: element.partition() };
            matches!(element.offset(), Offset::Offset(offset) if ends.at.get(&name).is_some_and(|end| offset >= *end))
        })
    }

    fn drain(&mut self, context: &Context) {
        let slots: Vec<Slot> = context.shared.acks.slots().into_iter().map(|(slot, ..)| slot).collect();
        context.shared.acks.stop_dispatch(&slots);
        context.shared.fence.cross(&context.shared.budget);
        let stopped_by_need = !matches!(context.stop.reason(), None | Some(StopReason::Asked));
        context.urgency.raise();
        let deadline = Instant::now() + if stopped_by_need { Duration::from_secs(1) } else { context.rules.drain_deadline };
        let owing = loop {
            context.heartbeat.beat();
            let owing = context.shared.acks.drained(&slots, Instant::now() + Duration::from_millis(100));
            if owing.is_empty() || Instant::now() >= deadline {
                break owing;
            }
            // Polling keeps the membership alive; a rebalance in it does its own draining.
            self.poll(context, Duration::ZERO);
        };
        if !owing.is_empty() {
            tracing::warn!(route = %context.rules.route, partitions = owing.len(), "ending with records in flight: the next start reads them again");
        }
        context.shared.acks.revoke(&slots, |due| context.commit_now(&self.consumer, &due));
        context.urgency.lower();
    }
}

/// Everything is read: the sinks need not wait for more.
fn hurry(context: &Context) -> bool {
    context.urgency.raise();
    let slots: Vec<Slot> = context.shared.acks.slots().into_iter().map(|(slot, ..)| slot).collect();
    context.shared.acks.drained(&slots, Instant::now() + Duration::from_millis(200));
    context.urgency.lower();
    context.shared.acks.is_idle()
}
