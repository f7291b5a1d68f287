//! The topics that a session is subscribed to, with the values that deltas count from.
//!
//! Invariant: a value that is given is what the server has: a delta that does not fit the value before it is an error, never a guess.
//! A value that is kept has memory of its own: a part of what was received with many others would keep all of that.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::delta::{self, DeltaError};
use super::service::{Reason, Specification};
use super::session::Event;

/// What a topic takes beside its path and its value.
const TOPIC_BYTES: usize = 200;

/// One topic.
#[derive(Debug)]
struct Topic {
    path: Arc<str>,
    specification: Arc<Specification>,
    value: Option<Bytes>,
    /// Whether deltas may come.
    keeps: bool,
}

/// What happened to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// It was subscribed to; its value follows where it has one.
    Subscribed(Arc<str>, Arc<Specification>),
    /// It has a new value.
    Value(Arc<str>, Arc<Specification>, Bytes),
    /// There will be no more values.
    Unsubscribed(Arc<str>, Reason),
}

/// All topics of a session.
#[derive(Debug, Default)]
pub struct Subscriptions {
    topics: HashMap<i32, Topic>,
    bytes: usize,
}

impl Subscriptions {
    /// How many topics there are.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// About how much memory they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Their paths.
    pub fn paths(&self) -> impl Iterator<Item = &Arc<str>> {
        self.topics.values().map(|topic| &topic.path)
    }

    /// What an event says of a topic; `None`: nothing, or of a topic that is not known any more.
    ///
    /// # Errors
    /// Where a delta does not fit: only a new subscription mends that.
    pub fn take<T>(&mut self, event: Event<T>) -> Result<Option<Update>, DeltaError> {
        Ok(match event {
            Event::Answer { .. } => None,
            Event::Subscribed { topic, path, specification } => {
                let (path, specification): (Arc<str>, _) = (path.into(), Arc::new(specification));
                let keeps = !["PUBLISH_VALUES_ONLY", "DONT_RETAIN_VALUE"].iter().any(|property| specification.is(property));
                let new = Topic { path: path.clone(), specification: specification.clone(), value: None, keeps };
                self.bytes += new.bytes();
                let old = self.topics.insert(topic, new);
                self.bytes -= old.map_or(0, |old| old.bytes());
                Some(Update::Subscribed(path, specification))
            }
            Event::Unsubscribed { topic, reason } => self.topics.remove(&topic).map(|topic| {
                self.bytes -= topic.bytes();
                Update::Unsubscribed(topic.path, reason)
            }),
            Event::Value { topic, bytes } => self.set(topic, |_| Ok(bytes))?,
            Event::Delta { topic, bytes } => self.set(topic, |old| delta::apply(old, &bytes).map(Bytes::from))?,
        })
    }

    fn set(&mut self, topic: i32, new: impl FnOnce(&[u8]) -> Result<Bytes, DeltaError>) -> Result<Option<Update>, DeltaError> {
        let Some(topic) = self.topics.get_mut(&topic) else { return Ok(None) };
        let value = new(topic.value.as_deref().unwrap_or_default())?;
        if topic.keeps {
            self.bytes -= topic.bytes();
            topic.value = Some(Bytes::copy_from_slice(&value));
            self.bytes += topic.bytes();
        }
        Ok(Some(Update::Value(topic.path.clone(), topic.specification.clone(), value)))
    }
}

impl Topic {
    fn bytes(&self) -> usize {
        TOPIC_BYTES + self.path.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::service::TopicType;
    use crate::diffusion::wire::hex;

    #[test]
    fn deltas_are_applied_to_the_value_of_their_topic() {
        let mut subscriptions = Subscriptions::default();
        let specification = Specification::new(TopicType::JSON);
        let mut take = |event: Event<()>| subscriptions.take(event);
        let path: Arc<str> = "py/json".into();
        let subscribed = Event::Subscribed { topic: 1, path: "py/json".into(), specification: specification.clone() };
        assert_eq!(take(subscribed), Ok(Some(Update::Subscribed(path.clone(), specification.clone().into()))));
        let value = |text: &str| Ok(Some(Update::Value(path.clone(), specification.clone().into(), hex(text).into())));
        let (first, second) = ("bf61610161629ff93e00f6f56178ffff", "bf61610261629ff93e00f6f56178ffff");
        assert_eq!(take(Event::Value { topic: 1, bytes: hex(first).into() }), value(first));
        assert_eq!(take(Event::Delta { topic: 1, bytes: hex("00 03 41 02 04 0c").into() }), value(second));
        assert_eq!(take(Event::Delta { topic: 2, bytes: hex("f6").into() }), Ok(None), "a topic that is not known");
        assert!(take(Event::Delta { topic: 1, bytes: hex("00 40").into() }).is_err());
        assert_eq!(subscriptions.bytes(), TOPIC_BYTES + 7 + 16);
        let mut take = |event: Event<()>| subscriptions.take(event);
        let ended = Event::Unsubscribed { topic: 1, reason: Reason::Removed };
        assert_eq!(take(ended), Ok(Some(Update::Unsubscribed(path.clone(), Reason::Removed))));
        assert_eq!(take(Event::Value { topic: 1, bytes: hex(first).into() }), Ok(None));
        assert_eq!((subscriptions.bytes(), subscriptions.len()), (0, 0));
    }
}
